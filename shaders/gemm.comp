// C = beta C + op(A) op(B) + bias + residual: the "simd" family, made for CPU drivers, right on any device.
//   NT: A [M, K], B [N, K].   NN: A [M, K], B [K, N].   TN: A [K, M], B [K, N].   C [M, N], bias [N], residual [M, N].
// Args: gemm_args (args/gemm.h). Dispatch: ceil(M / TM) * ceil(N / (COLUMNS * SUBGROUP)) groups of one subgroup.
//
// Sum: one f32 accumulator an element, k strictly ascending from 0, fma; then + bias, + residual, + old C, in this
// order. Neither M, N, the tile nor the variant below enters, so every variant of a product gives the same bits.
// With SWIGLU (NT, WIDE) the product ends in h = silu(gate) up, see lib/gemm_swiglu.glsl.
//
// One subgroup computes TM rows x COLUMNS*SUBGROUP columns without shared memory: lanes hold columns; the lanes load
// the rows' values and each is broadcast from its lane (a broadcast from a constant lane costs less than a load; on CPU
// drivers any load costs about one scalar load a lane, so loads are what is counted).
// Defines: KIND 0 NT, 1 NN, 2 TN; A_HALF, B_HALF 1: 16 bits; TM rows; COLUMNS a lane; UNROLL k per turn of the loop, 4 or 8; PAIR
// rows multiplied at once (a divisor of TM: what is read of B serves them all); WIDE
// 2: loads of texels of 16 bytes (lib/texels.glsl; addresses, strides and the extent along a contiguous axis that is not k in
// multiples of a texel), 1: 64-bit loads (the int64 feature; multiples of 8 bytes), 0: any layout.
// All-zero args: m is 0, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/swiglu.glsl"
#include "shaders/args/gemm.h"
#if WIDE
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
#endif
#if WIDE == 2
#include "shaders/lib/texels.glsl"
#elif WIDE
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer U64 { uint64_t v[]; };
#endif

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint C_TYPE = 0; // 0 f32; 1 bf16, 2 fp16: even stride, rows at whole words
layout(constant_id = 2) const uint HALVES = 1; // A, B, bias, residual where they have 16 bits: 1 bf16, 2 fp16
#if KIND == 0 && WIDE
layout(constant_id = 3) const bool SWIGLU = false; // B is [gate, up], M x N/2 values h are stored, C where it has an address
#else
const bool SWIGLU = false;
#endif
layout(push_constant, scalar) uniform Args { gemm_args p; };

#define NT 0
#define NN 1
#define TN 2
const uint TURN = 4 * 32768;     // k per inner loop: some drivers end a loop after 65535 turns
const uint LOADS = (TM + 3) / 4; // room for A at the smallest subgroup

// Elements that one wide load brings along the contiguous axis of A and of B, when that axis is not k.
#if WIDE && KIND == TN
const uint A_VEC = (A_HALF == 1 ? 4 : 2) * WIDE;
#else
const uint A_VEC = 1;
#endif
#if WIDE && KIND != NT
const uint B_VEC = (B_HALF == 1 ? 4 : 2) * WIDE;
#else
const uint B_VEC = 1;
#endif

// Neighbouring columns of a lane: what a wide load of B brings; of NT, whose rows of B are free to choose, those that share a
// word of C (a shuffle costs a loop over the lanes), or two gates and their ups (lib/swiglu.glsl).
#if KIND == NT
const uint SIDE = SWIGLU ? 4 : C_TYPE != 0 ? 2 : 1;
#else
const uint SIDE = B_VEC;
#endif

float acc[TM][COLUMNS];
float a[UNROLL][LOADS + A_VEC]; // [k][row of this lane]
float b[UNROLL][COLUMNS];   // [k][column of this lane]
uint a_at[LOADS + A_VEC], b_at[COLUMNS]; // element where this lane's row (column) starts

float element(uvec2 base, uint i, uint is_half)
{
    return load_float(base, i, is_half * HALVES);
}

#if WIDE == 2
// Elements of a texel, 4 of f32 or 8 of 16 bits; where a lane's row (column) starts, in texels; from k to k.
const uint A_SHIFT = A_HALF == 1 ? 3 : 2, B_SHIFT = B_HALF == 1 ? 3 : 2;
uint a_texel[LOADS + A_VEC], b_texel[COLUMNS];
uint a_step, b_step;
#elif WIDE
vec2 two(uvec2 base, uint i)
{
    uvec2 words = unpack32(U64(base).v[i >> 1]);
    return uintBitsToFloat(words);
}
vec4 four(uvec2 base, uint i)
{
    return unpack_halves(unpack32(U64(base).v[i >> 2]), HALVES);
}
#endif

