// The statistics of log-softmax. nn_sample has kernels of its own for them that share their functions
// (shaders/lib/softmax_stats.glsl): same bits. Nothing outside compute/nn includes it.
#ifndef VIREO_NN_SOFTMAX_H
#define VIREO_NN_SOFTMAX_H

#include "compute/nn/dispatch.h"

// A per-row temperature in device memory: row i has the float at i * stride words. Training passes one value with stride 0.
struct nn_temperature {
    struct tensor memory;
    uint32_t word, stride;
};

uint32_t nn_softmax_blocks(uint32_t columns); // blocks of a row
// blocks [rows, nn_softmax_blocks] of struct softmax_block, as u32 columns.
struct tensor nn_softmax_new(struct tape *t, uint32_t rows, uint32_t columns);
void nn_softmax_stats(struct tape *t, struct tensor logits, struct nn_temperature temperature, struct tensor blocks);
// logprob, entropy f32 [rows]; top u32 [rows] and normaliser f32 [rows, 2] may have address 0.
void nn_softmax_finish(struct tape *t, struct tensor logits, struct nn_temperature temperature, struct tensor blocks,
                       struct tensor targets, struct tensor logprob, struct tensor entropy, struct tensor top,
                       struct tensor normaliser);

#endif
