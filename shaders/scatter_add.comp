// to[target[u]] += from[members[starts[u]]] + ... + from[members[starts[u + 1] - 1]]: the backward of a row lookup.
// Args: scatter_args (args/embedding.h). Constants: 1 type of `from`, 2 of `to` (0 f32, 1 bf16, 2 f16).
// Dispatch: count * ceil(columns / (4 * SUBGROUP)) groups of one subgroup; a lane owns pairs.
// Sum: members in list order, in f32, then the old value: targets are distinct, so nothing races.
// All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#include "shaders/args/embedding.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint FROM = 0;
layout(constant_id = 2) const uint TO = 0;
layout(push_constant, scalar) uniform Args { scatter_args p; };

const uint PAIRS = 2;
const uint RUN = 16384; // most trips of one loop

void main()
{
    uint chunks = (p.columns + 2 * PAIRS * SUBGROUP - 1) / (2 * PAIRS * SUBGROUP);
    if (chunks == 0)
        return;
    uint u = group_index() / chunks, c = 2 * ((group_index() % chunks) * (PAIRS * SUBGROUP) + gl_LocalInvocationID.x);
    if (u >= p.count)
        return;
    uint first = U32(p.starts).v[u], end = U32(p.starts).v[u + 1];
    vec2 sum[PAIRS] = vec2[](vec2(0.0), vec2(0.0));
    for (uint run = first; run < end; run += RUN) {
        for (uint k = run; k < min(run + RUN, end); k++) {
            uint base = U32(p.members).v[k] * p.from_stride;
            [[unroll]] for (uint j = 0; j < PAIRS; j++) {
                uint at = c + 2 * j * SUBGROUP;
                if (at < p.columns)
                    sum[j] += load_two(p.from, base + at, at + 1 < p.columns, FROM);
            }
        }
    }
    uint to = U32(p.target).v[u] * p.to_stride;
    [[unroll]] for (uint j = 0; j < PAIRS; j++) {
        uint at = c + 2 * j * SUBGROUP;
        bool pair = at + 1 < p.columns;
        if (at < p.columns)
            store_two(p.to, to + at, pair, TO, load_two(p.to, to + at, pair, TO) + sum[j]);
    }
}
