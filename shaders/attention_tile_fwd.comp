// o = softmax(scale q k^T) v per query row and head: the "tile" family, for GPUs. Never stores scores.
// Source: online softmax, arXiv 1805.02867; FlashAttention, arXiv 2205.14135. attention_fwd.comp does the same on CPU drivers.
// Args: attention_args (args/attention.h). Constants: lib/attention_tile.glsl.
// Dispatch: ceil(rows * group / ATTENTION_TILE_PAIRS) * kv_heads groups of 128.
//
// A workgroup works on 32 (row, head) pairs of one kv head, whose q stay in shared memory. Keys come in blocks of 16 by the
// query's own key number. Each turn takes the block that the first waiting pair needs; all pairs that need exactly these rows
// as exactly this block take part. Scores: a lane 2 pairs x 2 keys. Softmax: 4 lanes a pair, 4 keys each. Values: a lane
// 4 pairs x up to 2 quads.
//
// Sum: q.k over d ascending; weights in 4 sums by the key's number / 4 % 4, added ((0 + 1) + (2 + 3)) at the end; values over
// keys ascending; all rescaled once a block when the maximum grows. What a pair gets depends on its own keys in their order
// alone: not on the rows beside it, on where the keys lie, or on the split into prefix and own run. Keys beyond a pair's
// count never touch it, even if not finite.
// All lanes reach every barrier. All-zero args: no pairs, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/attention.h"
#include "shaders/lib/attention_tile.glsl"

layout(push_constant, scalar) uniform Args { attention_args p; };

const uint PAIRS = ATTENTION_TILE_PAIRS;
const uint KEY_QUADS = KEYS / 4, SCORE_STRIDE = KEY_QUADS + 1;
const uint COLUMN_GROUPS = 16, ROW_GROUPS = LANES / COLUMN_GROUPS, LANE_PAIRS = PAIRS / ROW_GROUPS;
const uint LANE_QUADS = (QUADS + COLUMN_GROUPS - 1) / COLUMN_GROUPS;

shared vec4 q_tile[PAIRS * STRIDE];
shared vec4 kv_tile[KEYS * STRIDE];
shared vec4 scores[PAIRS * SCORE_STRIDE];
shared vec4 weights[PAIRS * SCORE_STRIDE];
shared uvec4 spans[PAIRS];
shared uvec4 waiting[PAIRS / 4]; // next key of each pair, or NOBODY
shared uvec4 visible[PAIRS / 4]; // keys that a pair sees in this turn's block: its count, or 0
shared vec4 fades[PAIRS / 4];
shared float broken[KEYS];

