// Arguments of embed_fwd.comp and scatter_add.comp.
#include "shaders/args/types.h"

struct embed_args {
    ADDRESS source; // i32 [rows]
    ADDRESS table;  // [V, columns], type by constant 1: 0 f32, 1 bf16, 2 f16
    ADDRESS images; // f32 [R, columns], or 0
    ADDRESS y;      // f32 [rows, columns]
    UINT rows, columns;
    UINT table_stride, images_stride;
    UINT table_rows, images_rows; // a source outside gives a row of NaN instead of a wild read
};

struct scatter_args {
    ADDRESS to;                      // f32, rows to_stride apart
    ADDRESS from;                    // f32, rows from_stride apart
    ADDRESS target, starts, members; // u32 [count], [count + 1], [sum]
    UINT count, columns, to_stride, from_stride;
};
