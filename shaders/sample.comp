// Draws one token a row, greedy or by the inverse of the cumulative distribution in id order at u in [0, 1), and records its
// log-prob and the entropy.
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
#include "shaders/lib/draw.glsl"

layout(local_size_x_id = 0) in;

const uint RUN = SOFTMAX_BLOCK / PARTIALS;

float weight_of(bans b, uint base, uint c, float inverse, float most, float threshold)
{
    float x = drawn_logit(b, F32(p.drawn).v[base + c], c);
    return x < threshold ? 0 : softmax_exp(x * inverse - most);
}

// The id within the block [first, end) where the cumulative sum passes `target`.
uint draw_in_block(bans b, uint base, uint first, uint end, float inverse, float most, float threshold, float target)
{
    float sum[MOST_PARTIALS];
    clear_partials(sum);
    FOR_PARTIALS(j) {
        uint run = first + partial_index(0, j) * RUN;
        if (lane_has_partials()) {
            for (uint c = run; c < min(run + RUN, end); c++)
                sum[j] += weight_of(b, base, c, inverse, most, threshold);
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
    // The lanes weigh ids of the run side by side; their sum goes from id to id.
    const uint run = first + chosen * RUN, stop = min(run + RUN, end);
    uint last = run;
    float cumulative = before;
    found = false;
    for (uint c = run; c < stop && !found; c += SUBGROUP) {
        const uint mine = c + gl_SubgroupInvocationID;
        const float weight = mine < stop ? weight_of(b, base, mine, inverse, most, threshold) : 0;
        [[unroll]] for (uint l = 0; l < SUBGROUP; l++) {
            const float e = subgroupBroadcast(weight, l);
            if (!found && e > 0) {
                cumulative += e;
                last = c + l;
                found = cumulative > target;
            }
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
    const uint count = softmax_block_count(p.columns), here = (p.rows + row) * count; // blocks of what is drawn from
    SoftmaxBlocks blocks = SoftmaxBlocks(p.blocks);
    softmax_block total = softmax_total(blocks, here, count);
    uint token = total.top;
    if (s.temperature >= 1e-7) {
        uvec4 random = philox(uvec2(s.seed_low, s.seed_high), uvec4(s.counter[0], s.counter[1], s.counter[2], 0));
        float target = philox_unit(random.x) * total.sum;
        float before = 0, passed = 0;
        softmax_block chosen = blocks.v[here];
        uint b = 0;
        float scale = 0;
        bool found = false;
        for (uint i = 0; i < count; i++) {
            softmax_block o = blocks.v[here + i];
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
            token = draw_in_block(read_bans(), row * p.drawn_stride, first, min(first + SOFTMAX_BLOCK, p.columns),
                inverse_temperature(s.temperature), chosen.max, row_threshold(row), (target - before) / scale);
        }
    }
    // Recorded is the log-prob of the untouched logits: logprob_fwd.comp's bits.
    total = softmax_total(blocks, row * count, count);
    const float log_sum = softmax_log(total.sum), logprob = softmax_logprob(F32(p.logits), row * p.stride + token,
        inverse_temperature(s.logprob_temperature), total, log_sum);
    if (gl_LocalInvocationID.x == 0) {
        U32(p.token).v[row] = token;
        F32(p.token).v[p.rows + row] = logprob;
        F32(p.token).v[2 * p.rows + row] = softmax_entropy(total, log_sum);
    }
}
