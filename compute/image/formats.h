// Inside of decode.c: one pair of functions a file format. Not for users of the folder.
#ifndef VIREO_IMAGE_FORMATS_H
#define VIREO_IMAGE_FORMATS_H

#include "compute/image/decode.h"

// What a format's header pass finds: sizes as stored, before orientation.
struct image_header {
    uint32_t width, height;
    int orientation;      // 1..8, 1 where the file has none
    unsigned scans;       // JPEG: passes over the picture
    unsigned components;  // JPEG: 1, 3 or 4
    unsigned sample_bits; // PNG: bits a pixel once the palette is looked up (at most 64)
};

// Fails with the kind image_parse_error: "The JPEG image is ...". Returns false.
bool image_damaged(struct vireo_error *err, enum image_format format, const char *what);

// Orientation in a TIFF block (content of an EXIF segment); 1 where there is none or it makes no sense.
int image_exif_orientation(const uint8_t *tiff, size_t count);

// header: walks the file's segments. pixels: decodes what header has approved, before orientation.
bool image_jpeg_header(const uint8_t *bytes, size_t count, struct image_header *out, struct vireo_error *err);
bool image_jpeg_pixels(const uint8_t *bytes, size_t count, const struct image_header *header, struct image *out,
                       struct vireo_error *err);
bool image_png_header(const uint8_t *bytes, size_t count, struct image_header *out, struct vireo_error *err);
bool image_png_pixels(const uint8_t *bytes, size_t count, const struct image_header *header, struct image *out,
                      struct vireo_error *err);
bool image_webp_header(const uint8_t *bytes, size_t count, struct image_header *out, struct vireo_error *err);
bool image_webp_pixels(const uint8_t *bytes, size_t count, const struct image_header *header, struct image *out,
                       struct vireo_error *err);

// stb.c: decodes a PNG with at most `most` bytes in any one allocation. NULL with a reason on failure; otherwise
// malloc'd, *channels 1..4 bytes a pixel.
uint8_t *image_stb_png(const uint8_t *bytes, size_t count, size_t most, int *width, int *height, int *channels,
                       const char **reason);

// stb.c: one character (32..126) of the built-in face as rectangles x0, y0, x1, y1 from its upper left corner. Returns
// their number, at most `most`.
struct image_glyph_part {
    int x0, y0, x1, y1;
};
// `parts` belong to the caller.
int image_stb_glyph(char c, struct image_glyph_part *parts, int most);
// Width of the character with the gap behind it.
int image_stb_advance(char c);

#endif
