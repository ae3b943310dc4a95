// Philox4x32-10, the same bits as compute/base/philox.c. Key = 64-bit seed, counter = four words of the caller.
#ifndef PHILOX_GLSL
#define PHILOX_GLSL

uvec4 philox(uvec2 key, uvec4 c)
{
    for (int i = 0; i < 10; i++) {
        uint hi0, lo0, hi1, lo1;
        umulExtended(0xD2511F53u, c.x, hi0, lo0);
        umulExtended(0xCD9E8D57u, c.z, hi1, lo1);
        c = uvec4(hi1 ^ c.y ^ key.x, lo1, hi0 ^ c.w ^ key.y, lo0);
        key += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

// [0, 1) with 24 bits.
float philox_unit(uint x)
{
    return float(x >> 8) * (1.0 / 16777216.0);
}

#endif
