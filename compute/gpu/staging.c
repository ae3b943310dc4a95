#include "compute/gpu/internal.h"

#include "compute/base/check.h"

#include <string.h>

// Uploads go through a ring of parts. A part is written by the host while the device may still copy out of the others;
// before it is used again its ticket must have passed. So the memory is bounded, whatever is uploaded.

static bool make_ring(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_staging *s = &dev->staging;
    if (s->up)
        return true;
    struct gpu_arena *a = gpu_arena_create(dev,
                                           &(struct gpu_arena_params){
                                               .name = "staging up",
                                               .memory = GPU_MEMORY_UPLOAD,
                                               .bytes = (uint64_t)GPU_STAGING_PARTS * GPU_STAGING_PART_BYTES,
                                           },
                                           err);
    if (!a)
        return false;
    for (int i = 0; i < GPU_STAGING_PARTS; i++)
        s->part[i] = gpu_arena_take(a, GPU_STAGING_PART_BYTES, err);
    s->up = a;
    return true;
}

static bool make_back(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_staging *s = &dev->staging;
    if (s->down)
        return true;
    struct gpu_arena *a = gpu_arena_create(dev,
                                           &(struct gpu_arena_params){
                                               .name = "staging down",
                                               .memory = GPU_MEMORY_READBACK,
                                               .bytes = GPU_STAGING_PART_BYTES,
                                           },
                                           err);
    if (!a)
        return false;
    s->back = gpu_arena_take(a, GPU_STAGING_PART_BYTES, err);
    s->down = a;
    return true;
}

void staging_finish(struct gpu_device *dev)
{
    gpu_arena_destroy(&dev->staging.up);
    gpu_arena_destroy(&dev->staging.down);
}

// Makes room in the ring and returns how many bytes can be written at the current position; 0 + err.
static uint64_t room(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_staging *s = &dev->staging;
    if (s->used == GPU_STAGING_PART_BYTES) {
        // The copies out of this part must be under way before its ticket means anything.
        if (!timeline_flush(dev)) {
            if (err)
                *err = dev->failure;
            return 0;
        }
        s->ticket[s->current] = dev->timeline.submitted;
        s->current = (s->current + 1) % GPU_STAGING_PARTS;
        s->used = 0;
        if (!timeline_wait(dev, s->ticket[s->current], err))
            return 0;
    }
    return GPU_STAGING_PART_BYTES - s->used;
}

void gpu_upload(struct gpu_device *dev, struct gpu_span to, const void *data, uint64_t bytes)
{
    struct gpu_staging *s = &dev->staging;
    struct vireo_error err = {0};
    if (dev->failure.code || bytes == 0)
        return;
    vireo_assert(to.block && bytes <= to.bytes);
    bool ok = make_ring(dev, &err);
    for (uint64_t done = 0; ok && done < bytes;) {
        uint64_t part = VIREO_MIN(room(dev, &err), bytes - done);
        struct gpu_span from = s->part[s->current];
        ok = part > 0;
        if (ok) {
            memcpy((uint8_t *)from.host + s->used, (const uint8_t *)data + done, part);
            ok = record_copy(dev, to.block, to.offset + done, from.block, from.offset + s->used, part, "upload");
            // Copies start at multiples of 16.
            s->used = VIREO_MIN(vireo_round_up(s->used + part, 16), (uint64_t)GPU_STAGING_PART_BYTES);
            done += part;
        }
    }
    if (!ok && err.code)
        record_fail(dev, &err);
}

static bool sticky(struct gpu_device *dev, struct vireo_error *err)
{
    if (dev->failure.code == VIREO_OK)
        return false;
    if (err)
        *err = dev->failure;
    return true;
}

bool gpu_write(struct gpu_device *dev, struct gpu_span to, const void *from, uint64_t bytes, struct vireo_error *err)
{
    if (sticky(dev, err))
        return false;
    if (bytes == 0)
        return true;
    vireo_assert(to.block && bytes <= to.bytes);
    if (to.block->host) {
        if (!gpu_finish(dev, err))
            return false;
        memcpy(to.block->host + to.offset, from, bytes);
        return true;
    }
    gpu_upload(dev, to, from, bytes);
    return gpu_submit(dev, err) != 0;
}

bool gpu_read(struct gpu_device *dev, struct gpu_span from, void *to, uint64_t bytes, struct vireo_error *err)
{
    if (sticky(dev, err))
        return false;
    if (bytes == 0)
        return true;
    vireo_assert(from.block && bytes <= from.bytes);
    if (from.block->host && from.block->cached) { // reads of uncached memory crawl
        if (!gpu_finish(dev, err))
            return false;
        memcpy(to, from.block->host + from.offset, bytes);
        return true;
    }
    if (!make_back(dev, err))
        return false;
    struct gpu_span back = dev->staging.back;
    for (uint64_t done = 0; done < bytes;) {
        uint64_t part = VIREO_MIN(bytes - done, back.bytes);
        record_copy(dev, back.block, back.offset, from.block, from.offset + done, part, "read");
        if (!gpu_finish(dev, err))
            return false;
        memcpy((uint8_t *)to + done, back.host, part);
        done += part;
    }
    return true;
}
