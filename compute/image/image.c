#include "compute/image/image.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

bool image_init(struct image *out, uint32_t width, uint32_t height, struct vireo_error *err)
{
    size_t row, bytes;
    if (width < 1 || height < 1)
        return vireo_fail(err, VIREO_INVALID, "An image needs at least one pixel, not %u x %u.", width, height);
    if (!vireo_mul_size(width, 3, &row) || !vireo_mul_size(row, height, &bytes))
        return vireo_fail(err, VIREO_TOO_LARGE, "An image of %u x %u pixels does not fit memory.", width, height);
    uint8_t *rgb = vireo_calloc(bytes, 1);
    if (!rgb)
        return vireo_fail_memory(err, bytes);
    *out = (struct image){.width = width, .height = height, .rgb = rgb};
    return true;
}

void image_finish(struct image *im)
{
    free(im->rgb);
    *im = (struct image){0};
}

bool image_orient(struct image *im, int orientation, struct vireo_error *err)
{
    if (orientation == 1)
        return true;
    if (orientation < 1 || orientation > 8)
        return vireo_fail(err, VIREO_INVALID, "Orientation %d is not in 1..8.", orientation);
    // Where the source of the upper left output pixel lies, and the source steps along an output row and column.
    int64_t w = im->width, h = im->height, start = 0, along = 0, down = 0;
    switch (orientation) {
    case 2: start = w - 1, along = -1, down = w; break;
    case 3: start = h * w - 1, along = -1, down = -w; break;
    case 4: start = (h - 1) * w, along = 1, down = -w; break;
    case 5: start = 0, along = w, down = 1; break;
    case 6: start = (h - 1) * w, along = -w, down = 1; break;
    case 7: start = h * w - 1, along = -w, down = -1; break;
    case 8: start = w - 1, along = w, down = -1; break;
    }
    struct image turned;
    bool swaps = orientation >= 5;
    if (!image_init(&turned, swaps ? im->height : im->width, swaps ? im->width : im->height, err))
        return false;
    uint8_t *to = turned.rgb;
    for (uint32_t y = 0; y < turned.height; y++) {
        int64_t at = start + (int64_t)y * down;
        for (uint32_t x = 0; x < turned.width; x++, at += along, to += 3) {
            const uint8_t *from = im->rgb + at * 3;
            to[0] = from[0];
            to[1] = from[1];
            to[2] = from[2];
        }
    }
    image_finish(im);
    *im = turned;
    return true;
}

void image_over_white(const uint8_t *rgba, size_t n, uint8_t *rgb)
{
    // Pillow, AlphaComposite.c, with an opaque white background: all coefficients carry 7 more bits than 8.
    for (size_t i = 0; i < n; i++, rgba += 4, rgb += 3) {
        uint32_t source = (uint32_t)rgba[3] << 7, background = (255u << 7) - source;
        for (int c = 0; c < 3; c++) {
            uint32_t sum = rgba[c] * source + 255u * background + (0x80u << 7);
            rgb[c] = (uint8_t)(((sum >> 8) + sum) >> 8 >> 7);
        }
    }
}

bool image_thumbnail(const struct image *im, uint32_t side, struct image *out, struct vireo_error *err)
{
    if (side < 1)
        return vireo_fail(err, VIREO_INVALID, "A preview needs a side of at least one pixel.");
    uint64_t w = im->width, h = im->height, longest = VIREO_MAX(w, h);
    uint64_t tw = w, th = h;
    if (longest > side) {
        tw = VIREO_MAX(1, (w * side + longest / 2) / longest);
        th = VIREO_MAX(1, (h * side + longest / 2) / longest);
    }
    struct image small;
    if (!image_init(&small, (uint32_t)tw, (uint32_t)th, err))
        return false;
    // In units of 1/tw of a pixel, source column j spans [j*tw, (j+1)*tw) and output column x spans [x*w, (x+1)*w): all
    // overlaps are integers and the weights of one output pixel add up to w*h.
    uint8_t *to = small.rgb;
    uint64_t total = w * h;
    for (uint64_t y = 0; y < th; y++) {
        uint64_t y0 = y * h, y1 = y0 + h;
        for (uint64_t x = 0; x < tw; x++, to += 3) {
            uint64_t x0 = x * w, x1 = x0 + w, sum[3] = {0};
            for (uint64_t v = y0 / th; v * th < y1; v++) {
                uint64_t wy = VIREO_MIN(y1, (v + 1) * th) - VIREO_MAX(y0, v * th);
                const uint8_t *row = im->rgb + v * w * 3;
                uint64_t line[3] = {0};
                for (uint64_t u = x0 / tw; u * tw < x1; u++) {
                    uint64_t wx = VIREO_MIN(x1, (u + 1) * tw) - VIREO_MAX(x0, u * tw);
                    for (int c = 0; c < 3; c++)
                        line[c] += wx * row[u * 3 + c];
                }
                for (int c = 0; c < 3; c++)
                    sum[c] += wy * line[c];
            }
            for (int c = 0; c < 3; c++)
                to[c] = (uint8_t)((sum[c] + total / 2) / total);
        }
    }
    *out = small;
    return true;
}
