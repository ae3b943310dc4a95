// WebP by libwebp: still pictures. Without the library (meson option webp) decode.c refuses the format by name.
#include "compute/image/formats.h"

#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

#ifdef VIREO_HAVE_WEBP
#include <webp/decode.h>

static uint32_t little32(const uint8_t *at)
{
    return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

bool image_webp_header(const uint8_t *bytes, size_t count, struct image_header *out, struct vireo_error *err)
{
    WebPBitstreamFeatures features;
    if (little32(bytes + 4) > count - 8)
        return image_damaged(err, IMAGE_WEBP, "truncated: its end is missing");
    if (WebPGetFeatures(bytes, count, &features) != VP8_STATUS_OK)
        return image_damaged(err, IMAGE_WEBP, "damaged: its header is not readable");
    if (features.has_animation)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "invalid_image_format", NULL,
                               "Animated WebP images are not supported; send a still image.");
    out->width = (uint32_t)features.width;
    out->height = (uint32_t)features.height;
    out->components = features.has_alpha ? 4 : 3;
    // Chunks of even length follow each other behind the 12 bytes of RIFF header.
    for (size_t at = 12; count - at >= 8;) {
        size_t length = little32(bytes + at + 4), left = count - at - 8;
        if (length > left)
            break;
        if (memcmp(bytes + at, "EXIF", 4) == 0) {
            const uint8_t *tiff = bytes + at + 8;
            // Some writers keep JPEG's "Exif\0\0" in front.
            size_t skip = length > 6 && memcmp(tiff, "Exif\0\0", 6) == 0 ? 6 : 0;
            out->orientation = image_exif_orientation(tiff + skip, length - skip);
            break;
        }
        length += length & 1;
        if (length > left)
            break;
        at += 8 + length;
    }
    return true;
}

bool image_webp_pixels(const uint8_t *bytes, size_t count, const struct image_header *header, struct image *out,
                       struct vireo_error *err)
{
    struct image im = {0};
    size_t n = (size_t)header->width * header->height;
    if (!image_init(&im, header->width, header->height, err))
        return false;
    bool alpha = header->components == 4, decoded;
    if (alpha) {
        uint8_t *rgba = vireo_alloc(n * 4);
        if (!rgba) {
            image_finish(&im);
            return vireo_fail_memory(err, n * 4);
        }
        decoded = WebPDecodeRGBAInto(bytes, count, rgba, n * 4, (int)header->width * 4) != NULL;
        if (decoded)
            image_over_white(rgba, n, im.rgb);
        free(rgba);
    } else {
        decoded = WebPDecodeRGBInto(bytes, count, im.rgb, n * 3, (int)header->width * 3) != NULL;
    }
    if (!decoded) {
        image_finish(&im);
        return image_damaged(err, IMAGE_WEBP, "damaged or truncated");
    }
    *out = im;
    return true;
}

#else

bool image_webp_header(const uint8_t *bytes, size_t count, struct image_header *out, struct vireo_error *err)
{
    return vireo_fail(err, VIREO_UNSUPPORTED, "This build cannot decode WebP images; use JPEG or PNG.");
}

bool image_webp_pixels(const uint8_t *bytes, size_t count, const struct image_header *header, struct image *out,
                       struct vireo_error *err)
{
    return vireo_fail(err, VIREO_UNSUPPORTED, "This build cannot decode WebP images; use JPEG or PNG.");
}

#endif
