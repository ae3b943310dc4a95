// to = a + b, element by element. `to` may be a or b.
// Args: add_args (args/elementwise.h). Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup.
// Sum: none. Variants: f32. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { add_args p; };

const uint PER_LANE = 32;

void main()
{
    uint chunks = (p.columns + PER_LANE * SUBGROUP - 1) / (PER_LANE * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = (group_index() % chunks) * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    if (row >= p.rows)
        return;
    for (uint n = 0; n < PER_LANE && c < p.columns; n++, c += SUBGROUP)
        F32(p.to).v[row * p.to_stride + c] = F32(p.a).v[row * p.a_stride + c] + F32(p.b).v[row * p.b_stride + c];
}
