// Log-softmax of a row of logits, in blocks of SOFTMAX_BLOCK columns counted from column 0.
//
// One block is one group's work: first its maximum, then the sums relative to it, in the order of lib/reduce.glsl.
// A row's blocks are then added in order by whoever needs the row (softmax_total). Both steps depend on the columns
// alone. Rollouts (sample.comp) and training (logprob_fwd.comp) run the very same kernels, so that they agree bit for
// bit.
#ifndef SOFTMAX_STATS_GLSL
#define SOFTMAX_STATS_GLSL
#include "shaders/lib/reduce.glsl"
#include "shaders/args/logprob.h"

#define SOFTMAX_BLOCK 4096
#define NEGATIVE_INFINITY uintBitsToFloat(0xff800000u)

layout(buffer_reference, scalar, buffer_reference_align = 4) buffer SoftmaxBlocks { softmax_block v[]; };

uint softmax_block_count(uint columns)
{
    return (columns + SOFTMAX_BLOCK - 1) / SOFTMAX_BLOCK;
}

// Temperatures that would not leave finite numbers count as 1; greedy rows are drawn by `top` alone.
float inverse_temperature(float t)
{
    return t >= 1e-7 ? 1.0 / t : 1.0;
}

// exp(x) for x <= 0 (give or take a rounding) or NaN: SwiftShader's exp and log make numbers of NaN.
float softmax_exp(float x)
{
    return x < 1.0 ? exp(x) : x;
}

// log(x) for x >= 0 or NaN.
float softmax_log(float x)
{
    return x >= 0 ? log(x) : x;
}

softmax_block softmax_block_stats(F32 logits, uint base, uint first, uint end, float inverse, float threshold)
{
    float best[MOST_PARTIALS];
    uint at[MOST_PARTIALS];
    [[unroll]] for (uint j = 0; j < MOST_PARTIALS; j++) {
        best[j] = NEGATIVE_INFINITY;
        at[j] = end;
    }
    for (uint block = first; block < end; block += PARTIALS) {
        FOR_PARTIALS(j) {
            uint c = partial_index(block, j);
            if (lane_has_partials() && c < end) {
                float x = logits.v[base + c], z = x * inverse;
                bool better = z > best[j] && !(x < threshold);
                best[j] = better ? z : best[j];
                at[j] = better ? c : at[j];
            }
        }
    }
    [[unroll]] for (uint j = 1; j < LANE_PARTIALS; j++) {
        bool better = best[j] > best[0] || (best[j] == best[0] && at[j] < at[0]);
        best[0] = better ? best[j] : best[0];
        at[0] = better ? at[j] : at[0];
    }
    [[unroll]] for (uint d = SUBGROUP / 2; d >= 1; d /= 2) {
        float other = subgroupShuffleXor(best[0], d);
        uint other_at = subgroupShuffleXor(at[0], d);
        bool better = other > best[0] || (other == best[0] && other_at < at[0]);
        best[0] = better ? other : best[0];
        at[0] = better ? other_at : at[0];
    }
    softmax_block result;
    result.max = best[0];
    result.top = at[0] < end ? at[0] : first; // nothing but -inf or NaN: still a column of the row

    float zero = result.max == NEGATIVE_INFINITY ? 0 : result.max;
    float sum[MOST_PARTIALS], weighted[MOST_PARTIALS];
    clear_partials(sum);
    clear_partials(weighted);
    for (uint block = first; block < end; block += PARTIALS) {
        FOR_PARTIALS(j) {
            uint c = partial_index(block, j);
            if (lane_has_partials() && c < end) {
                float x = logits.v[base + c];
                precise float z = x * inverse;
                precise float d = z - zero;
                float e = softmax_exp(d);
                e = x < threshold ? 0 : e;          // a NaN stays
                sum[j] += e;
                weighted[j] += e > 0 ? e * d : 0.0; // -inf * 0 is no NaN here
            }
        }
    }
    result.sum = fold_sum(sum);
    result.weighted = fold_sum(weighted);
    return result;
}

// All blocks of a row, in order. Any lane may do it alone.
softmax_block softmax_total(SoftmaxBlocks blocks, uint first, uint count)
{
    softmax_block total = blocks.v[first];
    for (uint b = 1; b < count; b++) {
        softmax_block o = blocks.v[first + b];
        if (o.max > total.max) {
            total.max = o.max;
            total.top = o.top;
        }
    }
    total.sum = 0;
    total.weighted = 0;
    for (uint b = 0; b < count; b++) {
        softmax_block o = blocks.v[first + b];
        if (o.sum != 0) { // NaN is not 0: it stays
            float d = o.max == NEGATIVE_INFINITY ? 0 : o.max - total.max;
            float e = softmax_exp(d);
            total.sum += o.sum * e;
            total.weighted += (o.weighted + o.sum * d) * e;
        }
    }
    return total;
}

#endif
