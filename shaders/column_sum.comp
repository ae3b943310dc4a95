// sums[i, c] (+)= sum of x[r, c] over the rows of block i: the gradient of a bias.
//   x [rows, columns], type by constant 1 (0 f32, 1 bf16, 2 f16); sums [ceil(rows / block), columns] f32. No rows: one
//   block of zeros.
// Args: column_sum_args (args/gemm.h). Dispatch: max(1, ceil(rows / block)) * ceil(columns / SUBGROUP) groups of one
// subgroup, lane = column. block <= 4 * 65535 (some drivers end a loop after 65535 turns).
// -DWIDE=1: four columns a lane (lib/quads.glsl), a fourth of the groups.
// Sum: in a block four sums by row mod 4, each ascending, then (0 + 1) + (2 + 3). Fixed by the rows alone.
// All-zero args: columns is 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#if WIDE
#include "shaders/lib/quads.glsl"
#endif
#include "shaders/args/gemm.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint X = 0;
layout(push_constant, scalar) uniform Args { column_sum_args p; };

#if WIDE
const uint EACH = 4;
#define some vec4
#define load(base, i, type) load_four(base, i, type)
#else
const uint EACH = 1;
#define some float
#define load(base, i, type) load_float(base, i, type)
#endif

void main()
{
    const uint across = (p.columns + EACH * SUBGROUP - 1) / (EACH * SUBGROUP);
    if (across == 0)
        return;
    const uint index = group_index() / across;
    const uint column = EACH * (group_index() % across * SUBGROUP + gl_LocalInvocationID.x);
    const uint first = index * p.block;
    if (column >= p.columns || (index != 0 && first >= p.rows))
        return;
    const uint end = min(p.rows, first + p.block);
    some sum[4] = some[4](some(0), some(0), some(0), some(0));
    uint at = first * p.x_stride + column;
    uint r = first;
    for (; r + 4 <= end; r += 4) {
        [[unroll]] for (uint u = 0; u < 4; u++) {
            sum[u] += load(p.x, at, X);
            at += p.x_stride;
        }
    }
    [[unroll]] for (uint u = 0; u < 3; u++) {
        if (r + u < end)
            sum[u] += load(p.x, at + u * p.x_stride, X);
    }
    some x = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    const uint to = index * p.sums_stride + column;
    if (p.accumulate != 0)
        x += load(p.sums, to, 0);
#if WIDE
    store_four(p.sums, to, 0, x);
#else
    F32(p.sums).v[to] = x;
#endif
}
