// JPEG by libjpeg-turbo, the decoder Pillow uses, with its default (accurate) DCT and smooth chroma upsampling.
#include "compute/image/formats.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

static bool cut_off(struct vireo_error *err)
{
    return image_damaged(err, IMAGE_JPEG, "truncated: its end is missing");
}

bool image_jpeg_header(const uint8_t *bytes, size_t count, struct image_header *out, struct vireo_error *err)
{
    size_t at = 2;
    bool have_frame = false, have_exif = false;
    out->scans = 0;
    for (;;) {
        const uint8_t *mark = at < count ? memchr(bytes + at, 0xff, count - at) : NULL;
        if (!mark)
            return cut_off(err);
        at = (size_t)(mark - bytes) + 1;
        while (at < count && bytes[at] == 0xff)
            at++; // fill bytes
        if (at >= count)
            return cut_off(err);
        uint8_t marker = bytes[at++];
        if (marker == 0xd9)
            break;
        if (marker == 0 || marker == 1 || (marker >= 0xd0 && marker <= 0xd8))
            continue; // stuffed FF inside a scan, or a marker without content
        if (count - at < 2)
            return cut_off(err);
        size_t length = (size_t)bytes[at] << 8 | bytes[at + 1];
        if (length < 2)
            return image_damaged(err, IMAGE_JPEG, "damaged: a segment has no length");
        if (length > count - at)
            return cut_off(err);
        const uint8_t *body = bytes + at + 2;
        size_t body_bytes = length - 2;
        bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
        if (frame && !have_frame) {
            if (body_bytes < 6)
                return image_damaged(err, IMAGE_JPEG, "damaged: its frame header is too short");
            if (body[0] != 8)
                return vireo_fail_kind(err, VIREO_UNSUPPORTED, "invalid_image_format", NULL,
                                       "The JPEG image has %u bits a sample; only 8 are supported.", body[0]);
            out->height = (uint32_t)body[1] << 8 | body[2];
            out->width = (uint32_t)body[3] << 8 | body[4];
            out->components = body[5];
            if (out->components != 1 && out->components != 3 && out->components != 4)
                return vireo_fail_kind(err, VIREO_UNSUPPORTED, "invalid_image_format", NULL,
                                       "The JPEG image has %u colour components; 1, 3 or 4 are supported.",
                                       out->components);
            have_frame = true;
        } else if (marker == 0xe1 && !have_exif && body_bytes > 6 && memcmp(body, "Exif\0\0", 6) == 0) {
            out->orientation = image_exif_orientation(body + 6, body_bytes - 6);
            have_exif = true;
        } else if (marker == 0xda) {
            out->scans++;
        }
        at += length;
    }
    if (!have_frame || out->scans == 0)
        return image_damaged(err, IMAGE_JPEG, "damaged: it holds no picture");
    return true;
}

// What libjpeg calls a warning but leaves gray or garbled areas behind. The rest (unknown JFIF revision, stray bytes
// between segments, ...) is harmless and common in real files.
static bool is_damage(const char *warning)
{
    static const char *const harmless[] = {"extraneous bytes", "JFIF", "Adobe color transform", "progression sequence"};
    for (size_t i = 0; i < VIREO_COUNT(harmless); i++)
        if (strstr(warning, harmless[i]))
            return false;
    return true;
}

// Pillow reads four-component JPEGs in Adobe's convention (stored inverted) and converts by
// R = 255-K - MULDIV255(C, 255-K). With the stored values c = 255-C, k = 255-K that is k - MULDIV255(255-c, k).
static void cmyk_to_rgb(const uint8_t *cmyk, size_t n, uint8_t *rgb)
{
    for (size_t i = 0; i < n; i++, cmyk += 4, rgb += 3) {
        int k = cmyk[3];
        for (int c = 0; c < 3; c++) {
            int t = (255 - cmyk[c]) * k + 128, value = k - (((t >> 8) + t) >> 8);
            rgb[c] = (uint8_t)(value < 0 ? 0 : value);
        }
    }
}

bool image_jpeg_pixels(const uint8_t *bytes, size_t count, const struct image_header *header, struct image *out,
                       struct vireo_error *err)
{
    int w = (int)header->width, h = (int)header->height, width = 0, height = 0, sampling, colours;
    size_t n = (size_t)header->width * header->height;
    uint8_t *cmyk = NULL;
    struct image im = {0};
    bool done = false;
    tjhandle turbo = vireo_fault("alloc") ? NULL : tjInitDecompress();
    if (!turbo) {
        vireo_fail_memory(err, sizeof turbo);
        goto done;
    }
    // Only the sizes matter here: the call also fails on unusual chroma sampling, which decodes all the same.
    tjDecompressHeader3(turbo, bytes, (unsigned long)count, &width, &height, &sampling, &colours);
    if (width != w || height != h) {
        image_damaged(err, IMAGE_JPEG, "damaged: its header is not readable");
        goto done;
    }
    if (!image_init(&im, header->width, header->height, err))
        goto done;
    if (header->components == 4 && !(cmyk = vireo_alloc(n * 4))) {
        vireo_fail_memory(err, n * 4);
        goto done;
    }
    if (tjDecompress2(turbo, bytes, (unsigned long)count, cmyk ? cmyk : im.rgb, w, 0, h, cmyk ? TJPF_CMYK : TJPF_RGB,
                      TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS) != 0) {
        const char *text = tjGetErrorStr2(turbo);
        if (tjGetErrorCode(turbo) != TJERR_WARNING || is_damage(text)) {
            vireo_fail_kind(err, VIREO_INVALID, "image_parse_error", NULL, "The JPEG image is damaged: %.160s.", text);
            goto done;
        }
    }
    if (cmyk)
        cmyk_to_rgb(cmyk, n, im.rgb);
    *out = im;
    im = (struct image){0};
    done = true;
done:
    if (turbo)
        tjDestroy(turbo);
    free(cmyk);
    image_finish(&im);
    return done;
}
