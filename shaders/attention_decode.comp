// o = softmax(scale q k^T) v where no two rows are of one sequence: decoding, for CPU drivers. Bits of attention_fwd.comp.
// Args: attention_args (args/attention.h). Constants: 1 = head_dim (a multiple of 4), 2 = query heads a group (HEADS, a
// divisor of p.group), 3 = rows a group (ROWS), 4, 5, 6 = types of q, of k and v, of o. Keys lie in pages of at least
// SUBGROUP rows.
// Dispatch: ceil(rows / ROWS) * kv_heads * group / HEADS groups of one subgroup of at least 8 lanes.
//
// attention_fwd.comp gives a lane to each (row, head), and rows with keys of their own leave most lanes without work. Here
// a group has few rows and the heads that share a kv head. Each turn takes SUBGROUP keys, a lane a key for the scores;
// for the values a lane has pairs of neighbouring columns. Weights and q cross lanes by broadcasts of constant lanes.
// As long as all rows of a group see the same pages (a prompt before its completions) they share the turns.
//
// Sum: as there: q.k over d ascending, values over keys ascending, rescaled where a block of ATTENTION_BLOCK keys raises
// the maximum. Behind the last key it is loaded again, with weight 0. All-zero args: no rows, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#include "shaders/lib/types.glsl"
#include "shaders/args/attention.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint D = 32;
layout(constant_id = 2) const uint HEADS = 1;
layout(constant_id = 3) const uint ROWS = 1;
layout(constant_id = 4) const uint Q_TYPE = 0;
layout(constant_id = 5) const uint KV_TYPE = 0;
layout(constant_id = 6) const uint O_TYPE = 0;
layout(push_constant, scalar) uniform Args { attention_args p; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t v[]; };

