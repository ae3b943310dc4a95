// C = beta C + A B^T + bias + residual for the few rows of decoding: the "tile" family's NT product of at most ROWS rows, made
// for GPUs, right on any device. A [M, K], B [N, K], C [M, N], bias [N], residual [M, N].
// Args: gemm_args (args/gemm.h). Dispatch: ceil(M / ROWS) * ceil(N / COLUMNS) groups of 128.
//
// Sum: as in gemm_tile.comp: one f32 accumulator an element, k strictly ascending from 0, fma; then + bias, + residual,
// + old C, in this order. So it has the bits of every tile, and a row those it has in a batch of many.
//
// Decoding one sequence reads every weight once and waits for nothing else. A group takes few columns, so that there are
// enough groups to keep the memory busy, and all of its lanes load them, 16 or 8 bytes each along the rows of B; through
// shared memory a lane gets the one column of the one row it sums. The next tile travels while this one is summed.
// Defines: A_HALF, B_HALF 1: 16 bits. Constants: ALIGNED: quads of both operands along k are aligned and whole.
// All lanes of a group reach every barrier. All-zero args: m is 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/gemm.h"

const uint LANES = 128, ROWS = 4, COLUMNS = 32;
layout(local_size_x = 128) in;
layout(constant_id = 1) const uint C_TYPE = 0; // 0 f32; 1 bf16, 2 fp16: even stride, rows at whole words
layout(constant_id = 2) const bool ALIGNED = false;
layout(constant_id = 3) const uint HALVES = 1; // A, B, bias, residual where they have 16 bits: 1 bf16, 2 fp16
layout(constant_id = 4) const bool SWIGLU = false; // B is [gate, up], see lib/gemm_finish.glsl
layout(push_constant, scalar) uniform Args { gemm_args p; };
#include "shaders/lib/gemm_finish.glsl"

const uint STEP = 64;           // k of a tile
const uint QUADS = STEP / 4;    // of a row of it
const uint B_QUADS = COLUMNS * QUADS / LANES; // loads of a lane
const uint STRIDE = COLUMNS + 1; // vec4 from quad to quad; the spare one spreads the banks

shared vec4 a_tile[ROWS * QUADS];
shared vec4 b_tile[QUADS * STRIDE]; // quads of k outermost
shared float sums[ROWS * COLUMNS];

uint lane, m0, n0;
vec4 a_next, b_next[B_QUADS];

// Four values of a row from k on, `at` its first element. Beyond the row the last one again, which nothing reads.
vec4 quad_of_f32(uvec2 base, uint at, uint k)
{
    if (ALIGNED)
        return uintBitsToFloat(U32x4(base).v[(at + k) >> 2]);
    const uvec4 i = at + min(uvec4(k, k + 1, k + 2, k + 3), uvec4(p.k - 1));
    return four_floats(base, i, 0);
}
vec4 quad_of_halves(uvec2 base, uint at, uint k)
{
    if (ALIGNED)
        return unpack_halves(U32x2(base).v[(at + k) >> 2], HALVES);
    const uvec4 i = at + min(uvec4(k, k + 1, k + 2, k + 3), uvec4(p.k - 1));
    return four_floats(base, i, HALVES);
}
#if A_HALF
#define A_QUAD quad_of_halves
#else
#define A_QUAD quad_of_f32
#endif
#if B_HALF
#define B_QUAD quad_of_halves
#else
#define B_QUAD quad_of_f32
#endif

// The tile at k. Rows and columns beyond the edge are the last one again. A quad of A is loaded by half of the lanes.
void load_tiles(uint k)
{
    const uint inside = k + lane % QUADS * 4, row = min(m0 + lane / QUADS % ROWS, p.m - 1);
    if (lane < ROWS * QUADS)
        a_next = A_QUAD(p.a, p.a_first + row * p.a_stride, min(inside, (p.k - 1) & ~3u));
    [[unroll]] for (uint i = 0; i < B_QUADS; i++) {
        const uint column = min(n0 + lane / QUADS + i * (LANES / QUADS), p.n - 1);
        b_next[i] = B_QUAD(p.b, p.b_first + line_of(column) * p.b_stride, min(inside, (p.k - 1) & ~3u));
    }
}

void store_tiles()
{
    if (lane < ROWS * QUADS)
        a_tile[lane] = a_next;
    [[unroll]] for (uint i = 0; i < B_QUADS; i++)
        b_tile[lane % QUADS * STRIDE + lane / QUADS + i * (LANES / QUADS)] = b_next[i];
}

void main()
{
    const uint down = (p.m + ROWS - 1) / ROWS, across = (p.n + COLUMNS - 1) / COLUMNS;
    const uint group = group_index();
    if (group >= down * across)
        return;
    m0 = group / across * ROWS;
    n0 = group % across * COLUMNS;
    lane = gl_LocalInvocationIndex;

    const uint column = lane % COLUMNS, a_read = lane / COLUMNS * QUADS;
    float sum = 0;
    if (p.k != 0)
        load_tiles(0);
    for (uint k = 0; k < p.k; k += STEP) {
        barrier();
        store_tiles();
        barrier();
        if (k + STEP < p.k)
            load_tiles(k + STEP);
        const uint whole = min(STEP, p.k - k) / 4, rest = min(STEP, p.k - k) % 4;
        for (uint q = 0; q < whole; q++) {
            const vec4 x = a_tile[a_read + q], y = b_tile[q * STRIDE + column];
            [[unroll]] for (uint j = 0; j < 4; j++)
                sum = fma(x[j], y[j], sum);
        }
        if (rest != 0) {
            const vec4 x = a_tile[a_read + whole], y = b_tile[whole * STRIDE + column];
            [[unroll]] for (uint j = 0; j < 3; j++)
                if (j < rest)
                    sum = fma(x[j], y[j], sum);
        }
    }
    // Neighbours of a row share words of C.
    sums[lane] = sum;
    barrier();
    if (lane < ROWS * COLUMNS / 4) {
        const uint at = 4 * lane, first = n0 + at % COLUMNS;
        finish_quad(vec4(sums[at], sums[at + 1], sums[at + 2], sums[at + 3]), m0 + at / COLUMNS, first,
                    quad_bias(quad_columns(first)));
    }
}
