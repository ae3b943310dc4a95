// From the blocks of softmax_blocks.comp: logprob = (z_target - max) - log(sum), entropy = log(sum) - weighted / sum,
// the arg max, and what the backward pass needs.
// Args: logprob_fwd_args (args/logprob.h). Dispatch: ceil(rows / SUBGROUP) groups of one subgroup, a lane a row.
// Sum: blocks of a row in order (lib/softmax_stats.glsl). Variants: f32. All-zero args: no row, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/softmax_stats.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { logprob_fwd_args p; };

void main()
{
    uint row = group_index() * SUBGROUP + gl_LocalInvocationID.x;
    if (row >= p.rows)
        return;
    uint count = softmax_block_count(p.columns);
    softmax_block total = softmax_total(SoftmaxBlocks(p.blocks), row * count, count);
    float log_sum = softmax_log(total.sum);
    uint target = U32(p.targets).v[row];
    float logprob = uintBitsToFloat(0x7fc00000u); // a target outside the vocabulary shows instead of reading wild
    if (target < p.columns)
        logprob = softmax_logprob(F32(p.logits), row * p.stride + target,
            inverse_temperature(F32(p.temperature).v[row * p.temperature_stride]), total, log_sum);
    F32(p.logprob).v[row] = logprob;
    F32(p.entropy).v[row] = softmax_entropy(total, log_sum);
    if (has_address(p.top))
        U32(p.top).v[row] = total.top;
    if (has_address(p.normaliser)) {
        F32(p.normaliser).v[2 * row] = total.max;
        F32(p.normaliser).v[2 * row + 1] = log_sum;
    }
}
