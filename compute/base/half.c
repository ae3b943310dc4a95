#include "compute/base/half.h"

#include <math.h>

float fp16_to_float(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    float value;
    if (exponent == 31)
        value = mantissa ? NAN : INFINITY;
    else if (exponent == 0)
        value = ldexpf((float)mantissa, -24);
    else
        value = ldexpf((float)(mantissa + 1024), exponent - 25);
    return h & 0x8000 ? -value : value;
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
