// Backward of z = silu(a) b: da = g b s (1 + a (1 - s)), db = g a s, s = 1 / (1 + exp(-a)).
// Args: swiglu_args (args/elementwise.h), z holding g. Dispatch: as swiglu_fwd.comp.
// Sum: none. Variants: f32. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { swiglu_args p; };

const uint PER_LANE = 32;

void main()
{
    uint chunks = (p.columns + PER_LANE * SUBGROUP - 1) / (PER_LANE * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = (group_index() % chunks) * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    if (row >= p.rows)
        return;
    for (uint n = 0; n < PER_LANE && c < p.columns; n++, c += SUBGROUP) {
        float a = F32(p.x).v[row * p.x_stride + c], b = F32(p.x).v[row * p.x_stride + p.columns + c];
        float g = F32(p.z).v[row * p.columns + c];
        float s = 1.0 / (1.0 + exp(-a));
        float da = g * b * s * (1.0 + a * (1.0 - s)), db = g * a * s;
        uint to = row * 2 * p.columns + c;
        if (p.add != 0) {
            da += F32(p.dx).v[to];
            db += F32(p.dx).v[to + p.columns];
        }
        F32(p.dx).v[to] = da;
        F32(p.dx).v[to + p.columns] = db;
    }
}
