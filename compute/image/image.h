// An image in memory: RGB, 8 bits a channel, rows from the top, no padding. Everything below works on these.
#ifndef VIREO_IMAGE_IMAGE_H
#define VIREO_IMAGE_IMAGE_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct image {
    uint32_t width, height;
    uint8_t *rgb; // height * width * 3 bytes, owned; freed by image_finish
};

// Zeroed (black) pixels. Both sides at least 1; the product is checked.
bool image_init(struct image *out, uint32_t width, uint32_t height, struct vireo_error *err);
void image_finish(struct image *im); // a zeroed image is fine

// EXIF orientation 1..8 (TIFF tag 0x0112): turns `im` in place as a viewer must show it. 1 does nothing.
bool image_orient(struct image *im, int orientation, struct vireo_error *err);

// RGBA (n pixels of 4 bytes) over opaque white into RGB, by Pillow's alpha_composite arithmetic (7 extra bits).
void image_over_white(const uint8_t *rgba, size_t n, uint8_t *rgb);

// A smaller copy for previews: fits into side x side, keeps the aspect ratio, never enlarges; each output pixel is the
// mean of the area it covers, exactly (pixels on a border weigh by their covered part), rounded half up.
bool image_thumbnail(const struct image *im, uint32_t side, struct image *out, struct vireo_error *err);

#endif
