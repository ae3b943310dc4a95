// The order in which training visits a dataset: a seeded permutation per epoch, addressable by position.
//
// Position p (0, 1, 2, …) is a row count over the whole run: epoch p / rows_per_epoch, place p % rows_per_epoch. The row at
// a position depends on (seed, epoch, place) alone, so a resumed run needs nothing but the position. The shuffle is
// Fisher-Yates over units with Philox (key = seed, counter = epoch and step); rows that must stay together (two questions
// about one picture) form a unit and keep their order.
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
    bool drop_last;       // true: the incomplete last batch of an epoch is left out (TRL, VLM-R1); false: batches run on
                          // into the next epoch, so that every row is visited equally often
    const uint32_t *unit; // [rows] equal neighbours belong together; NULL: each row alone. Borrowed during create only.
};

struct order; // one owner at a time

struct order *order_create(const struct order_config *config, struct vireo_error *err);
void order_destroy(struct order **o);

// Batches in `epochs` passes (fractions rounded down, at least 1 row must fit): with drop_last rows / batch per epoch, else
// ceil(rows * epochs / batch). 0 if drop_last and rows < batch.
uint64_t order_batches(const struct order *o, uint64_t epochs);
// Rows of batch number `step` (from 0) into out [batch], and the epoch (fraction done) after it, for metrics; epoch may be
// NULL. Never fails: the permutation of an epoch is made in memory taken by create.
void order_batch(struct order *o, uint64_t step, uint32_t *out, double *epoch);

#endif
