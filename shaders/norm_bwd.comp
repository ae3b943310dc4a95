// Backward of RMS norm: dx = r (g w - n mean(g w n)), n = x r, r the saved 1/rms.
// Args: norm_args (args/norm.h), y holding g. Constants: 1 type of w, 2 of g. Dispatch: as norm_fwd.comp.
// Sum: 32 strided partials and a tree (lib/reduce.glsl). All-zero args: no row, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#include "shaders/lib/reduce.glsl"
#include "shaders/args/norm.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint WEIGHT = 0;
layout(constant_id = 2) const uint G = 0;
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
                    part[j] += load_float(p.y, from + c, G) * load_float(p.w, c, WEIGHT) * (F32(p.x).v[base + c] * r);
            }
        }
        float mean = fold_sum(part) / float(p.columns);
        for (uint c = 2 * gl_LocalInvocationID.x; c < p.columns; c += 2 * SUBGROUP) {
            bool pair = c + 1 < p.columns;
            vec2 g = load_two(p.y, from + c, pair, G), w = load_two(p.w, c, pair, WEIGHT);
            vec2 d = r * (g * w - load_two(p.x, base + c, pair, 0) * r * mean);
            if (p.add != 0)
                d += load_two(p.dx, to + c, pair, 0);
            store_two(p.dx, to + c, pair, 0, d);
        }
    }
}
