// z = silu(a) b with x = (a, b): a the first `columns` of a row, b the others; silu(a) = a / (1 + exp(-a)). In f32.
// Args: swiglu_args (args/elementwise.h). Constant 1: type of x and z (0 f32, 1 bf16, 2 f16; 16 bits: even columns).
// Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup; a lane owns pairs, with -DWIDE=1 quads
// (lib/quads.glsl).
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
    uint from = row * p.x_stride, to = row * p.columns;
    for (uint n = 0; n < TURNS && c < p.columns; n++, c += EACH * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        some a = load(p.x, from + c), b = load(p.x, from + p.columns + c);
        store(p.z, to + c, a / (1.0 + exp(-a)) * b);
    }
}
