// Gradient of attention for keys and values: dv = sum p * go, dk = scale * sum ds * q over all (query row, head) pairs
// that see the key row, p = 2^(s - lse), ds = p * (go . v - delta). Runs after attention_bwd_query.comp (delta).
// Args: attention_grad_args (args/attention.h), spans by key. Constants: 1 = head_dim, 2 = key rows a lane (U),
// 4 = type of q, k, v, 7 = of go, 8 = of gqkv. Defines: WIDE (lib/head_values.glsl).
// Dispatch: ceil(rows / (U * SUBGROUP)) * kv_heads groups of one subgroup.
//
// One lane works on U key rows of one kv head. The group walks over the (query row, head of the group) pairs that see
// any of its keys, ATTENTION_BLOCK at a time, loaded one a lane and shared by broadcast.
// Sum: dot products over d ascending; dk and dv over query rows ascending, heads ascending within a row. A prompt row
// thus gets the sum over all completions that attend it, in their order, once. Pairs that do not see a key never touch
// it, even if not finite.
// All-zero args: no rows, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/attention.h"
#include "shaders/lib/key_block.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { attention_grad_args p; };

void main()
{
    uint tiles = (p.rows + U * SUBGROUP - 1) / (U * SUBGROUP), heads = p.kv_heads * p.group;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    uint kv = group_index() % p.kv_heads, first = group_index() / p.kv_heads * (U * SUBGROUP);
    uint k_column = (heads + kv) * D, v_column = (heads + p.kv_heads + kv) * D;

    uint row[U];
    uvec2 seen[U]; // in pairs
    float k[U][D], v[U][D], dk[U][D], dv[U][D];
    uint end = 0, flipped = 0;
    [[unroll]] for (uint u = 0; u < U; u++) {
        uint key = first + u * SUBGROUP + gl_SubgroupInvocationID;
        row[u] = min(key, p.rows - 1);
        seen[u] = U32x2(p.spans).v[row[u]] * p.group;
        seen[u] = key < p.rows && seen[u].x < seen[u].y ? seen[u] : uvec2(0);
        end = max(end, seen[u].y);
        flipped = max(flipped, seen[u].y == 0 ? 0 : ~seen[u].x);
        LOAD_ROW(k[u], D, p.qkv, row[u] * p.stride + k_column, Q_TYPE);
        LOAD_ROW(v[u], D, p.qkv, row[u] * p.stride + v_column, Q_TYPE);
        [[unroll]] for (uint d = 0; d < D; d++) {
            k[u][d] *= p.scale * LOG2_E;
            dk[u][d] = 0;
            dv[u][d] = 0;
        }
    }
    end = subgroup_max(end);
    uint next = ~subgroup_max(flipped); // the least first; all ones when no key is seen
    const uvec2 qkv = p.qkv, gradient = p.go, lses = p.lse, deltas = p.delta; // read once
    const uint group = p.group, stride = p.stride, go_stride = p.go_stride;
    bool more;
    do {
        uint turns = 0;
        do {
            float q[PER][SHARE], go[PER][SHARE], lse[PER], delta[PER], broken[PER];
            [[unroll]] for (uint n = 0; n < PER; n++) {
                uint pair = next + LOADED_ROW(n);
                uint from = pair / group, head = kv * group + pair % group;
                lse[n] = 0;
                delta[n] = 0;
                broken[n] = 0;
                [[unroll]] for (uint d = 0; d < SHARE; d++) {
                    q[n][d] = 0;
                    go[n][d] = 0;
                }
                if (pair < end) {
                    uint column = head * D + LOADED_PART * SHARE;
                    lse[n] = F32(lses).v[from * heads + head];
                    delta[n] = F32(deltas).v[from * heads + head];
                    LOAD_ROW(q[n], SHARE, qkv, from * stride + column, Q_TYPE);
                    LOAD_ROW(go[n], SHARE, gradient, from * go_stride + column, GO_TYPE);
                }
                // What is not finite reaches the keys that the pair sees through its weight alone.
                [[unroll]] for (uint d = 0; d < SHARE; d++) {
                    bool fine = is_finite(q[n][d]) && is_finite(go[n][d]);
                    broken[n] = fine ? broken[n] : NOT_A_NUMBER;
                    q[n][d] = fine ? q[n][d] : 0;
                    go[n][d] = fine ? go[n][d] : 0;
                }
            }
            float w[U][ATTENTION_BLOCK], ds[U][ATTENTION_BLOCK];
            [[unroll]] for (uint u = 0; u < U; u++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    w[u][j] = 0;
                    ds[u][j] = 0;
                }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float x = BLOCK_VALUE(q, j, d), y = BLOCK_VALUE(go, j, d);
                    [[unroll]] for (uint u = 0; u < U; u++) {
                        w[u][j] = fma(x, k[u][d], w[u][j]);
                        ds[u][j] = fma(y, v[u][d], ds[u][j]);
                    }
                }
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                float poison = broken_row(broken, j);
                float l = subgroupBroadcast(lse[j / LOADERS], j % LOADERS);
                float mean = subgroupBroadcast(delta[j / LOADERS], j % LOADERS);
                [[unroll]] for (uint u = 0; u < U; u++) {
                    bool sees = next + j >= seen[u].x && next + j < seen[u].y;
                    float x = exp2(w[u][j] - l) + poison;
                    w[u][j] = sees ? x : 0;
                    ds[u][j] = sees ? x * (ds[u][j] - mean) : 0;
                }
            }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float x = BLOCK_VALUE(q, j, d), y = BLOCK_VALUE(go, j, d);
                    [[unroll]] for (uint u = 0; u < U; u++) {
                        dv[u][d] = fma(w[u][j], y, dv[u][d]);
                        dk[u][d] = fma(ds[u][j], x, dk[u][d]);
                    }
                }
            next += ATTENTION_BLOCK;
            more = next < end;
            turns++;
        } while (more && turns < 32768);
    } while (more);

    [[unroll]] for (uint u = 0; u < U; u++) {
        if (first + u * SUBGROUP + gl_SubgroupInvocationID < p.rows) {
            [[unroll]] for (uint d = 0; d < D; d += 4) {
                uint at = row[u] * p.g_stride + d;
                vec4 x = vec4(0), y = vec4(0);
                [[unroll]] for (uint i = 0; i < 4; i++)
                    if (d + i < D) {
                        x[i] = dk[u][d + i] * p.scale;
                        y[i] = dv[u][d + i];
                    }
                if (p.add != 0) {
                    x += load_four(p.gqkv, at + k_column, D - d, GQKV_TYPE);
                    y += load_four(p.gqkv, at + v_column, D - d, GQKV_TYPE);
                }
                store_four(p.gqkv, at + k_column, D - d, GQKV_TYPE, x);
                store_four(p.gqkv, at + v_column, D - d, GQKV_TYPE, y);
            }
        }
    }
}
