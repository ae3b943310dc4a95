// Arguments of gather_rows.comp.
#include "shaders/args/types.h"

struct gather_rows_args {
    ADDRESS to;     // [rows, words] 32-bit words, without gaps
    ADDRESS runs;   // address of each source: u32 pairs
    ADDRESS places; // u32 [rows, 2]: source, row in it
    UINT rows, words;
    UINT rows_each; // rows a group does (WIDE)
};
