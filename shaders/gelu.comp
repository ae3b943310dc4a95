// y = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2. Backward (g given): dx = g (Phi(x) + x phi(x)).
// Args: gelu_args (args/elementwise.h). Dispatch: ceil(count / (16 * SUBGROUP)) groups of one subgroup.
// Sum: none. Variants: f32. All-zero args: count 0, nothing is touched. Source: torch GELU, approximate="none".
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/erf.glsl"
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { gelu_args p; };

const uint PER_LANE = 16;

void main()
{
    uint i = group_index() * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    for (uint n = 0; n < PER_LANE && i < p.count; n++, i += SUBGROUP) {
        float x = F32(p.x).v[i];
        float y = 0.5 + 0.5 * erf(x * 0.70710678118654752);
        if (has_address(p.g))
            y = F32(p.g).v[i] * (y + x * 0.39894228040143268 * exp(-0.5 * x * x));
        else
            y *= x;
        if (p.add != 0)
            y += F32(p.to).v[i];
        F32(p.to).v[i] = y;
    }
}
