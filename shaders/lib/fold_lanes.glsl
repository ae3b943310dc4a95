// The last part of a sum over the lanes of a group (lib/reduce.glsl): lanes l and l + most, l + most / 2, ... l + 1.
#ifndef FOLD_LANES_GLSL
#define FOLD_LANES_GLSL

// The sum, the same in every lane; `most` is a constant, steps from SUBGROUP on are none. Every lane must get here.
float fold_lanes(float x, uint most)
{
    // Mesa's CPU driver shuffles 16 lanes in a loop lane by lane, about 30 ns a time; what comes from a constant lane
    // costs one instruction. Of 8 lanes a shuffle is one instruction.
    if (SUBGROUP == 16) {
        precise float lane[16];
        [[unroll]] for (uint i = 0; i < 16; i++)
            lane[i] = subgroupBroadcast(x, i);
        [[unroll]] for (uint d = 8; d >= 1; d /= 2) {
            [[unroll]] for (uint i = 0; i < d; i++)
                lane[i] += lane[i + d];
        }
        return lane[0];
    }
    precise float sum = x;
    [[unroll]] for (uint d = most; d >= 1; d /= 2) {
        if (d < SUBGROUP)
            sum += subgroupShuffleXor(sum, d);
    }
    return subgroupBroadcastFirst(sum);
}

#endif
