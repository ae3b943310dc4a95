#include "compute/image/patch.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/image/resize.h"

#include <stdlib.h>

struct image_processor image_processor_qwen2_5_vl(void)
{
    return (struct image_processor){.patch_size = 14,
                                    .merge_size = 2,
                                    .temporal_patch_size = 2,
                                    .min_pixels = 3136,
                                    .max_pixels = 12845056,
                                    .rescale_factor = 1.0 / 255.0,
                                    .mean = {0.48145466f, 0.4578275f, 0.40821073f},
                                    .std = {0.26862954f, 0.26130258f, 0.27577711f}};
}

void patches_finish(struct patches *p)
{
    free(p->values);
    *p = (struct patches){0};
}

static bool is_sane(const struct image_processor *p, struct vireo_error *err)
{
    if (p->patch_size < 1 || p->patch_size > 256 || p->merge_size < 1 || p->merge_size > 16 ||
        p->temporal_patch_size < 1 || p->temporal_patch_size > 16)
        return vireo_fail(err, VIREO_UNSUPPORTED,
                          "Patches of %u pixels, merged by %u, %u frames deep are outside what is supported (1..256, "
                          "1..16, 1..16).",
                          p->patch_size, p->merge_size, p->temporal_patch_size);
    for (int c = 0; c < 3; c++)
        if (p->std[c] == 0)
            return vireo_fail_param(err, "image_std", "image_std must not be zero.");
    return true;
}

bool image_grid(const struct image_processor *p, uint32_t height, uint32_t width, uint32_t grid_thw[3],
                uint64_t *tokens, struct vireo_error *err)
{
    uint32_t h, w;
    if (!is_sane(p, err) || !image_smart_resize(height, width, p->patch_size * p->merge_size, p->min_pixels,
                                                p->max_pixels, &h, &w, err))
        return false;
    grid_thw[0] = 1;
    grid_thw[1] = h / p->patch_size;
    grid_thw[2] = w / p->patch_size;
    if (tokens)
        *tokens = (uint64_t)(grid_thw[1] / p->merge_size) * (grid_thw[2] / p->merge_size);
    return true;
}

bool image_cut_patches(const struct image_processor *p, const struct image *frames, size_t frame_count,
                       struct patches *out, struct vireo_error *err)
{
    if (!is_sane(p, err))
        return false;
    if (frame_count < 1 || frame_count > UINT32_MAX / 2)
        return vireo_fail(err, VIREO_INVALID, "A clip needs at least one frame.");
    uint32_t size = p->patch_size, merge = p->merge_size, depth = p->temporal_patch_size;
    uint32_t width = frames[0].width, height = frames[0].height;
    if (width % (size * merge) || height % (size * merge))
        return vireo_fail(err, VIREO_INVALID, "An image of %u x %u pixels is not a multiple of %u.", width, height,
                          size * merge);
    for (size_t i = 1; i < frame_count; i++)
        if (frames[i].width != width || frames[i].height != height)
            return vireo_fail(err, VIREO_INVALID, "Frame %zu has %u x %u pixels, the first one %u x %u.", i,
                              frames[i].width, frames[i].height, width, height);

    struct patches q = {.t = (uint32_t)((frame_count + depth - 1) / depth), .h = height / size, .w = width / size};
    size_t cells, values, bytes, area = (size_t)size * size;
    q.columns = 3 * depth * area;
    if (!vireo_mul_size((size_t)q.h * q.w, q.t, &cells) || !vireo_mul_size(cells, q.columns, &values) ||
        !vireo_mul_size(values, sizeof *q.values, &bytes))
        return vireo_fail(err, VIREO_TOO_LARGE, "A clip of %zu frames of %u x %u pixels does not fit memory.",
                          frame_count, width, height);
    q.rows = cells;
    if (!(q.values = vireo_alloc(bytes)))
        return vireo_fail_memory(err, bytes);

    // A channel has 256 possible values: all arithmetic is in this table.
    float table[3][256];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            table[c][v] = ((float)(v * p->rescale_factor) - p->mean[c]) / p->std[c];

    float *row = q.values;
    for (uint32_t t = 0; t < q.t; t++)
        for (uint32_t block = 0; block < q.h / merge * (q.w / merge); block++)
            for (uint32_t inner = 0; inner < merge * merge; inner++, row += q.columns) {
                size_t py = (size_t)(block / (q.w / merge) * merge + inner / merge) * size;
                size_t px = (size_t)(block % (q.w / merge) * merge + inner % merge) * size;
                for (uint32_t d = 0; d < depth; d++) {
                    size_t frame = VIREO_MIN((size_t)t * depth + d, frame_count - 1);
                    for (size_t y = 0; y < size; y++) {
                        const uint8_t *from = frames[frame].rgb + ((py + y) * width + px) * 3;
                        float *to = row + d * area + y * size;
                        for (size_t x = 0; x < size; x++, from += 3, to++) {
                            to[0] = table[0][from[0]];
                            to[depth * area] = table[1][from[1]];
                            to[2 * depth * area] = table[2][from[2]];
                        }
                    }
                }
            }
    *out = q;
    return true;
}

bool image_patches(const struct image_processor *p, const struct image *im, struct patches *out,
                   struct vireo_error *err)
{
    uint32_t grid[3];
    if (!image_grid(p, im->height, im->width, grid, NULL, err))
        return false;
    struct image sized;
    if (!image_resize(im, grid[2] * p->patch_size, grid[1] * p->patch_size, &sized, err))
        return false;
    bool done = image_cut_patches(p, &sized, 1, out, err);
    image_finish(&sized);
    return done;
}
