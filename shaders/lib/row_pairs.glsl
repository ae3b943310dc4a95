// A row of COLUMNS values, held by the lanes of a group of 4 to 16 as pairs of neighbours, and its sum: the sum of
// lib/reduce.glsl, bit for bit. For CPU drivers: a pair is one access (64 bits of f32, 32 of a 16-bit type), a row that
// is held is read once, and addresses are counted in 64 bits lane by lane, so that a turn adds a constant. The tensor
// starts and its rows begin at multiples of 8 bytes; COLUMNS is even.
//
// Pair n of a lane is elements PAIR_COLUMN(n) and the next one. Of the 32 strided partials a lane owns two neighbours of
// each of LANE_PAIRS pairs.
#ifndef ROW_PAIRS_GLSL
#define ROW_PAIRS_GLSL
#include "shaders/lib/fold_lanes.glsl"
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require

layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t v[]; };

layout(constant_id = 3) const uint COLUMNS = 32;

const uint LANE_PAIRS = SUBGROUP < 16 ? 16 / SUBGROUP : 1;
const uint PAIRS = (COLUMNS + 2 * SUBGROUP - 1) / (2 * SUBGROUP); // of a lane; the last may lie behind the row
#define PAIR_COLUMN(n) (2 * ((n) * SUBGROUP + gl_SubgroupInvocationID))
// Over the pairs that lie in the row. Whole turns need no test: there the first half is a constant.
#define FOR_ROW_PAIRS(n)                                                                                              \
    [[unroll]] for (uint n = 0; n < PAIRS; n++)                                                                       \
        if (2 * (n + 1) * SUBGROUP <= COLUMNS || PAIR_COLUMN(n) < COLUMNS)

// Bytes of some elements of a type.
uint64_t element_bytes(uint count, uint type)
{
    return uint64_t(type == 0 ? 4 * count : 2 * count);
}

// Where the lane's first pair of a row lies that begins at element `first`.
uint64_t row_pairs(uvec2 base, uint first, uint type)
{
    return pack64(base) + element_bytes(first + 2 * gl_SubgroupInvocationID, type);
}

// Pair n of that row.
vec2 load_pair(uint64_t row, uint n, uint type)
{
    if (type == 0)
        return uintBitsToFloat(unpack32(U64(row).v[n * SUBGROUP]));
    return unpack_halves(U32(row).v[n * SUBGROUP], type);
}

// Rounds to nearest even.
void store_pair(uint64_t row, uint n, uint type, vec2 x)
{
    if (type == 0)
        U64(row).v[n * SUBGROUP] = pack64(floatBitsToUint(x));
    else
        U32(row).v[n * SUBGROUP] = pack_halves(x.x, x.y, type);
}

// The total, the same in every lane: partials p and p + 16, p + 8, p + 4, p + 2, p + 1, all `precise` (lib/reduce.glsl).
float fold_pairs(vec2 part[LANE_PAIRS])
{
    precise vec2 sum[LANE_PAIRS];
    [[unroll]] for (uint j = 0; j < LANE_PAIRS; j++)
        sum[j] = part[j];
    [[unroll]] for (uint h = LANE_PAIRS / 2; h >= 1; h /= 2) {
        [[unroll]] for (uint j = 0; j < h; j++)
            sum[j] += sum[j + h];
    }
    precise float total = fold_lanes(sum[0].x, 8) + fold_lanes(sum[0].y, 8);
    return total;
}

#endif
