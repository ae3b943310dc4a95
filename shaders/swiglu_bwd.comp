// Backward of z = silu(a) b: da = g b s (1 + a (1 - s)), db = g a s, s = 1 / (1 + exp(-a)). In f32.
// Args: swiglu_args (args/elementwise.h), z holding g. Constant 1: type of x, g and dx.
// Dispatch: as swiglu_fwd.comp, -DWIDE as well.
// Sum: none. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#if WIDE
#include "shaders/lib/quads.glsl"
#endif
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TYPE = 0;
layout(push_constant, scalar) uniform Args { swiglu_args p; };

#if WIDE
const uint EACH = 4, TURNS = 8;
#define some vec4
#define load(base, i) load_four(base, i, TYPE)
#define store(base, i, x) store_four(base, i, TYPE, x)
#else
const uint EACH = 2, TURNS = 16;
#define some vec2
#define load(base, i) load_two(base, i, pair, TYPE)
#define store(base, i, x) store_two(base, i, pair, TYPE, x)
#endif

void main()
{
    uint chunks = (p.columns + EACH * TURNS * SUBGROUP - 1) / (EACH * TURNS * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = EACH * ((group_index() % chunks) * (TURNS * SUBGROUP) + gl_LocalInvocationID.x);
    if (row >= p.rows)
        return;
    uint from = row * p.x_stride, at = row * p.columns, to = row * 2 * p.columns;
    for (uint n = 0; n < TURNS && c < p.columns; n++, c += EACH * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        some a = load(p.x, from + c), b = load(p.x, from + p.columns + c), g = load(p.z, at + c);
        some s = 1.0 / (1.0 + exp(-a));
        some da = g * b * s * (1.0 + a * (1.0 - s)), db = g * a * s;
        if (p.add != 0) {
            da += load(p.dx, to + c);
            db += load(p.dx, to + p.columns + c);
        }
        store(p.dx, to + c, da);
        store(p.dx, to + p.columns + c, db);
    }
}