// Rows this lane loads: i = 0 .. A_LOADS-1 in runs of A_VEC.
uint a_loads()
{
    return (TM + SUBGROUP - 1) / SUBGROUP < A_VEC ? A_VEC : (TM + SUBGROUP - 1) / SUBGROUP;
}

// A[row i of this lane][k + u] for u = 0 .. UNROLL-1.
void load_a(uint k)
{
#if KIND == TN
#if WIDE
    [[unroll]] for (uint u = 0; u < UNROLL; u++) {
        [[unroll]] for (uint i = 0; i < a_loads(); i += A_VEC) {
#if WIDE == 2 && A_HALF
            uvec4 x = load_texel(p.a_view, a_texel[i] + u * a_step);
            [[unroll]] for (uint w = 0; w < 8; w++)
                a[u][i + w] = unpack_halves(x[w / 2], HALVES)[w % 2];
#elif WIDE == 2
            vec4 x = uintBitsToFloat(load_texel(p.a_view, a_texel[i] + u * a_step));
            a[u][i] = x.x, a[u][i + 1] = x.y, a[u][i + 2] = x.z, a[u][i + 3] = x.w;
#elif A_HALF
            vec4 x = four(p.a, a_at[i] + (k + u) * p.a_stride);
            a[u][i] = x.x, a[u][i + 1] = x.y, a[u][i + 2] = x.z, a[u][i + 3] = x.w;
#else
            vec2 x = two(p.a, a_at[i] + (k + u) * p.a_stride);
            a[u][i] = x.x, a[u][i + 1] = x.y;
#endif
        }
    }
#else
    [[unroll]] for (uint u = 0; u < UNROLL; u++)
        [[unroll]] for (uint i = 0; i < a_loads(); i++)
            a[u][i] = element(p.a, a_at[i] + (k + u) * p.a_stride, A_HALF);
#endif
#else
    [[unroll]] for (uint i = 0; i < a_loads(); i++) {
#if WIDE == 2 && A_HALF
        [[unroll]] for (uint u = 0; u < UNROLL; u += 8) {
            uvec4 x = load_texel(p.a_view, a_texel[i] + (k >> 3) + u / 8);
            [[unroll]] for (uint w = 0; w < 8; w++)
                a[u + w][i] = unpack_halves(x[w / 2], HALVES)[w % 2];
        }
#elif WIDE == 2
        [[unroll]] for (uint u = 0; u < UNROLL; u += 4) {
            vec4 x = uintBitsToFloat(load_texel(p.a_view, p.a_texel + ((a_at[i] + k + u) >> 2)));
            a[u][i] = x.x, a[u + 1][i] = x.y, a[u + 2][i] = x.z, a[u + 3][i] = x.w;
        }
#elif WIDE && A_HALF
        [[unroll]] for (uint u = 0; u < UNROLL; u += 4) {
            vec4 x = four(p.a, a_at[i] + k + u);
            a[u][i] = x.x, a[u + 1][i] = x.y, a[u + 2][i] = x.z, a[u + 3][i] = x.w;
        }
#elif WIDE
        [[unroll]] for (uint u = 0; u < UNROLL; u += 2) {
            vec2 x = two(p.a, a_at[i] + k + u);
            a[u][i] = x.x, a[u + 1][i] = x.y;
        }
#else
        [[unroll]] for (uint u = 0; u < UNROLL; u++)
            a[u][i] = element(p.a, a_at[i] + k + u, A_HALF);
#endif
    }
#endif
}

