// RMS norm: y = x r w, r = 1 / sqrt(mean(x^2) + eps), over a row. Keeps r for the backward pass where asked.
// Args: norm_args (args/norm.h). Constants: 1 type of w, 2 of y (0 f32, 1 bf16, 2 f16).
// Dispatch: ceil(rows / rows_each) groups of one subgroup.
// -DWIDE=1: the row in registers, by pairs of neighbours (lib/row_pairs.glsl), its width constant 3; rows_each is at most
// the group's lanes; for groups of 4 to 16 lanes of CPU drivers; same bits.
// Sum: 32 strided partials and a tree (lib/reduce.glsl). All-zero args: no row, nothing is touched.
// Source: transformers, modeling_qwen2_5_vl.py, Qwen2RMSNorm.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#if WIDE
#include "shaders/lib/row_pairs.glsl"
#else
#include "shaders/lib/pairs.glsl"
#include "shaders/lib/reduce.glsl"
#endif
#include "shaders/args/norm.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint WEIGHT = 0;
layout(constant_id = 2) const uint Y = 0;
layout(push_constant, scalar) uniform Args { norm_args p; };

#if WIDE
void main()
{
    const uint first = group_index() * p.rows_each, end = min(p.rows, first + p.rows_each);
    if (first >= end)
        return;
    const uint64_t w_at = row_pairs(p.w, 0, WEIGHT);
    uint64_t x_at = row_pairs(p.x, first * p.x_stride, 0), y_at = row_pairs(p.y, first * p.columns, Y);
    const uint64_t x_step = element_bytes(p.x_stride, 0), y_step = element_bytes(p.columns, Y);
    const float columns = float(p.columns), eps = p.eps;
    vec2 w[PAIRS];
    FOR_ROW_PAIRS(n)
        w[n] = load_pair(w_at, n, WEIGHT);
    float kept = 0; // r of the row whose number in the group is the lane's: stored at once, since a store costs the same
    for (uint row = first; row < end; row++, x_at += x_step, y_at += y_step) {
        vec2 x[PAIRS], part[LANE_PAIRS];
        [[unroll]] for (uint j = 0; j < LANE_PAIRS; j++)
            part[j] = vec2(0);
        FOR_ROW_PAIRS(n) {
            x[n] = load_pair(x_at, n, 0);
            part[n % LANE_PAIRS] += x[n] * x[n];
        }
        const float r = inversesqrt(fold_pairs(part) / columns + eps);
        kept = row - first == gl_SubgroupInvocationID ? r : kept;
        FOR_ROW_PAIRS(n)
            store_pair(y_at, n, Y, x[n] * r * w[n]);
    }
    if (has_address(p.r) && first + gl_SubgroupInvocationID < end)
        F32(p.r).v[first + gl_SubgroupInvocationID] = kept;
}
#else
void main()
{
    for (uint n = 0; n < p.rows_each; n++) {
        uint row = group_index() * p.rows_each + n;
        if (row >= p.rows)
            return;
        uint base = row * p.x_stride;
        float part[MOST_PARTIALS];
        clear_partials(part);
        for (uint block = 0; block < p.columns; block += PARTIALS) {
            FOR_PARTIALS(j) {
                uint c = partial_index(block, j);
                if (lane_has_partials() && c < p.columns) {
                    float x = F32(p.x).v[base + c];
                    part[j] += x * x;
                }
            }
        }
        float r = inversesqrt(fold_sum(part) / float(p.columns) + p.eps);
        if (has_address(p.r) && gl_LocalInvocationID.x == 0)
            F32(p.r).v[row] = r;
        for (uint c = 2 * gl_LocalInvocationID.x; c < p.columns; c += 2 * SUBGROUP) {
            bool pair = c + 1 < p.columns;
            vec2 x = load_two(p.x, base + c, pair, 0), w = load_two(p.w, c, pair, WEIGHT);
            store_two(p.y, row * p.columns + c, pair, Y, x * r * w);
        }
    }
}
#endif
