// AdamW's state of a model, its step, and the tree that adds gradients of leaves.
//
// Leaves (design: numerics): a step's batch is cut into L leaves, a power of two; each leaf's gradient accumulates in
// the weights' gradients; finished leaves are added in a fixed balanced tree, so that any number of ranks up to L gives
// the same bits. That needs log2(L) buffers beside the gradients themselves.
//
// Offload: the state (m, v, and the master copies of 16-bit weights) lives in a file without a name in the job's
// folder, and a step passes it through two windows of at most 4 MiB (nn.h). A file rather than host memory on every
// device: where host and device share their memory, as on CPU drivers and integrated GPUs, only a file lowers the
// peak, and where they do not, the system's page cache holds as much of it as is free. Same bits.
#ifndef VIREO_TRAIN_OPTIMIZER_H
#define VIREO_TRAIN_OPTIMIZER_H

#include "compute/models/model.h"
#include "compute/wire/spec.h"

struct optimizer;
struct optimizer_item {
    struct weight *weight;
    // f32; master is the weight itself unless it is stored in 16 bits. Offloaded: a shape without memory.
    struct tensor master, m, v;
};
// State for every weight of `model` that has a gradient, in device memory, or in a file of `folder` unless NULL.
// NULL + err; VIREO_NO_SPACE: the file does not fit (all of it is written here).
struct optimizer *optimizer_create(struct model *model, uint32_t leaves, const char *folder, struct vireo_error *err);
void optimizer_destroy(struct optimizer **o);
size_t optimizer_items(const struct optimizer *o, const struct optimizer_item **items);
// Values [at, at + n) of an item's m, v or master, wherever they live.
enum optimizer_part { OPTIMIZER_M, OPTIMIZER_V, OPTIMIZER_MASTER };
bool optimizer_get(struct optimizer *o, size_t item, enum optimizer_part part, uint64_t at, uint64_t n, float *values,
                   struct vireo_error *err);
bool optimizer_set(struct optimizer *o, size_t item, enum optimizer_part part, uint64_t at, uint64_t n,
                   const float *values, struct vireo_error *err);

// Gradients to zero.
void optimizer_zero(struct optimizer *o, struct tape *t);
// After leaf number `leaf` (0, 1, ... L - 1): adds it into the tree; after the last one the gradients hold the whole
// sum.
void optimizer_leaf_done(struct optimizer *o, struct tape *t, uint32_t leaf);
// One update; `step` from 1 counts updates that took place; the gradients hold `loss_scale` times
// themselves. *norm: the true one before clipping; not finite: nothing was written.
// An error of the file of an offloaded state: the state is lost, the job goes on from a checkpoint.
bool optimizer_step(struct optimizer *o, struct tape *t, const struct job_spec *s, double lr, uint32_t step,
                    double loss_scale, double *norm, struct vireo_error *err);
// Device bytes for `parameters` trained values (for plans).
uint64_t optimizer_bytes(uint64_t parameters, uint32_t leaves, bool halves, bool offload);

// The same balanced tree for a scalar of each leaf; n a power of two.
double leaf_sum(const double *x, uint32_t n);

#endif
