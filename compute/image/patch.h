// RGB8 -> pixel_values: normalised patches in the order in which Qwen's vision transformers read them.
#ifndef VIREO_IMAGE_PATCH_H
#define VIREO_IMAGE_PATCH_H

#include "compute/image/image.h"

// What preprocessor_config.json says; image_processor_qwen2_5_vl() gives the published values.
struct image_processor {
    uint32_t patch_size, merge_size, temporal_patch_size; // 14, 2, 2
    uint64_t min_pixels, max_pixels;                      // areas: 3136, 12845056
    double rescale_factor;                                // 1/255
    float mean[3], std[3];                                // CLIP's
};
struct image_processor image_processor_qwen2_5_vl(void);

// The rows of one image (or clip). grid = t * h * w patches before merging; tokens = rows / merge_size^2.
struct patches {
    uint32_t t, h, w;     // grid_thw
    size_t rows, columns; // t*h*w and 3 * temporal * patch^2 (1176)
    float *values;        // [rows, columns], owned; freed by patches_finish
};
void patches_finish(struct patches *p); // a zeroed one is fine

// Grid and number of language tokens that an image of this size will take, without pixels.
bool image_grid(const struct image_processor *p, uint32_t height, uint32_t width, uint32_t grid_thw[3],
                uint64_t *tokens, struct vireo_error *err);

// smart_resize, bicubic, normalise and cut: the whole way of one still image.
bool image_patches(const struct image_processor *p, const struct image *im, struct patches *out,
                   struct vireo_error *err);

// Normalise and cut alone; every frame has the same size, a multiple of patch * merge. A single frame fills the whole
// temporal patch; a clip that does not fill its last one repeats its last frame.
// Values: x = ((float)(u8 * rescale_factor) - mean) / std in float32.
// Rows: time, then merge blocks in raster order, inside each its merge^2 patches in raster order.
// Columns: channel, frame within the temporal patch, y, x.
bool image_cut_patches(const struct image_processor *p, const struct image *frames, size_t frame_count,
                       struct patches *out, struct vireo_error *err);

#endif
