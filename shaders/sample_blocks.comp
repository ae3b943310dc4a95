// The statistics of softmax_blocks.comp for both halves of a draw at once: of the logits at the temperature the log-prob is
// recorded at, and of what is drawn from (maximum, sum and arg max), so that logits are read, and mostly exponentials
// taken, once for both.
// Args: sample_args (args/sample_steps.h). Dispatch: rows * ceil(columns / SOFTMAX_BLOCK) groups of one subgroup.
// Sum: as softmax_blocks.comp, whose bits these are (lib/softmax_stats.glsl). Variants: f32.
// All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/draw.glsl"

layout(local_size_x_id = 0) in;

void main()
{
    const uint count = softmax_block_count(p.columns);
    if (count == 0)
        return;
    const uint row = group_index() / count, number = group_index() % count, first = number * SOFTMAX_BLOCK;
    if (row >= p.rows)
        return;
    const uint end = min(first + SOFTMAX_BLOCK, p.columns), base = row * p.stride, drawn_base = row * p.drawn_stride;
    F32 logits = F32(p.logits), drawn = F32(p.drawn);
    const bool apart = p.logits != p.drawn; // what is drawn from lies elsewhere
    const float threshold = row_threshold(row);
    const float inverse = inverse_temperature(Settings(p.settings).v[row].logprob_temperature);
    const float drawn_inverse = inverse_temperature(Settings(p.settings).v[row].temperature);
    const bans b = read_bans();

    float best[MOST_PARTIALS], drawn_best[MOST_PARTIALS];
    uint at[MOST_PARTIALS], nowhere[MOST_PARTIALS];
    clear_best(best, nowhere, end);
    clear_best(drawn_best, at, end);
    for (uint block = first; block < end; block += PARTIALS) {
        FOR_PARTIALS(j) {
            const uint c = partial_index(block, j);
            if (lane_has_partials() && c < end) {
                const float x = logits.v[base + c], y = drawn_logit(b, apart ? drawn.v[drawn_base + c] : x, c);
                const float z = x * inverse, drawn_z = y * drawn_inverse;
                const bool better = drawn_z > drawn_best[j] && !(y < threshold);
                best[j] = z > best[j] ? z : best[j];
                drawn_best[j] = better ? drawn_z : drawn_best[j];
                at[j] = better ? c : at[j];
            }
        }
    }
    softmax_block mine, other;
    mine.max = fold_best(best, nowhere);
    mine.top = first; // nobody asks for it
    other.max = fold_best(drawn_best, at);
    other.top = at[0] < end ? at[0] : first; // nothing but -inf or NaN: still a column of the row

    const float zero = softmax_zero(mine.max), drawn_zero = softmax_zero(other.max);
    const bool alike = !apart && inverse == drawn_inverse && zero == drawn_zero;
    float sum[MOST_PARTIALS], weighted[MOST_PARTIALS], drawn_sum[MOST_PARTIALS];
    clear_partials(sum);
    clear_partials(weighted);
    clear_partials(drawn_sum);
    for (uint block = first; block < end; block += PARTIALS) {
        FOR_PARTIALS(j) {
            const uint c = partial_index(block, j);
            if (lane_has_partials() && c < end) {
                const float x = logits.v[base + c];
                const vec2 term = softmax_term(x, inverse, zero);
                sum[j] += term.x;
                weighted[j] += term.y;
                drawn_sum[j] += is_banned(b, c) || x < threshold ? 0 : term.x; // a NaN stays
            }
        }
    }
    if (!alike) {
        clear_partials(drawn_sum);
        for (uint block = first; block < end; block += PARTIALS) {
            FOR_PARTIALS(j) {
                const uint c = partial_index(block, j);
                if (lane_has_partials() && c < end) {
                    const float x = apart ? drawn.v[drawn_base + c] : logits.v[base + c], y = drawn_logit(b, x, c);
                    const float e = softmax_term(y, drawn_inverse, drawn_zero).x;
                    drawn_sum[j] += y < threshold ? 0 : e;
                }
            }
        }
    }
    mine.sum = fold_sum(sum);
    mine.weighted = fold_sum(weighted);
    other.sum = fold_sum(drawn_sum);
    other.weighted = 0; // nobody asks for it
    if (gl_LocalInvocationID.x == 0) {
        SoftmaxBlocks(p.blocks).v[row * count + number] = mine;
        SoftmaxBlocks(p.blocks).v[(p.rows + row) * count + number] = other;
    }
}
