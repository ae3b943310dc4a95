// Arguments of softmax_blocks.comp, logprob_fwd.comp, logprob_bwd.comp.
#include "shaders/args/types.h"

// What is known of one block of a row's columns (lib/softmax_stats.glsl).
struct softmax_block {
    FLOAT max;      // largest z = logit / temperature; -inf where nothing is kept
    FLOAT sum;      // of e = exp(z - max)
    FLOAT weighted; // of e * (z - max)
    UINT top;       // lowest column that holds max
};

struct softmax_blocks_args {
    ADDRESS logits;      // f32 [rows, columns], rows `stride` apart
    ADDRESS temperature; // f32, rows temperature_stride words apart; <= 0 counts as 1
    ADDRESS blocks;      // softmax_block [rows, ceil(columns / SOFTMAX_BLOCK)]
    UINT rows, columns, stride, temperature_stride;
};

struct logprob_fwd_args {
    ADDRESS logits, temperature, blocks; // as above
    ADDRESS targets;                     // u32 [rows]
    ADDRESS logprob, entropy;            // f32 [rows]
    ADDRESS top;                         // u32 [rows]; 0: not wanted
    ADDRESS normaliser;                  // f32 [rows, 2]: max, log of the sum; 0: not wanted
    UINT rows, columns, stride, temperature_stride;
};

struct logprob_bwd_args {
    ADDRESS logits;      // f32 [rows, columns]: replaced by the gradient
    ADDRESS temperature, targets, normaliser;
    ADDRESS g;           // f32 [rows]: gradient of the log-prob
    UINT rows, columns, stride, temperature_stride;
};
