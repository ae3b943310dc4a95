#include "compute/gpu/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 256, DEFAULT_BLOCK = 16 << 20 };
// A mark is a block's index and the position in it.
enum { MARK_SHIFT = 44 };
static const uint64_t LARGEST_GROWN = 1ull << 30; // several blocks rather than one above this, unless one take needs it
static const uint64_t LARGEST_SURPLUS = 16ull << 20; // of a block beyond what the arena was expected to hold

static uint64_t largest_block(const struct gpu_device *dev)
{
    uint64_t most = dev->caps.max_allocation_bytes ? dev->caps.max_allocation_bytes : LARGEST_GROWN;
    most = VIREO_MIN(most, (1ull << MARK_SHIFT) - ALIGN);
    return most / ALIGN * ALIGN;
}

// Whether the host sees the largest device heap: unified memory, or a GPU whose whole memory is mapped.
static bool maps_all(const struct gpu_device *dev)
{
    const VkPhysicalDeviceMemoryProperties *m = &dev->memory;
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                         VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (uint32_t i = 0; i < m->memoryTypeCount; i++)
        if ((m->memoryTypes[i].propertyFlags & wanted) == wanted &&
            m->memoryHeaps[m->memoryTypes[i].heapIndex].size >= dev->caps.heap_bytes / 4 * 3)
            return true;
    return false;
}

