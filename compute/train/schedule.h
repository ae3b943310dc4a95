// The learning rate of a step. Sources: transformers optimization.py (constant, linear, cosine with warm-up;
// warmup_stable_decay with linear decay to min_lr_ratio).
#ifndef VIREO_TRAIN_SCHEDULE_H
#define VIREO_TRAIN_SCHEDULE_H

#include "compute/wire/spec.h"

// `step` from 1 to total_steps. As in transformers the first step of a warm-up of w steps has rate lr * 0 / w; here a
// step uses lr * step / w, so that no step is without effect.
double learning_rate_at(const struct job_spec *s, uint32_t step, uint32_t total_steps);
// warmup_steps, or warmup_ratio of the total, rounded up.
uint32_t warmup_steps_of(const struct job_spec *s, uint32_t total_steps);

#endif
