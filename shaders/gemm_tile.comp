// C = beta C + op(A) op(B) + bias + residual: the "tile" family, made for GPUs, right on any device.
//   NT: A [M, K], B [N, K].   NN: A [M, K], B [K, N].   TN: A [K, M], B [K, N].   C [M, N], bias [N], residual [M, N].
// Args: gemm_args (args/gemm.h). Dispatch: ceil(M / ROWS) * ceil(N / COLUMNS) groups of INVOCATIONS.
//
// Sum: as in gemm.comp: one f32 accumulator an element, k strictly ascending from 0, fma; then + bias, + residual,
// + old C, in this order. Neither M, N, the tile nor the layout enters: every tile gives the same bits.
//
// One workgroup computes ROWS x COLUMNS; a lane TM x TN of them, in blocks of 4 x 4 that lie ROWS/TM (COLUMNS/TN) blocks
// apart, so that neighbours read neighbouring words of the shared tiles. These hold f32, k outermost: 16 bytes a read.
// While a tile is multiplied, the next one's words travel into registers as they are in memory: a conversion there would
// wait for them.
// Defines: KIND 0 NT, 1 NN, 2 TN; A_HALF, B_HALF 1: 16 bits. Constants: the tile
// (compute/nn/gemm_tile.h); ALIGNED: quads of both operands along the contiguous axis are aligned and whole.
// All lanes of a group reach every barrier: what ends early depends on the group alone. All-zero args: m is 0, nothing
// is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/gemm.h"

layout(local_size_x_id = 2) in;
layout(constant_id = 1) const uint C_TYPE = 0; // 0 f32; 1 bf16, 2 fp16: even stride, rows at whole words
layout(constant_id = 2) const uint INVOCATIONS = 128;
layout(constant_id = 3) const uint ROWS = 64;
layout(constant_id = 4) const uint COLUMNS = 64;
layout(constant_id = 5) const uint TM = 8;
layout(constant_id = 6) const uint TN = 4;
layout(constant_id = 7) const bool ALIGNED = false;
layout(constant_id = 8) const uint HALVES = 1; // A, B, bias, residual where they have 16 bits: 1 bf16, 2 fp16
#if KIND == 0
layout(constant_id = 9) const bool SWIGLU = false; // B is [gate, up], see lib/gemm_finish.glsl
#else
const bool SWIGLU = false;
#endif
layout(push_constant, scalar) uniform Args { gemm_args p; };
#include "shaders/lib/gemm_finish.glsl"

#define PRODUCT_NT 0
#define PRODUCT_NN 1
#define PRODUCT_TN 2
const uint STEP = 16;     // k per tile
const uint STRIPE = 8;    // tiles above each other that run before the next column: they share B in the L2 cache
const uint A_STRIDE = ROWS / 4 + 1; // vec4 from k to k + 1; the spare one spreads the banks
const uint B_STRIDE = COLUMNS / 4 + 1;
const uint A_QUADS = ROWS * STEP / 4 / INVOCATIONS; // loads of a lane
const uint B_QUADS = COLUMNS * STEP / 4 / INVOCATIONS;
const uint ROW_BLOCKS = ROWS / TM;
const uint COLUMN_BLOCKS = COLUMNS / TN;

shared vec4 a_tile[STEP * A_STRIDE];
shared vec4 b_tile[STEP * B_STRIDE];

// Four values as memory has them.
#if A_HALF
#define A_RAW uvec2
#else
#define A_RAW uvec4
#endif
#if B_HALF
#define B_RAW uvec2
#else
#define B_RAW uvec4
#endif

uint lane, m0, n0;
vec4 acc[TM * (TN / 4)];
A_RAW a_next[A_QUADS];
B_RAW b_next[B_QUADS];

void gather(uvec2 base, uvec4 i, out uvec4 raw)
{
    raw = uvec4(U32(base).v[i.x], U32(base).v[i.y], U32(base).v[i.z], U32(base).v[i.w]);
}
uint half_word(uvec2 base, uint i)
{
    return (U32(base).v[i >> 1] >> (16u * (i & 1u))) & 0xffffu;
}
void gather(uvec2 base, uvec4 i, out uvec2 raw)
{
    raw = uvec2(half_word(base, i.x) | (half_word(base, i.y) << 16), half_word(base, i.z) | (half_word(base, i.w) << 16));
}
vec4 values(uvec4 raw)
{
    return uintBitsToFloat(raw);
}
vec4 values(uvec2 raw)
{
    return unpack_halves(raw, HALVES);
}

