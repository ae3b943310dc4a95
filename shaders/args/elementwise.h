// Arguments of add.comp, convert.comp, gelu.comp, swiglu_fwd.comp and swiglu_bwd.comp.
#include "shaders/args/types.h"

// A contiguous tensor is one row of all its elements.
struct add_args {
    ADDRESS to, a, b; // [rows, columns], rows *_stride apart, types by constants 1, 2, 3; `to` may be a or b
    UINT rows, columns, to_stride, a_stride, b_stride;
};

struct convert_args {
    ADDRESS to, from; // [rows, columns], types by constants 1 (from) and 2 (to): 0 f32, 1 bf16, 2 f16
    UINT rows, columns, to_stride, from_stride;
    UINT from_first;  // 16-bit `from`: 1 where it starts in the upper half of its word
};

struct gelu_args {
    ADDRESS to, x; // [count], type by constant 1
    ADDRESS g;     // [count], or 0: forward
    UINT count;
    UINT add;      // backward: 1: to += instead of to =
};

struct swiglu_args {
    ADDRESS x;  // [rows, 2 * columns], type by constant 1: gate, up
    ADDRESS z;  // [rows, columns]: forward: result; backward: its gradient
    ADDRESS dx; // [rows, 2 * columns]: backward: result
    UINT rows, columns, x_stride;
    UINT rows_each; // rows a group does (WIDE)
    UINT add;   // backward: 1: dx += instead of dx =
};
