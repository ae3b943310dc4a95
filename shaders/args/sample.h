// How to draw the next token of one sequence; one struct a row, in upload memory.
#include "shaders/args/types.h"

struct sample_row {
    FLOAT temperature;         // 0: greedy
    FLOAT top_p, min_p;        // 1 and 0: off
    UINT top_k;                // 0: off
    FLOAT logprob_temperature; // the recorded log-prob is of logits / this
    UINT seed_low, seed_high;  // Philox key
    UINT counter[3];           // Philox counter: step, sample, position; the fourth word is 0
};