void load_b(uint k)
{
#if KIND == NT
    [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
#if WIDE == 2 && B_HALF
        [[unroll]] for (uint u = 0; u < UNROLL; u += 8) {
            uvec4 x = load_texel(p.b_view, b_texel[j] + (k >> 3) + u / 8);
            [[unroll]] for (uint w = 0; w < 8; w++)
                b[u + w][j] = unpack_halves(x[w / 2], HALVES)[w % 2];
        }
#elif WIDE == 2
        // From k each turn: counted on in b_texel it is up to a quarter slower (docs/performance.md).
        [[unroll]] for (uint u = 0; u < UNROLL; u += 4) {
            vec4 x = uintBitsToFloat(load_texel(p.b_view, p.b_texel + ((b_at[j] + k + u) >> 2)));
            b[u][j] = x.x, b[u + 1][j] = x.y, b[u + 2][j] = x.z, b[u + 3][j] = x.w;
        }
#elif WIDE && B_HALF
        [[unroll]] for (uint u = 0; u < UNROLL; u += 4) {
            vec4 x = four(p.b, b_at[j] + k + u);
            b[u][j] = x.x, b[u + 1][j] = x.y, b[u + 2][j] = x.z, b[u + 3][j] = x.w;
        }
#elif WIDE
        [[unroll]] for (uint u = 0; u < UNROLL; u += 2) {
            vec2 x = two(p.b, b_at[j] + k + u);
            b[u][j] = x.x, b[u + 1][j] = x.y;
        }
#else
        [[unroll]] for (uint u = 0; u < UNROLL; u++)
            b[u][j] = element(p.b, b_at[j] + k + u, B_HALF);
#endif
    }
#else
    [[unroll]] for (uint u = 0; u < UNROLL; u++) {
        [[unroll]] for (uint j = 0; j < COLUMNS; j += B_VEC) {
#if WIDE == 2 && B_HALF
            uvec4 x = load_texel(p.b_view, b_texel[j] + u * b_step);
            [[unroll]] for (uint w = 0; w < 8; w++)
                b[u][j + w] = unpack_halves(x[w / 2], HALVES)[w % 2];
#elif WIDE == 2
            vec4 x = uintBitsToFloat(load_texel(p.b_view, b_texel[j] + u * b_step));
            b[u][j] = x.x, b[u][j + 1] = x.y, b[u][j + 2] = x.z, b[u][j + 3] = x.w;
#elif WIDE && B_HALF
            vec4 x = four(p.b, b_at[j] + (k + u) * p.b_stride);
            b[u][j] = x.x, b[u][j + 1] = x.y, b[u][j + 2] = x.z, b[u][j + 3] = x.w;
#elif WIDE
            vec2 x = two(p.b, b_at[j] + (k + u) * p.b_stride);
            b[u][j] = x.x, b[u][j + 1] = x.y;
#else
            b[u][j] = element(p.b, b_at[j] + (k + u) * p.b_stride, B_HALF);
#endif
        }
    }
#endif
}

// Row q of the tile sits in this load of that lane.
#define ROW_LOAD(q) (A_VEC * ((q) / (A_VEC * SUBGROUP)) + (q) % A_VEC)
#define ROW_LANE(q) (((q) / A_VEC) % SUBGROUP)

// Adds the products of `turns` k to every sum: all k of a sum before the next sum, for then a sum is read from memory and
// written back once a turn of the loop (there are too many to stay in registers; a step of k at a time is 1.2 times slower).
void multiply(uint turns)
{
    [[unroll]] for (uint q = 0; q < TM; q += PAIR) {
        float x[PAIR][UNROLL];
        [[unroll]] for (uint u = 0; u < turns; u++)
            [[unroll]] for (uint r = 0; r < PAIR; r++)
                x[r][u] = subgroupBroadcast(a[u][ROW_LOAD(q + r)], ROW_LANE(q + r));
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
            [[unroll]] for (uint u = 0; u < turns; u++)
                [[unroll]] for (uint r = 0; r < PAIR; r++)
                    acc[q + r][j] = fma(x[r][u], b[u][j], acc[q + r][j]);
        }
    }
}

// Adds bias, residual and the old C, and stores. No `continue` here: it would keep drivers from unrolling, and then the
// accumulators live in memory.
void finish(uint m0, uint n0)
{
    // Read once: a CPU driver reads push constants again behind every condition (a third of the time of short sums).
    F32 c = F32(p.c);
    const uint c_stride = p.c_stride, m = p.m, n = p.n;
    [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
        const uint column = n0 + SIDE * (gl_SubgroupInvocationID + SUBGROUP * (j / SIDE)) + j % SIDE;
        const uint inside = min(column, n - 1);
        if (has_address(p.bias)) {
            const float bias = (p.flags & GEMM_BIAS_HALF) == 0 ? F32(p.bias).v[inside]
                                                               : load_float(p.bias, p.bias_first + inside, HALVES);
            [[unroll]] for (uint q = 0; q < TM; q++)
                acc[q][j] += bias;
        }
        if (has_address(p.residual)) {
            [[unroll]] for (uint q = 0; q < TM; q++) {
                const uint i = p.residual_first + min(m0 + q, m - 1) * p.residual_stride + inside;
                acc[q][j] += (p.flags & GEMM_RESIDUAL_HALF) == 0 ? F32(p.residual).v[i] : load_float(p.residual, i, HALVES);
            }
        }
        if ((p.flags & GEMM_BETA) != 0) {
            [[unroll]] for (uint q = 0; q < TM; q++) {
                const uint i = min(m0 + q, m - 1) * c_stride + inside;
                acc[q][j] += C_TYPE != 0 ? load_float(p.c, i, C_TYPE) : c.v[i];
            }
        }
        if (C_TYPE == 0 && column < n) {
            [[unroll]] for (uint q = 0; q < TM; q++)
                if (m0 + q < m)
                    c.v[(m0 + q) * c_stride + column] = acc[q][j];
        }
    }
    if (C_TYPE != 0) {
        // Two neighbours of a row make a word; they sit in one lane or, of a B in loads of one, in two neighbouring ones. A
        // last odd column keeps what lies behind it.
        [[unroll]] for (uint j = 0; j < COLUMNS; j += SIDE == 1 ? 1 : 2) {
            const uint column = n0 + SIDE * (gl_SubgroupInvocationID + SUBGROUP * (j / SIDE)) + j % SIDE;
            [[unroll]] for (uint q = 0; q < TM; q++) {
                const float next = SIDE == 1 ? subgroupShuffleXor(acc[q][j], 1) : acc[q][j + (SIDE == 1 ? 0 : 1)];
                if (m0 + q < m && column < n && (column & 1u) == 0) {
                    const uint i = ((m0 + q) * c_stride + column) >> 1;
                    const uint word = pack_halves(acc[q][j], next, C_TYPE);
                    U32(p.c).v[i] = column + 1 < n ? word : (word & 0xffffu) | (U32(p.c).v[i] & 0xffff0000u);
                }
            }
        }
    }
}

