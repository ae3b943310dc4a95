// Maximum, sum of exponentials, their weighted sum and the arg max of each block of SOFTMAX_BLOCK logits of each row.
// Args: softmax_blocks_args (args/logprob.h). Dispatch: rows * ceil(columns / SOFTMAX_BLOCK) groups of one subgroup.
// Sum: 32 strided partials and a tree inside a block (lib/softmax_stats.glsl). Variants: f32.
// All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/softmax_stats.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { softmax_blocks_args p; };

void main()
{
    uint count = softmax_block_count(p.columns);
    if (count == 0)
        return;
    uint row = group_index() / count, b = group_index() % count;
    if (row >= p.rows)
        return;
    float inverse = inverse_temperature(F32(p.temperature).v[row * p.temperature_stride]);
    uint first = b * SOFTMAX_BLOCK, end = min(first + SOFTMAX_BLOCK, p.columns);
    softmax_block result = softmax_block_stats(F32(p.logits), row * p.stride, first, end, inverse);
    if (gl_LocalInvocationID.x == 0)
        SoftmaxBlocks(p.blocks).v[row * count + b] = result;
}
