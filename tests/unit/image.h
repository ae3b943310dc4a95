// Images of the tests' data, and whether two are the same: what the tests of compute/image share.
#ifndef VIREO_TESTS_UNIT_IMAGE_H
#define VIREO_TESTS_UNIT_IMAGE_H

#include "compute/base/file.h"
#include "compute/image/decode.h"
#include "tests/check.h"

static struct vireo_error err;

static inline struct file_bytes read_data(const char *relative)
{
    struct file_bytes bytes = {0};
    REQUIRE_OK(file_read(test_data(relative), 64 << 20, &bytes, &err));
    return bytes;
}

static inline struct image decode_data(const char *relative)
{
    struct file_bytes bytes = read_data(relative);
    struct image im = {0};
    if (!image_decode((uint8_t *)bytes.data, bytes.size, NULL, &im, &err))
        fail_msg("%s: %s", relative, err.message);
    file_bytes_free(&bytes);
    return im;
}

static inline void require_same(const struct image *a, const struct image *b, int most, double mean, const char *what)
{
    REQUIRE_INT(a->width, b->width);
    REQUIRE_INT(a->height, b->height);
    size_t n = (size_t)a->width * a->height * 3;
    int worst = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        int d = abs(a->rgb[i] - b->rgb[i]);
        worst = d > worst ? d : worst;
        sum += d;
    }
    if (worst > most || sum / (double)n > mean)
        fail_msg("%s: largest difference %d (allowed %d), mean %.3f (allowed %.3f)", what, worst, most,
                 sum / (double)n, mean);
}

#endif