#if KIND == NT && WIDE
#include "shaders/lib/gemm_swiglu.glsl"
#endif

void main()
{
    const uint lane = gl_SubgroupInvocationID;
    const uint width = COLUMNS * SUBGROUP;
    const uint across = (p.n + width - 1) / width;
    const uint group = group_index();
    if (across == 0)
        return;
    const uint m0 = group / across * TM, n0 = group % across * width;
    if (m0 >= p.m)
        return;

    // Lanes beyond the edge load the last row (column) again and store nothing.
    [[unroll]] for (uint i = 0; i < a_loads(); i++) {
        const uint row = min(m0 + A_VEC * (lane + SUBGROUP * (i / A_VEC)), p.m - A_VEC) + i % A_VEC;
        a_at[i] = p.a_first + (KIND == TN ? row : row * p.a_stride);
    }
    [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
        const uint first = n0 + SIDE * (lane + SUBGROUP * (j / SIDE));
        const uint column = KIND == NT ? min(first + j % SIDE, p.n - 1) : min(first, p.n - B_VEC) + j % B_VEC;
        const uint row = SWIGLU ? swiglu_row(column, p.n / 2) : column;
        b_at[j] = p.b_first + (KIND == NT ? row * p.b_stride : column);
    }
    [[unroll]] for (uint q = 0; q < TM; q++)
        [[unroll]] for (uint j = 0; j < COLUMNS; j++)
            acc[q][j] = 0.0;

#if WIDE == 2
    a_step = p.a_stride >> A_SHIFT, b_step = p.b_stride >> B_SHIFT;
    [[unroll]] for (uint i = 0; i < a_loads(); i++)
        a_texel[i] = p.a_texel + (a_at[i] >> A_SHIFT);
    [[unroll]] for (uint j = 0; j < COLUMNS; j++)
        b_texel[j] = p.b_texel + (b_at[j] >> B_SHIFT);
#endif

    const uint whole = p.k & ~(UNROLL - 1u);
    for (uint k0 = 0; k0 < whole; k0 += TURN) {
        const uint end = min(whole, k0 + TURN);
        for (uint k = k0; k < end; k += UNROLL) {
            load_a(k);
            load_b(k);
            multiply(UNROLL);
#if WIDE == 2 && KIND == TN
            [[unroll]] for (uint i = 0; i < a_loads(); i += A_VEC)
                a_texel[i] += UNROLL * a_step;
#endif
#if WIDE == 2 && KIND != NT
            [[unroll]] for (uint j = 0; j < COLUMNS; j += B_VEC)
                b_texel[j] += UNROLL * b_step;
#endif
        }
    }
    for (uint k = whole; k < p.k; k++) {
        [[unroll]] for (uint i = 0; i < a_loads(); i++)
            a[0][i] = element(p.a, a_at[i] + (KIND == TN ? k * p.a_stride : k), A_HALF);
        [[unroll]] for (uint j = 0; j < COLUMNS; j++)
            b[0][j] = element(p.b, b_at[j] + (KIND == NT ? k : k * p.b_stride), B_HALF);
        multiply(1);
    }

#if KIND == NT && WIDE
    if (SWIGLU) {
        finish_swiglu(m0, n0);
        return;
    }
#endif
    finish(m0, n0);
}
