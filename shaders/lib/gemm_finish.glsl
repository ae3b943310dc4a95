// The end of a product, shared by the families for GPUs: four neighbours of a row of sums get bias, residual and what C
// held, in this order, and are written. The kernel defines C_TYPE, HALVES and the push constants `p` (gemm_args) before.
#ifndef GEMM_FINISH_GLSL
#define GEMM_FINISH_GLSL

vec4 four_floats(uvec2 base, uvec4 i, uint type)
{
    return vec4(load_float(base, i.x, type), load_float(base, i.y, type), load_float(base, i.z, type),
                load_float(base, i.w, type));
}

// Columns of a quad, those beyond the edge the last one again.
uvec4 quad_columns(uint column)
{
    return min(uvec4(column, column + 1, column + 2, column + 3), uvec4(p.n - 1));
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

// `bias`: quad_bias of the same columns, for several rows at once.
void finish_quad(vec4 x, uint row, uint column, vec4 bias)
{
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
