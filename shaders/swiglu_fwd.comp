// z = silu(a) b with x = (a, b): a the first `columns` of a row, b the others; silu(a) = a / (1 + exp(-a)). In f32.
// Args: swiglu_args (args/elementwise.h). Constant 1: type of x and z (0 f32, 1 bf16, 2 f16; 16 bits: even columns).
// Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup; a lane owns pairs.
// Sum: none. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TYPE = 0;
layout(push_constant, scalar) uniform Args { swiglu_args p; };

const uint PAIRS = 16;

void main()
{
    uint chunks = (p.columns + 2 * PAIRS * SUBGROUP - 1) / (2 * PAIRS * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = 2 * ((group_index() % chunks) * (PAIRS * SUBGROUP) + gl_LocalInvocationID.x);
    if (row >= p.rows)
        return;
    uint from = row * p.x_stride, to = row * p.columns;
    for (uint n = 0; n < PAIRS && c < p.columns; n++, c += 2 * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        vec2 a = load_two(p.x, from + c, pair, TYPE), b = load_two(p.x, from + p.columns + c, pair, TYPE);
        store_two(p.z, to + c, pair, TYPE, a / (1.0 + exp(-a)) * b);
    }
}
