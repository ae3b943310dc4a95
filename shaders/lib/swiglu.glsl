// SwiGLU, the same bits in every kernel that computes it: silu(a) b with silu(a) = a / (1 + exp(-a)), in f32. `a` and `b` are
// as their tensor's type holds them.
//
// A product that ends in it (constant SWIGLU) has gate's rows of B and then up's, and takes them in turns of two, so
// that who holds four neighbouring sums holds two gates and the two ups that belong to them.
#ifndef SWIGLU_GLSL
#define SWIGLU_GLSL

vec4 swiglu(vec4 a, vec4 b)
{
    return a / (1.0 + exp(-a)) * b;
}
vec2 swiglu(vec2 a, vec2 b)
{
    return a / (1.0 + exp(-a)) * b;
}

// The row of B that column t of such a product takes; `half_` rows are gate's. Of t + 4 i it is the row of t and 2 i.
uint swiglu_row(uint t, uint half_)
{
    return (t >> 2) * 2 + (t & 1u) + ((t & 2u) != 0 ? half_ : 0);
}

#endif
