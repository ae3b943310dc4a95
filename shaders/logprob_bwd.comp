// Turns logits into their gradient, in place: g (onehot(target) - p) / temperature, p = exp((z - max) - log(sum)).
// Args: logprob_bwd_args (args/logprob.h). Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup.
// Sum: none. Variants: f32. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/softmax_stats.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { logprob_bwd_args p; };

const uint PER_LANE = 32;

void main()
{
    uint chunks = (p.columns + PER_LANE * SUBGROUP - 1) / (PER_LANE * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = (group_index() % chunks) * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    if (row >= p.rows)
        return;
    float inverse = inverse_temperature(F32(p.temperature).v[row * p.temperature_stride]);
    float g = F32(p.g).v[row] * inverse;
    float most = F32(p.normaliser).v[2 * row], log_sum = F32(p.normaliser).v[2 * row + 1];
    uint target = U32(p.targets).v[row];
    for (uint n = 0; n < PER_LANE && c < p.columns; n++, c += SUBGROUP) {
        uint at = row * p.stride + c;
        float probability = softmax_exp(F32(p.logits).v[at] * inverse - most - log_sum);
        F32(p.logits).v[at] = g * ((c == target ? 1.0 : 0.0) - probability);
    }
}
