// Gradient of attention for the queries: delta = sum_d go * o, p = 2^(s - lse), ds = p * (go . v - delta),
// dq = scale * sum_keys ds * k. Also writes delta for attention_bwd_key.comp, which runs after.
// Source: FlashAttention, arXiv 2205.14135, appendix B.4.
// Args: attention_grad_args (args/attention.h), spans by query. Constants: 1 = head_dim, 2 = pairs a lane (U),
// 4 = type of q, k, v, 6 = of o, 7 = of go, 8 = of gqkv. Defines: WIDE (lib/head_values.glsl).
// Dispatch: ceil(rows * group / (U * SUBGROUP)) * kv_heads groups of one subgroup; turns as in attention_fwd.comp.
//
// Sum: dot products over d ascending, dq over keys ascending; no sum crosses lanes, so that a row's dq does not depend
// on the rows beside it. Keys beyond a row's count never touch it, even if not finite.
// All-zero args: no pairs, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/attention.h"
#include "shaders/lib/key_block.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { attention_grad_args p; };

void main()
{
    uint pairs = p.rows * p.group, tiles = (pairs + U * SUBGROUP - 1) / (U * SUBGROUP), heads = p.kv_heads * p.group;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    uint kv = group_index() % p.kv_heads, first = group_index() / p.kv_heads * (U * SUBGROUP);
    uint k_column = (heads + kv) * D, v_column = (heads + p.kv_heads + kv) * D;

    uint row[U], head[U], count[U], next[U];
    uvec4 span[U];
    float q[U][D], go[U][D], dq[U][D], delta[U], lse[U];
    [[unroll]] for (uint u = 0; u < U; u++) {
        uint pair = first + u * SUBGROUP + gl_SubgroupInvocationID, safe = min(pair, pairs - 1);
        row[u] = safe / p.group;
        head[u] = kv * p.group + safe % p.group;
        span[u] = U32x4(p.spans).v[row[u]];
        count[u] = pair < pairs ? span[u].y + span[u].w : 0;
        next[u] = 0;
        lse[u] = F32(p.lse).v[row[u] * heads + head[u]];
        delta[u] = 0;
        LOAD_ROW(dq[u], D, p.o, row[u] * p.o_stride + head[u] * D, O_TYPE);
        LOAD_ROW(go[u], D, p.go, row[u] * p.go_stride + head[u] * D, GO_TYPE);
        LOAD_ROW(q[u], D, p.qkv, row[u] * p.stride + head[u] * D, Q_TYPE);
        [[unroll]] for (uint d = 0; d < D; d++) {
            q[u][d] *= p.scale * LOG2_E;
            delta[u] = fma(go[u][d], dq[u][d], delta[u]);
            dq[u][d] = 0;
        }
    }
    const uvec2 qkv = p.qkv; // read once
    const uint stride = p.stride;
    uint leader = first_waiting(count, next);
    do {
        uint turns = 0;
        do {
            uint visible[U];
            key_block b = meet(leader, span, count, next, key_pages(uvec2(0), 0), visible);
            float k[PER][SHARE], v[PER][SHARE], broken[PER];
            [[unroll]] for (uint n = 0; n < PER; n++) {
                uint j = b.first + LOADED_ROW(n);
                uint at = key_row(b, j) * stride + LOADED_PART * SHARE;
                broken[n] = 0;
                [[unroll]] for (uint d = 0; d < SHARE; d++) {
                    k[n][d] = 0;
                    v[n][d] = 0;
                }
                if (j < b.end) {
                    LOAD_ROW(k[n], SHARE, qkv, at + k_column, Q_TYPE);
                    LOAD_ROW(v[n], SHARE, qkv, at + v_column, Q_TYPE);
                }
                // As in the forward pass: what is not finite reaches those who see the key through its weight alone.
                [[unroll]] for (uint d = 0; d < SHARE; d++) {
                    bool fine = is_finite(k[n][d]);
                    broken[n] = fine ? broken[n] : NOT_A_NUMBER;
                    k[n][d] = fine ? k[n][d] : 0;
                }
            }
            float s[U][ATTENTION_BLOCK], ds[U][ATTENTION_BLOCK];
            [[unroll]] for (uint u = 0; u < U; u++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    s[u][j] = 0;
                    ds[u][j] = 0;
                }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float x = BLOCK_VALUE(k, j, d), y = BLOCK_VALUE(v, j, d);
                    [[unroll]] for (uint u = 0; u < U; u++) {
                        s[u][j] = fma(q[u][d], x, s[u][j]);
                        ds[u][j] = fma(go[u][d], y, ds[u][j]);
                    }
                }
            [[unroll]] for (uint u = 0; u < U; u++) {
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float x = exp2(s[u][j] - lse[u]) * (ds[u][j] - delta[u]) +
                              broken_row(broken, j);
                    ds[u][j] = next[u] + j < visible[u] ? x : 0;
                }
                next[u] += visible[u] != 0 ? ATTENTION_BLOCK : 0;
            }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float x = BLOCK_VALUE(k, j, d);
                    [[unroll]] for (uint u = 0; u < U; u++)
                        dq[u][d] = fma(ds[u][j], x, dq[u][d]);
                }
            leader = first_waiting(count, next);
            turns++;
        } while (leader != NOBODY && turns < 32768);
    } while (leader != NOBODY);

    [[unroll]] for (uint u = 0; u < U; u++) {
        if (first + u * SUBGROUP + gl_SubgroupInvocationID < pairs) {
            F32(p.delta).v[row[u] * heads + head[u]] = delta[u];
            [[unroll]] for (uint d = 0; d < D; d += 4) {
                uint at = row[u] * p.g_stride + head[u] * D + d;
                vec4 x = vec4(0);
                [[unroll]] for (uint i = 0; i < 4; i++)
                    if (d + i < D)
                        x[i] = dq[u][d + i] * p.scale;
                if (p.add != 0)
                    x += load_four(p.gqkv, at, D - d, GQKV_TYPE);
                store_four(p.gqkv, at, D - d, GQKV_TYPE, x);
            }
        }
    }
}
