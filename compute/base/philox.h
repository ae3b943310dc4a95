// Philox4x32-10: a counter-based random function (Salmon et al., SC 2011). Same bits in C here and in
// shaders/lib/philox.glsl. Nothing to save for a resume: the value depends on key and counter alone.
#ifndef VIREO_BASE_PHILOX_H
#define VIREO_BASE_PHILOX_H

#include <stdint.h>

struct philox {
    uint32_t v[4];
};

struct philox philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3);

// [0, 1) with 24 bits: (x >> 8) * 2^-24, exact in float.
static inline float philox_unit(uint32_t x)
{
    return (float)(x >> 8) * 0x1p-24f;
}

#endif
