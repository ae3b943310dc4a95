// Log-softmax of a row of logits, in blocks of SOFTMAX_BLOCK columns counted from column 0.
//
// One block is one group's work: first its maximum, then the sums relative to it, in the order of lib/reduce.glsl.
// A row's blocks are then added in order by whoever needs the row (softmax_total). Both steps depend on the columns
// alone. Rollouts (sample_blocks.comp, sample.comp) and training (softmax_blocks.comp, logprob_fwd.comp) run these very
// functions, `precise` wherever a driver could contract, so that they agree bit for bit.
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

// The best of the strided partials of a lane: maxima, and the lowest column that holds each.
void clear_best(out float best[MOST_PARTIALS], out uint at[MOST_PARTIALS], uint end)
{
    [[unroll]] for (uint j = 0; j < MOST_PARTIALS; j++) {
        best[j] = NEGATIVE_INFINITY;
        at[j] = end;
    }
}

// The best of all lanes, the same in each of them; its column is in at[0].
float fold_best(float best[MOST_PARTIALS], inout uint at[MOST_PARTIALS])
{
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
    return best[0];
}

// What exponents of a block with this maximum are relative to.
float softmax_zero(float most)
{
    return most == NEGATIVE_INFINITY ? 0 : most;
}

// What a logit adds to the sum and to the weighted sum.
vec2 softmax_term(float x, float inverse, float zero)
{
    precise float z = x * inverse;
    precise float d = z - zero;
    float e = softmax_exp(d);
    precise float weighted = e > 0 ? e * d : 0.0; // -inf * 0 is no NaN here
    return vec2(e, weighted);
}

softmax_block softmax_block_stats(F32 logits, uint base, uint first, uint end, float inverse)
{
    float best[MOST_PARTIALS];
    uint at[MOST_PARTIALS];
    clear_best(best, at, end);
    for (uint block = first; block < end; block += PARTIALS) {
        FOR_PARTIALS(j) {
            uint c = partial_index(block, j);
            if (lane_has_partials() && c < end) {
                float x = logits.v[base + c], z = x * inverse;
                bool better = z > best[j];
                best[j] = better ? z : best[j];
                at[j] = better ? c : at[j];
            }
        }
    }
    softmax_block result;
    result.max = fold_best(best, at);
    result.top = at[0] < end ? at[0] : first; // nothing but -inf or NaN: still a column of the row

    const float zero = softmax_zero(result.max);
    float sum[MOST_PARTIALS], weighted[MOST_PARTIALS];
    clear_partials(sum);
    clear_partials(weighted);
    for (uint block = first; block < end; block += PARTIALS) {
        FOR_PARTIALS(j) {
            uint c = partial_index(block, j);
            if (lane_has_partials() && c < end) {
                float x = logits.v[base + c];
                const vec2 term = softmax_term(x, inverse, zero);
                sum[j] += term.x;
                weighted[j] += term.y;
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

// log(softmax) of the logit at `at`, of a row with this total and the logarithm of its sum.
float softmax_logprob(F32 logits, uint at, float inverse, softmax_block total, float log_sum)
{
    precise float z = logits.v[at] * inverse;
    precise float d = z - total.max;
    precise float l = d - log_sum;
    return l;
}

float softmax_entropy(softmax_block total, float log_sum)
{
    precise float mean = total.weighted / total.sum;
    precise float entropy = log_sum - mean;
    return entropy;
}

#endif
