// z = silu(a) b with x = (a, b): a the first `columns` of a row, b the others; silu(a) = a / (1 + exp(-a)). In f32.
// Args: swiglu_args (args/elementwise.h). Constant 1: type of x and z (0 f32, 1 bf16, 2 f16; 16 bits: even columns).
// Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup; a lane owns pairs.
// -DWIDE=1: ceil(rows / rows_each) * chunks of a row groups; a lane owns quads; constant 3: columns (lib/row_quads.glsl).
// Sum: none. All-zero args: no row, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#if WIDE
#include "shaders/lib/row_quads.glsl"
#else
#include "shaders/lib/pairs.glsl"
#endif
#include "shaders/args/elementwise.h"
#include "shaders/lib/swiglu.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TYPE = 0;
layout(push_constant, scalar) uniform Args { swiglu_args p; };

#if WIDE
void main()
{
    const uint c = group_index() % CHUNKS * CHUNK, first = group_index() / CHUNKS * p.rows_each;
    const uint end = min(p.rows, first + p.rows_each), stride = p.x_stride;
    const uvec2 x = p.x, z = p.z;
    for (uint row = first; row < end; row++) {
        const uint64_t a_at = row_quads(x, row * stride + c, TYPE), b_at = row_quads(x, row * stride + COLUMNS + c, TYPE);
        const uint64_t z_at = row_quads(z, row * COLUMNS + c, TYPE);
        FOR_ROW_QUADS(n, c) {
            const vec4 a = load_quad(a_at, n, TYPE), b = load_quad(b_at, n, TYPE);
            store_quad(z_at, n, TYPE, swiglu(a, b));
        }
    }
}
#else
const uint TURNS = 16; // pairs a lane

void main()
{
    uint chunks = (p.columns + 2 * TURNS * SUBGROUP - 1) / (2 * TURNS * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = 2 * ((group_index() % chunks) * (TURNS * SUBGROUP) + gl_LocalInvocationID.x);
    if (row >= p.rows)
        return;
    uint from = row * p.x_stride, to = row * p.columns;
    for (uint n = 0; n < TURNS && c < p.columns; n++, c += 2 * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        vec2 a = load_two(p.x, from + c, pair, TYPE), b = load_two(p.x, from + p.columns + c, pair, TYPE);
        store_two(p.z, to + c, pair, TYPE, swiglu(a, b));
    }
}
#endif
