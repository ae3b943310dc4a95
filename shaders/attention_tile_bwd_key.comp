// Gradient of attention for keys and values: the "tile" family, for GPUs. dv = sum p * go, dk = scale * sum ds * q over all
// (query row, head) pairs that see the key row, p = 2^(s - lse), ds = p * (go . v - delta). Runs after
// attention_tile_bwd_query.comp (delta).
// Args: attention_grad_args (args/attention.h), spans by key. Constants: lib/attention_tile.glsl.
// Dispatch: ceil(rows / ATTENTION_TILE_BACK) * kv_heads groups of 128.
//
// A workgroup works on 16 key rows of one kv head, whose k and v stay in shared memory, and walks over the pairs that see any
// of them, 16 at a time. Scores: a lane one key x 2 pairs. dk and dv: a lane 4 keys x one quad.
//
// Sum: dot products over d ascending; dk and dv over query rows ascending, heads ascending within a row. A prompt row thus gets
// the sum over all completions that attend it, in their order, once. Pairs that do not see a key never touch it, even if not
// finite.
// All lanes reach every barrier. All-zero args: no rows, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/attention.h"
#include "shaders/lib/attention_tile.glsl"

layout(push_constant, scalar) uniform Args { attention_grad_args p; };

const uint ROWS = ATTENTION_TILE_BACK, PAIRS = 16;
const uint LANE_KEYS = 4, COLUMNS = LANES / (ROWS / LANE_KEYS);
const uint W_STRIDE = ROWS / 4 + 1;
const uint LANE_LOADS = (PAIRS * QUADS + LANES - 1) / LANES;

shared vec4 k_tile[ROWS * STRIDE];
shared vec4 v_tile[ROWS * STRIDE];
shared vec4 x_tile[PAIRS * STRIDE];   // q, go, q again
shared vec4 w_tile[PAIRS * W_STRIDE]; // weights by pair, 4 keys together
shared vec4 ds_tile[PAIRS * W_STRIDE];
shared float broken[PAIRS];

// Quad e of the rows of pairs first ...: q or go. What is not finite becomes 0, and its pair broken.
vec4 load_pair_quad(uvec2 base, uint stride, uint type, uint e, uint first, uint end, uint kv)
{
    const uint pair = first + e / QUADS;
    vec4 x = vec4(0);
    if (e < PAIRS * QUADS && pair < end)
        x = load_row_quad(base, pair / p.group * stride + (kv * p.group + pair % p.group) * D, e % QUADS, type);
    bool fine = true;
    [[unroll]] for (uint i = 0; i < 4; i++) {
        fine = fine && is_finite(x[i]);
        x[i] = is_finite(x[i]) ? x[i] : 0;
    }
    if (!fine)
        broken[e / QUADS] = NOT_A_NUMBER; // several lanes may write it, all the same
    return x;
}

void put(uint e, vec4 x)
{
    if (e < PAIRS * QUADS)
        x_tile[e / QUADS * STRIDE + e % QUADS] = x;
}

