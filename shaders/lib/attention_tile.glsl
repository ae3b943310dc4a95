// What the attention kernels of the "tile" family share: constants, tiles in shared memory, and which block of keys a
// workgroup looks at next. The family is for GPUs and right on any device; it has its own order of sums.
//
// A workgroup of 128 lanes holds a tile of 4-value quads of up to 128 values a row, f32. The lanes split a product of two
// tiles two ways: sums along the head (scores) and sums along the rows (values).
#ifndef ATTENTION_TILE_GLSL
#define ATTENTION_TILE_GLSL

layout(local_size_x = 128) in;
layout(constant_id = 1) const uint D = 16; // head_dim
layout(constant_id = 2) const bool ALIGNED = false; // every row of every operand begins at, and is made of, whole quads
layout(constant_id = 3) const bool PAGED = false; // keys lie in pages; else in runs
// Storage types: 0 f32, 1 bf16, 2 fp16. Backward, k and v have the type of q.
layout(constant_id = 4) const uint Q_TYPE = 0;
layout(constant_id = 5) const uint KV_TYPE = 0;
layout(constant_id = 6) const uint O_TYPE = 0;
layout(constant_id = 7) const uint GO_TYPE = 0;   // gradient of o
layout(constant_id = 8) const uint GQKV_TYPE = 0; // gradient of q, k, v

const uint LANES = 128;
const uint KEYS = ATTENTION_TILE_KEYS;
const uint QUADS = (D + 3) / 4;   // of a row
const uint STRIDE = QUADS + 1;    // vec4 from row to row of a tile; the spare one spreads the banks
const float LOG2_E = 1.4426950408889634;
#define MINUS_INFINITY uintBitsToFloat(0xff800000u)
#define NOT_A_NUMBER uintBitsToFloat(0x7fc00000u)
#define NOBODY 0xffffffffu

// On the bits: compilers may assume away isnan and comparisons that only NaN fails.
bool is_finite(float x)
{
    return (floatBitsToUint(x) & 0x7f800000u) != 0x7f800000u;
}

// Over the quads of a row, four a turn: wholly unrolled, a head of 128 makes code for which neither compilers nor instruction
// caches have room.
const uint TURN = QUADS % 4 == 0 ? 4 : QUADS % 2 == 0 ? 2 : 1;
#define FOR_QUADS(d)                                                                                                  \
    [[dont_unroll]] for (uint d##_ = 0; d##_ < QUADS; d##_ += TURN)                                                   \
        [[unroll]] for (uint d = d##_; d < d##_ + TURN; d++)

// Values 4 quad ... of the row that begins at element `at`; zeros behind D.
vec4 load_row_quad(uvec2 base, uint at, uint quad, uint type)
{
    const uint i = at + 4 * quad;
    if (ALIGNED) {
        if (type == 0)
            return uintBitsToFloat(U32x4(base).v[i >> 2]);
        return unpack_halves(U32x2(base).v[i >> 2], type);
    }
    vec4 x = vec4(0);
    [[unroll]] for (uint j = 0; j < 4; j++)
        if (4 * quad + j < D)
            x[j] = load_float(base, i + j, type);
    return x;
}

// The same written. 16 bits: D and the row's start are even, so that words are whole.
void store_row_quad(uvec2 base, uint at, uint quad, uint type, vec4 x)
{
    const uint i = at + 4 * quad, left = D - 4 * quad;
    if (type != 0) {
        const uvec2 w = pack_halves(x, type);
        if (ALIGNED) {
            U32x2(base).v[i >> 2] = w;
        } else {
            U32(base).v[i >> 1] = w.x;
            if (left > 2)
                U32(base).v[(i >> 1) + 1] = w.y;
        }
    } else if (ALIGNED) {
        F32x4(base).v[i >> 2] = x;
    } else {
        [[unroll]] for (uint j = 0; j < 4; j++)
            if (j < left)
                F32(base).v[i + j] = x[j];
    }
}

// The keys of a query: uvec4 span as in nn_spans (PAGED: page_first, keys, 0, 0).
uint key_count(uvec4 span)
{
    return PAGED ? span.y : span.y + span.w;
}
uint key_row(uvec4 span, uint j, uvec2 pages, uint page_shift)
{
    if (PAGED)
        return (U32(pages).v[span.x + (j >> page_shift)] << page_shift) + (j & ((1u << page_shift) - 1u));
    return j < span.y ? span.x + j : span.z + (j - span.y);
}

// Do the keys [first, first + KEYS) of two queries lie in the same rows, as far as `mine` has such keys? May say no where
// they do: loads are shared less often then, and no bits change.
bool same_rows(uvec4 leader, uvec4 mine, uint first, uvec2 pages, uint page_shift)
{
    if (PAGED) {
        bool same = true;
        [[unroll]] for (uint s = 0; s < KEYS; s += ATTENTION_BLOCK)
            if (first + s < mine.y)
                same = same && first + s < leader.y &&
                       U32(pages).v[mine.x + ((first + s) >> page_shift)] ==
                           U32(pages).v[leader.x + ((first + s) >> page_shift)];
        return same;
    }
    // A block wholly in one run has one base and no split.
    const bool prefix_a = first + KEYS <= leader.y, prefix_b = first + KEYS <= mine.y;
    const bool own_a = first >= leader.y, own_b = first >= mine.y;
    if (prefix_a || prefix_b)
        return prefix_a && prefix_b && leader.x == mine.x;
    if (own_a || own_b)
        return own_a && own_b && leader.z - leader.y == mine.z - mine.y;
    return leader.xyz == mine.xyz;
}

#endif
