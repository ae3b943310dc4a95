// Draws one token a row: greedy, or the inverse of the cumulative distribution in id order at u in [0, 1).
//
// u * total chooses a block by the blocks' sums, then one of its 32 runs of SOFTMAX_BLOCK / 32 ids, then the id. Where
// rounding leaves a remainder behind the last sum, the last id of positive probability there is taken: an id of
// probability 0 is never drawn.
// Args: sample_args (args/sample_steps.h). Dispatch: rows groups of one subgroup.
// Sum: blocks in order; ids of a run in order; runs in order: nothing depends on other rows or the group's size.
// Variants: f32. All-zero args: no row, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/philox.glsl"
#include "shaders/lib/softmax_stats.glsl"
#include "shaders/args/sample_steps.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { sample_args p; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Settings { sample_row v[]; };

const uint RUN = SOFTMAX_BLOCK / PARTIALS;

float weight_of(uint at, float inverse, float most, float threshold)
{
    float x = F32(p.logits).v[at];
    return x < threshold ? 0 : softmax_exp(x * inverse - most);
}

// The id within the block [first, end) where the cumulative sum passes `target`.
uint draw_in_block(uint base, uint first, uint end, float inverse, float most, float threshold, float target)
{
    float sum[MOST_PARTIALS];
    clear_partials(sum);
    FOR_PARTIALS(j) {
        uint run = first + partial_index(0, j) * RUN;
        if (lane_has_partials()) {
            for (uint c = run; c < min(run + RUN, end); c++)
                sum[j] += weight_of(base + c, inverse, most, threshold);
        }
    }
    float before = 0, passed = 0;
    uint chosen = 0;
    bool found = false;
    [[unroll]] for (uint j = 0; j < LANE_PARTIALS; j++) {
        for (uint l = 0; l < min(SUBGROUP, PARTIALS); l++) {
            float s = subgroupBroadcast(sum[j], l); // a CPU driver runs a shuffle lane by lane
            if (!found && s > 0) {
                chosen = j * SUBGROUP + l;
                before = passed;
                passed += s;
                found = passed > target;
            }
        }
    }
    uint id = first + chosen * RUN, last = id;
    found = false;
    float cumulative = before;
    for (uint c = id; c < min(id + RUN, end); c++) {
        float e = weight_of(base + c, inverse, most, threshold);
        if (!found && e > 0) {
            cumulative += e;
            last = c;
            found = cumulative > target;
        }
    }
    return last;
}

void main()
{
    uint row = group_index();
    if (row >= p.rows)
        return;
    sample_row s = Settings(p.settings).v[row];
    uint count = softmax_block_count(p.columns);
    softmax_block total = softmax_total(SoftmaxBlocks(p.blocks), row * count, count);
    uint token = total.top;
    if (s.temperature >= 1e-7) {
        uvec4 random = philox(uvec2(s.seed_low, s.seed_high), uvec4(s.counter[0], s.counter[1], s.counter[2], 0));
        float target = philox_unit(random.x) * total.sum;
        float threshold = NEGATIVE_INFINITY;
        if (has_address(p.threshold))
            threshold = F32(p.threshold).v[row];
        float before = 0, passed = 0;
        softmax_block chosen = SoftmaxBlocks(p.blocks).v[row * count];
        uint b = 0;
        float scale = 0;
        bool found = false;
        for (uint i = 0; i < count; i++) {
            softmax_block o = SoftmaxBlocks(p.blocks).v[row * count + i];
            float e = o.sum > 0 ? softmax_exp(o.max - total.max) : 0;
            if (!found && o.sum * e > 0) {
                chosen = o;
                b = i;
                scale = e;
                before = passed;
                passed += o.sum * e;
                found = passed > target;
            }
        }
        if (scale > 0) { // else not one finite number: the arg max
            uint first = b * SOFTMAX_BLOCK;
            token = draw_in_block(row * p.stride, first, min(first + SOFTMAX_BLOCK, p.columns),
                inverse_temperature(s.temperature), chosen.max, threshold, (target - before) / scale);
        }
    }
    if (gl_LocalInvocationID.x == 0)
        U32(p.token).v[row] = token;
}
