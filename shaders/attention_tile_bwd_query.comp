// Gradient of attention for the queries: the "tile" family, for GPUs. delta = sum_d go * o, p = 2^(s - lse),
// ds = p * (go . v - delta), dq = scale * sum_keys ds * k. Also writes delta for attention_tile_bwd_key.comp, which runs after.
// Args: attention_grad_args (args/attention.h), spans by query. Constants: lib/attention_tile.glsl.
// Dispatch: ceil(rows * group / ATTENTION_TILE_BACK) * kv_heads groups of 128.
//
// A workgroup works on 16 (row, head) pairs of one kv head, whose q and go stay in shared memory, and walks over blocks of 16
// keys as attention_tile_fwd.comp does. Scores: a lane one pair x 2 keys. dq: a lane 4 pairs x one quad.
//
// Sum: dot products over d ascending; dq over keys ascending. What a pair gets depends on its own keys in their order alone.
// All lanes reach every barrier. All-zero args: no pairs, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/attention.h"
#include "shaders/lib/attention_tile.glsl"

layout(push_constant, scalar) uniform Args { attention_grad_args p; };

const uint PAIRS = ATTENTION_TILE_BACK;
const uint LANE_PAIRS = 4, COLUMNS = LANES / (PAIRS / LANE_PAIRS);
const uint KEY_QUADS = KEYS / 4, DS_STRIDE = KEY_QUADS + 1;

shared vec4 q_tile[PAIRS * STRIDE];
shared vec4 go_tile[PAIRS * STRIDE];
shared vec4 kv_tile[KEYS * STRIDE];
shared vec4 ds_tile[PAIRS * DS_STRIDE];
shared uvec4 spans[PAIRS];
shared uvec4 waiting[PAIRS / 4]; // next key of each pair, or NOBODY
shared uvec4 visible[PAIRS / 4]; // keys that a pair sees in this turn's block: its count, or 0
shared float broken[KEYS];

// A block of k or v. From `end` on nobody sees a key: zeros. `tame`: what is not finite becomes 0, and its key broken.
void load_block(uvec4 span, uint first, uint end, uint column, bool tame)
{
    for (uint e = gl_LocalInvocationIndex; e < KEYS * QUADS; e += LANES) {
        const uint j = e / QUADS, quad = e % QUADS;
        vec4 x = vec4(0);
        if (first + j < end)
            x = load_row_quad(p.qkv, key_row(span, first + j, uvec2(0), 0) * p.stride + column, quad, Q_TYPE);
        if (tame) {
            bool fine = true;
            [[unroll]] for (uint i = 0; i < 4; i++) {
                fine = fine && is_finite(x[i]);
                x[i] = is_finite(x[i]) ? x[i] : 0;
            }
            if (!fine)
                broken[j] = NOT_A_NUMBER; // several lanes may write it, all the same
        }
        kv_tile[j * STRIDE + quad] = x;
    }
}

