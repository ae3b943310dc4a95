#include "compute/gpu/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void timers_finish(struct gpu_device *dev)
{
    free(dev->timers.rows);
    memset(&dev->timers, 0, sizeof dev->timers);
}

void gpu_timers_on(struct gpu_device *dev, bool on)
{
    if (on != dev->timers.on)
        timeline_flush(dev); // what was recorded before keeps its mode
    dev->timers.on = on;
}

void timers_prepare(struct gpu_device *dev, struct gpu_slot *slot, uint32_t timed)
{
    uint32_t wanted = timed + 2;
    if (!dev->caps.timestamps || (slot->queries && slot->query_capacity >= wanted))
        return;
    struct gpu_timed *more = vireo_realloc(slot->timed, wanted * sizeof *more);
    if (!more)
        return;
    slot->timed = more;
    VkQueryPool pool;
    VkResult r = dev->vk->CreateQueryPool(dev->handle,
                                          &(VkQueryPoolCreateInfo){.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                                                   .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                                                   .queryCount = wanted},
                                          NULL, &pool);
    if (r != VK_SUCCESS)
        return;
    if (slot->queries)
        dev->vk->DestroyQueryPool(dev->handle, slot->queries, NULL);
    slot->queries = pool;
    slot->query_capacity = wanted;
    device_name(dev, VK_OBJECT_TYPE_QUERY_POOL, GPU_HANDLE(pool), "timestamps");
}

static struct gpu_timer_row *row_of(struct gpu_timers *t, const char *label)
{
    for (size_t i = 0; i < t->count; i++)
        if (strncmp(t->rows[i].label, label, sizeof t->rows[i].label - 1) == 0)
            return &t->rows[i];
    if (t->count == t->capacity) {
        size_t capacity = t->capacity ? t->capacity * 2 : 64;
        struct gpu_timer_row *more = vireo_realloc(t->rows, capacity * sizeof *more);
        if (!more)
            return NULL;
        t->rows = more;
        t->capacity = capacity;
    }
    struct gpu_timer_row *row = &t->rows[t->count++];
    memset(row, 0, sizeof *row);
    snprintf(row->label, sizeof row->label, "%s", label);
    return row;
}

void timers_collect(struct gpu_device *dev, struct gpu_slot *slot)
{
    if (slot->query_count < 2)
        return;
    uint64_t *ticks = vireo_alloc(slot->query_count * sizeof *ticks);
    if (!ticks ||
        dev->vk->GetQueryPoolResults(dev->handle, slot->queries, 0, slot->query_count,
                                     slot->query_count * sizeof *ticks, ticks, sizeof *ticks,
                                     VK_QUERY_RESULT_64_BIT) != VK_SUCCESS) {
        free(ticks);
        return;
    }
    uint64_t mask = dev->features.timestamp_bits >= 64 ? UINT64_MAX : (1ull << dev->features.timestamp_bits) - 1;
    double tick = dev->caps.timestamp_ns * 1e-9;
    double seconds = (double)((ticks[1] - ticks[0]) & mask) * tick;
    dev->counters.device_seconds += seconds;
    if (!slot->fresh)
        timeline_learn(dev, slot->estimate, seconds);
    uint64_t before = ticks[0];
    for (uint32_t i = 2; i < slot->query_count; i++) {
        const struct gpu_timed *timed = &slot->timed[i - 2];
        struct gpu_timer_row *row = row_of(&dev->timers, timed->label);
        if (row) {
            row->count++;
            row->seconds += (double)((ticks[i] - before) & mask) * tick;
            row->flops += timed->flops;
            row->bytes += timed->bytes;
        }
        before = ticks[i];
    }
    free(ticks);
    slot->query_count = 0;
}

static int by_time(const void *a, const void *b)
{
    const struct gpu_timer_row *x = a, *y = b;
    return x->seconds < y->seconds ? 1 : x->seconds > y->seconds ? -1 : strcmp(x->label, y->label);
}

bool gpu_timers_read(struct gpu_device *dev, struct gpu_timer_row **out, size_t *count, struct vireo_error *err)
{
    if (!gpu_finish(dev, err))
        return false;
    struct gpu_timers *t = &dev->timers;
    if (t->count)
        qsort(t->rows, t->count, sizeof *t->rows, by_time);
    *out = t->rows; // the caller frees; the next reading starts anew
    *count = t->count;
    t->rows = NULL;
    t->count = t->capacity = 0;
    return true;
}
