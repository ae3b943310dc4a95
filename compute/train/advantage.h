// Group-relative advantages (GRPO, arXiv 2402.03300; TRL 1.x grpo_trainer.py).
#ifndef VIREO_TRAIN_ADVANTAGE_H
#define VIREO_TRAIN_ADVANTAGE_H

#include "compute/wire/spec.h"

// rewards [groups * size], consecutive by group -> advantage, the same shape. mean over the group; std unbiased (n -
// 1): group: (r - mean) / (std + eps); batch: std over all rewards; none: r - mean. A group of one has advantage 0.
// group_std [groups] (may be NULL) receives the stds of the groups.
void advantages_of(const double *rewards, uint32_t groups, uint32_t size, enum scale_rewards scale, double eps,
                   double *advantage, double *group_std);

// Unbiased standard deviation; 0 for fewer than two values.
double standard_deviation(const double *x, uint32_t n);
double mean_of(const double *x, uint32_t n); // 0 for none

#endif
