// Two neighbours, elements i and i + 1, of a tensor of storage type 0 f32, 1 bf16, 2 f16 (lib/types.glsl): 16-bit ones
// share a word, which one lane reads and writes as a whole, so there i is even. pair false: element i alone; what lies
// beside it is neither read nor changed.
#ifndef PAIRS_GLSL
#define PAIRS_GLSL

vec2 load_two(uvec2 base, uint i, bool pair, uint type)
{
    if (type == 0)
        return vec2(F32(base).v[i], F32(base).v[pair ? i + 1 : i]);
    uint word = U32(base).v[i >> 1];
    return unpack_halves(word, type);
}

// Rounds to nearest even.
void store_two(uvec2 base, uint i, bool pair, uint type, vec2 x)
{
    if (type == 0) {
        F32(base).v[i] = x.x;
        if (pair)
            F32(base).v[i + 1] = x.y;
        return;
    }
    uint word = pack_halves(x.x, x.y, type), at = i >> 1;
    if (!pair)
        word = (U32(base).v[at] & 0xffff0000u) | (word & 0xffffu);
    U32(base).v[at] = word;
}

#endif
