// C = beta C + op(A) op(B) + bias + residual: the "coopmat" family, for devices with matrix units.
//   NT: A [M, K], B [N, K].   NN: A [M, K], B [K, N].   TN: A [K, M], B [K, N].   C [M, N], bias [N], residual [M, N].
// A and B are both fp16 (this source as it is) or both bf16 (the same module, its 16-bit type exchanged by bfloat16.c);
// products are exact, sums f32. Needs KHR_cooperative_matrix; bf16 also KHR_shader_bfloat16.
// Args: gemm_args (args/gemm.h). Dispatch: ceil(M / ROWS) * ceil(N / COLUMNS) groups of INVOCATIONS.
//
// Sum: the rest of K beyond a multiple of STEP first, filled up with zeros, then k ascending from 0; MATRIX_K at a time are
// added to the f32 accumulator by one matrix multiply-add, whose own order is the device's and the same for every element.
// Then + bias, + residual, + old C. Neither M, N, the tile, the layout nor the place in the tile enters, but the order is not
// that of the other families: a device that computes a product here does so for every M (compute/nn/gemm_choose.c).
//
// One workgroup computes ROWS x COLUMNS, a subgroup TM x TN of them in matrices of MATRIX_M x MATRIX_N. All matrices of A
// are loaded once a block of k, those of B one by one. The shared tiles hold 16-bit values with k inside: 16 bytes a read.
// While a tile is multiplied, the next one's words travel into registers.
// Defines: KIND 0 NT, 1 NN, 2 TN. Constants: the tile, LOAD and the matrices (compute/nn/gemm_tile.h).
// All lanes of a group reach every barrier. All-zero args: m is 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#include "shaders/lib/types.glsl"
#include "shaders/args/gemm.h"

