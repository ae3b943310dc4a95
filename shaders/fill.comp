// to[i] = scale * from[i] + value; without `from`: to[i] = value. In place is fine.
// Args: fill_args (args/fill.h). Dispatch: ceil(count / (32 * SUBGROUP)) groups of one subgroup.
// Sum: none. Variants: f32. All-zero args: count 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/fill.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { fill_args p; };

const uint PER_LANE = 32;

void main()
{
    uint i = group_index() * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    for (uint n = 0; n < PER_LANE && i < p.count; n++, i += SUBGROUP) {
        float x = p.value;
        if (has_address(p.from))
            x += p.scale * F32(p.from).v[i];
        F32(p.to).v[i] = x;
    }
}
