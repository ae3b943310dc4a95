// Arguments of sample_edit.comp, sample_filter.comp, sample.comp, sample_probability.comp.
#include "shaders/args/sample.h"

struct sample_edit_args {
    ADDRESS logits; // f32 [rows, columns]
    ADDRESS starts; // u32 [rows + 1] into edits; 0: every row takes the list `banned`
    ADDRESS edits;  // nn_edit []
    ADDRESS banned; // u32 [banned_count]
    UINT rows, columns, stride, banned_count;
};

struct sample_filter_args {
    ADDRESS logits;    // f32 [rows, columns]
    ADDRESS settings;  // sample_row [rows]
    ADDRESS threshold; // f32 [rows]: smallest logit that may be drawn; -inf: all
    UINT rows, columns, stride;
};

struct sample_args {
    ADDRESS logits;    // f32 [rows, columns]
    ADDRESS settings;  // sample_row [rows]
    ADDRESS threshold; // f32 [rows], or 0
    ADDRESS blocks;    // softmax_block [rows, blocks] at the sampling temperature
    ADDRESS token;     // u32 [rows]: result of sample.comp
    ADDRESS probability; // f32 [rows, columns]: result of sample_probability.comp
    UINT rows, columns, stride;
};
