// y = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2. Backward (g given): dx = g (Phi(x) + x phi(x)). In f32.
// Args: gelu_args (args/elementwise.h). Constant 1: type of all (0 f32, 1 bf16, 2 f16).
// Dispatch: ceil(count / (16 * SUBGROUP)) groups of one subgroup; a lane owns pairs.
// Sum: none. All-zero args: count 0, nothing is touched. Source: torch GELU, approximate="none".
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#include "shaders/lib/erf.glsl"
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TYPE = 0;
layout(push_constant, scalar) uniform Args { gelu_args p; };

const uint PAIRS = 8;

float value(float x)
{
    return 0.5 + 0.5 * erf(x * 0.70710678118654752);
}

void main()
{
    uint i = 2 * (group_index() * (PAIRS * SUBGROUP) + gl_LocalInvocationID.x);
    for (uint n = 0; n < PAIRS && i < p.count; n++, i += 2 * SUBGROUP) {
        bool pair = i + 1 < p.count;
        vec2 x = load_two(p.x, i, pair, TYPE), y = vec2(value(x.x), value(x.y));
        if (has_address(p.g))
            y = load_two(p.g, i, pair, TYPE) * (y + x * 0.39894228040143268 * exp(-0.5 * x * x));
        else
            y *= x;
        if (p.add != 0)
            y += load_two(p.to, i, pair, TYPE);
        store_two(p.to, i, pair, TYPE, y);
    }
}
