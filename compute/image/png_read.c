// PNG by stb_image, behind an own pass over the chunks: stb checks neither checksums nor what an inflated stream may
// grow to.
#include "compute/image/formats.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/image/png.h"

#include <stdlib.h>
#include <string.h>

static uint32_t big32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static bool is(const uint8_t *chunk, const char *type)
{
    return memcmp(chunk + 4, type, 4) == 0;
}

// Next chunk at *at, which moves behind it; NULL with an error where the file ends early.
static const uint8_t *next_chunk(const uint8_t *bytes, size_t count, size_t *at, uint32_t *length,
                                 struct vireo_error *err)
{
    const uint8_t *chunk = bytes + *at;
    if (count - *at < 12 || (*length = big32(chunk)) > count - *at - 12) {
        image_damaged(err, IMAGE_PNG, "truncated: its end is missing");
        return NULL;
    }
    *at += (size_t)*length + 12;
    return chunk;
}

bool image_png_header(const uint8_t *bytes, size_t count, struct image_header *out, struct vireo_error *err)
{
    size_t at = 8;
    uint32_t length;
    bool have_data = false;
    for (bool first = true;; first = false) {
        const uint8_t *chunk = next_chunk(bytes, count, &at, &length, err);
        if (!chunk)
            return false;
        const uint8_t *body = chunk + 8;
        if (first != is(chunk, "IHDR") || (first && length != 13))
            return image_damaged(err, IMAGE_PNG, "damaged: its header chunk is missing or misplaced");
        if (first) {
            static const uint8_t samples[] = {1, 0, 3, 4, 2, 0, 4}; // by colour type; a palette may carry alpha
            out->width = big32(body);
            out->height = big32(body + 4);
            if (body[8] > 16 || body[9] > 6 || samples[body[9]] == 0)
                return image_damaged(err, IMAGE_PNG, "damaged: its colour type does not exist");
            // tRNS may add an alpha sample to gray and RGB.
            out->sample_bits = (samples[body[9]] + 1u) * (body[8] > 8 ? 16 : 8);
        } else if (is(chunk, "IDAT")) {
            have_data = true;
        } else if (is(chunk, "eXIf")) {
            out->orientation = image_exif_orientation(body, length);
        } else if (is(chunk, "IEND")) {
            break;
        }
    }
    return have_data || image_damaged(err, IMAGE_PNG, "damaged: it holds no picture");
}

// As Pillow: the checksums of the chunks a picture cannot do without. Capital first letter = critical.
static bool checksums_hold(const uint8_t *bytes, size_t count, struct vireo_error *err)
{
    size_t at = 8;
    for (;;) {
        uint32_t length;
        const uint8_t *chunk = next_chunk(bytes, count, &at, &length, err);
        if (!chunk)
            return false;
        if ((!(chunk[4] & 0x20) || is(chunk, "tRNS")) &&
            image_crc32(0, chunk + 4, (size_t)length + 4) != big32(chunk + 8 + length))
            return image_damaged(err, IMAGE_PNG, "damaged: a checksum does not match");
        if (is(chunk, "IEND"))
            return true;
    }
}

// stb leaves colours behind a short palette's end uninitialised; as in Pillow they shall be black. A copy of the file
// whose palette has 256 entries, or NULL with *size 0 where nothing has to be done (or no memory: *size 1).
static uint8_t *with_full_palette(const uint8_t *bytes, size_t count, size_t *size)
{
    enum { FULL = 768 };
    size_t at = 8;
    uint32_t length;
    *size = 0;
    for (;;) {
        size_t start = at;
        const uint8_t *chunk = next_chunk(bytes, count, &at, &length, NULL);
        if (!chunk || is(chunk, "IDAT") || is(chunk, "IEND"))
            return NULL;
        if (!is(chunk, "PLTE"))
            continue;
        if (length >= FULL)
            return NULL;
        uint8_t *copy = vireo_calloc(1, count + FULL);
        *size = copy ? count + FULL - length : 1;
        if (!copy)
            return NULL;
        memcpy(copy, bytes, start + 8 + length);
        copy[start] = copy[start + 1] = 0;
        copy[start + 2] = FULL >> 8;
        copy[start + 3] = FULL & 255;
        // The checksum of the new chunk stays zero: ours were checked before, stb does not look.
        memcpy(copy + start + 8 + FULL + 4, bytes + at, count - at);
        return copy;
    }
}

bool image_png_pixels(const uint8_t *bytes, size_t count, const struct image_header *header, struct image *out,
                      struct vireo_error *err)
{
    if (!checksums_hold(bytes, count, err))
        return false;
    // Largest single buffer an honest file needs: all IDAT bytes, or the unpacked rows with their filter bytes (an
    // interlaced picture has up to 15/8 as many rows); both grow by doubling.
    size_t n = (size_t)header->width * header->height;
    size_t unpacked = n * (header->sample_bits / 8) + 2 * (size_t)header->height;
    size_t most = 2 * VIREO_MAX(count, unpacked) + 65536;
    int width, height, channels;
    const char *reason = NULL;
    size_t copy_bytes;
    uint8_t *copy = with_full_palette(bytes, count, &copy_bytes);
    if (!copy && copy_bytes)
        return vireo_fail_memory(err, count);
    uint8_t *data =
        image_stb_png(copy ? copy : bytes, copy ? copy_bytes : count, most, &width, &height, &channels, &reason);
    free(copy);
    if (!data) {
        if (strcmp(reason, "outofmem") == 0)
            return vireo_fail_memory(err, unpacked);
        return vireo_fail_kind(err, VIREO_INVALID, "image_parse_error", NULL, "The PNG image is damaged: %.80s.",
                               reason);
    }
    struct image im = {0};
    bool done = false;
    if ((uint32_t)width != header->width || (uint32_t)height != header->height) {
        image_damaged(err, IMAGE_PNG, "damaged: its header stands twice");
    } else if (channels == 3) {
        im = (struct image){.width = header->width, .height = header->height, .rgb = data};
        data = NULL;
        done = true;
    } else if (image_init(&im, header->width, header->height, err)) {
        if (channels == 4) {
            image_over_white(data, n, im.rgb);
        } else if (channels == 2) {
            for (size_t i = 0; i < n; i++) {
                uint8_t g = data[2 * i];
                image_over_white((uint8_t[4]){g, g, g, data[2 * i + 1]}, 1, im.rgb + 3 * i);
            }
        } else {
            for (size_t i = 0; i < n; i++)
                memset(im.rgb + 3 * i, data[i], 3);
        }
        done = true;
    }
    free(data);
    if (done)
        *out = im;
    return done;
}
