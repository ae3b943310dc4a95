// sums[i, c] (+)= sum of x[r, c] over the rows of block i: the gradient of a bias.
//   x [rows, columns], type by constant 1 (0 f32, 1 bf16, 2 f16); sums [ceil(rows / block), columns] f32. No rows: one
//   block of zeros.
// Args: column_sum_args (args/gemm.h). Dispatch: max(1, ceil(rows / block)) * ceil(columns / SUBGROUP) groups of one
// subgroup, lane = column. block <= 4 * 65535 (some drivers end a loop after 65535 turns).
// Sum: in a block four sums by row mod 4, each ascending, then (0 + 1) + (2 + 3). Fixed by the rows alone.
// All-zero args: columns is 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/gemm.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint X = 0;
layout(push_constant, scalar) uniform Args { column_sum_args p; };

void main()
{
    const uint across = (p.columns + SUBGROUP - 1) / SUBGROUP;
    if (across == 0)
        return;
    const uint index = group_index() / across;
    const uint column = group_index() % across * SUBGROUP + gl_LocalInvocationID.x;
    const uint first = index * p.block;
    if (column >= p.columns || (index != 0 && first >= p.rows))
        return;
    const uint end = min(p.rows, first + p.block);
    float sum[4] = float[4](0.0, 0.0, 0.0, 0.0);
    uint at = first * p.x_stride + column;
    uint r = first;
    for (; r + 4 <= end; r += 4) {
        [[unroll]] for (uint u = 0; u < 4; u++) {
            sum[u] += load_float(p.x, at, X);
            at += p.x_stride;
        }
    }
    [[unroll]] for (uint u = 0; u < 3; u++) {
        if (r + u < end)
            sum[u] += load_float(p.x, at + u * p.x_stride, X);
    }
    float x = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    const uint to = index * p.sums_stride + column;
    if (p.accumulate != 0)
        x += F32(p.sums).v[to];
    F32(p.sums).v[to] = x;
}