layout(local_size_x_id = 2) in;
layout(constant_id = 1) const uint C_TYPE = 0; // 0 f32; 1 bf16, 2 fp16: even stride, rows at whole words
layout(constant_id = 2) const uint INVOCATIONS = 128;
layout(constant_id = 3) const uint ROWS = 128;
layout(constant_id = 4) const uint COLUMNS = 128;
layout(constant_id = 5) const uint TM = 64;
layout(constant_id = 6) const uint TN = 64;
layout(constant_id = 7) const uint LOAD = 8; // values a load of A and B: 8, 4 where only these fit, else 1; K < STEP: 1
layout(constant_id = 8) const uint MATRIX_M = 16;
layout(constant_id = 9) const uint MATRIX_N = 16;
layout(constant_id = 10) const uint MATRIX_K = 16;
layout(constant_id = 11) const uint HALVES = 2; // bias, residual where they have 16 bits: 1 bf16, 2 fp16
#if KIND == 0
layout(constant_id = 12) const bool SWIGLU = false; // B is [gate, up], see lib/gemm_finish.glsl
#else
const bool SWIGLU = false;
#endif
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Quad { uvec4 v; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer Pair { uvec2 v; };
layout(push_constant, scalar) uniform Args { gemm_args p; };
#include "shaders/lib/gemm_finish.glsl"

#define PRODUCT_NT 0
#define PRODUCT_NN 1
#define PRODUCT_TN 2
const uint STEP = 32;               // k per tile
const uint STRIPE = 8;              // tiles above each other that run before the next column: they share B in the L2 cache
const uint STRIDE = STEP / 8 + 1;   // uvec4 (8 values) from row to row of a tile; the spare one spreads the banks
const uint B_TILE = ROWS * STRIDE;  // where B begins
const uint FM = TM / MATRIX_M;
const uint FN = TN / MATRIX_N;
const uint STAGE_STRIDE = TN / 4 + 1; // of a strip of sums, MATRIX_M x TN, in vec4
const uint STAGE = MATRIX_M * STAGE_STRIDE;
const uint SUBGROUPS = INVOCATIONS / SUBGROUP;

// Both tiles; after the sum a strip for each subgroup.
const uint TILES = (ROWS + COLUMNS) * STRIDE;
const uint STAGES = STAGE * SUBGROUPS;
shared uvec4 tile[TILES > STAGES ? TILES : STAGES];

// An operand with k inside travels in quads of 8 values along k, STEP / 8 to a row of the tile; one with k outside in blocks
// of 4 k x 8 rows, which are turned on the way into the tile. Either way a lane loads 4 quads for 32 values; `extent` rows
// make extent blocks, or 4 * extent quads.
#define UNITS(extent) ((4 * (extent) + INVOCATIONS - 1) / INVOCATIONS)     // quads of a lane
#define BLOCKS(extent) (((extent) + INVOCATIONS - 1) / INVOCATIONS)       // blocks of a lane
const uint A_QUADS = KIND == PRODUCT_TN ? 4 * BLOCKS(ROWS) : UNITS(ROWS);
const uint B_QUADS = KIND == PRODUCT_NT ? UNITS(COLUMNS) : 4 * BLOCKS(COLUMNS);

uint m0, n0;
uvec4 a_next[A_QUADS];
uvec4 b_next[B_QUADS];

// Where the tiles begin in memory, and where in them a lane's quads (blocks) do, in bytes: 64 bits for the group, 32 a lane,
// so that the way to the next tile costs a lane nothing.
uint64_t a_origin, b_origin, a_step, b_step;
uint a_at[A_QUADS], b_at[B_QUADS];

uint64_t origin(uvec2 base, uint element, uint stride, uint line)
{
    return packUint2x32(base) + 2 * (uint64_t(element) + uint64_t(line) * stride);
}

// Of an operand with k inside: quad i, and the row it belongs to; rows beyond the edge are the last one again.
uint inside_row(uint i, uint extent, uint rows_left)
{
    return min(min((gl_LocalInvocationIndex + i * INVOCATIONS) / 4, extent - 1), rows_left - 1);
}
uint inside_at(uint i, uint row, uint stride)
{
    return row * (2 * stride) + (gl_LocalInvocationIndex + i * INVOCATIONS) % 4 * 16;
}
// With k outside: block i, rows in loads of LOAD.
uint outside_row(uint i, uint extent)
{
    return min(gl_LocalInvocationIndex + i * INVOCATIONS, extent - 1) / (STEP / 4) * 8;
}
uint outside_at(uint i, uint extent, uint rows_left, uint stride)
{
    const uint quarter = min(gl_LocalInvocationIndex + i * INVOCATIONS, extent - 1) % (STEP / 4);
    return quarter * (8 * stride) + 2 * min(outside_row(i, extent), rows_left - LOAD);
}

uvec4 load_quad(uint64_t from, uint at, uint second)
{
    if (LOAD == 8)
        return Quad(from + uint64_t(at)).v;
    return uvec4(Pair(from + uint64_t(at)).v, Pair(from + uint64_t(second)).v);
}

uint half_word(uvec2 base, uint i)
{
    return (U32(base).v[i >> 1] >> (16u * (i & 1u))) & 0xffffu;
}
// Quads value by value: any layout, and the rest of a sum, which is filled up with zeros.
uvec4 gather_inside(uvec2 base, uint base_first, uint stride, uint i, uint row, uint k)
{
    const uint inner = k + (gl_LocalInvocationIndex + i * INVOCATIONS) % 4 * 8, line = base_first + row * stride;
    uvec4 x = uvec4(0);
    [[unroll]] for (uint j = 0; j < 8; j++)
        x[j / 2] |= (inner + j < p.k ? half_word(base, line + min(inner + j, p.k - 1)) : 0) << (16 * (j % 2));
    return x;
}
uvec4 gather_outside(uvec2 base, uint base_first, uint stride, uint i, uint extent, uint first, uint rows, uint k)
{
    const uint e = min(gl_LocalInvocationIndex + i / 4 * INVOCATIONS, extent - 1), inner = first + e / (STEP / 4) * 8;
    const uint at = k + e % (STEP / 4) * 4 + i % 4, line = base_first + min(at, p.k - 1) * stride;
    uvec4 x = uvec4(0);
    [[unroll]] for (uint j = 0; j < 8; j++)
        x[j / 2] |= half_word(base, line + min(inner + j, rows - 1)) << (16 * (j % 2));
    return at < p.k ? x : uvec4(0);
}

void gather_tiles(uint k)
{
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
#if KIND == PRODUCT_TN
        a_next[i] = gather_outside(p.a, p.a_first, p.a_stride, i, ROWS, m0, p.m, k);
#else
        a_next[i] = gather_inside(p.a, p.a_first, p.a_stride, i, m0 + inside_row(i, ROWS, p.m - m0), k);
#endif
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
#if KIND == PRODUCT_NT
        b_next[i] = gather_inside(p.b, p.b_first, p.b_stride, i, line_of(n0 + inside_row(i, COLUMNS, p.n - n0)), k);
#else
        b_next[i] = gather_outside(p.b, p.b_first, p.b_stride, i, COLUMNS, n0, p.n, k);
#endif
}

void point_to_tiles()
{
#if KIND == PRODUCT_TN
    a_origin = origin(p.a, p.a_first + m0, 0, 0);
    a_step = 2 * STEP * uint64_t(p.a_stride);
    [[unroll]] for (uint i = 0; i < A_QUADS; i += 4)
        a_at[i] = outside_at(i / 4, ROWS, p.m - m0, p.a_stride);
#else
    a_origin = origin(p.a, p.a_first, p.a_stride, m0);
    a_step = 2 * STEP;
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
        a_at[i] = inside_at(i, inside_row(i, ROWS, p.m - m0), p.a_stride);
#endif
#if KIND == PRODUCT_NT
    b_origin = origin(p.b, p.b_first, p.b_stride, line_of(n0));
    b_step = 2 * STEP;
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        b_at[i] = inside_at(i, line_of(inside_row(i, COLUMNS, p.n - n0)), p.b_stride);
#else
    b_origin = origin(p.b, p.b_first + n0, 0, 0);
    b_step = 2 * STEP * uint64_t(p.b_stride);
    [[unroll]] for (uint i = 0; i < B_QUADS; i += 4)
        b_at[i] = outside_at(i / 4, COLUMNS, p.n - n0, p.b_stride);
#endif
}

// The whole tile at k, the next of those that `a_origin` and `b_origin` point to; `forward` false: the same again.
void load_tiles(uint k, bool forward)
{
    if (LOAD == 1) {
        gather_tiles(k);
        return;
    }
#if KIND == PRODUCT_TN
    [[unroll]] for (uint i = 0; i < A_QUADS; i++) {
        const uint at = a_at[i / 4 * 4], row = outside_row(i / 4, ROWS), left = p.m - m0 - LOAD;
        a_next[i] = load_quad(a_origin + 2 * uint64_t(i % 4) * p.a_stride, at,
                              at + 2 * (min(row + 4, left) - min(row, left)));
    }
#else
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
        a_next[i] = load_quad(a_origin, a_at[i], a_at[i] + 8);
#endif
#if KIND == PRODUCT_NT
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        b_next[i] = load_quad(b_origin, b_at[i], b_at[i] + 8);
#else
    [[unroll]] for (uint i = 0; i < B_QUADS; i++) {
        const uint at = b_at[i / 4 * 4], row = outside_row(i / 4, COLUMNS), left = p.n - n0 - LOAD;
        b_next[i] = load_quad(b_origin + 2 * uint64_t(i % 4) * p.b_stride, at,
                              at + 2 * (min(row + 4, left) - min(row, left)));
    }
#endif
    a_origin += forward ? a_step : 0;
    b_origin += forward ? b_step : 0;
}

// Where a lane's first quad (block) lies in a tile; the next ones are a constant apart.
uint inside_first, turned_first;
void store_inside(uvec4 x, uint i, uint extent, uint base)
{
    if (4 * extent % INVOCATIONS == 0 || gl_LocalInvocationIndex + i * INVOCATIONS < 4 * extent)
        tile[inside_first + base + i * (INVOCATIONS / 4 * STRIDE)] = x;
}

uint pair(uint low, uint high, uint half_)
{
    return pack32(u16vec2(unpack16(low)[half_], unpack16(high)[half_]));
}
// A block of 4 k x 8 rows, given by k.
void store_turned(uvec4 k0, uvec4 k1, uvec4 k2, uvec4 k3, uint block, uint extent, uint base)
{
    const uint component = gl_LocalInvocationIndex % 2 * 2;
    if (extent % INVOCATIONS == 0 || gl_LocalInvocationIndex + block * INVOCATIONS < extent)
        [[unroll]] for (uint j = 0; j < 8; j++) {
            const uint at = turned_first + base + block * (INVOCATIONS * STRIDE) + j * STRIDE;
            tile[at][component] = pair(k0[j / 2], k1[j / 2], j % 2);
            tile[at][component + 1] = pair(k2[j / 2], k3[j / 2], j % 2);
        }
}

void store_tiles()
{
#if KIND == PRODUCT_TN
    [[unroll]] for (uint i = 0; i < A_QUADS; i += 4)
        store_turned(a_next[i], a_next[i + 1], a_next[i + 2], a_next[i + 3], i / 4, ROWS, 0);
#else
    [[unroll]] for (uint i = 0; i < A_QUADS; i++)
        store_inside(a_next[i], i, ROWS, 0);
#endif
#if KIND == PRODUCT_NT
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        store_inside(b_next[i], i, COLUMNS, B_TILE);
#else
    [[unroll]] for (uint i = 0; i < B_QUADS; i += 4)
        store_turned(b_next[i], b_next[i + 1], b_next[i + 2], b_next[i + 3], i / 4, COLUMNS, B_TILE);
#endif
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
    const uint row = gl_SubgroupID / (COLUMNS / TN) * TM, column = gl_SubgroupID % (COLUMNS / TN) * TN;

    coopmat<float, gl_ScopeSubgroup, MATRIX_M, MATRIX_N, gl_MatrixUseAccumulator> acc[FM * FN];
    [[unroll]] for (uint i = 0; i < FM * FN; i++)
        acc[i] = coopmat<float, gl_ScopeSubgroup, MATRIX_M, MATRIX_N, gl_MatrixUseAccumulator>(0.0);

    const uint rest = p.k % STEP, whole = p.k - rest;
    point_to_tiles();
    inside_first = gl_LocalInvocationIndex / 4 * STRIDE + gl_LocalInvocationIndex % 4;
    turned_first = gl_LocalInvocationIndex / (STEP / 4) * (8 * STRIDE) + gl_LocalInvocationIndex % (STEP / 4) / 2;
    if (rest != 0)
        gather_tiles(whole);
    else if (whole != 0)
        load_tiles(0, whole > STEP);
    store_tiles();
    barrier();
    for (uint k = rest != 0 ? 0 : STEP; k < whole + STEP && p.k != 0; k += STEP) {
        // The last turn reads a tile again and drops it: cheaper than a branch. (K below STEP: LOAD is 1, any k will do.)
        load_tiles(min(k, max(whole, STEP) - STEP), k + STEP < whole);
        [[unroll]] for (uint u = 0; u < STEP / MATRIX_K; u++) {
            coopmat<float16_t, gl_ScopeSubgroup, MATRIX_M, MATRIX_K, gl_MatrixUseA> x[FM];
            [[unroll]] for (uint i = 0; i < FM; i++)
                coopMatLoad(x[i], tile, (row + i * MATRIX_M) * STRIDE + u * MATRIX_K / 8, STRIDE,
                            gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint j = 0; j < FN; j++) {
                coopmat<float16_t, gl_ScopeSubgroup, MATRIX_K, MATRIX_N, gl_MatrixUseB> y;
                coopMatLoad(y, tile, B_TILE + (column + j * MATRIX_N) * STRIDE + u * MATRIX_K / 8, STRIDE,
                            gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint i = 0; i < FM; i++)
                    acc[i * FN + j] = coopMatMulAdd(x[i], y, acc[i * FN + j]);
            }
        }
        barrier();
        store_tiles();
        barrier();
    }

    // The lanes of a matrix are the device's secret: sums go through shared memory, a strip of matrices at a time. (The outer
    // loop stays one, the indices of matrices are constant all the same: else they would go through memory.)
    const uint stage = gl_SubgroupID * STAGE;
    [[dont_unroll]] for (uint i = 0; i < FM; i++) {
        [[unroll]] for (uint j = 0; j < FM * FN; j++)
            if (j / FN == i)
                coopMatStore(acc[j], tile, stage + j % FN * MATRIX_N / 4, STAGE_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        barrier();
        for (uint q = gl_SubgroupInvocationID; q < MATRIX_M * TN / 4; q += SUBGROUP) {
            const uint c = n0 + column + q % (TN / 4) * 4, r = q / (TN / 4);
            if (c < p.n)
                finish_quad(uintBitsToFloat(tile[stage + r * STAGE_STRIDE + q % (TN / 4)]),
                            m0 + row + i * MATRIX_M + r, c, quad_bias(quad_columns(c)));
        }
        barrier();
    }
}
