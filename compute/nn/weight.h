// A parameter as kernels see it: value, gradient, bias, and the slot for a LoRA pair.
#ifndef VIREO_NN_WEIGHT_H
#define VIREO_NN_WEIGHT_H

#include "compute/tensor/tensor.h"

enum weight_role { WEIGHT_VISION, WEIGHT_MERGER, WEIGHT_EMBEDDING, WEIGHT_TEXT, WEIGHT_HEAD };

// y += scale * (x A^T) B^T with A [rank, I], B [O, rank] (Hu et al., arXiv 2106.09685). Not built yet: always NULL in a
// weight; nn_linear asserts it.
struct weight_lora {
    struct tensor a, b, a_grad, b_grad;
    float scale;
};

// Linear: value [O, I] row-major, y = x value^T + bias. Norm or bias: value [C]. Embedding: value [V, C].
struct weight {
    const char *name;    // for messages
    enum weight_role role;
    struct tensor value; // f32, bf16 or f16
    struct tensor grad;  // f32, same shape; address 0: frozen, no gradient is computed
    struct weight *bias; // NULL: none
    struct weight_lora *lora;
};

#endif
