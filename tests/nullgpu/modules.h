// The kernels' SPIR-V as it lies in the binary, and what it says of its specialisation constants.
#ifndef VIREO_TESTS_NULLGPU_MODULES_H
#define VIREO_TESTS_NULLGPU_MODULES_H

#include "shaders/kernels.h"

#include <stdint.h>

#define X(NAME, name) extern const uint32_t kernel_##name[], kernel_##name##_bytes;
KERNEL_LIST(X)
#undef X
struct module {
    const uint32_t *words, *bytes;
};
static const struct module modules[KERNEL_COUNT] = {
#define X(NAME, name) {kernel_##name, &kernel_##name##_bytes},
    KERNEL_LIST(X)
#undef X
};

// How many constants a kernel takes beside the subgroup size (constant 0): they are numbered from 1 on.
static inline uint32_t module_constants(enum gpu_kernel kernel)
{
    enum { OP_FUNCTION = 54, OP_DECORATE = 71, SPEC_ID = 1 };
    const uint32_t *w = modules[kernel].words, count = *modules[kernel].bytes / 4;
    uint32_t last = 0;
    for (uint32_t i = 5; i < count && w[i] >> 16 && (w[i] & 0xffff) != OP_FUNCTION; i += w[i] >> 16)
        if ((w[i] & 0xffff) == OP_DECORATE && w[i] >> 16 == 4 && w[i + 2] == SPEC_ID && w[i + 3] > last)
            last = w[i + 3];
    return last;
}

#endif
