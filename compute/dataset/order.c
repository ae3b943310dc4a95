#include "compute/dataset/order.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/philox.h"

#include <stdlib.h>

enum { STREAM = 0x6f726472 }; // "ordr": keeps these draws apart from others made with the same seed

struct order {
    uint64_t seed;
    uint32_t rows, batch, units;
    bool shuffle, drop_last;
    uint64_t epoch;       // whose permutation `places` holds; UINT64_MAX: none yet
    uint32_t *unit_start; // [units + 1] first row of each unit
    uint32_t *unit_order; // [units] scratch of the shuffle
    uint32_t *places;     // [rows] row at each place of the epoch
};

struct order *order_create(const struct order_config *config, struct vireo_error *err)
{
    if (config->rows == 0 || config->batch == 0) {
        vireo_fail(err, VIREO_INVALID, "An order needs at least one row and one row a batch, got %u and %u.",
                   config->rows,
                   config->batch);
        return NULL;
    }
    struct order *o = vireo_calloc(1, sizeof *o);
    if (o) {
        *o = (struct order){.seed = config->seed, .rows = config->rows, .batch = config->batch,
                            .shuffle = config->shuffle, .drop_last = config->drop_last, .epoch = UINT64_MAX};
        o->unit_start = vireo_calloc((size_t)config->rows + 1, sizeof(uint32_t));
        o->unit_order = vireo_calloc(config->rows, sizeof(uint32_t));
        o->places = vireo_calloc(config->rows, sizeof(uint32_t));
    }
    if (!o || !o->unit_start || !o->unit_order || !o->places) {
        order_destroy(&o);
        vireo_fail_memory(err, 12ull * config->rows);
        return NULL;
    }
    for (uint32_t i = 0; i < config->rows; i++)
        if (i == 0 || !config->unit || config->unit[i] != config->unit[i - 1])
            o->unit_start[o->units++] = i;
    o->unit_start[o->units] = config->rows;
    return o;
}

void order_destroy(struct order **o)
{
    if (!o || !*o)
        return;
    free((*o)->unit_start);
    free((*o)->unit_order);
    free((*o)->places);
    free(*o);
    *o = NULL;
}

// Uniform in [0, n) from 64 random bits by multiplication; the bias is below n / 2^64.
static uint32_t draw_below(uint64_t seed, uint64_t epoch, uint32_t step, uint32_t n)
{
    struct philox r = philox(seed, (uint32_t)epoch, (uint32_t)(epoch >> 32), step, STREAM);
    uint64_t high = (uint64_t)r.v[0] * n, low = (uint64_t)r.v[1] * n;
    return (uint32_t)((high + (low >> 32)) >> 32);
}

// Fills places for `epoch`. The identity is shuffled afresh each time, so no epoch depends on another.
static void arrange(struct order *o, uint64_t epoch)
{
    if (o->epoch == epoch)
        return;
    for (uint32_t i = 0; i < o->units; i++)
        o->unit_order[i] = i;
    for (uint32_t i = o->units; o->shuffle && i > 1; i--) {
        uint32_t j = draw_below(o->seed, epoch, i, i), kept = o->unit_order[i - 1];
        o->unit_order[i - 1] = o->unit_order[j];
        o->unit_order[j] = kept;
    }
    uint32_t place = 0;
    for (uint32_t i = 0; i < o->units; i++)
        for (uint32_t row = o->unit_start[o->unit_order[i]]; row < o->unit_start[o->unit_order[i] + 1]; row++)
            o->places[place++] = row;
    o->epoch = epoch;
}

// Rows an epoch gives: all, or the whole batches only.
static uint64_t rows_of_epoch(const struct order *o)
{
    return o->drop_last ? o->rows / o->batch * o->batch : o->rows;
}

uint64_t order_batches(const struct order *o, uint64_t epochs)
{
    uint64_t rows = rows_of_epoch(o);
    vireo_assert(epochs < UINT64_MAX / VIREO_MAX(o->rows, o->batch) - 1);
    return (rows * epochs + o->batch - 1) / o->batch;
}

void order_batch(struct order *o, uint64_t step, uint32_t *out, double *epoch)
{
    uint64_t rows = rows_of_epoch(o), first = step * o->batch;
    vireo_assert(rows > 0); // the caller checked order_batches
    for (uint32_t i = 0; i < o->batch; i++) {
        arrange(o, (first + i) / rows);
        out[i] = o->places[(first + i) % rows];
    }
    if (epoch)
        *epoch = (double)(first + o->batch) / (double)rows;
}
