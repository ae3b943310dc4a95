// to[target[u]] += from[members[starts[u]]] + ... + from[members[starts[u + 1] - 1]]: the backward of a row lookup.
// Args: scatter_args (args/embedding.h). Dispatch: count * ceil(columns / (4 * SUBGROUP)) groups of one subgroup.
// Sum: members in list order, then the old value: targets are distinct, so nothing races. Variants: f32.
// All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/embedding.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { scatter_args p; };

const uint PER_LANE = 4;
const uint RUN = 16384; // most trips of one loop

void main()
{
    uint chunks = (p.columns + PER_LANE * SUBGROUP - 1) / (PER_LANE * SUBGROUP);
    if (chunks == 0)
        return;
    uint u = group_index() / chunks, c = (group_index() % chunks) * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    if (u >= p.count)
        return;
    uint first = U32(p.starts).v[u], end = U32(p.starts).v[u + 1];
    float sum[PER_LANE] = float[](0.0, 0.0, 0.0, 0.0);
    for (uint run = first; run < end; run += RUN) {
        for (uint k = run; k < min(run + RUN, end); k++) {
            uint base = U32(p.members).v[k] * p.from_stride;
            [[unroll]] for (uint j = 0; j < PER_LANE; j++) {
                uint at = c + j * SUBGROUP;
                if (at < p.columns)
                    sum[j] += F32(p.from).v[base + at];
            }
        }
    }
    uint to = U32(p.target).v[u] * p.to_stride;
    [[unroll]] for (uint j = 0; j < PER_LANE; j++) {
        uint at = c + j * SUBGROUP;
        if (at < p.columns)
            F32(p.to).v[to + at] += sum[j];
    }
}
