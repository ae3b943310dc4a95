// Gradient of the weight of RMS norm over one block of rows: to[block] = sum over its rows of g x r.
// Args: norm_dw_args (args/norm.h). Dispatch: ceil(rows / rows_each) * ceil(columns / SUBGROUP) groups of one subgroup.
// Constant 1: type of g (0 f32, 1 bf16, 2 f16). Sum: rows of a block in order. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/norm.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint G = 0;
layout(push_constant, scalar) uniform Args { norm_dw_args p; };

void main()
{
    uint wide = (p.columns + SUBGROUP - 1) / SUBGROUP;
    if (wide == 0)
        return;
    uint block = group_index() / wide, c = (group_index() % wide) * SUBGROUP + gl_LocalInvocationID.x;
    uint first = block * p.rows_each, end = min(first + p.rows_each, p.rows);
    if (c >= p.columns || first >= p.rows)
        return;
    float sum = 0;
    for (uint row = first; row < end; row++)
        sum += load_float(p.g, row * p.columns + c, G) * (F32(p.x).v[row * p.x_stride + c] * F32(p.r).v[row]);
    if (p.add != 0)
        sum += F32(p.to).v[block * p.columns + c];
    F32(p.to).v[block * p.columns + c] = sum;
}
