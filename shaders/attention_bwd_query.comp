// Gradient of attention for the queries: delta = sum_d go * o, p = 2^(s - lse), ds = p * (go . v - delta),
// dq = scale * sum_keys ds * k. Also writes delta for attention_bwd_key.comp, which runs after.
// Source: FlashAttention, arXiv 2205.14135, appendix B.4.
// Args: attention_grad_args (args/attention.h), spans by query. Constants: 1 = head_dim.
// Dispatch: ceil(rows * group / SUBGROUP) * kv_heads groups of one subgroup; turns as in attention_fwd.comp.
//
// Sum: dot products over d ascending, dq over keys ascending; no sum crosses lanes, so that a row's dq does not depend on
// the rows beside it. Keys beyond a lane's count never touch it, even if not finite.
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
    uint pairs = p.rows * p.group, tiles = (pairs + SUBGROUP - 1) / SUBGROUP, heads = p.kv_heads * p.group;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    uint kv = group_index() % p.kv_heads;
    uint pair = group_index() / p.kv_heads * SUBGROUP + gl_SubgroupInvocationID;
    bool mine = pair < pairs;
    uint row = min(pair, pairs - 1) / p.group, head = kv * p.group + min(pair, pairs - 1) % p.group;
    uvec4 span = U32x4(p.spans).v[row];
    uint count = mine ? span.y + span.w : 0;
    uint k_column = (heads + kv) * D, v_column = (heads + p.kv_heads + kv) * D;

    float q[D], go[D], dq[D], delta = 0, lse = F32(p.lse).v[row * heads + head];
    [[unroll]] for (uint d = 0; d < D; d++) {
        q[d] = F32(p.qkv).v[row * p.stride + head * D + d] * (p.scale * LOG2_E);
        go[d] = F32(p.go).v[row * p.go_stride + head * D + d];
        delta = fma(go[d], F32(p.o).v[row * p.o_stride + head * D + d], delta);
        dq[d] = 0;
    }
    uint next = 0;
    bool waiting;
    do {
        uint turns = 0;
        do {
            key_block b = meet(span, count, next);
            float k[PER][D], v[PER][D], broken[PER];
            [[unroll]] for (uint n = 0; n < PER; n++) {
                uint j = b.first + n * SUBGROUP + gl_SubgroupInvocationID % ATTENTION_BLOCK;
                uint at = key_row(b, j) * p.stride;
                broken[n] = 0;
                [[unroll]] for (uint d = 0; d < D; d++) {
                    k[n][d] = 0;
                    v[n][d] = 0;
                }
                if (j < b.end) {
                    [[unroll]] for (uint d = 0; d < D; d++) {
                        k[n][d] = F32(p.qkv).v[at + k_column + d];
                        v[n][d] = F32(p.qkv).v[at + v_column + d];
                    }
                }
                // As in the forward pass: what is not finite reaches those who see the key through its weight alone.
                [[unroll]] for (uint d = 0; d < D; d++) {
                    bool fine = is_finite(k[n][d]);
                    broken[n] = fine ? broken[n] : NOT_A_NUMBER;
                    k[n][d] = fine ? k[n][d] : 0;
                }
            }
            float s[ATTENTION_BLOCK], ds[ATTENTION_BLOCK];
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                s[j] = 0;
                ds[j] = 0;
            }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    s[j] = fma(q[d], subgroupShuffle(k[j / LOADERS][d], j % LOADERS), s[j]);
                    ds[j] = fma(go[d], subgroupShuffle(v[j / LOADERS][d], j % LOADERS), ds[j]);
                }
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                float x = exp2(s[j] - lse) * (ds[j] - delta) + subgroupShuffle(broken[j / LOADERS], j % LOADERS);
                ds[j] = next + j < b.visible ? x : 0;
            }
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++)
                    dq[d] = fma(ds[j], subgroupShuffle(k[j / LOADERS][d], j % LOADERS), dq[d]);
            next += b.taken ? ATTENTION_BLOCK : 0;
            waiting = subgroupBallot(next < count) != uvec4(0);
            turns++;
        } while (waiting && turns < 32768);
    } while (waiting);

    if (mine) {
        F32(p.delta).v[row * heads + head] = delta;
        [[unroll]] for (uint d = 0; d < D; d++) {
            uint at = row * p.g_stride + head * D + d;
            float x = dq[d] * p.scale;
            if (p.add != 0)
                x += F32(p.gqkv).v[at];
            F32(p.gqkv).v[at] = x;
        }
    }
}
