// The order in which training visits a dataset: a seeded permutation per epoch, addressable by position.
//
// Batch number s holds positions s * batch... of the run; position p is place p % rows of epoch p / rows. The row there
// depends on (seed, epoch, place) alone, so a resumed run needs nothing but the number of the next step. The shuffle
// is Fisher-Yates over units with Philox (key = seed, counter = epoch and step); rows that must stay together (two
// questions about one picture) form a unit and keep their order.
#ifndef VIREO_DATASET_ORDER_H
#define VIREO_DATASET_ORDER_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct order_config {
    uint64_t seed;
    uint32_t rows;        // > 0
    uint32_t batch;       // rows a step, > 0
    bool shuffle;         // false: file order in every epoch
    // true: the incomplete last batch of an epoch is left out (TRL, VLM-R1); false: batches run on into the next epoch,
    // so that every row is visited equally often
    bool drop_last;
    const uint32_t *unit; // [rows] equal neighbours belong together; NULL: each row alone. Borrowed during create only.
};

struct order; // one owner at a time

struct order *order_create(const struct order_config *config, struct vireo_error *err);
void order_destroy(struct order **o);

// Batches in `epochs` passes: with drop_last (rows / batch rounded down) * epochs, else ceil(rows * epochs / batch),
// the last one filled up from the next epoch. 0 if drop_last and rows < batch; then order_batch must not be called.
uint64_t order_batches(const struct order *o, uint64_t epochs);
// Rows of batch number `step` (from 0, any order of calls) into out [batch], and the epochs done after it, for metrics;
// epoch may be NULL. A batch larger than the dataset repeats rows. Never fails: create took the memory.
void order_batch(struct order *o, uint64_t step, uint32_t *out, double *epoch);

#endif
