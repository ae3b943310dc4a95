#include "compute/base/half.h"

#include <string.h>

float fp16_to_float(uint16_t h)
{
    const uint32_t magnitude = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t u = sign | ((magnitude << 13) + (112u << 23)); // the exponents' biases are 112 apart
    float value;
    if (magnitude >= 0x7c00u)
        u = sign | (magnitude > 0x7c00u ? 0x7fc00000u : 0x7f800000u);
    memcpy(&value, &u, 4);
    if (magnitude < 0x400u) { // 0 and subnormals
        value = (float)magnitude * 0x1p-24f;
        return sign ? -value : value;
    }
    return value;
}

uint16_t float_to_fp16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return sign | 0x7e00;
    if (u >= 0x47800000u) // 65536 and above
        return sign | 0x7c00;
    if (u < 0x33000000u) // below half of the smallest subnormal
        return sign;
    int exponent = (int)(u >> 23) - 127;
    uint32_t mantissa = (u & 0x7fffffu) | 0x800000u;
    int shift = exponent < -14 ? -exponent - 1 : 13; // bits cut off; subnormals lose more
    uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    if (rest > half || (rest == half && (kept & 1)))
        kept++;
    // A carry out of the mantissa moves into the exponent by itself.
    uint32_t base = exponent < -14 ? 0 : (uint32_t)(exponent + 14) << 10;
    return (uint16_t)(sign | (base + kept));
}
