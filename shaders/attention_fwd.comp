// o = softmax(scale q k^T) v per query row and head, with keys in at most two runs of rows (nn_spans) or in pages of a
// o = softmax(scale q k^T) v per query row and head, keys in at most two runs of rows (nn_spans) or in pages (nn_kv).
// Args: attention_args (args/attention.h). Constants: 1 = head_dim, 2 = pairs a lane (U), 3 = PAGED.
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
        [[unroll]] for (uint d = 0; d < D; d++) {
            q[u][d] = F32(p.q).v[row[u] * p.q_stride + head[u] * D + d] * p.scale;
            acc[u][d] = 0;
        }
    }
    bool waiting;
    do {
        uint turns = 0;
        do {
            uint visible[U];
            key_block b = meet(span, count, next, key_pages(p.pages, p.page_shift), visible);
            float k[PER][D], v[PER][D], broken[PER];
            [[unroll]] for (uint n = 0; n < PER; n++) {
                uint j = b.first + n * SUBGROUP + gl_SubgroupInvocationID % ATTENTION_BLOCK;
                uint at = key_row(b, j) * p.kv_stride + kv * D;
                broken[n] = 0;
                [[unroll]] for (uint d = 0; d < D; d++) {
                    k[n][d] = 0;
                    v[n][d] = 0;
                }
                if (j < b.end) {
                    [[unroll]] for (uint d = 0; d < D; d++) {
                        k[n][d] = F32(p.k).v[at + d];
                        v[n][d] = F32(p.v).v[at + d];
                    }
                }
                // A value that is not finite must reach the pairs that see its key, and no other: 0 * it is NaN. So the
                // weight of the key becomes NaN for those who see it, and the value 0.
                [[unroll]] for (uint d = 0; d < D; d++) {
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
                    float x = subgroupBroadcast(k[j / LOADERS][d], j % LOADERS);
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
                    float w = exp2(s[u][j] - peak) + subgroupBroadcast(broken[j / LOADERS], j % LOADERS);
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
                    float x = subgroupBroadcast(v[j / LOADERS][d], j % LOADERS);
                    [[unroll]] for (uint u = 0; u < U; u++)
                        acc[u][d] = fma(s[u][j], x, acc[u][d]);
                }
            }
            waiting = any_waits(count, next);
            turns++;
        } while (waiting && turns < 32768);
    } while (waiting);

    [[unroll]] for (uint u = 0; u < U; u++) {
        if (first + u * SUBGROUP + gl_SubgroupInvocationID < pairs) {
            float share = sum[u] == 0 ? 0 : 1 / sum[u]; // no keys: zeros
            [[unroll]] for (uint d = 0; d < D; d++) {
                precise float x = acc[u][d] * share + 0.0; // -0 becomes 0: its sign could depend on idle turns
                F32(p.o).v[row[u] * p.o_stride + head[u] * D + d] = x;
            }
            if (has_address(p.lse))
                F32(p.lse).v[row[u] * p.kv_heads * p.group + head[u]] = count[u] == 0 ? 0 : top[u] + log2(sum[u]);
        }
    }
}