const uint BLOCKS = (SUBGROUP + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK; // of the keys of a turn
const uint PAIRS = (D / 2 + SUBGROUP - 1) / SUBGROUP; // of neighbouring columns that a lane has
const uint LINE = KV_TYPE == 0 ? 16 : 32;             // values a line of the caches
const uint LINES = (D + LINE - 1) / LINE;
const uint ITEMS = ROWS * HEADS;                       // of a group, (row, head) pairs: HEADS of row 0, of row 1, ...
#define MINUS_INFINITY uintBitsToFloat(0xff800000u)
#define NOT_A_NUMBER uintBitsToFloat(0x7fc00000u)
#define PAIR_COLUMN(n) (2 * ((n) * SUBGROUP + gl_SubgroupInvocationID))
// Over the pairs of this lane; the test is a constant where every lane has one.
#define FOR_PAIRS(n)                                                                                                  \
    [[unroll]] for (uint n = 0; n < PAIRS; n++)                                                                       \
        if (2 * (n + 1) * SUBGROUP <= D || PAIR_COLUMN(n) < D)
// Column d of a row held as pairs, for all lanes.
#define COLUMN(x, d) subgroupBroadcast(x[(d) / (2 * SUBGROUP)][(d) % 2], (d) / 2 % SUBGROUP)

uint64_t bytes(uint count, uint type)
{
    return uint64_t(type == 0 ? 4 * count : 2 * count);
}

vec2 load_pair(uint64_t at, uint n, uint type)
{
    if (type == 0)
        return uintBitsToFloat(unpack32(U64(at).v[n * SUBGROUP]));
    return unpack_halves(U32(at).v[n * SUBGROUP], type);
}

void store_pair(uint64_t at, uint n, uint type, vec2 x)
{
    if (type == 0)
        U64(at).v[n * SUBGROUP] = pack64(floatBitsToUint(x));
    else
        U32(at).v[n * SUBGROUP] = pack_halves(x.x, x.y, type);
}

// Values 4 n ... of a row.
vec4 load_four(uint64_t at, uint n)
{
    if (KV_TYPE == 0)
        return uintBitsToFloat(uvec4(unpack32(U64(at).v[2 * n]), unpack32(U64(at).v[2 * n + 1])));
    return unpack_halves(unpack32(U64(at).v[n]), KV_TYPE);
}

// On the bits: compilers may assume away isnan and comparisons that only NaN fails.
bool is_finite(float x)
{
    return (floatBitsToUint(x) & 0x7f800000u) != 0x7f800000u;
}

// Whether any lane says so; a CPU driver runs votes lane by lane.
bool any_lane(bool x)
{
    uint any = 0;
    [[unroll]] for (uint lane = 0; lane < SUBGROUP; lane++)
        any |= subgroupBroadcast(x ? 1u : 0u, lane);
    return any != 0;
}

uint key_row(uint list, uint j)
{
    return (U32(p.pages).v[list + (j >> p.page_shift)] << p.page_shift) + (j & ((1u << p.page_shift) - 1u));
}

// Whether a value of the keys of a list is not finite.
bool any_broken(uint list, uint count, uint first_value)
{
    bool broken = false;
    for (uint j = 0; j < count; j++) {
        const uint64_t at = pack64(p.v) + bytes(key_row(list, j) * p.kv_stride + first_value, KV_TYPE);
        FOR_PAIRS(n) {
            const vec2 x = load_pair(at, n, KV_TYPE);
            broken = broken || !is_finite(x.x) || !is_finite(x.y);
        }
    }
    return any_lane(broken);
}

// Of each item; and what is read once, because a CPU driver reads push constants again behind every condition.
vec2 q[ITEMS][PAIRS], acc[ITEMS][PAIRS];
float top[ITEMS], sum[ITEMS];
uint64_t keys, values, step;
uint stride, touched;

const uint FALLS = (BLOCKS * ITEMS + SUBGROUP - 1) / SUBGROUP;
#define NO_ROW 0xffffffffu
#define FOR_ITEMS(h)                                                                                                  \
    [[unroll]] for (uint h = 0; h < ITEMS; h++)                                                                       \
        if (only == NO_ROW || h / HEADS == only)

// A turn of the items of one row of the group, or with NO_ROW of all: the SUBGROUP keys from pool row `row0` on, of which
// those behind number `last` are none.
void take_turn(uint row0, uint last, uint only)
{
    const uint lane = gl_SubgroupInvocationID;
    // First a load of each line of the caches, of the values as of the keys, so that the waits for memory are one: a CPU
    // looks ahead no further than a few loads of a whole subgroup.
    const uint64_t mine = bytes((row0 + min(lane, last)) * stride, KV_TYPE), k_at = keys + mine, line_at = values + mine;
    vec4 line[LINES];
    [[unroll]] for (uint n = 0; n < LINES; n++) {
        line[n] = load_four(k_at, n * LINE / 4);
        touched = max(touched, U32(line_at).v[n * 16] & 0x7fffffffu);
    }
    float s[ITEMS];
    FOR_ITEMS(h)
        s[h] = 0;
    [[unroll]] for (uint d = 0; d < D; d += 4) {
        const vec4 x = d % LINE == 0 ? line[d / LINE] : load_four(k_at, d / 4);
        FOR_ITEMS(h)
            [[unroll]] for (uint i = 0; i < 4; i++)
                s[h] = fma(COLUMN(q[h], d + i), x[i], s[h]);
    }
    // Of each block the maximum so far, and what it makes of the sums before: a lane of one exponential each. (No max():
    // a CPU driver splits it and asks for NaN.)
    float fade[BLOCKS][ITEMS], fall[FALLS];
    [[unroll]] for (uint i = 0; i < FALLS; i++)
        fall[i] = 0;
    FOR_ITEMS(h) {
        s[h] = lane <= last ? s[h] : MINUS_INFINITY;
        float peak = 0; // of the block this lane's key is in
        [[unroll]] for (uint b = 0; b < BLOCKS; b++) {
            const float before = top[h];
            [[unroll]] for (uint j = 0; j < ATTENTION_BLOCK; j++) {
                const float x = subgroupBroadcast(s[h], (b * ATTENTION_BLOCK + j) % SUBGROUP);
                top[h] = x > top[h] ? x : top[h];
            }
            fade[b][h] = top[h] == before ? 1 : 0;
            const uint i = b * ITEMS + h;
            fall[i / SUBGROUP] = lane == i % SUBGROUP ? before - top[h] : fall[i / SUBGROUP];
            peak = lane / ATTENTION_BLOCK == b ? top[h] : peak;
        }
        s[h] = lane <= last ? exp2(s[h] - peak) : 0;
    }
    [[unroll]] for (uint i = 0; i < FALLS; i++)
        fall[i] = exp2(fall[i]);
    [[unroll]] for (uint b = 0; b < BLOCKS; b++)
        FOR_ITEMS(h)
            fade[b][h] = fade[b][h] == 1 ? 1 : subgroupBroadcast(fall[(b * ITEMS + h) / SUBGROUP], (b * ITEMS + h) % SUBGROUP);
    uint64_t v_at = values + bytes(row0 * stride + 2 * lane, KV_TYPE);
    [[unroll]] for (uint b = 0; b < BLOCKS; b++) {
        FOR_ITEMS(h) {
            sum[h] *= fade[b][h];
            [[unroll]] for (uint n = 0; n < PAIRS; n++)
                acc[h][n] *= fade[b][h];
        }
        [[unroll]] for (uint i = 0; i < ATTENTION_BLOCK; i++) {
            const uint j = b * ATTENTION_BLOCK + i;
            vec2 x[PAIRS];
            [[unroll]] for (uint n = 0; n < PAIRS; n++)
                x[n] = vec2(0);
            FOR_PAIRS(n)
                x[n] = load_pair(v_at, n, KV_TYPE);
            v_at += j < last ? step : 0;
            FOR_ITEMS(h) {
                const float w = subgroupBroadcast(s[h], j % SUBGROUP);
                sum[h] += w;
                [[unroll]] for (uint n = 0; n < PAIRS; n++)
                    acc[h][n] = fma(vec2(w), x[n], acc[h][n]);
            }
        }
    }
}

// Whether all rows of the group see the SUBGROUP keys from `first` on, in the same page.
bool share_turn(uint list[ROWS], uint count[ROWS], uint first)
{
    bool same = true;
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        same = same && first + SUBGROUP <= count[r];
    if (same) { // else the lists may end before
        const uint page = U32(p.pages).v[list[0] + (first >> p.page_shift)];
        [[unroll]] for (uint r = 1; r < ROWS; r++)
            same = same && U32(p.pages).v[list[r] + (first >> p.page_shift)] == page;
    }
    return same;
}

void main()
{
    const uint lane = gl_SubgroupInvocationID, parts = p.group / HEADS, across = p.kv_heads * parts;
    const uint first_row = across == 0 ? 0 : group_index() / across * ROWS;
    if (first_row >= p.rows)
        return;
    const uint kv = group_index() % across / parts, head = kv * p.group + group_index() % parts * HEADS;
    uint row[ROWS], list[ROWS], count[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        row[r] = min(first_row + r, p.rows - 1);
        const uvec4 span = U32x4(p.queries).v[row[r]];
        list[r] = span.x;
        count[r] = first_row + r < p.rows ? span.y : 0;
    }
    [[unroll]] for (uint h = 0; h < ITEMS; h++) {
        const uint64_t at =
            pack64(p.q) + bytes(row[h / HEADS] * p.q_stride + (head + h % HEADS) * D + 2 * lane, Q_TYPE);
        [[unroll]] for (uint n = 0; n < PAIRS; n++)
            q[h][n] = acc[h][n] = vec2(0);
        FOR_PAIRS(n)
            q[h][n] = load_pair(at, n, Q_TYPE) * p.scale;
        top[h] = MINUS_INFINITY;
        sum[h] = 0;
    }
    keys = pack64(p.k) + bytes(kv * D, KV_TYPE);
    values = pack64(p.v) + bytes(kv * D, KV_TYPE);
    stride = p.kv_stride;
    step = bytes(stride, KV_TYPE);
    touched = 0;
    // Loops that end with their test: a CPU driver runs what stands behind a `break` once more, for no lane.
    uint first = 0;
    if (ROWS > 1 && share_turn(list, count, 0)) {
        do {
            take_turn(key_row(list[0], first), SUBGROUP - 1, NO_ROW);
            first += SUBGROUP;
        } while (share_turn(list, count, first));
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        uint next = first;
        if (next < count[r]) {
            do {
                take_turn(key_row(list[r], next), count[r] - 1 - next, r);
                next += SUBGROUP;
            } while (next < count[r]);
        }
    }

    // A value that is not finite makes all of the row NaN, as in training. It leaves no finite sum of its column.
    bool broken = touched >= 0x7f800000u; // only so that compilers keep those loads
    [[unroll]] for (uint h = 0; h < ITEMS; h++)
        FOR_PAIRS(n)
            broken = broken || !is_finite(acc[h][n].x) || !is_finite(acc[h][n].y);
    if (any_lane(broken)) {
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            const bool poisoned = any_broken(list[r], count[r], kv * D + 2 * lane);
            [[unroll]] for (uint h = r * HEADS; h < (r + 1) * HEADS; h++)
                sum[h] = poisoned ? NOT_A_NUMBER : sum[h];
        }
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        const uint64_t at = pack64(p.o) + bytes(row[r] * p.o_stride + head * D + 2 * lane, O_TYPE);
        float lse = 0;
        if (first_row + r < p.rows) {
            [[unroll]] for (uint n = 0; n < HEADS; n++) {
                const uint h = r * HEADS + n;
                const float share = sum[h] == 0 ? 0 : 1 / sum[h]; // no keys: zeros
                FOR_PAIRS(i) {
                    precise vec2 y = acc[h][i] * share + 0.0; // -0 becomes 0, as there
                    store_pair(at + bytes(n * D, O_TYPE), i, O_TYPE, y);
                }
                lse = lane == n ? (count[r] == 0 ? 0 : top[h] + log2(sum[h])) : lse;
            }
            if (has_address(p.lse) && lane < HEADS)
                F32(p.lse).v[row[r] * p.kv_heads * p.group + head + lane] = lse;
        }
    }
}
