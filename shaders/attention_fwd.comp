// o = softmax(scale q k^T) v per query row and head, keys in at most two runs of rows (nn_spans) or in pages (nn_kv).
// Never stores scores. Source: online softmax, Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv 2205.14135.
// Args: attention_args (args/attention.h). Constants: 1 = head_dim, 2 = pairs a lane (U), 3 = PAGED, 4, 5, 6 = types of
// q, of k and v, of o.
// Defines: WIDE (lib/head_values.glsl).
// Dispatch: ceil(rows * group / (U * SUBGROUP)) * kv_heads groups of one subgroup.
//
// One lane works on U (row, head) pairs; all lanes of a group share the kv head. Keys come in blocks of ATTENTION_BLOCK
// by the query's own key number. Each turn takes the block that the first waiting pair needs, the lanes load one key of
// it each, and all pairs that need exactly these rows as exactly this block take part. So rows of one sequence, and
// completions in their shared prompt (the same pages), share the loads; a pair whose keys lie elsewhere takes its own
// turns.
//
// Sum: q.k over d ascending; values over keys ascending, rescaled once a block when the maximum grows; no sum crosses
// lanes. What a pair gets depends on its own keys in their order alone: not on the rows beside it, on where the keys
// lie, on U, on the split into prefix and own run, or on pages. Keys beyond a pair's count never touch it, even if not finite.
// All-zero args: no pairs, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/attention.h"
#include "shaders/lib/key_block.glsl"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { attention_args p; };

void main()
{
    uint pairs = p.rows * p.group, tiles = (pairs + U * SUBGROUP - 1) / (U * SUBGROUP);
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    uint kv = group_index() % p.kv_heads, first = group_index() / p.kv_heads * (U * SUBGROUP);

    uint row[U], head[U], count[U], next[U];
    uvec4 span[U];
    float q[U][D], acc[U][D], top[U], sum[U];
    [[unroll]] for (uint u = 0; u < U; u++) {
        uint pair = first + u * SUBGROUP + gl_SubgroupInvocationID, safe = min(pair, pairs - 1);
        row[u] = safe / p.group;
        head[u] = kv * p.group + safe % p.group;
        span[u] = U32x4(p.queries).v[row[u]];
        count[u] = pair < pairs ? span[u].y + span[u].w : 0;
        next[u] = 0;
        top[u] = MINUS_INFINITY;
        sum[u] = 0;
        LOAD_ROW(q[u], D, p.q, row[u] * p.q_stride + head[u] * D, Q_TYPE);
        [[unroll]] for (uint d = 0; d < D; d++) {
            q[u][d] *= p.scale;
            acc[u][d] = 0;
        }
    }
    // Read once: a CPU driver reads push constants again behind every condition.
    const uvec2 keys = p.k, values = p.v;
    const key_pages pages = key_pages(p.pages, p.page_shift);
    const uint kv_stride = p.kv_stride;
    uint leader = first_waiting(count, next);
    do {
        uint turns = 0;
        do {
            uint visible[U];
            key_block b = meet(leader, span, count, next, pages, visible);
            float k[PER][SHARE], v[PER][SHARE], broken[PER];
            [[unroll]] for (uint n = 0; n < PER; n++) {
                uint j = b.first + LOADED_ROW(n);
                uint at = key_row(b, j) * kv_stride + kv * D + LOADED_PART * SHARE;
                broken[n] = 0;
                [[unroll]] for (uint d = 0; d < SHARE; d++) {
                    k[n][d] = 0;
                    v[n][d] = 0;
                }
                if (j < b.end)
                    LOAD_ROWS(k[n], v[n], SHARE, keys, values, at, KV_TYPE);
                // A value that is not finite must reach the pairs that see its key, and no other: 0 * it is NaN. So the
                // weight of the key becomes NaN for those who see it, and the value 0.
                [[unroll]] for (uint d = 0; d < SHARE; d++) {
                    bool fine = is_finite(v[n][d]);
                    broken[n] = fine ? broken[n] : NOT_A_NUMBER;
                    v[n][d] = fine ? v[n][d] : 0;
                }
            }
            float s[U][ATTENTION_BLOCK], fade[U];
            [[unroll]] for (uint u = 0; u < U; u++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++)
                    s[u][j] = 0;
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float x = BLOCK_VALUE(k, j, d);
                    [[unroll]] for (uint u = 0; u < U; u++)
                        s[u][j] = fma(q[u][d], x, s[u][j]);
                }
            [[unroll]] for (uint u = 0; u < U; u++) {
                float peak = top[u];
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++)
                    peak = max(peak, next[u] + j < visible[u] ? s[u][j] : MINUS_INFINITY);
                fade[u] = peak == top[u] ? 1 : exp2(top[u] - peak);
                sum[u] *= fade[u];
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float w = exp2(s[u][j] - peak) + broken_row(broken, j);
                    s[u][j] = next[u] + j < visible[u] ? w : 0;
                    sum[u] += s[u][j];
                }
                top[u] = peak;
                next[u] += visible[u] != 0 ? ATTENTION_BLOCK : 0;
            }
            [[unroll]] for (uint d = 0; d < D; d++) {
                [[unroll]] for (uint u = 0; u < U; u++)
                    acc[u][d] *= fade[u];
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                    float x = BLOCK_VALUE(v, j, d);
                    [[unroll]] for (uint u = 0; u < U; u++)
                        acc[u][d] = fma(s[u][j], x, acc[u][d]);
                }
            }
            leader = first_waiting(count, next);
            turns++;
        } while (leader != NOBODY && turns < 32768);
    } while (leader != NOBODY);

    [[unroll]] for (uint u = 0; u < U; u++) {
        if (first + u * SUBGROUP + gl_SubgroupInvocationID < pairs) {
            float share = sum[u] == 0 ? 0 : 1 / sum[u]; // no keys: zeros
            [[unroll]] for (uint d = 0; d < D; d += 4) {
                vec4 x = vec4(0);
                [[unroll]] for (uint i = 0; i < 4; i++)
                    if (d + i < D) {
                        precise float y = acc[u][d + i] * share + 0.0; // -0 becomes 0: its sign could depend on idle turns
                        x[i] = y;
                    }
                store_four(p.o, row[u] * p.o_stride + head[u] * D + d, D - d, O_TYPE, x);
            }
            if (has_address(p.lse))
                F32(p.lse).v[row[u] * p.kv_heads * p.group + head[u]] = count[u] == 0 ? 0 : top[u] + log2(sum[u]);
        }
    }
}
