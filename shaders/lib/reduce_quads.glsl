// The sums of lib/reduce.glsl, bit for bit, where a lane holds four neighbouring partials: for groups of 4 or 8 lanes.
#ifndef REDUCE_QUADS_GLSL
#define REDUCE_QUADS_GLSL

const uint PARTIALS = 32;
const uint LANE_QUADS = SUBGROUP < 8 ? 2 : 1;

#define FOR_QUADS(j) [[unroll]] for (uint j = 0; j < LANE_QUADS; j++)

// The first element of the lane's j-th quad in a block of 32 that begins at `block`.
uint quad_index(uint block, uint j)
{
    return block + 4 * (j * SUBGROUP + gl_LocalInvocationID.x);
}

// The total, the same in every lane: partials p and p + 16, p + 8, p + 4, p + 2, p + 1.
float fold_quads(vec4 part[LANE_QUADS])
{
    vec4 x = part[0];
    if (LANE_QUADS > 1)
        x += part[LANE_QUADS - 1];
    [[unroll]] for (uint d = 4; d >= 1; d /= 2) {
        if (d < SUBGROUP)
            x += subgroupShuffleXor(x, d);
    }
    vec2 y = x.xy + x.zw;
    return subgroupBroadcastFirst(y.x + y.y);
}

#endif
