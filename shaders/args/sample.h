// How to draw the next tokens; in upload memory.
#ifndef ARGS_SAMPLE
#define ARGS_SAMPLE
#include "shaders/args/types.h"

// One a sequence.
struct sample_row {
    FLOAT temperature;         // 0: greedy
    FLOAT top_p, min_p;        // 1 and 0: off
    UINT top_k;                // 0: off
    FLOAT logprob_temperature; // the recorded log-prob is of logits / this
    UINT seed_low, seed_high;  // Philox key
    UINT counter[3];           // Philox counter: step, sample, position; the fourth word is 0
};

// One change of a row's logits before the draw: s -> (s < 0 ? s * penalty : s / penalty) + bias.
struct nn_edit {
    UINT token;
    FLOAT penalty; // 1: none
    FLOAT bias;    // -infinity: never drawn
};

#endif
