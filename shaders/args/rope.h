// Arguments of rope.comp.
#include "shaders/args/types.h"

#define ROPE_SKIP 0xffffffffu // slot of a row that is not stored

struct rope_args {
    ADDRESS qkv;       // [rows, stride], type by constant 1: q | k | v, rotated in place
    ADDRESS table;     // f32 [table_rows, 2 frequencies]: cosines, then sines
    ADDRESS positions; // u32 [rows, 4]: one position an axis
    ADDRESS slot;      // u32 [rows]: where k and v of the row are stored; 0: nothing is stored
    ADDRESS k, v;      // [slots, kv_heads * head_dim], type by constant 2
    UINT rows, heads, kv_heads, stride;
    UINT half_dim;     // head_dim / 2
    UINT section0, section1; // half-dimensions of axis 0 and of axis 1; the rest is axis 2
    UINT restart;      // 1: frequency indices count from the start of each section
    UINT frequencies, table_rows;
    FLOAT sign;        // 1: rotate; -1: rotate back (gradient)
};
