#include "compute/image/resize.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool image_smart_resize(uint32_t height, uint32_t width, uint32_t factor, uint64_t min_pixels, uint64_t max_pixels,
                        uint32_t *out_height, uint32_t *out_width, struct vireo_error *err)
{
    if (height < 1 || width < 1 || factor < 1)
        return vireo_fail(err, VIREO_INVALID, "Cannot resize %u x %u pixels to multiples of %u.", width, height,
                          factor);
    if (min_pixels > max_pixels)
        return vireo_fail_param(err, "min_pixels", "min_pixels %llu is larger than max_pixels %llu.",
                                (unsigned long long)min_pixels, (unsigned long long)max_pixels);
    double h = height, w = width, f = factor;
    if (fmax(h, w) / fmin(h, w) > 200)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_image_aspect_ratio", NULL,
                               "The image has %u x %u pixels; the longer side may be at most 200 times the shorter.",
                               width, height);
    // nearbyint rounds half to even, as Python's round.
    double h1 = f * nearbyint(h / f), w1 = f * nearbyint(w / f);
    if (h1 * w1 > (double)max_pixels) {
        double beta = sqrt(h * w / (double)max_pixels);
        h1 = fmax(f, f * floor(h / beta / f));
        w1 = fmax(f, f * floor(w / beta / f));
    } else if (h1 * w1 < (double)min_pixels) {
        double beta = sqrt((double)min_pixels / (h * w));
        h1 = f * ceil(h * beta / f);
        w1 = f * ceil(w * beta / f);
    }
    if (h1 < 1 || w1 < 1 || h1 > 65535 || w1 > 65535)
        return vireo_fail(err, VIREO_INVALID,
                          "The image of %u x %u pixels would be resized to %.0f x %.0f; sides of 1 to 65535 are "
                          "possible: min_pixels or max_pixels do not fit it.",
                          width, height, w1, h1);
    *out_height = (uint32_t)h1;
    *out_width = (uint32_t)w1;
    return true;
}

// ---- Pillow, Resample.c

enum { PRECISION = 22 };

struct axis {
    uint32_t most;   // weights a row of `weights`
    uint32_t *first; // [n_out] first source index
    uint32_t *count; // [n_out] number of source values
    int32_t *weights; // [n_out, most], 2^22 = 1
};

static void axis_finish(struct axis *a)
{
    free(a->first);
    free(a->count);
    free(a->weights);
}

static double bicubic(double t)
{
    const double a = -0.5;
    t = fabs(t);
    if (t < 1)
        return ((a + 2) * t - (a + 3)) * t * t + 1;
    if (t < 2)
        return (((t - 5) * t + 8) * t - 4) * a;
    return 0;
}

static bool axis_init(struct axis *a, uint32_t n_in, uint32_t n_out, struct vireo_error *err)
{
    double scale = (double)n_in / n_out, filter_scale = fmax(scale, 1), support = 2 * filter_scale;
    size_t total;
    *a = (struct axis){.most = (uint32_t)ceil(support) * 2 + 1};
    double *k = vireo_alloc(a->most * sizeof *k);
    a->first = vireo_alloc(n_out * sizeof *a->first);
    a->count = vireo_alloc(n_out * sizeof *a->count);
    if (vireo_mul_size(n_out, a->most * sizeof *a->weights, &total))
        a->weights = vireo_alloc(total);
    if (!k || !a->first || !a->count || !a->weights) {
        free(k);
        axis_finish(a);
        return vireo_fail_memory(err, n_out * a->most * sizeof *a->weights);
    }
    for (uint32_t i = 0; i < n_out; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int64_t low = (int64_t)(centre - support + 0.5), high = (int64_t)(centre + support + 0.5);
        low = VIREO_MAX(low, 0);
        high = VIREO_MIN(high, (int64_t)n_in);
        uint32_t count = (uint32_t)(high - low);
        for (uint32_t j = 0; j < count; j++) {
            k[j] = bicubic(((double)(j + low) - centre + 0.5) * (1 / filter_scale));
            sum += k[j];
        }
        for (uint32_t j = 0; j < count; j++) {
            double value = sum != 0 ? k[j] / sum : k[j];
            a->weights[(size_t)i * a->most + j] = (int32_t)(value * (1 << PRECISION) + (value < 0 ? -0.5 : 0.5));
        }
        a->first[i] = (uint32_t)low;
        a->count[i] = count;
    }
    free(k);
    return true;
}

