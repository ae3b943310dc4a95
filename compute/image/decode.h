// JPEG, PNG and (where built in) WebP bytes -> RGB8, as Pillow and the reference processors see them.
//
// The format is judged by the first bytes alone, never by a name or a MIME type. Sizes are read from the header and
// held against the limits before a pixel is decoded. Orientation (EXIF in JPEG, PNG and WebP) is applied; alpha is
// composited over white; CMYK and YCCK JPEGs are read in Adobe's inverted convention as Pillow does. Colour profiles
// and gamma are ignored as Pillow ignores them. 16-bit PNGs keep the high byte of each sample (Pillow clips 16-bit
// gray to 255 instead, which turns such pictures white: we do not follow it there).
// A truncated or damaged file is an error, never a half-gray picture. All functions are thread-safe.
//
// Errors carry the kinds that OpenAI clients know: invalid_image_format (not one of the formats), image_parse_error
// (damaged), image_file_too_large, image_too_large (sides, pixels, scans), empty_image_file.
#ifndef VIREO_IMAGE_DECODE_H
#define VIREO_IMAGE_DECODE_H

#include "compute/image/image.h"

enum image_format { IMAGE_UNKNOWN, IMAGE_JPEG, IMAGE_PNG, IMAGE_WEBP };

struct image_limits {
    size_t bytes;    // of the file
    uint32_t side;   // longest side in pixels, at most 65,535
    uint64_t pixels; // width * height
};
// 20 MiB, 16,384 pixels a side, 40 million pixels.
extern const struct image_limits image_default_limits;

struct image_info {
    enum image_format format;
    uint32_t width, height; // as shown, after orientation
    int orientation;        // 1..8
};

// By the first bytes alone.
enum image_format image_sniff(const uint8_t *bytes, size_t count);
// "JPEG", "PNG", "WebP", "unknown".
const char *image_format_name(enum image_format format);
// "image/jpeg", ...; "application/octet-stream" for IMAGE_UNKNOWN.
const char *image_format_mime(enum image_format format);
// Whether this build decodes the format (WebP is a build option).
bool image_format_built(enum image_format format);

// Size, format and orientation from the header, without decoding; checks all limits (NULL: the defaults).
// Cost: one pass over the file's segments, no allocation.
bool image_probe(const uint8_t *bytes, size_t count, const struct image_limits *limits, struct image_info *out,
                 struct vireo_error *err);

// image_probe, then the pixels. `out` is the caller's: image_finish.
// Memory: at most about 12 bytes a pixel besides the result while decoding.
bool image_decode(const uint8_t *bytes, size_t count, const struct image_limits *limits, struct image *out,
                  struct vireo_error *err);

#endif
