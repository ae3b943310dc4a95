// What the device can do at most, for the rooflines of `vireo bench`.
// COPY=0: to[i] = sum of 16 chains of 8 * turns multiply-adds in registers, x = fma(x, a, b), chain c from c / 16; memory
// is not what it waits for. COPY=1: to[i] = from[i], four floats at a time.
// Args: calibrate_args (args/calibrate.h). Dispatch: ceil(count / SUBGROUP) groups of one subgroup; copy:
// ceil(count / (32 * SUBGROUP)). Sum: ((s0 + s1) + (s2 + s3)) of four vectors, then their components likewise.
// All-zero args: count 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/calibrate.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { calibrate_args p; };

#if COPY
const uint PER_LANE = 8;

void main()
{
    uint i = group_index() * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    for (uint n = 0; n < PER_LANE && i < p.count / 4; n++, i += SUBGROUP)
        U32x4(p.to).v[i] = U32x4(p.from).v[i];
}
#else
const uint UNROLL = 8;

void main()
{
    uint i = group_index() * SUBGROUP + gl_LocalInvocationID.x;
    if (i >= p.count)
        return;
    vec4 s0 = vec4(0, 1, 2, 3) / 16, s1 = s0 + 0.25, s2 = s0 + 0.5, s3 = s0 + 0.75;
    vec4 a = vec4(p.a), b = vec4(p.b);
    for (uint turn = 0; turn < p.turns; turn++)
        [[unroll]] for (uint n = 0; n < UNROLL; n++) {
            s0 = fma(s0, a, b);
            s1 = fma(s1, a, b);
            s2 = fma(s2, a, b);
            s3 = fma(s3, a, b);
        }
    vec4 s = (s0 + s1) + (s2 + s3);
    F32(p.to).v[i] = (s.x + s.y) + (s.z + s.w);
}
#endif