// The quads of a lane are INVOCATIONS apart in a tile. Where k is the contiguous axis of memory ("inside"), STEP / 4 quads
// make a row of the tile; else the quads of `extent` rows (columns) make one k.
#define INSIDE_K (lane % (STEP / 4) * 4)
#define INSIDE_ROW(i) (lane / (STEP / 4) + (i) * (INVOCATIONS / (STEP / 4)))
#define OUTSIDE_K(i, extent) (lane / (extent / 4) + (i) * (INVOCATIONS / (extent / 4)))
#define OUTSIDE_ROW(extent) (lane % (extent / 4) * 4)
// Element where quad i begins when the tile begins at k. Rows and columns beyond the edge are the last one again; so is k,
// which only the rest of a sum reaches, where nothing reads it.
#if KIND == PRODUCT_TN
#define A_AT(i, k0) (p.a_first + min(k0 + OUTSIDE_K(i, ROWS), p.k - 1) * p.a_stride)
#define A_INNER(k0) (m0 + OUTSIDE_ROW(ROWS))
#define A_END p.m
#else
#define A_AT(i, k0) (p.a_first + min(m0 + INSIDE_ROW(i), p.m - 1) * p.a_stride)
#define A_INNER(k0) (k0 + INSIDE_K)
#define A_END p.k
#endif
#if KIND == PRODUCT_NT
#define B_AT(i, k0) (p.b_first + line_of(min(n0 + INSIDE_ROW(i), p.n - 1)) * p.b_stride)
#define B_INNER(k0) (k0 + INSIDE_K)
#define B_END p.k
#else
#define B_AT(i, k0) (p.b_first + min(k0 + OUTSIDE_K(i, COLUMNS), p.k - 1) * p.b_stride)
#define B_INNER(k0) (n0 + OUTSIDE_ROW(COLUMNS))
#define B_END p.n
#endif

uvec4 each(uint at, uint inner, uint end)
{
    return at + min(uvec4(inner, inner + 1, inner + 2, inner + 3), uvec4(end - 1));
}

// The tile at k, element by element.
void gather_tiles(uint k)
{
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
        gather(p.a, each(A_AT(i, k), A_INNER(k), A_END), a_next[i]);
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        gather(p.b, each(B_AT(i, k), B_INNER(k), B_END), b_next[i]);
}


