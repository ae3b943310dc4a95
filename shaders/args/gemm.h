// Arguments of gemm.comp, gemm_tile.comp and column_sum.comp.
#include "shaders/args/types.h"

#define GEMM_BETA 1u          // add to what C holds
#define GEMM_BIAS_HALF 2u     // the bias has 16 bits
#define GEMM_RESIDUAL_HALF 4u // the residual has 16 bits
#define GEMM_C_QUADS 8u       // f32 C can be written in aligned quads: start, stride and n (gemm_tile.comp alone reads it)
#define GEMM_NEVER 16u        // not set, which compilers cannot know (lib/gemm_swiglu.glsl)

struct gemm_args {
    ADDRESS a;        // NT, NN: [m, k]; TN: [k, m]
    ADDRESS b;        // NT: [n, k]; NN, TN: [k, n]
    ADDRESS c;        // [m, n]
    ADDRESS bias;     // [n], or 0
    ADDRESS residual; // [m, n], or 0
    ADDRESS h;        // with constant SWIGLU [m, n / 2], contiguous: silu(gate) * up of C = [gate, up]; there c may be 0
    UINT m, n, k;
    UINT a_stride, b_stride, c_stride, residual_stride;   // elements from row to row
    UINT a_first, b_first, bias_first, residual_first;    // first element: 1 where a 16-bit operand starts mid-word
    UINT flags;
    UINT a_view, a_texel, b_view, b_texel; // kernels that load texels: the view, and the operand's first texel
};

struct column_sum_args {
    ADDRESS x;    // [rows, columns], type by constant 1
    ADDRESS sums; // [ceil(rows / block), columns] f32: one row of sums a block
    UINT rows, columns, block;
    UINT x_stride, sums_stride;
    UINT accumulate; // add to what `sums` holds
};
