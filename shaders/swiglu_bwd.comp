// Backward of z = silu(a) b: da = g b s (1 + a (1 - s)), db = g a s, s = 1 / (1 + exp(-a)). In f32.
// Args: swiglu_args (args/elementwise.h), z holding g. Constant 1: type of x, g and dx.
// Dispatch: as swiglu_fwd.comp, -DWIDE as well.
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

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TYPE = 0;
layout(push_constant, scalar) uniform Args { swiglu_args p; };

#if WIDE
void main()
{
    const uint c = group_index() % CHUNKS * CHUNK, first = group_index() / CHUNKS * p.rows_each;
    const uint end = min(p.rows, first + p.rows_each), stride = p.x_stride;
    const uvec2 x = p.x, z = p.z, dx = p.dx;
    const bool add = p.add != 0;
    for (uint row = first; row < end; row++) {
        const uint64_t a_at = row_quads(x, row * stride + c, TYPE), b_at = row_quads(x, row * stride + COLUMNS + c, TYPE);
        const uint64_t da_at = row_quads(dx, row * (2 * COLUMNS) + c, TYPE);
        const uint64_t db_at = row_quads(dx, row * (2 * COLUMNS) + COLUMNS + c, TYPE);
        const uint64_t g_at = row_quads(z, row * COLUMNS + c, TYPE);
        FOR_ROW_QUADS(n, c) {
            const vec4 a = load_quad(a_at, n, TYPE), b = load_quad(b_at, n, TYPE), g = load_quad(g_at, n, TYPE);
            const vec4 s = 1.0 / (1.0 + exp(-a));
            vec4 da = g * b * s * (1.0 + a * (1.0 - s)), db = g * a * s;
            if (add) {
                da += load_quad(da_at, n, TYPE);
                db += load_quad(db_at, n, TYPE);
            }
            store_quad(da_at, n, TYPE, da);
            store_quad(db_at, n, TYPE, db);
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
    uint from = row * p.x_stride, at = row * p.columns, to = row * 2 * p.columns;
    for (uint n = 0; n < TURNS && c < p.columns; n++, c += 2 * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        vec2 a = load_two(p.x, from + c, pair, TYPE), b = load_two(p.x, from + p.columns + c, pair, TYPE);
        vec2 g = load_two(p.z, at + c, pair, TYPE), s = 1.0 / (1.0 + exp(-a));
        vec2 da = g * b * s * (1.0 + a * (1.0 - s)), db = g * a * s;
        if (p.add != 0) {
            da += load_two(p.dx, to + c, pair, TYPE);
            db += load_two(p.dx, to + p.columns + c, pair, TYPE);
        }
        store_two(p.dx, to + c, pair, TYPE, da);
        store_two(p.dx, to + p.columns + c, pair, TYPE, db);
    }
}
#endif