// A block of k or v. From `end` on nobody sees a key: zeros. `tame`: what is not finite becomes 0, and its key broken.
void load_block(uvec2 base, uvec4 span, uint first, uint end, uint column, bool tame)
{
    for (uint e = gl_LocalInvocationIndex; e < KEYS * QUADS; e += LANES) {
        const uint j = e / QUADS, quad = e % QUADS;
        vec4 x = vec4(0);
        if (first + j < end)
            x = load_row_quad(base, key_row(span, first + j, p.pages, p.page_shift) * p.kv_stride + column, quad, KV_TYPE);
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
    const uint pairs = p.rows * p.group, tiles = (pairs + PAIRS - 1) / PAIRS;
    if (tiles == 0 || group_index() >= tiles * p.kv_heads)
        return;
    const uint lane = gl_LocalInvocationIndex, kv = group_index() % p.kv_heads, first_pair = group_index() / p.kv_heads * PAIRS;

    for (uint e = lane; e < PAIRS * QUADS; e += LANES) {
        const uint pair = min(first_pair + e / QUADS, pairs - 1), head = kv * p.group + pair % p.group;
        q_tile[e / QUADS * STRIDE + e % QUADS] =
            load_row_quad(p.q, pair / p.group * p.q_stride + head * D, e % QUADS, Q_TYPE) * p.scale;
    }
    // The softmax of pair lane / 4.
    const uint mine = lane / 4, quarter = lane % 4, pair = first_pair + mine, safe = min(pair, pairs - 1);
    const uvec4 span = U32x4(p.queries).v[safe / p.group];
    const uint count = pair < pairs ? key_count(span) : 0;
    uint next = 0;
    float top = MINUS_INFINITY, sum = 0;
    if (quarter == 0) {
        spans[mine] = span;
        waiting[mine / 4][mine % 4] = count > 0 ? 0 : NOBODY;
    }
    // The values of pairs rows ... at quads column ...
    const uint row = lane / COLUMN_GROUPS * LANE_PAIRS, column = lane % COLUMN_GROUPS;
    vec4 acc[LANE_PAIRS * LANE_QUADS];
    [[unroll]] for (uint i = 0; i < LANE_PAIRS * LANE_QUADS; i++)
        acc[i] = vec4(0);
    barrier();

    while (true) {
        uint leader = NOBODY;
        [[unroll]] for (uint i = 0; i < PAIRS; i++)
            leader = leader == NOBODY && waiting[i / 4][i % 4] != NOBODY ? i : leader;
        if (leader == NOBODY)
            break;
        const uint first = waiting[leader / 4][leader % 4];
        const uvec4 by = spans[leader];
        const bool takes_part = next == first && next < count && same_rows(by, span, first, p.pages, p.page_shift);
        if (quarter == 0)
            visible[mine / 4][mine % 4] = takes_part ? count : 0;
        if (lane < KEYS)
            broken[lane] = 0;
        barrier();
        uvec4 most = uvec4(0);
        [[unroll]] for (uint i = 0; i < PAIRS / 4; i++)
            most = max(most, visible[i]);
        const uint end = max(max(most.x, most.y), max(most.z, most.w));
        load_block(p.k, by, first, end, kv * D, false);
        barrier();
        {
            const uint r = lane / 8, c = lane % 8;
            vec2 s[2];
            s[0] = s[1] = vec2(0);
            FOR_QUADS(d) {
                const vec4 q0 = q_tile[r * STRIDE + d], q1 = q_tile[(r + PAIRS / 2) * STRIDE + d];
                const vec4 k0 = kv_tile[c * STRIDE + d], k1 = kv_tile[(c + KEYS / 2) * STRIDE + d];
                [[unroll]] for (uint i = 0; i < 4; i++) {
                    s[0] = fma(vec2(q0[i]), vec2(k0[i], k1[i]), s[0]);
                    s[1] = fma(vec2(q1[i]), vec2(k0[i], k1[i]), s[1]);
                }
            }
            [[unroll]] for (uint i = 0; i < 2; i++) {
                scores[(r + i * PAIRS / 2) * SCORE_STRIDE + c / 4][c % 4] = s[i].x;
                scores[(r + i * PAIRS / 2) * SCORE_STRIDE + c / 4 + KEY_QUADS / 2][c % 4] = s[i].y;
            }
        }
        barrier();
        load_block(p.v, by, first, end, kv * D, true);
        barrier();
        {
            float peak = top;
            vec4 w = vec4(0);
            [[unroll]] for (uint j = 0; j < KEY_QUADS; j++) {
                const vec4 s = scores[mine * SCORE_STRIDE + j];
                [[unroll]] for (uint i = 0; i < 4; i++)
                    peak = max(peak, takes_part && first + 4 * j + i < count ? s[i] : MINUS_INFINITY);
                w = j == quarter ? s : w;
            }
            const float fade = peak == top ? 1 : exp2(top - peak);
            sum *= fade;
            [[unroll]] for (uint i = 0; i < 4; i++) {
                const float x = exp2(w[i] - peak) + broken[4 * quarter + i];
                w[i] = takes_part && first + 4 * quarter + i < count ? x : 0;
                sum += w[i];
            }
            top = peak;
            weights[mine * SCORE_STRIDE + quarter] = w;
            next += takes_part ? KEYS : 0;
            if (quarter == 0) {
                fades[mine / 4][mine % 4] = fade;
                waiting[mine / 4][mine % 4] = next < count ? next : NOBODY;
            }
        }
        barrier();
        [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++)
            [[unroll]] for (uint g = 0; g < LANE_QUADS; g++)
                acc[i * LANE_QUADS + g] *= fades[(row + i) / 4][(row + i) % 4];
        [[unroll]] for (uint j = 0; j < KEY_QUADS; j++) {
            vec4 w[LANE_PAIRS];
            [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++)
                w[i] = weights[(row + i) * SCORE_STRIDE + j];
            [[unroll]] for (uint u = 0; u < 4; u++)
                [[unroll]] for (uint g = 0; g < LANE_QUADS; g++) {
                    const vec4 v = kv_tile[(4 * j + u) * STRIDE + min(column + g * COLUMN_GROUPS, QUADS - 1)];
                    [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++)
                        acc[i * LANE_QUADS + g] = fma(vec4(w[i][u]), v, acc[i * LANE_QUADS + g]);
                }
        }
        barrier();
    }

    weights[mine * SCORE_STRIDE][quarter] = sum;
    barrier();
    [[unroll]] for (uint i = 0; i < LANE_PAIRS; i++) {
        const vec4 parts = weights[(row + i) * SCORE_STRIDE];
        const float total = (parts.x + parts.y) + (parts.z + parts.w), share = total == 0 ? 0 : 1 / total; // no keys: zeros
        const uint to = first_pair + row + i, head = kv * p.group + to % p.group;
        [[unroll]] for (uint g = 0; g < LANE_QUADS; g++)
            if (to < pairs && column + g * COLUMN_GROUPS < QUADS) {
                precise vec4 x = acc[i * LANE_QUADS + g] * share + 0.0; // -0 becomes 0: its sign could depend on idle turns
                store_row_quad(p.o, to / p.group * p.o_stride + head * D, column + g * COLUMN_GROUPS, O_TYPE, x);
            }
    }
    if (has_address(p.lse) && quarter == 0 && pair < pairs) {
        const vec4 parts = weights[mine * SCORE_STRIDE];
        F32(p.lse).v[pair / p.group * p.kv_heads * p.group + kv * p.group + pair % p.group] =
            count == 0 ? 0 : top + log2((parts.x + parts.y) + (parts.z + parts.w));
    }
}
