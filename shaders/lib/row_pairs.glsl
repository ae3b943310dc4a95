// A row of COLUMNS values, held by the lanes of a group of 4, 8 or 16 as pairs of neighbours, and its sum: the sum of
// lib/reduce.glsl, bit for bit. For CPU drivers: a pair is one access (64 bits of f32, 32 of a 16-bit type), and a row
// that is held is read once. The tensor starts and its rows begin at multiples of 8 bytes; COLUMNS is even.
//
// Pair n of a lane is elements PAIR_COLUMN(n) and the next one. Of the 32 strided partials a lane owns two neighbours of
// each of LANE_PAIRS pairs.
#ifndef ROW_PAIRS_GLSL
#define ROW_PAIRS_GLSL
#include "shaders/lib/pairs.glsl"

#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t v[]; };

layout(constant_id = 3) const uint COLUMNS = 32;

const uint LANE_PAIRS = 16 / SUBGROUP;
const uint PAIRS = (COLUMNS + 2 * SUBGROUP - 1) / (2 * SUBGROUP); // of a lane; the last may lie behind the row
#define PAIR_COLUMN(n) (2 * ((n) * SUBGROUP + gl_SubgroupInvocationID))
// Over the pairs that lie in the row. Rows of whole turns need no test: the constant folds it away.
#define FOR_ROW_PAIRS(n) [[unroll]] for (uint n = 0; n < PAIRS; n++) if (PAIR_COLUMN(n) < COLUMNS)

vec2 load_pair(uvec2 base, uint i, uint type)
{
    return type == 0 ? uintBitsToFloat(unpack32(U64(base).v[i >> 1])) : load_two(base, i, true, type);
}

void store_pair(uvec2 base, uint i, uint type, vec2 x)
{
    if (type == 0)
        U64(base).v[i >> 1] = pack64(floatBitsToUint(x));
    else
        store_two(base, i, true, type, x);
}

// The total, the same in every lane: partials p and p + 16, p + 8, p + 4, p + 2, p + 1.
float fold_pairs(vec2 part[LANE_PAIRS])
{
    [[unroll]] for (uint h = LANE_PAIRS / 2; h >= 1; h /= 2) {
        [[unroll]] for (uint j = 0; j < h; j++)
            part[j] += part[j + h];
    }
    vec2 x = part[0];
    [[unroll]] for (uint d = SUBGROUP / 2; d >= 1; d /= 2)
        x += subgroupShuffleXor(x, d);
    return subgroupBroadcastFirst(x.x + x.y);
}

#endif
