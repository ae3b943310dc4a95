// The end of a product, shared by the families for GPUs: four neighbours of a row of sums get bias, residual and what C
// held, in this order, and are written; or, with SWIGLU, the bias, and h = silu(gate) up is written, C where it has an address.
// The kernel defines C_TYPE, HALVES, SWIGLU and the push constants `p` (gemm_args) before.
#ifndef GEMM_FINISH_GLSL
#define GEMM_FINISH_GLSL
#include "shaders/lib/swiglu.glsl"

vec4 four_floats(uvec2 base, uvec4 i, uint type)
{
    return vec4(load_float(base, i.x, type), load_float(base, i.y, type), load_float(base, i.z, type),
                load_float(base, i.w, type));
}

// The row of B that column t of the product takes.
uint line_of(uint t)
{
    return SWIGLU ? swiglu_row(t, p.n / 2) : t;
}

// Columns of a quad, as rows of B; those beyond the edge are the last one again.
uvec4 quad_columns(uint column)
{
    const uvec4 t = min(uvec4(column, column + 1, column + 2, column + 3), uvec4(p.n - 1));
    return SWIGLU ? uvec4(line_of(t.x), line_of(t.y), line_of(t.z), line_of(t.w)) : t;
}

vec4 quad_bias(uvec4 columns)
{
    if (!has_address(p.bias))
        return vec4(0);
    return four_floats(p.bias, p.bias_first + columns, (p.flags & GEMM_BIAS_HALF) != 0 ? HALVES : 0);
}

void write_quad(vec4 x, uint row, uint column)
{
    if (row >= p.m || column >= p.n)
        return;
    const uint i = row * p.c_stride + column;
    if (C_TYPE != 0) {
        // Two neighbours of a row make a word. A last odd column keeps what lies behind it.
        U32 c = U32(p.c);
        const uvec2 w = pack_halves(x, C_TYPE);
        c.v[i >> 1] = column + 1 < p.n ? w.x : (w.x & 0xffffu) | (c.v[i >> 1] & 0xffff0000u);
        if (column + 2 < p.n)
            c.v[(i >> 1) + 1] = column + 3 < p.n ? w.y : (w.y & 0xffffu) | (c.v[(i >> 1) + 1] & 0xffff0000u);
    } else if ((p.flags & GEMM_C_QUADS) != 0) {
        F32x4(p.c).v[i >> 2] = x;
    } else {
        F32 c = F32(p.c);
        [[unroll]] for (uint j = 0; j < 4; j++)
            if (column + j < p.n)
                c.v[i + j] = x[j];
    }
}

// Two neighbours at element i, an even one: 16-bit ones as a word. The tensor starts at a multiple of 8 bytes.
void write_pair(uvec2 base, uint i, vec2 x, uint word)
{
    if (C_TYPE != 0)
        U32(base).v[i >> 1] = word;
    else
        U32x2(base).v[i >> 1] = floatBitsToUint(x);
}

// Of two gates and their ups (lib/swiglu.glsl), rounded as C holds them. Quads are whole: the width of h is even.
void finish_swiglu(vec4 x, uint row, uint column, vec4 bias)
{
    if (row >= p.m || column >= p.n)
        return;
    if (has_address(p.bias))
        x += bias;
    // Mesa takes a conversion to fp16 and back for none, unless there is something between that it does not know.
    const uvec2 words = pack_halves(x, C_TYPE) | (p.flags & GEMM_NEVER);
    if (C_TYPE != 0)
        x = unpack_halves(words, C_TYPE);
    const uint columns = p.n / 2, i = row * p.c_stride + column / 2;
    if (has_address(p.c)) {
        write_pair(p.c, i, x.xy, words.x);
        write_pair(p.c, i + columns, x.zw, words.y);
    }
    const vec2 z = swiglu(x.xy, x.zw);
    write_pair(p.h, row * columns + column / 2, z, pack_halves(z.x, z.y, C_TYPE));
}

// `bias`: quad_bias of the same columns, for several rows at once.
void finish_quad(vec4 x, uint row, uint column, vec4 bias)
{
    if (SWIGLU) {
        finish_swiglu(x, row, column, bias);
        return;
    }
    const uvec4 inside = quad_columns(column);
    const uint within = min(row, p.m - 1);
    if (has_address(p.bias))
        x += bias;
    if (has_address(p.residual))
        x += four_floats(p.residual, p.residual_first + within * p.residual_stride + inside,
                         (p.flags & GEMM_RESIDUAL_HALF) != 0 ? HALVES : 0);
    if ((p.flags & GEMM_BETA) != 0)
        x += four_floats(p.c, within * p.c_stride + inside, C_TYPE);
    write_quad(x, row, column);
}

#endif
