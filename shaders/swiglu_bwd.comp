// Backward of z = silu(a) b: da = g b s (1 + a (1 - s)), db = g a s, s = 1 / (1 + exp(-a)). In f32.
// Args: swiglu_args (args/elementwise.h), z holding g. Constant 1: type of x, g and dx. Dispatch: as swiglu_fwd.comp.
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
    uint from = row * p.x_stride, at = row * p.columns, to = row * 2 * p.columns;
    for (uint n = 0; n < PAIRS && c < p.columns; n++, c += 2 * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        vec2 a = load_two(p.x, from + c, pair, TYPE), b = load_two(p.x, from + p.columns + c, pair, TYPE);
        vec2 g = load_two(p.z, at + c, pair, TYPE);
        vec2 s = 1.0 / (1.0 + exp(-a));
        vec2 da = g * b * s * (1.0 + a * (1.0 - s)), db = g * a * s;
        if (p.add != 0) {
            da += load_two(p.dx, to + c, pair, TYPE);
            db += load_two(p.dx, to + p.columns + c, pair, TYPE);
        }
        store_two(p.dx, to + c, pair, TYPE, da);
        store_two(p.dx, to + p.columns + c, pair, TYPE, db);
    }
}
