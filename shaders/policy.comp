// The clipped policy loss of one token and its derivative by the log-prob:
//   w = exp(logprob - old); l = -min(w A, clip(w, low, high) A) + beta kl; kl = exp(d) - d - 1, d = ref - logprob
//   dl = -A w where the first is the smaller (both are the same within and at the bounds), + beta (1 - exp(d))
// loss = l * weight, grad = dl * weight * loss_scale; both 0 where the weight is 0, whatever the token holds.
// Args: policy_args (args/policy.h). Dispatch: ceil(count / SUBGROUP) groups of one subgroup, a lane a token.
// Sum: none. Variants: f32. All-zero args: count 0, nothing is touched. Source: TRL, grpo_trainer.py.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/policy.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { policy_args p; };

void main()
{
    uint i = group_index() * SUBGROUP + gl_LocalInvocationID.x;
    if (i >= p.count)
        return;
    float logprob = F32(p.logprob).v[i], advantage = F32(p.advantage).v[i], weight = F32(p.weight).v[i];
    float ratio = exp(logprob - F32(p.old).v[i]);
    float loss = -min(ratio * advantage, clamp(ratio, p.low, p.high) * advantage);
    bool clipped = advantage > 0 ? ratio > p.high : advantage < 0 && ratio < p.low;
    float grad = clipped ? 0 : -advantage * ratio;
    float kl = 0;
    if (has_address(p.ref)) {
        float d = F32(p.ref).v[i] - logprob, e = exp(d);
        kl = e - d - 1.0;
        loss += p.beta * kl;
        grad += p.beta * (1.0 - e);
    }
    F32(p.loss).v[i] = weight != 0 ? loss * weight : 0;
    F32(p.grad).v[i] = weight != 0 ? grad * weight * p.loss_scale : 0;
    F32(p.kl).v[i] = kl;
    F32(p.ratio).v[i] = ratio;
}
