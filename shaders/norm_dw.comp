// Gradient of the weight of RMS norm over one block of rows: to[block] = sum over its rows of g x r.
// Args: norm_dw_args (args/norm.h). Constant 1: type of g (0 f32, 1 bf16, 2 f16).
// Dispatch: ceil(rows / rows_each) * ceil(columns / SUBGROUP) groups of one subgroup, lane = column; -DWIDE=1: four
// columns a lane (lib/quads.glsl), a fourth of the groups.
// Sum: rows of a block in order. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#if WIDE
#include "shaders/lib/quads.glsl"
#endif
#include "shaders/args/norm.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint G = 0;
layout(push_constant, scalar) uniform Args { norm_dw_args p; };

#if WIDE
const uint EACH = 4;
#define some vec4
#define load(base, i, type) load_four(base, i, type)
#else
const uint EACH = 1;
#define some float
#define load(base, i, type) load_float(base, i, type)
#endif

void main()
{
    uint wide = (p.columns + EACH * SUBGROUP - 1) / (EACH * SUBGROUP);
    if (wide == 0)
        return;
    uint block = group_index() / wide, c = EACH * ((group_index() % wide) * SUBGROUP + gl_LocalInvocationID.x);
    uint first = block * p.rows_each, end = min(first + p.rows_each, p.rows);
    if (c >= p.columns || first >= p.rows)
        return;
    some sum = some(0);
    for (uint row = first; row < end; row++)
        sum += load(p.g, row * p.columns + c, G) * (load(p.x, row * p.x_stride + c, 0) * F32(p.r).v[row]);
    uint to = block * p.columns + c;
    if (p.add != 0)
        sum += load(p.to, to, 0);
#if WIDE
    store_four(p.to, to, 0, sum);
#else
    F32(p.to).v[to] = sum;
#endif
}
