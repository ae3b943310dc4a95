// Gradient of attention for keys and values: dv = sum p * go, dk = scale * sum ds * q over all (query row, head) pairs
// that see the key row, p = 2^(s - lse), ds = p * (go . v - delta). Runs after attention_bwd_query.comp (delta).
// Args: attention_grad_args (args/attention.h), spans by key. Constants: 1 = head_dim.
// Dispatch: ceil(rows / SUBGROUP) * kv_heads groups of one subgroup.
//
// One lane is one key row of one kv head. The group walks over the (query row, head of the group) pairs that any of its
// lanes is seen by, ATTENTION_BLOCK at a time, loaded one a lane and shared by broadcast.
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
    uint tiles = (p.rows + SUBGROUP - 1) / SUBGROUP, heads = p.kv_heads * p.group;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    uint kv = group_index() % p.kv_heads;
    uint key = group_index() / p.kv_heads * SUBGROUP + gl_SubgroupInvocationID;
    bool mine = key < p.rows;
    uint row = min(key, p.rows - 1);
    uvec2 seen = U32x2(p.spans).v[row] * p.group; // in pairs
    seen = mine && seen.x < seen.y ? seen : uvec2(0);
    uint k_column = (heads + kv) * D, v_column = (heads + p.kv_heads + kv) * D;

    float k[D], v[D], dk[D], dv[D];
    [[unroll]] for (uint d = 0; d < D; d++) {
        k[d] = F32(p.qkv).v[row * p.stride + k_column + d] * (p.scale * LOG2_E);
        v[d] = F32(p.qkv).v[row * p.stride + v_column + d];
        dk[d] = 0;
        dv[d] = 0;
    }
    uint end = subgroup_max(seen.y), next = ~subgroup_max(seen.y == 0 ? 0 : ~seen.x); // next = the least first
    bool more;
    do {
        uint turns = 0;
        do {
            float q[PER][D], go[PER][D], lse[PER], delta[PER], broken[PER];
            [[unroll]] for (uint n = 0; n < PER; n++) {
                uint pair = next + n * SUBGROUP + gl_SubgroupInvocationID % ATTENTION_BLOCK;
                uint from = pair / p.group, head = kv * p.group + pair % p.group;
                lse[n] = 0;
                delta[n] = 0;
                broken[n] = 0;
                [[unroll]] for (uint d = 0; d < D; d++) {
                    q[n][d] = 0;
                    go[n][d] = 0;
                }
                if (pair < end) {
                    lse[n] = F32(p.lse).v[from * heads + head];
                    delta[n] = F32(p.delta).v[from * heads + head];
                    [[unroll]] for (uint d = 0; d < D; d++) {
                        q[n][d] = F32(p.qkv).v[from * p.stride + head * D + d];
                        go[n][d] = F32(p.go).v[from * p.go_stride + head * D + d];
                    }
                }
                [[unroll]] for (uint d = 0; d < D; d++) {
                    bool fine = is_finite(q[n][d]) && is_finite(go[n][d]);
                    broken[n] = fine ? broken[n] : NOT_A_NUMBER;
                    q[n][d] = fine ? q[n][d] : 0;
                    go[n][d] = fine ? go[n][d] : 0;
                }
            }
            float w[ATTENTION_BLOCK], ds[ATTENTION_BLOCK];
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                w[j] = 0;
                ds[j] = 0;
            }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    w[j] = fma(subgroupShuffle(q[j / LOADERS][d], j % LOADERS), k[d], w[j]);
                    ds[j] = fma(subgroupShuffle(go[j / LOADERS][d], j % LOADERS), v[d], ds[j]);
                }
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                bool sees = next + j >= seen.x && next + j < seen.y;
                float x = exp2(w[j] - subgroupShuffle(lse[j / LOADERS], j % LOADERS)) +
                          subgroupShuffle(broken[j / LOADERS], j % LOADERS);
                w[j] = sees ? x : 0;
                ds[j] = sees ? x * (ds[j] - subgroupShuffle(delta[j / LOADERS], j % LOADERS)) : 0;
            }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    dv[d] = fma(w[j], subgroupShuffle(go[j / LOADERS][d], j % LOADERS), dv[d]);
                    dk[d] = fma(ds[j], subgroupShuffle(q[j / LOADERS][d], j % LOADERS), dk[d]);
                }
            next += ATTENTION_BLOCK;
            more = next < end;
            turns++;
        } while (more && turns < 32768);
    } while (more);

    if (mine) {
        [[unroll]] for (uint d = 0; d < D; d++) {
            uint at = row * p.g_stride + d;
            float x = dk[d] * p.scale, y = dv[d];
            if (p.add != 0) {
                x += F32(p.gqkv).v[at + k_column];
                y += F32(p.gqkv).v[at + v_column];
            }
            F32(p.gqkv).v[at + k_column] = x;
            F32(p.gqkv).v[at + v_column] = y;
        }
    }
}
