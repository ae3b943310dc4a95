// o = softmax(scale q k^T) v per query row and head, with keys in at most two runs of rows (nn_spans). Never stores
// scores. Source: online softmax, Milakov and Gimelshein, arXiv 1805.02867; FlashAttention, arXiv 2205.14135.
// Args: attention_args (args/attention.h). Constants: 1 = head_dim.
// Dispatch: ceil(rows * group / SUBGROUP) * kv_heads groups of one subgroup.
//
// One lane is one (row, head) pair; all lanes of a group share the kv head. Keys come in blocks of ATTENTION_BLOCK by
// the query's own key number. Each turn takes the block that the first waiting lane needs, the lanes load one key of it
// each, and all lanes that need exactly these rows as exactly this block take part. So rows of one sequence, and
// completions in their shared prompt, share the loads; a lane whose keys lie elsewhere takes its own turns.
//
// Sum: q.k over d ascending; values over keys ascending, rescaled once a block when the maximum grows; no sum crosses
// lanes. What a lane computes depends on its own keys in their order alone: not on the rows beside it, on where the
// keys lie, or on the split into prefix and own run. Keys beyond a lane's count never touch it, even if not finite.
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
    uint pairs = p.rows * p.group, tiles = (pairs + SUBGROUP - 1) / SUBGROUP;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    uint kv = group_index() % p.kv_heads;
    uint pair = group_index() / p.kv_heads * SUBGROUP + gl_SubgroupInvocationID;
    bool mine = pair < pairs;
    uint row = min(pair, pairs - 1) / p.group, head = kv * p.group + min(pair, pairs - 1) % p.group;
    uvec4 span = U32x4(p.queries).v[row];
    uint count = mine ? span.y + span.w : 0;

    float q[D], acc[D];
    [[unroll]] for (uint d = 0; d < D; d++) {
        q[d] = F32(p.q).v[row * p.q_stride + head * D + d] * p.scale;
        acc[d] = 0;
    }
    float top = MINUS_INFINITY, sum = 0;
    uint next = 0;
    bool waiting;
    do {
        uint turns = 0;
        do {
            key_block b = meet(span, count, next);
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
                // A value that is not finite must reach the lanes that see its key, and no other: 0 * it is NaN. So the
                // weight of the key becomes NaN for those who see it, and the value 0.
                [[unroll]] for (uint d = 0; d < D; d++) {
                    bool fine = is_finite(v[n][d]);
                    broken[n] = fine ? broken[n] : NOT_A_NUMBER;
                    v[n][d] = fine ? v[n][d] : 0;
                }
            }
            float s[ATTENTION_BLOCK];
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++)
                s[j] = 0;
            [[unroll]] for (uint d = 0; d < D; d++)
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++)
                    s[j] = fma(q[d], subgroupShuffle(k[j / LOADERS][d], j % LOADERS), s[j]);
            float peak = top;
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++)
                peak = max(peak, next + j < b.visible ? s[j] : MINUS_INFINITY);
            float fade = peak == top ? 1 : exp2(top - peak);
            sum *= fade;
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                float w = exp2(s[j] - peak) + subgroupShuffle(broken[j / LOADERS], j % LOADERS);
                s[j] = next + j < b.visible ? w : 0;
                sum += s[j];
            }
            [[unroll]] for (uint d = 0; d < D; d++) {
                float x = acc[d] * fade;
                [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++)
                    x = fma(s[j], subgroupShuffle(v[j / LOADERS][d], j % LOADERS), x);
                acc[d] = x;
            }
            top = peak;
            next += b.taken ? ATTENTION_BLOCK : 0;
            waiting = subgroupBallot(next < count) != uvec4(0);
            turns++;
        } while (waiting && turns < 32768);
    } while (waiting);

    if (mine) {
        float share = sum == 0 ? 0 : 1 / sum; // no keys: zeros
        [[unroll]] for (uint d = 0; d < D; d++) {
            precise float x = acc[d] * share + 0.0; // -0 becomes 0: its sign could depend on turns without effect
            F32(p.o).v[row * p.o_stride + head * D + d] = x;
        }
        if (has_address(p.lse))
            F32(p.lse).v[row * p.kv_heads * p.group + head] = count == 0 ? 0 : top + log2(sum);
    }
}
