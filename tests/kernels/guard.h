// Guard words behind what ops allocate, and small helpers that several case files share.
#ifndef VIREO_TESTS_KERNELS_GUARD_H
#define VIREO_TESTS_KERNELS_GUARD_H

#include "tests/kernels/kernels.h"

enum { GUARD_WORD = -1 }; // what the device's poison mode, which kernels.c turns on, leaves in fresh memory

// The words between the end of x and the next multiple of 256 bytes still hold the poison. Use sizes that leave some.
static inline void guard_check(const char *what, struct tensor x)
{
    uint32_t words[64];
    const uint64_t bytes = (tensor_bytes(x) + 3) & ~3ull, end = (bytes + 255) & ~255ull;
    if (end == bytes)
        return;
    struct gpu_span tail = x.span;
    tail.bytes = end;
    tail = gpu_span_part(tail, bytes, end - bytes);
    REQUIRE_OK(gpu_read(test_device, tail, words, end - bytes, &err));
    for (uint64_t i = 0; i < (end - bytes) / 4; i++)
        if (words[i] != (uint32_t)GUARD_WORD)
            fail_msg("%s: word %llu behind the end is %08x", what, (unsigned long long)i, words[i]);
}

static inline void *test_alloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    REQUIRE(p);
    return p;
}

// n floats of a seed.
static inline float *test_random(size_t n, uint32_t seed, float scale)
{
    float *x = test_alloc(n, sizeof *x);
    test_values(x, n, seed);
    for (size_t i = 0; i < n; i++)
        x[i] *= scale;
    return x;
}

// The whole of a device tensor, to be freed.
static inline float *test_fetch(struct tensor x)
{
    float *out = test_alloc(tensor_count(x), sizeof *out);
    test_read(x, out);
    return out;
}

#endif