// The sums stay within 32 bits: the weights' absolute values add up to less than 1.3 * 2^22, times 255.
static uint8_t clip(int32_t sum)
{
    int32_t value = sum >> PRECISION;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void resize_rows(const struct image *im, const struct axis *a, struct image *out)
{
    for (uint32_t y = 0; y < out->height; y++) {
        const uint8_t *row = im->rgb + (size_t)y * im->width * 3;
        uint8_t *to = out->rgb + (size_t)y * out->width * 3;
        for (uint32_t x = 0; x < out->width; x++, to += 3) {
            const uint8_t *from = row + (size_t)a->first[x] * 3;
            const int32_t *k = a->weights + (size_t)x * a->most;
            int32_t r = 1 << (PRECISION - 1), g = r, b = r;
            for (uint32_t j = 0, n = a->count[x]; j < n; j++, from += 3) {
                r += k[j] * from[0];
                g += k[j] * from[1];
                b += k[j] * from[2];
            }
            to[0] = clip(r);
            to[1] = clip(g);
            to[2] = clip(b);
        }
    }
}

static void resize_columns(const struct image *im, const struct axis *a, struct image *out)
{
    enum { BLOCK = 2048 }; // values whose sums stay in the first-level cache; the inner loops run along the row
    int32_t sum[BLOCK];
    size_t row = (size_t)im->width * 3;
    for (uint32_t y = 0; y < out->height; y++) {
        const int32_t *k = a->weights + (size_t)y * a->most;
        for (size_t begin = 0; begin < row; begin += BLOCK) {
            size_t n = VIREO_MIN(row - begin, BLOCK);
            for (size_t i = 0; i < n; i++)
                sum[i] = 1 << (PRECISION - 1);
            for (uint32_t j = 0; j < a->count[y]; j++) {
                const uint8_t *from = im->rgb + (size_t)(a->first[y] + j) * row + begin;
                int32_t weight = k[j];
                for (size_t i = 0; i < n; i++)
                    sum[i] += weight * from[i];
            }
            uint8_t *to = out->rgb + (size_t)y * row + begin;
            for (size_t i = 0; i < n; i++)
                to[i] = clip(sum[i]);
        }
    }
}

bool image_resize(const struct image *im, uint32_t width, uint32_t height, struct image *out, struct vireo_error *err)
{
    struct axis a;
    struct image wide = {0}, result = {0};
    const struct image *from = im;
    if (width > 65535 || height > 65535)
        return vireo_fail(err, VIREO_INVALID, "Cannot resize to %u x %u pixels: a side has at most 65535.", width,
                          height);
    if (width != im->width) {
        if (!image_init(&wide, width, im->height, err))
            return false;
        if (!axis_init(&a, im->width, width, err)) {
            image_finish(&wide);
            return false;
        }
        resize_rows(im, &a, &wide);
        axis_finish(&a);
        from = &wide;
    }
    bool done = true;
    if (height != im->height) {
        done = image_init(&result, width, height, err) && axis_init(&a, im->height, height, err);
        if (done) {
            resize_columns(from, &a, &result);
            axis_finish(&a);
        }
    } else if (from == &wide) {
        result = wide;
        wide = (struct image){0};
    } else if ((done = image_init(&result, width, height, err))) {
        memcpy(result.rgb, im->rgb, (size_t)width * height * 3);
    }
    image_finish(&wide);
    if (done)
        *out = result;
    else
        image_finish(&result);
    return done;
}

bool image_crop(const struct image *im, uint32_t x, uint32_t y, uint32_t width, uint32_t height, struct image *out,
                struct vireo_error *err)
{
    struct image part;
    if (x > im->width || y > im->height || width > im->width - x || height > im->height - y)
        return vireo_fail(err, VIREO_INVALID, "A part of %u x %u pixels at (%u, %u) is not inside an image of %u x %u.",
                          width, height, x, y, im->width, im->height);
    if (!image_init(&part, width, height, err))
        return false;
    for (uint32_t i = 0; i < height; i++)
        memcpy(part.rgb + (size_t)i * width * 3, im->rgb + ((size_t)(y + i) * im->width + x) * 3, (size_t)width * 3);
    *out = part;
    return true;
}
