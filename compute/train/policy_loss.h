// How the per-token losses of a step add up: TRL's normalisers (grpo_trainer.py, 1.x; training.md 3.5).
#ifndef VIREO_TRAIN_POLICY_LOSS_H
#define VIREO_TRAIN_POLICY_LOSS_H

#include "compute/wire/spec.h"

struct policy_rows {
    uint32_t rows;           // completions of the micro-batch
    const uint32_t *lengths; // [rows] unmasked tokens of each
    uint32_t max_completion_length;
    uint32_t accumulation; // micro-batches a step, as TRL counts them
    uint64_t num_items;    // dapo: unmasked tokens of the whole step over all devices
};
// The factor of every unmasked token of `row`:
//   grpo     1 / (rows * max(1, length)) / accumulation
//   bnpo     1 / max(1, sum of lengths) / accumulation
//   dr_grpo  1 / (rows * max_completion_length) / accumulation
//   dapo     1 / max(1, num_items)
double policy_token_weight(enum loss_type type, const struct policy_rows *b, uint32_t row);

#endif
