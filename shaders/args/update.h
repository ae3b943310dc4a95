// Arguments of sum_squares.comp, update_norm.comp, adamw.comp.
#include "shaders/args/types.h"

// A piece of one trained tensor. 48 bytes in both languages.
struct update_chunk {
    ADDRESS master, grad, m, v; // f32 [count]
    ADDRESS copy;               // bf16 or fp16 [count], or 0
    UINT count;                 // at most UPDATE_CHUNK; even but for the tensor's last chunk
    UINT decay;
};

struct sum_squares_args {
    ADDRESS chunks;
    ADDRESS partial; // f32 [count]
    UINT count;
    UINT zero;       // 1: writes zeros into the gradients instead
};

// What the norm decides. Read by adamw.comp, no host in between.
struct update_state {
    FLOAT norm, scale; // of the true gradient; what the held one is multiplied by: unscaled and clipped
    UINT finite;
};

struct update_norm_args {
    ADDRESS partial; // f32 [count]
    ADDRESS state;   // update_state
    UINT count;
    FLOAT max_norm;  // 0: no clipping
    FLOAT unscale;   // 1 / loss scale: the gradients are this many times too large
};

struct adamw_args {
    ADDRESS chunks, state;
    UINT count;
    FLOAT keep;                    // 1 - lr * weight_decay, for chunks with decay
    FLOAT beta1, rest1;            // beta1, 1 - beta1
    FLOAT beta2, rest2;
    FLOAT rate;                    // lr / (1 - beta1^step)
    FLOAT root;                    // 1 / sqrt(1 - beta2^step)
    FLOAT eps;
};
