// Sizes and resampling of the Qwen-VL processors, bit for bit.
#ifndef VIREO_IMAGE_RESIZE_H
#define VIREO_IMAGE_RESIZE_H

#include "compute/image/image.h"

// The size an image is brought to before it is cut into patches: multiples of `factor` (patch_size * merge_size) with
// an area in [min_pixels, max_pixels] and about the same shape. Reference: transformers, image_processing_qwen2_vl.py,
// smart_resize; all in double and in its order, with rounding half to even.
// Fails (VIREO_INVALID, kind "invalid_image_aspect_ratio") where the longer side is over 200 times the shorter.
bool image_smart_resize(uint32_t height, uint32_t width, uint32_t factor, uint64_t min_pixels, uint64_t max_pixels,
                        uint32_t *out_height, uint32_t *out_width, struct vireo_error *err);

// Pillow's antialiased bicubic (a = -0.5), byte-exact with Pillow <= 12: horizontal pass first, rounded to 8 bits, then
// vertical; 22-bit fixed-point weights. A pass whose size does not change is skipped. `out` is a new image.
bool image_resize(const struct image *im, uint32_t width, uint32_t height, struct image *out, struct vireo_error *err);

// The part [x, x+width) x [y, y+height), which must lie inside (VIREO_INVALID otherwise).
bool image_crop(const struct image *im, uint32_t x, uint32_t y, uint32_t width, uint32_t height, struct image *out,
                struct vireo_error *err);

#endif
