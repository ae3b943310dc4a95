// Sums over the lanes of a group in an order that does not depend on the group's size.
//
// A sum runs in 32 strided partials: partial p takes elements p, p + 32, p + 64, ... in order; then a fixed tree adds
// p and p + 16, p + 8, ... p + 1. With S lanes, lane l holds partials l, l + S, l + 2S, ... (one where S >= 32; lanes
// from 32 on hold zeros). So groups of 4 to 64 lanes give the same bits, and a row has them whatever stands beside it.
// Every lane of the group must reach the fold. Its additions are `precise`: of others a driver chooses the order (Mesa
// makes c + (a a + b b) a chain of multiply-adds, (c + a a) + b b, which a partial of two terms fits).
#ifndef REDUCE_GLSL
#define REDUCE_GLSL
#include "shaders/lib/fold_lanes.glsl"

const uint PARTIALS = 32;
const uint LANE_PARTIALS = (PARTIALS + SUBGROUP - 1) / SUBGROUP;
#define MOST_PARTIALS 8 // of a lane: groups of 4

bool lane_has_partials()
{
    return SUBGROUP <= PARTIALS || gl_LocalInvocationID.x < PARTIALS;
}

// The j-th element of the lane in a block of 32 that begins at `block`.
uint partial_index(uint block, uint j)
{
    return block + j * SUBGROUP + gl_LocalInvocationID.x;
}

#define FOR_PARTIALS(j) [[unroll]] for (uint j = 0; j < LANE_PARTIALS; j++)

void clear_partials(out float part[MOST_PARTIALS])
{
    [[unroll]] for (uint j = 0; j < MOST_PARTIALS; j++)
        part[j] = 0;
}

// The total, the same in every lane.
float fold_sum(float part[MOST_PARTIALS])
{
    precise float sum[MOST_PARTIALS] = part;
    [[unroll]] for (uint h = MOST_PARTIALS / 2; h >= 1; h /= 2) {
        if (h < LANE_PARTIALS) {
            [[unroll]] for (uint j = 0; j < h; j++)
                sum[j] += sum[j + h];
        }
    }
    return fold_lanes(sum[0], PARTIALS / 2);
}

#endif
