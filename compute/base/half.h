// bf16 and fp16 <-> fp32 by bit operations. To bf16 and fp16: round to nearest even; NaN stays NaN (quiet).
#ifndef VIREO_BASE_HALF_H
#define VIREO_BASE_HALF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float bf16_to_float(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t float_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float fp16_to_float(uint16_t h);
uint16_t float_to_fp16(float f);

#endif
