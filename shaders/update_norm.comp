// norm = sqrt(sum of partial) unscale, scale = unscale min(1, max_norm / (norm + 1e-6)), finite = the norm is a number.
// Args: update_norm_args (args/update.h). Dispatch: one group of one subgroup.
// Sum: 32 strided partials with Kahan's correction, then a tree (lib/reduce.glsl). Variants: f32.
// All-zero args: count 0, nothing is touched. Source: torch.nn.utils.clip_grad_norm_.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/reduce.glsl"
#include "shaders/lib/update.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { update_norm_args p; };

const uint RUN = 32768 * PARTIALS; // most trips of one loop

void main()
{
    if (p.count == 0 || group_index() != 0)
        return;
    float sum[MOST_PARTIALS], lost[MOST_PARTIALS];
    clear_partials(sum);
    clear_partials(lost);
    for (uint run = 0; run < p.count; run += RUN) {
        for (uint block = run; block < min(run + RUN, p.count); block += PARTIALS) {
            FOR_PARTIALS(j) {
                uint i = partial_index(block, j);
                if (lane_has_partials() && i < p.count) {
                    precise float y = F32(p.partial).v[i] - lost[j];
                    precise float t = sum[j] + y;
                    precise float c = (t - sum[j]) - y;
                    lost[j] = c;
                    sum[j] = t;
                }
            }
        }
    }
    float norm = sqrt(fold_sum(sum)) * p.unscale;
    if (gl_LocalInvocationID.x == 0) {
        update_state s;
        s.norm = norm;
        s.scale = p.unscale * (p.max_norm > 0 ? min(1.0, p.max_norm / (norm + 1e-6)) : 1.0);
        s.finite = is_finite(norm) ? 1 : 0;
        UpdateState(p.state).v = s;
    }
}
