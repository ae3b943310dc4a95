// Arguments of norm_fwd.comp, norm_bwd.comp and norm_dw.comp. Types: 0 f32, 1 bf16, 2 f16.
#include "shaders/args/types.h"

struct norm_args {
    ADDRESS x;      // f32 [rows, columns], rows x_stride apart
    ADDRESS w;      // [columns], type by constant 1
    ADDRESS y;      // [rows, columns], type by constant 2: forward: result; backward: its gradient
    ADDRESS r;      // f32 [rows]: 1/rms; forward writes it (0: not kept)
    ADDRESS dx;     // f32 [rows, columns], rows dx_stride apart: backward
    ADDRESS dw;     // f32 [groups, columns]: the weight's gradient over the rows of a group (norm_bwd, WIDE)
    UINT rows, columns, x_stride, dx_stride;
    UINT rows_each; // rows a group does
    UINT add;       // 1: dx += instead of dx =
    UINT dw_add;    // 1: dw += instead of dw =
    FLOAT eps;
};

struct norm_dw_args {
    ADDRESS x, g, r; // f32 [rows, columns] (x_stride); [rows, columns], type by constant 1; f32 [rows]
    ADDRESS to;      // f32 [blocks, columns]: sums over blocks of rows
    UINT rows, columns, x_stride;
    UINT rows_each;  // rows a block
    UINT add;        // 1: to += instead of to =
};
