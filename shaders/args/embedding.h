// Arguments of embed_fwd.comp and scatter_add.comp.
#include "shaders/args/types.h"

struct embed_args {
    ADDRESS source; // i32 [rows]
    ADDRESS table;  // [V, columns], type by constant 1: 0 f32, 1 bf16, 2 f16
    ADDRESS images; // [R, columns], type by constant 2, or 0
    ADDRESS y;      // [rows, columns], type by constant 3
    UINT rows, columns;
    UINT table_stride, images_stride;
    UINT table_rows, images_rows; // a source outside gives a row of NaN instead of a wild read
};

struct scatter_args {
    ADDRESS to;                      // rows to_stride apart, type by constant 2
    ADDRESS from;                    // rows from_stride apart, type by constant 1
    ADDRESS target, starts, members; // u32 [count], [count + 1], [sum]
    UINT count, columns, to_stride, from_stride;
};