void main()
{
    const uint tiles = (p.rows + ROWS - 1) / ROWS, heads = p.kv_heads * p.group;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    const uint lane = gl_LocalInvocationIndex, kv = group_index() % p.kv_heads, first_row = group_index() / p.kv_heads * ROWS;
    const uint k_column = (heads + kv) * D, v_column = (heads + p.kv_heads + kv) * D;

    for (uint e = lane; e < ROWS * QUADS; e += LANES) {
        const uint at = min(first_row + e / QUADS, p.rows - 1) * p.stride;
        k_tile[e / QUADS * STRIDE + e % QUADS] = load_row_quad(p.qkv, at + k_column, e % QUADS, Q_TYPE) * (p.scale * LOG2_E);
        v_tile[e / QUADS * STRIDE + e % QUADS] = load_row_quad(p.qkv, at + v_column, e % QUADS, Q_TYPE);
    }
    // The pairs that any key of the tile sees, and those of key lane / 8.
    uint first = NOBODY, end = 0;
    uvec2 seen = uvec2(0);
    for (uint i = 0; i < ROWS && first_row + i < p.rows; i++) {
        const uvec2 by = U32x2(p.spans).v[first_row + i] * p.group;
        if (by.x < by.y) {
            first = min(first, by.x);
            end = max(end, by.y);
            seen = i == lane / 8 ? by : seen;
        }
    }
    if (lane < PAIRS)
        broken[lane] = 0;
    const uint mine = lane / 8, other = lane % 8;
    // dk and dv of keys row ... at quad column.
    const uint row = lane / COLUMNS * LANE_KEYS, column = lane % COLUMNS;
    vec4 dk[LANE_KEYS], dv[LANE_KEYS];
    [[unroll]] for (uint i = 0; i < LANE_KEYS; i++)
        dk[i] = dv[i] = vec4(0);
    barrier();

    for (uint turn = first; turn < end; turn += PAIRS) {
        vec4 kept[LANE_LOADS];
        [[unroll]] for (uint i = 0; i < LANE_LOADS; i++) {
            kept[i] = load_pair_quad(p.qkv, p.stride, Q_TYPE, lane + i * LANES, turn, end, kv);
            put(lane + i * LANES, kept[i]);
        }
        barrier();
        vec2 s = vec2(0), ds = vec2(0);
        FOR_QUADS(d) {
            const vec4 k = k_tile[mine * STRIDE + d], q0 = x_tile[other * STRIDE + d], q1 = x_tile[(other + 8) * STRIDE + d];
            [[unroll]] for (uint i = 0; i < 4; i++)
                s = fma(vec2(q0[i], q1[i]), vec2(k[i]), s);
        }
        barrier();
        [[unroll]] for (uint i = 0; i < LANE_LOADS; i++)
            put(lane + i * LANES, load_pair_quad(p.go, p.go_stride, GO_TYPE, lane + i * LANES, turn, end, kv));
        barrier();
        FOR_QUADS(d) {
            const vec4 v = v_tile[mine * STRIDE + d], y0 = x_tile[other * STRIDE + d], y1 = x_tile[(other + 8) * STRIDE + d];
            [[unroll]] for (uint i = 0; i < 4; i++)
                ds = fma(vec2(y0[i], y1[i]), vec2(v[i]), ds);
        }
        [[unroll]] for (uint i = 0; i < 2; i++) {
            const uint n = other + 8 * i, pair = turn + n, safe = min(pair, end - 1);
            const uint at = safe / p.group * heads + kv * p.group + safe % p.group;
            const bool sees = pair >= seen.x && pair < seen.y;
            const float x = exp2(s[i] - F32(p.lse).v[at]) + broken[n];
            w_tile[n * W_STRIDE + mine / 4][mine % 4] = sees ? x : 0;
            ds_tile[n * W_STRIDE + mine / 4][mine % 4] = sees ? x * (ds[i] - F32(p.delta).v[at]) : 0;
        }
        barrier();
        if (lane < PAIRS)
            broken[lane] = 0;
        [[unroll]] for (uint n = 0; n < PAIRS; n++) {
            const vec4 w = w_tile[n * W_STRIDE + row / 4], y = x_tile[n * STRIDE + min(column, QUADS - 1)];
            [[unroll]] for (uint i = 0; i < LANE_KEYS; i++)
                dv[i] = fma(vec4(w[i]), y, dv[i]);
        }
        barrier();
        [[unroll]] for (uint i = 0; i < LANE_LOADS; i++)
            put(lane + i * LANES, kept[i]);
        barrier();
        [[unroll]] for (uint n = 0; n < PAIRS; n++) {
            const vec4 w = ds_tile[n * W_STRIDE + row / 4], q = x_tile[n * STRIDE + min(column, QUADS - 1)];
            [[unroll]] for (uint i = 0; i < LANE_KEYS; i++)
                dk[i] = fma(vec4(w[i]), q, dk[i]);
        }
        barrier();
    }

    [[unroll]] for (uint i = 0; i < LANE_KEYS; i++)
        if (first_row + row + i < p.rows && column < QUADS) {
            const uint at = (first_row + row + i) * p.g_stride;
            precise vec4 x = dk[i] * p.scale + 0.0, y = dv[i] + 0.0; // -0 becomes 0: its sign could depend on idle turns
            if (p.add != 0) {
                x += load_row_quad(p.gqkv, at + k_column, column, GQKV_TYPE);
                y += load_row_quad(p.gqkv, at + v_column, column, GQKV_TYPE);
            }
            store_row_quad(p.gqkv, at + k_column, column, GQKV_TYPE, x);
            store_row_quad(p.gqkv, at + v_column, column, GQKV_TYPE, y);
        }
}
