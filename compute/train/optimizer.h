// AdamW's state of a model, its step, and the tree that adds gradients of leaves.
//
// Leaves (design: numerics): a step's batch is cut into L leaves, a power of two; each leaf's gradient accumulates in
// the weights' gradients; finished leaves are added in a fixed balanced tree, so that any number of ranks up to L gives
// the same bits. That needs log2(L) buffers beside the gradients themselves.
#ifndef VIREO_TRAIN_OPTIMIZER_H
#define VIREO_TRAIN_OPTIMIZER_H

#include "compute/models/model.h"
#include "compute/wire/spec.h"

struct optimizer;
struct optimizer_item {
    struct weight *weight;
    struct tensor master, m, v; // f32; master is the weight itself unless it is stored in bf16
};
// State for every weight of `model` that has a gradient. NULL + err.
struct optimizer *optimizer_create(struct model *model, uint32_t leaves, struct vireo_error *err);
void optimizer_destroy(struct optimizer **o);
size_t optimizer_items(const struct optimizer *o, const struct optimizer_item **items);

void optimizer_zero(struct optimizer *o, struct tape *t);
// After leaf number `leaf` (0, 1, ... L - 1): adds it into the tree; after the last one the gradients hold the whole
// sum.
void optimizer_leaf_done(struct optimizer *o, struct tape *t, uint32_t leaf);
// One update; `step` from 1 counts updates that took place. *norm: before clipping; not finite: nothing was written.
bool optimizer_step(struct optimizer *o, struct tape *t, const struct job_spec *s, double lr, uint32_t step,
                    double *norm, struct vireo_error *err);
// Bytes for `parameters` trained values (for plans).
uint64_t optimizer_bytes(uint64_t parameters, uint32_t leaves, bool bf16);

// The same balanced tree for a scalar of each leaf; n a power of two.
double leaf_sum(const double *x, uint32_t n);

#endif
