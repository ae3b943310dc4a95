#include "compute/base/check.h"

#include <stdio.h>
#include <stdlib.h>

void vireo_assert_failed(const char *condition, const char *file, int line, const char *function)
{
    fprintf(stderr, "vireo: assertion failed: %s (%s:%d, %s)\n", condition, file, line, function);
    fflush(stderr);
    abort();
}

bool vireo_mul_size(size_t a, size_t b, size_t *out)
{
    if (a != 0 && b > SIZE_MAX / a)
        return false;
    *out = a * b;
    return true;
}

bool vireo_add_size(size_t a, size_t b, size_t *out)
{
    if (b > SIZE_MAX - a)
        return false;
    *out = a + b;
    return true;
}
