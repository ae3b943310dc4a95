// AdamW with decoupled decay over a list of chunks: g scaled by the clip factor;
//   p *= 1 - lr wd (chunks with decay); m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
//   p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps); copy = p in 16 bits
// Nothing is written when the norm was not finite.
// Args: adamw_args (args/update.h). Dispatch: count groups of one subgroup, a chunk each; a lane owns pairs, since two
// halves of the copy share a word. Constant 1: type of the copies (1 bf16, 2 fp16).
// Sum: none. All-zero args: count 0, nothing is touched.
// Source: torch.optim.AdamW (the order of its operations).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/update.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint COPY = 1;
layout(push_constant, scalar) uniform Args { adamw_args p; };

float step_one(update_chunk k, uint i, float scale)
{
    float g = F32(k.grad).v[i] * scale;
    float w = F32(k.master).v[i];
    if (k.decay != 0)
        w *= p.keep;
    float m = p.beta1 * F32(k.m).v[i] + p.rest1 * g;
    float v = p.beta2 * F32(k.v).v[i] + p.rest2 * g * g;
    w -= p.rate * (m / (sqrt(v) * p.root + p.eps));
    F32(k.m).v[i] = m;
    F32(k.v).v[i] = v;
    F32(k.master).v[i] = w;
    return w;
}

void main()
{
    uint chunk = group_index();
    if (chunk >= p.count)
        return;
    update_state s = UpdateState(p.state).v;
    if (s.finite == 0)
        return;
    update_chunk k = UpdateChunks(p.chunks).v[chunk];
    for (uint i = 2 * gl_LocalInvocationID.x; i < k.count; i += 2 * SUBGROUP) {
        float low = step_one(k, i, s.scale), high = 0;
        bool pair = i + 1 < k.count;
        if (pair)
            high = step_one(k, i + 1, s.scale);
        if (has_address(k.copy)) {
            uint word = pack_halves(low, high, COPY);
            if (!pair) // the other half belongs to somebody else
                word = (U32(k.copy).v[i >> 1] & 0xffff0000u) | (word & 0xffffu);
            U32(k.copy).v[i >> 1] = word;
        }
    }
}