// The tiles begin at 64-bit addresses of the group, the quads of a lane at 32-bit offsets in them: the way to the next tile
// costs a lane nothing. `readonly` tells the build that accesses are near (shaders/in_bounds.c).
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Near4 { uvec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer Near2 { uvec2 v[]; };
uvec2 a_origin, b_origin;
uint a_at[A_QUADS], b_at[B_QUADS]; // in quads
void load(uvec2 base, uint i, out uvec4 raw)
{
    raw = Near4(base).v[i];
}
void load(uvec2 base, uint i, out uvec2 raw)
{
    raw = Near2(base).v[i];
}
uvec2 address(uvec2 base, uint element, uint shift)
{
    uint carry;
    const uint low = uaddCarry(base.x, element << shift, carry);
    return uvec2(low, base.y + (element >> (32 - shift)) + carry);
}
const uint A_SHIFT = A_RAW(0).length() / 2, B_SHIFT = B_RAW(0).length() / 2; // 1 << this: bytes of an element
void point_to_tiles()
{
#if KIND == PRODUCT_TN
    a_origin = address(p.a, p.a_first + m0, A_SHIFT);
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
        a_at[i] = (OUTSIDE_K(i, ROWS) * p.a_stride + min(OUTSIDE_ROW(ROWS), p.m - m0 - 4)) / 4;
#else
    a_origin = address(p.a, p.a_first + m0 * p.a_stride, A_SHIFT);
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
        a_at[i] = (min(INSIDE_ROW(i), p.m - m0 - 1) * p.a_stride + INSIDE_K) / 4;
#endif
#if KIND == PRODUCT_NT
    b_origin = address(p.b, p.b_first + line_of(n0) * p.b_stride, B_SHIFT);
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        b_at[i] = (line_of(min(INSIDE_ROW(i), p.n - n0 - 1)) * p.b_stride + INSIDE_K) / 4;
#else
    b_origin = address(p.b, p.b_first + n0, B_SHIFT);
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        b_at[i] = (OUTSIDE_K(i, COLUMNS) * p.b_stride + min(OUTSIDE_ROW(COLUMNS), p.n - n0 - 4)) / 4;
#endif
}

// The whole tile at k.
void load_tiles(uint k)
{
    if (!ALIGNED) {
        gather_tiles(k);
        return;
    }
    const uvec2 a = address(a_origin, KIND == PRODUCT_TN ? k * p.a_stride : k, A_SHIFT);
    const uvec2 b = address(b_origin, KIND == PRODUCT_NT ? k : k * p.b_stride, B_SHIFT);
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
        load(a, a_at[i], a_next[i]);
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        load(b, b_at[i], b_next[i]);
}

// Where a lane writes and reads the shared tiles; the rest of an index is a constant.
uint a_write, b_write, a_read, b_read;
void point_to_shared()
{
#if KIND == PRODUCT_TN
    a_write = lane / (ROWS / 4) * A_STRIDE + lane % (ROWS / 4);
#else
    a_write = INSIDE_K * A_STRIDE + INSIDE_ROW(0) / 4;
#endif
#if KIND == PRODUCT_NT
    b_write = INSIDE_K * B_STRIDE + INSIDE_ROW(0) / 4;
#else
    b_write = lane / (COLUMNS / 4) * B_STRIDE + lane % (COLUMNS / 4);
#endif
    a_read = lane / COLUMN_BLOCKS;
    b_read = lane % COLUMN_BLOCKS;
}

// From the registers into the shared tiles, turned where k is inside.
void store_tiles()
{
    [[unroll]] for (uint i = 0; i < A_QUADS; i++) {
        const vec4 x = values(a_next[i]);
#if KIND == PRODUCT_TN
        a_tile[a_write + i * (INVOCATIONS / (ROWS / 4) * A_STRIDE)] = x;
#else
        [[unroll]] for (uint j = 0; j < 4; j++)
            a_tile[a_write + i * (INVOCATIONS / STEP) + j * A_STRIDE][INSIDE_ROW(0) % 4] = x[j];
#endif
    }
    [[unroll]] for (uint i = 0; i < B_QUADS; i++) {
        const vec4 x = values(b_next[i]);
#if KIND == PRODUCT_NT
        [[unroll]] for (uint j = 0; j < 4; j++)
            b_tile[b_write + i * (INVOCATIONS / STEP) + j * B_STRIDE][INSIDE_ROW(0) % 4] = x[j];
#else
        b_tile[b_write + i * (INVOCATIONS / (COLUMNS / 4) * B_STRIDE)] = x;
#endif
    }
}

void multiply(uint k)
{
    vec4 x[TM / 4], y[TN / 4];
    [[unroll]] for (uint g = 0; g < TM / 4; g++)
        x[g] = a_tile[a_read + k * A_STRIDE + g * ROW_BLOCKS];
    [[unroll]] for (uint g = 0; g < TN / 4; g++)
        y[g] = b_tile[b_read + k * B_STRIDE + g * COLUMN_BLOCKS];
    // Along diagonals: neighbours share neither row, column nor parity of the sum's register, so that RDNA3 issues them in pairs.
    [[unroll]] for (uint g = 0; g < TN / 4; g++)
        [[unroll]] for (uint d = 0; d < 4; d++)
            [[unroll]] for (uint i = 0; i < TM; i++) {
                const uint c = (i + d) % 4;
                acc[i * (TN / 4) + g][c] = fma(x[i / 4][i % 4], y[g][c], acc[i * (TN / 4) + g][c]);
            }
}

void finish()
{
    [[unroll]] for (uint g = 0; g < TN / 4; g++) {
        const uint column = n0 + 4 * (lane % COLUMN_BLOCKS + g * COLUMN_BLOCKS);
        const vec4 bias = quad_bias(quad_columns(column));
        [[unroll]] for (uint i = 0; i < TM; i++)
            finish_quad(acc[i * (TN / 4) + g], m0 + 4 * (lane / COLUMN_BLOCKS + i / 4 * ROW_BLOCKS) + i % 4, column, bias);
    }
}

void main()
{
    const uint down = (p.m + ROWS - 1) / ROWS, across = (p.n + COLUMNS - 1) / COLUMNS;
    const uint group = group_index();
    if (group >= down * across)
        return;
    const uint stripe = group / (STRIPE * across), within = group % (STRIPE * across);
    const uint height = min(STRIPE, down - stripe * STRIPE);
    m0 = (stripe * STRIPE + within % height) * ROWS;
    n0 = within / height * COLUMNS;
    lane = gl_LocalInvocationIndex;

    [[unroll]] for (uint i = 0; i < TM * (TN / 4); i++)
        acc[i] = vec4(0);

    const uint whole = p.k & ~(STEP - 1u);
    point_to_shared();
    if (whole != 0) {
        point_to_tiles();
        load_tiles(0);
        store_tiles();
    }
    barrier();
    for (uint k = STEP; k <= whole; k += STEP) {
        // The last turn reads its tile again and drops it: cheaper than a branch.
        load_tiles(min(k, whole - STEP));
        [[unroll]] for (uint u = 0; u < STEP; u++)
            multiply(u);
        barrier();
        store_tiles();
        barrier();
    }
    if (whole < p.k) {
        gather_tiles(whole);
        store_tiles();
        barrier();
        for (uint u = 0; u < p.k - whole; u++)
            multiply(u);
    }
    finish();
}
