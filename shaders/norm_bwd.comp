// Backward of RMS norm: dx = r (g w - n mean(g w n)), n = x r, r the saved 1/rms.
// Args: norm_args (args/norm.h), y holding g. Constant 1: type of w. Dispatch: as norm_fwd.comp.
// Sum: 32 strided partials and a tree (lib/reduce.glsl). All-zero args: no row, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/reduce.glsl"
#include "shaders/args/norm.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint WEIGHT = 0;
layout(push_constant, scalar) uniform Args { norm_args p; };

void main()
{
    for (uint n = 0; n < p.rows_each; n++) {
        uint row = group_index() * p.rows_each + n;
        if (row >= p.rows)
            return;
        uint base = row * p.x_stride, from = row * p.columns, to = row * p.dx_stride;
        float r = F32(p.r).v[row];
        float part[MOST_PARTIALS];
        clear_partials(part);
        for (uint block = 0; block < p.columns; block += PARTIALS) {
            FOR_PARTIALS(j) {
                uint c = partial_index(block, j);
                if (lane_has_partials() && c < p.columns)
                    part[j] += F32(p.y).v[from + c] * load_float(p.w, c, WEIGHT) * (F32(p.x).v[base + c] * r);
            }
        }
        float mean = fold_sum(part) / float(p.columns);
        for (uint c = gl_LocalInvocationID.x; c < p.columns; c += SUBGROUP) {
            float d = r * (F32(p.y).v[from + c] * load_float(p.w, c, WEIGHT) - F32(p.x).v[base + c] * r * mean);
            if (p.add != 0)
                d += F32(p.dx).v[to + c];
            F32(p.dx).v[to + c] = d;
        }
    }
}
