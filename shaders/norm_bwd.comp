// Backward of RMS norm: dx = r (g w - n mean(g w n)), n = x r, r the saved 1/rms.
// Args: norm_args (args/norm.h), y holding g. Constants: 1 type of w, 2 of g. Dispatch: as norm_fwd.comp.
// -DWIDE=1: as norm_fwd.comp, any rows_each. Constant 4: the weight's gradient too, what norm_dw.comp gives for blocks of
// rows_each rows, bit for bit: x and g are read once for both.
// Sum: 32 strided partials and a tree (lib/reduce.glsl); of the weight: rows of a block in order.
// All-zero args: no row, nothing is touched.
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
layout(constant_id = 2) const uint G = 0;
layout(push_constant, scalar) uniform Args { norm_args p; };

#if WIDE
layout(constant_id = 4) const bool WEIGHT_TOO = false;

void main()
{
    const uint first = group_index() * p.rows_each, end = min(p.rows, first + p.rows_each);
    if (first >= end)
        return;
    const uint64_t w_at = row_pairs(p.w, 0, WEIGHT), dw_at = row_pairs(p.dw, group_index() * p.columns, 0);
    uint64_t x_at = row_pairs(p.x, first * p.x_stride, 0), g_at = row_pairs(p.y, first * p.columns, G);
    uint64_t dx_at = row_pairs(p.dx, first * p.dx_stride, 0);
    const uint64_t x_step = element_bytes(p.x_stride, 0), g_step = element_bytes(p.columns, G);
    const uint64_t dx_step = element_bytes(p.dx_stride, 0);
    const float columns = float(p.columns);
    const bool add = p.add != 0;
    F32 kept_r = F32(p.r);
    vec2 w[PAIRS], dw[PAIRS];
    FOR_ROW_PAIRS(n) {
        w[n] = load_pair(w_at, n, WEIGHT);
        dw[n] = vec2(0);
    }
    for (uint some = first; some < end; some += SUBGROUP) {
        const float kept = kept_r.v[min(some + gl_SubgroupInvocationID, end - 1)];
        const uint stop = min(end, some + SUBGROUP);
        for (uint row = some; row < stop; row++, x_at += x_step, g_at += g_step, dx_at += dx_step) {
            const float r = subgroupBroadcast(kept, row - some);
            vec2 x[PAIRS], g[PAIRS], part[LANE_PAIRS];
            [[unroll]] for (uint j = 0; j < LANE_PAIRS; j++)
                part[j] = vec2(0);
            FOR_ROW_PAIRS(n) {
                x[n] = load_pair(x_at, n, 0) * r;
                g[n] = load_pair(g_at, n, G);
                if (WEIGHT_TOO)
                    dw[n] += g[n] * x[n];
                g[n] *= w[n];
                part[n % LANE_PAIRS] += g[n] * x[n];
            }
            const float mean = fold_pairs(part) / columns;
            FOR_ROW_PAIRS(n)
                x[n] = r * (g[n] - x[n] * mean);
            if (add) {
                FOR_ROW_PAIRS(n)
                    x[n] += load_pair(dx_at, n, 0);
            }
            FOR_ROW_PAIRS(n)
                store_pair(dx_at, n, 0, x[n]);
        }
    }
    if (WEIGHT_TOO) {
        if (p.dw_add != 0) {
            FOR_ROW_PAIRS(n)
                dw[n] += load_pair(dw_at, n, 0);
        }
        FOR_ROW_PAIRS(n)
            store_pair(dw_at, n, 0, dw[n]);
    }
}
#else
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
#endif