void main()
{
    const uint pairs = p.rows * p.group, tiles = (pairs + PAIRS - 1) / PAIRS, heads = p.kv_heads * p.group;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    const uint lane = gl_LocalInvocationIndex, kv = group_index() % p.kv_heads, first_pair = group_index() / p.kv_heads * PAIRS;
    const uint k_column = (heads + kv) * D, v_column = (heads + p.kv_heads + kv) * D;

    for (uint e = lane; e < PAIRS * QUADS; e += LANES) {
        const uint pair = min(first_pair + e / QUADS, pairs - 1), row = pair / p.group, head = kv * p.group + pair % p.group;
        q_tile[e / QUADS * STRIDE + e % QUADS] =
            load_row_quad(p.qkv, row * p.stride + head * D, e % QUADS, Q_TYPE) * (p.scale * LOG2_E);
        go_tile[e / QUADS * STRIDE + e % QUADS] = load_row_quad(p.go, row * p.go_stride + head * D, e % QUADS, GO_TYPE);
    }
    // The scores of pair lane / 8, keys lane % 8 and 8 further.
    const uint mine = lane / 8, key = lane % 8, pair = first_pair + mine, safe = min(pair, pairs - 1);
    const uint from = safe / p.group, head = kv * p.group + safe % p.group;
    const uvec4 span = U32x4(p.spans).v[from];
    const uint count = pair < pairs ? key_count(span) : 0;
    const float lse = F32(p.lse).v[from * heads + head];
    uint next = 0;
    if (key == 0) {
        spans[mine] = span;
        waiting[mine / 4][mine % 4] = count > 0 ? 0 : NOBODY;
    }
    barrier();
    float delta = 0;
    for (uint d = 0; d < QUADS; d++) {
        const vec4 go = go_tile[mine * STRIDE + d], o = load_row_quad(p.o, from * p.o_stride + head * D, d, O_TYPE);
        [[unroll]] for (uint i = 0; i < 4; i++)
            delta = fma(go[i], o[i], delta);
    }
    if (key == 0 && pair < pairs)
        F32(p.delta).v[from * heads + head] = delta;

    // dq of pairs row ... at quad column.
    const uint row = lane / COLUMNS * LANE_PAIRS, column = lane % COLUMNS;
    vec4 acc[LANE_PAIRS];
    [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++)
        acc[i] = vec4(0);

    while (true) {
        uint leader = NOBODY;
        [[unroll]] for (uint i = 0; i < PAIRS; i++)
            leader = leader == NOBODY && waiting[i / 4][i % 4] != NOBODY ? i : leader;
        if (leader == NOBODY)
            break;
        const uint first = waiting[leader / 4][leader % 4];
        const uvec4 by = spans[leader];
        const bool takes_part = next == first && next < count && same_rows(by, span, first, uvec2(0), 0);
        if (key == 0)
            visible[mine / 4][mine % 4] = takes_part ? count : 0;
        if (lane < KEYS)
            broken[lane] = 0;
        barrier();
        uvec4 most = uvec4(0);
        [[unroll]] for (uint i = 0; i < PAIRS / 4; i++)
            most = max(most, visible[i]);
        const uint end = max(max(most.x, most.y), max(most.z, most.w));
        load_block(by, first, end, v_column, false);
        barrier();
        vec2 ds = vec2(0), s = vec2(0);
        FOR_QUADS(d) {
            const vec4 y = go_tile[mine * STRIDE + d], v0 = kv_tile[key * STRIDE + d], v1 = kv_tile[(key + 8) * STRIDE + d];
            [[unroll]] for (uint i = 0; i < 4; i++)
                ds = fma(vec2(y[i]), vec2(v0[i], v1[i]), ds);
        }
        barrier();
        load_block(by, first, end, k_column, true);
        barrier();
        FOR_QUADS(d) {
            const vec4 q = q_tile[mine * STRIDE + d], k0 = kv_tile[key * STRIDE + d], k1 = kv_tile[(key + 8) * STRIDE + d];
            [[unroll]] for (uint i = 0; i < 4; i++)
                s = fma(vec2(q[i]), vec2(k0[i], k1[i]), s);
        }
        [[unroll]] for (uint i = 0; i < 2; i++) {
            const uint j = key + 8 * i;
            const float x = exp2(s[i] - lse) * (ds[i] - delta) + broken[j];
            ds_tile[mine * DS_STRIDE + j / 4][j % 4] = takes_part && first + j < count ? x : 0;
        }
        next += takes_part ? KEYS : 0;
        if (key == 0)
            waiting[mine / 4][mine % 4] = next < count ? next : NOBODY;
        barrier();
        [[unroll]] for (uint j = 0; j < KEY_QUADS; j++) {
            vec4 w[LANE_PAIRS];
            [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++)
                w[i] = ds_tile[(row + i) * DS_STRIDE + j];
            [[unroll]] for (uint u = 0; u < 4; u++) {
                const vec4 k = kv_tile[(4 * j + u) * STRIDE + min(column, QUADS - 1)];
                [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++)
                    acc[i] = fma(vec4(w[i][u]), k, acc[i]);
            }
        }
        barrier();
    }

    [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++) {
        const uint to = first_pair + row + i;
        if (to < pairs && column < QUADS) {
            const uint at = to / p.group * p.g_stride + (kv * p.group + to % p.group) * D;
            precise vec4 x = acc[i] * p.scale + 0.0; // -0 becomes 0: its sign could depend on idle turns
            if (p.add != 0)
                x += load_row_quad(p.gqkv, at, column, GQKV_TYPE);
            store_row_quad(p.gqkv, at, column, GQKV_TYPE, x);
        }
    }
}
