// The distribution sample.comp draws from: exp(z - max) / sum where the logit is not below the threshold, else 0. For a
// greedy row: 1 at its token.
// Args: sample_args (args/sample_steps.h). Dispatch: rows * ceil(columns / SOFTMAX_BLOCK) groups of one subgroup.
// Sum: blocks in order. Variants: f32. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/draw.glsl"

layout(local_size_x_id = 0) in;

void main()
{
    uint count = softmax_block_count(p.columns);
    if (count == 0)
        return;
    uint row = group_index() / count, first = (group_index() % count) * SOFTMAX_BLOCK;
    if (row >= p.rows)
        return;
    float temperature = Settings(p.settings).v[row].temperature, inverse = inverse_temperature(temperature);
    softmax_block total = softmax_total(SoftmaxBlocks(p.blocks), (p.rows + row) * count, count);
    const float threshold = row_threshold(row);
    const bans b = read_bans();
    uint end = min(first + SOFTMAX_BLOCK, p.columns);
    for (uint c = first + gl_LocalInvocationID.x; c < end; c += SUBGROUP) {
        float x = drawn_logit(b, F32(p.drawn).v[row * p.drawn_stride + c], c);
        float probability = x < threshold ? 0 : softmax_exp(x * inverse - total.max) / total.sum;
        if (temperature < 1e-7)
            probability = c == total.top ? 1 : 0;
        F32(p.probability).v[row * p.columns + c] = probability;
    }
}