// How well a memory type suits; 0: not at all.
static int suits(const struct gpu_device *dev, uint32_t type, enum gpu_memory memory, bool mapped)
{
    VkMemoryPropertyFlags f = dev->memory.memoryTypes[type].propertyFlags;
    bool local = f & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, cached = f & VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    bool visible = (f & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) && (f & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
    if (f & ~(VkMemoryPropertyFlags)(VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                     VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT))
        return 0; // lazily allocated, protected, uncached by the GPU ...
    switch (memory) {
    case GPU_MEMORY_DEVICE:
        return 1 + 4 * local + 2 * (visible == mapped) + (dev->caps.unified_memory && cached);
    case GPU_MEMORY_UPLOAD:
        return visible ? 1 + 2 * (local && mapped) + (!cached || dev->caps.unified_memory) : 0;
    case GPU_MEMORY_READBACK:
        return visible ? 1 + 2 * cached + (!local || dev->caps.unified_memory) : 0;
    }
    return 0;
}

static bool out_of_memory(struct gpu_arena *a, uint64_t bytes, uint64_t available, const char *of,
                          struct vireo_error *err)
{
    return vireo_fail(err, VIREO_DEVICE_MEMORY,
                      "arena '%s' wants %.1f MiB more of device memory, %.1f MiB are available (%s; this process holds "
                      "%.1f MiB)",
                      a->name, (double)bytes / 0x1p20, (double)available / 0x1p20, of,
                      (double)a->dev->counters.bytes_held / 0x1p20);
}

static void free_block(struct gpu_device *dev, struct gpu_block *b)
{
    if (!b)
        return;
    replay_forget(dev);
    view_remove(dev, b);
    dev->vk->DestroyBuffer(dev->handle, b->buffer, NULL);
    dev->vk->FreeMemory(dev->handle, b->memory, NULL);
    free(b);
}

static bool allocate(struct gpu_device *dev, struct gpu_block *b, const VkMemoryRequirements *need, uint32_t type,
                     VkResult *result)
{
    if (vireo_fault("gpu.allocate")) {
        *result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
        return false;
    }
    *result = dev->vk->AllocateMemory(
        dev->handle,
        &(VkMemoryAllocateInfo){
            .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
            .pNext = &(VkMemoryAllocateFlagsInfo){.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
                                                  .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT},
            .allocationSize = need->size,
            .memoryTypeIndex = type,
        },
        NULL, &b->memory);
    return *result == VK_SUCCESS;
}

// Memory for the block from the best type that has room. Tries the next best before giving up.
static bool back_block(struct gpu_arena *a, struct gpu_block *b, struct vireo_error *err)
{
    struct gpu_device *dev = a->dev;
    VkMemoryRequirements need;
    dev->vk->GetBufferMemoryRequirements(dev->handle, b->buffer, &need);
    bool mapped = maps_all(dev);
    uint32_t tried = 0;
    uint64_t available = 0;
    VkResult r = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    for (;;) {
        int best = -1, score = 0;
        for (uint32_t t = 0; t < dev->memory.memoryTypeCount; t++) {
            int s = (need.memoryTypeBits >> t & 1) && !(tried >> t & 1) ? suits(dev, t, a->memory, mapped) : 0;
            if (s > score) {
                score = s;
                best = (int)t;
            }
        }
        // Device memory never falls back to host memory behind the bus: slow without a word is worse than an error.
        bool local = best >= 0 && dev->memory.memoryTypes[best].propertyFlags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
        if (best < 0 || (a->memory == GPU_MEMORY_DEVICE && !local && tried))
            break;
        tried |= 1u << best;
        uint64_t free_bytes = features_budget(&dev->instance, dev->physical, dev->memory.memoryTypes[best].heapIndex,
                                              dev->caps.memory_budget);
        available = VIREO_MAX(available, free_bytes);
        if (free_bytes < need.size || !allocate(dev, b, &need, (uint32_t)best, &r))
            continue;
        r = dev->vk->BindBufferMemory(dev->handle, b->buffer, b->memory, 0);
        if (r != VK_SUCCESS)
            break;
        void *host = NULL;
        VkMemoryPropertyFlags flags = dev->memory.memoryTypes[best].propertyFlags;
        b->cached = flags & VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
        // Poison fills what is taken in the stream: no host writes around it. It also takes the way of GPUs whose
        // memory the host does not see.
        bool hidden = a->memory == GPU_MEMORY_DEVICE && dev->params.poison;
        if (flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT && !hidden &&
            dev->vk->MapMemory(dev->handle, b->memory, 0, VK_WHOLE_SIZE, 0, &host) == VK_SUCCESS)
            b->host = host;
        return b->host || a->memory == GPU_MEMORY_DEVICE || vireo_fail(err, VIREO_DEVICE_MEMORY,
                                                                       "arena '%s' cannot be mapped", a->name);
    }
    return out_of_memory(a, need.size, available, vk_result_name(r), err);
}

static struct gpu_block *make_block(struct gpu_arena *a, uint64_t bytes, struct vireo_error *err)
{
    struct gpu_device *dev = a->dev;
    uint64_t limit = dev->params.memory_limit, held = dev->counters.bytes_held;
    if (limit && bytes > limit - VIREO_MIN(limit, held)) {
        out_of_memory(a, bytes, limit - VIREO_MIN(limit, held), "by the configured limit", err);
        return NULL;
    }
    if (bytes > largest_block(dev)) {
        out_of_memory(a, bytes, largest_block(dev), "in one piece", err);
        return NULL;
    }
    struct gpu_block *b = vireo_calloc(1, sizeof *b);
    if (!b) {
        vireo_fail_memory(err, sizeof *b);
        return NULL;
    }
    b->bytes = bytes;
    b->view = GPU_VIEWS;
    VkResult r = dev->vk->CreateBuffer(
        dev->handle,
        &(VkBufferCreateInfo){
            .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
            .size = bytes,
            .usage = (views_fit(dev) ? VK_BUFFER_USAGE_STORAGE_TEXEL_BUFFER_BIT : 0) | VK_BUFFER_USAGE_STORAGE_BUFFER_BIT |
                     VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT |
                     VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT,
            .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
        },
        NULL, &b->buffer);
    bool ok = r == VK_SUCCESS || vireo_fail(err, VIREO_DEVICE_MEMORY, "arena '%s': no buffer of %.1f MiB: %s", a->name,
                                            (double)bytes / 0x1p20, vk_result_name(r));
    if (!ok)
        b->buffer = VK_NULL_HANDLE;
    if (!ok || !back_block(a, b, err)) {
        free_block(dev, b);
        return NULL;
    }
    b->address = dev->vk->GetBufferDeviceAddress(
        dev->handle,
        &(VkBufferDeviceAddressInfo){.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO, .buffer = b->buffer});
    if (a->memory == GPU_MEMORY_DEVICE)
        view_add(dev, b);
    device_name(dev, VK_OBJECT_TYPE_BUFFER, GPU_HANDLE(b->buffer), "%s[%u]", a->name, a->count);
    device_name(dev, VK_OBJECT_TYPE_DEVICE_MEMORY, GPU_HANDLE(b->memory), "%s[%u]", a->name, a->count);
    if (dev->params.poison && b->host)
        memset(b->host, 0xff, b->bytes);
    return b;
}

static bool add_block(struct gpu_arena *a, uint64_t bytes, struct vireo_error *err)
{
    struct gpu_device *dev = a->dev;
    struct gpu_block **more = vireo_realloc(a->blocks, (a->count + 1) * sizeof(struct gpu_block *));
    if (!more)
        return vireo_fail_memory(err, (a->count + 1) * sizeof(struct gpu_block *));
    a->blocks = more;
    struct gpu_block *b = make_block(a, bytes, err);
    if (!b)
        return false;
    a->blocks[a->count++] = b;
    a->held += bytes;
    dev->counters.bytes_held += bytes;
    dev->counters.bytes_peak = VIREO_MAX(dev->counters.bytes_peak, dev->counters.bytes_held);
    return true;
}

struct gpu_arena *gpu_arena_create(struct gpu_device *dev, const struct gpu_arena_params *p, struct vireo_error *err)
{
    struct gpu_arena *a = vireo_calloc(1, sizeof *a);
    if (!a) {
        vireo_fail_memory(err, sizeof *a);
        return NULL;
    }
    a->dev = dev;
    snprintf(a->name, sizeof a->name, "%s", p->name ? p->name : "arena");
    a->memory = p->memory;
    a->grows = p->grows;
    uint64_t most = largest_block(dev);
    uint64_t bytes = vireo_round_up(VIREO_MIN(p->bytes, UINT64_MAX - ALIGN), ALIGN);
    a->block_bytes = bytes ? bytes : DEFAULT_BLOCK;
    a->expected = bytes;
    if (a->grows)
        a->block_bytes = VIREO_MIN(a->block_bytes, VIREO_MIN(most, LARGEST_GROWN));
    a->next = dev->arenas;
    dev->arenas = a;
    for (uint64_t left = a->grows ? 0 : bytes; left > 0;) {
        uint64_t part = VIREO_MIN(left, most);
        if (!add_block(a, part, err)) {
            gpu_arena_destroy(&a);
            return NULL;
        }
        left -= part;
    }
    return a;
}

void gpu_arena_destroy(struct gpu_arena **arena)
{
    struct gpu_arena *a = *arena;
    if (!a)
        return;
    *arena = NULL;
    struct gpu_device *dev = a->dev;
    // What was recorded may use it. A failure is kept for the stream's next gpu_submit.
    if (a->count > 0 && !(timeline_flush(dev) && timeline_wait(dev, dev->timeline.submitted, NULL)))
        timeline_drain(dev);
    for (struct gpu_arena **link = &dev->arenas; *link; link = &(*link)->next)
        if (*link == a) {
            *link = a->next;
            break;
        }
    dev->counters.bytes_held -= a->held;
    for (uint32_t i = 0; i < a->count; i++)
        free_block(dev, a->blocks[i]);
    free(a->blocks);
    free(a->holes);
    free(a);
}

// ---- what was given back: sorted by block and place, neighbours joined ----

static bool add_hole(struct gpu_arena *a, uint32_t block, uint64_t begin, uint64_t end)
{
    uint32_t i = 0;
    while (i < a->hole_count && (a->holes[i].block < block || (a->holes[i].block == block && a->holes[i].end < begin)))
        i++;
    struct gpu_hole *next = i < a->hole_count ? &a->holes[i] : NULL;
    if (next && next->block == block && next->begin <= end) { // touches the one before, the one behind, or both
        vireo_assert(next->end == begin || next->begin == end);
        next->begin = VIREO_MIN(next->begin, begin);
        next->end = VIREO_MAX(next->end, end);
        if (i + 1 < a->hole_count && next[1].block == block && next[1].begin == next->end) {
            next->end = next[1].end;
            a->hole_count--;
            memmove(next + 1, next + 2, (a->hole_count - i - 1) * sizeof *next);
        }
        return true;
    }
    if (a->hole_count == a->hole_room) {
        uint32_t room = a->hole_room ? 2 * a->hole_room : 32;
        struct gpu_hole *more = vireo_realloc(a->holes, room * sizeof *more);
        if (!more)
            return false; // the memory is lost to this round only
        a->holes = more;
        a->hole_room = room;
    }
    memmove(&a->holes[i + 1], &a->holes[i], (a->hole_count - i) * sizeof *a->holes);
    a->holes[i] = (struct gpu_hole){block, begin, end};
    a->hole_count++;
    return true;
}

static struct gpu_span span_at(struct gpu_arena *a, uint32_t block, uint64_t place, uint64_t bytes)
{
    struct gpu_device *dev = a->dev;
    struct gpu_block *b = a->blocks[block];
    struct gpu_span s = {.address = b->address + place, .bytes = bytes, .block = b, .offset = place};
    if (b->host)
        s.host = b->host + place;
    a->used += bytes;
    a->peak = VIREO_MAX(a->peak, a->used);
    if (dev->params.poison && a->memory == GPU_MEMORY_DEVICE)
        gpu_fill(dev, s, 0xffffffffu, bytes);
    return s;
}

static struct gpu_span take_hole(struct gpu_arena *a, uint32_t i, uint64_t bytes)
{
    struct gpu_hole *h = &a->holes[i];
    const uint32_t block = h->block;
    const uint64_t place = h->begin;
    h->begin += bytes;
    if (h->begin == h->end) {
        a->hole_count--;
        memmove(h, h + 1, (a->hole_count - i) * sizeof *h);
    }
    return span_at(a, block, place, bytes);
}

// The smallest hole that is large enough; ties by place.
static bool best_hole(const struct gpu_arena *a, uint64_t bytes, uint32_t *out)
{
    uint64_t best = UINT64_MAX;
    for (uint32_t i = 0; i < a->hole_count; i++) {
        const uint64_t size = a->holes[i].end - a->holes[i].begin;
        if (size >= bytes && size < best) {
            best = size;
            *out = i;
        }
    }
    return best != UINT64_MAX;
}

static struct gpu_span take_from(struct gpu_arena *a, uint64_t bytes)
{
    struct gpu_block *b = a->blocks[a->current];
    // A hole at the end of what is used grows by what is missing.
    if (a->hole_count > 0) {
        struct gpu_hole *last = &a->holes[a->hole_count - 1];
        if (last->block == a->current && last->end == b->used && b->bytes - last->begin >= bytes) {
            last->end = b->used = last->begin + bytes;
            return take_hole(a, a->hole_count - 1, bytes);
        }
    }
    const uint64_t place = b->used;
    b->used += bytes;
    return span_at(a, a->current, place, bytes);
}

// Room at the end of block i, a hole that ends there included.
static uint64_t room_of(const struct gpu_arena *a, uint32_t i)
{
    const struct gpu_block *b = a->blocks[i];
    const struct gpu_hole *last = a->hole_count > 0 ? &a->holes[a->hole_count - 1] : NULL;
    return b->bytes - (last && last->block == i && last->end == b->used ? last->begin : b->used);
}

// The arena goes on behind block i: its end stays for smaller takes.
static void close_block(struct gpu_arena *a, uint32_t i)
{
    struct gpu_block *b = a->blocks[i];
    if (b->used < b->bytes && add_hole(a, i, b->used, b->bytes))
        b->used = b->bytes;
}

// The next block: what is expected and not yet there, else a bounded surplus.
static uint64_t next_block_bytes(const struct gpu_arena *a, uint64_t bytes)
{
    const uint64_t missing = a->expected > a->held ? a->expected - a->held : VIREO_MIN(a->block_bytes, LARGEST_SURPLUS);
    return VIREO_MAX(VIREO_MIN(missing, a->block_bytes), bytes);
}

struct gpu_span gpu_arena_take(struct gpu_arena *a, uint64_t bytes, struct vireo_error *err)
{
    if (bytes > largest_block(a->dev)) {
        out_of_memory(a, bytes, largest_block(a->dev), "in one piece", err);
        return (struct gpu_span){0};
    }
    bytes = vireo_round_up(VIREO_MAX(bytes, 1), ALIGN);
    uint32_t hole;
    if (best_hole(a, bytes, &hole))
        return take_hole(a, hole, bytes);
    for (uint32_t i = a->current; i < a->count; i++) {
        if (room_of(a, i) >= bytes) {
            a->current = i;
            return take_from(a, bytes);
        }
        close_block(a, i);
    }
    // A fixed arena of several blocks loses the ends of blocks: that loss is ours, not the plan's.
    if (!a->grows && (a->count < 2 || a->used + bytes > a->block_bytes)) {
        out_of_memory(a, bytes, a->held - VIREO_MIN(a->held, a->used), "in an arena of fixed size", err);
        return (struct gpu_span){0};
    }
    if (!add_block(a, a->grows ? next_block_bytes(a, bytes) : bytes, err))
        return (struct gpu_span){0};
    a->current = a->count - 1;
    return take_from(a, bytes);
}

uint64_t gpu_arena_mark(const struct gpu_arena *a)
{
    return a->count == 0 ? 0 : (uint64_t)a->current << MARK_SHIFT | a->blocks[a->current]->used;
}

void gpu_arena_rewind(struct gpu_arena *a, uint64_t mark)
{
    uint32_t block = (uint32_t)(mark >> MARK_SHIFT);
    uint64_t position = mark & ((1ull << MARK_SHIFT) - 1);
    if (a->count == 0)
        return;
    vireo_assert(block < a->current || (block == a->current && position <= a->blocks[block]->used));
    for (uint32_t i = block; i < a->count; i++) {
        uint64_t keep = i == block ? position : 0;
        a->used -= a->blocks[i]->used - keep;
        a->blocks[i]->used = keep;
    }
    a->current = block;
    // Holes behind the mark are gone; they were not counted as used.
    uint32_t kept = 0;
    for (uint32_t i = 0; i < a->hole_count; i++) {
        struct gpu_hole h = a->holes[i];
        if (h.block > block || (h.block == block && h.end > position)) {
            const uint64_t from = h.block == block ? VIREO_MAX(h.begin, position) : h.begin;
            a->used += h.end - from;
            h.end = from;
        }
        if (h.begin < h.end)
            a->holes[kept++] = h;
    }
    a->hole_count = kept;
}

void gpu_arena_give(struct gpu_arena *a, struct gpu_span span)
{
    if (!span.address)
        return;
    uint32_t block = 0;
    while (block < a->count && a->blocks[block] != span.block)
        block++;
    vireo_assert(block < a->count && span.offset % ALIGN == 0);
    const uint64_t bytes = vireo_round_up(VIREO_MAX(span.bytes, 1), ALIGN);
    vireo_assert(span.offset + bytes <= a->blocks[block]->used);
    if (add_hole(a, block, span.offset, span.offset + bytes))
        a->used -= bytes;
}

uint64_t gpu_arena_used(const struct gpu_arena *a)
{
    return a->used;
}

uint64_t gpu_arena_peak(const struct gpu_arena *a)
{
    return a->peak;
}

uint64_t gpu_arena_held(const struct gpu_arena *a)
{
    return a->held;
}

struct gpu_span gpu_span_part(struct gpu_span s, uint64_t offset, uint64_t bytes)
{
    vireo_assert(offset <= s.bytes && bytes <= s.bytes - offset);
    s.address += offset;
    s.offset += offset;
    s.bytes = bytes;
    if (s.host)
        s.host = (uint8_t *)s.host + offset;
    return s;
}
