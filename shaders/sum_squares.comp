// partial[k] = sum of g^2 over chunk k; or, with `zero`, g = 0.
// Args: sum_squares_args (args/update.h). Dispatch: count groups of one subgroup, a chunk each.
// Sum: 32 strided partials and a tree (lib/reduce.glsl) over blocks of 4096, blocks in order. Variants: f32.
// All-zero args: count 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/reduce.glsl"
#include "shaders/lib/update.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { sum_squares_args p; };

const uint BLOCK = 4096;

void main()
{
    uint chunk = group_index();
    if (chunk >= p.count)
        return;
    uvec2 grad = UpdateChunks(p.chunks).v[chunk].grad;
    uint count = UpdateChunks(p.chunks).v[chunk].count;
    float total = 0;
    for (uint first = 0; first < count; first += BLOCK) {
        uint end = min(first + BLOCK, count);
        float part[MOST_PARTIALS];
        clear_partials(part);
        for (uint block = first; block < end; block += PARTIALS) {
            FOR_PARTIALS(j) {
                uint i = partial_index(block, j);
                if (lane_has_partials() && i < end) {
                    if (p.zero != 0) {
                        F32(grad).v[i] = 0;
                    } else {
                        float g = F32(grad).v[i];
                        part[j] += g * g;
                    }
                }
            }
        }
        total += fold_sum(part);
    }
    if (p.zero == 0 && gl_LocalInvocationID.x == 0)
        F32(p.partial).v[chunk] = total;
}
