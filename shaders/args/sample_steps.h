// Arguments of sample_edit.comp, sample_filter.comp, and (sample_args) sample_blocks.comp, sample.comp,
// sample_probability.comp.
#include "shaders/args/sample.h"

#define SAMPLE_BANS 4 // most banned ids that the draw leaves out by itself

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
    ADDRESS logits;    // f32 [rows, columns]: what the log-prob is recorded of
    ADDRESS drawn;     // f32 [rows, columns]: what is drawn from; the same memory where nothing is changed
    ADDRESS settings;  // sample_row [rows]
    ADDRESS threshold; // f32 [rows], of `drawn`; or 0
    ADDRESS banned;    // u32 [banned_count], at most SAMPLE_BANS ids that are not drawn; or 0
    ADDRESS blocks;    // softmax_block [2, rows, blocks]: of the logits at logprob_temperature; of what is drawn from
    ADDRESS token;     // u32 [3, rows]: tokens, log-probs and entropies (f32): result of sample.comp
    ADDRESS probability; // f32 [rows, columns]: result of sample_probability.comp
    UINT rows, columns, stride, drawn_stride, banned_count;
};
