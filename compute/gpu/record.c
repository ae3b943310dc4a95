#include "compute/gpu/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/philox.h"

#include <stdlib.h>
#include <string.h>

// Work is kept as a list until it is submitted: the list is what the shuffle reorders, and what is cut into submits.

void record_fail(struct gpu_device *dev, const struct vireo_error *err)
{
    if (dev->failure.code == VIREO_OK)
        dev->failure = *err;
    record_drop(dev);
}

void record_drop(struct gpu_device *dev)
{
    dev->record.count = 0;
    dev->record.use_count = 0;
    dev->record.seconds = 0;
}

void record_finish(struct gpu_device *dev)
{
    free(dev->record.ops);
    free(dev->record.uses);
    free(dev->record.reads.items);
    free(dev->record.writes.items);
}

// ---- address ranges ----

// First range that ends behind `address`.
static uint32_t first_behind(const struct gpu_ranges *r, uint64_t address)
{
    uint32_t low = 0, high = r->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (r->items[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool touches(const struct gpu_ranges *r, uint64_t begin, uint64_t end)
{
    uint32_t i = first_behind(r, begin);
    return i < r->count && r->items[i].begin < end;
}

static bool add_range(struct gpu_ranges *r, uint64_t begin, uint64_t end)
{
    uint32_t first = first_behind(r, begin), last = first;
    while (last < r->count && r->items[last].begin < end)
        last++;
    if (last > first) { // merge with [first, last)
        struct gpu_range *m = &r->items[first];
        m->begin = VIREO_MIN(m->begin, begin);
        m->end = VIREO_MAX(r->items[last - 1].end, end);
        memmove(m + 1, &r->items[last], (r->count - last) * sizeof *m);
        r->count -= last - first - 1;
        return true;
    }
    if (r->count == r->capacity) {
        uint32_t capacity = r->capacity ? r->capacity * 2 : 64;
        struct gpu_range *more = vireo_realloc(r->items, capacity * sizeof *more);
        if (!more)
            return false;
        r->items = more;
        r->capacity = capacity;
    }
    memmove(&r->items[first + 1], &r->items[first], (r->count - first) * sizeof *r->items);
    r->items[first] = (struct gpu_range){begin, end};
    r->count++;
    return true;
}

// ---- the list ----

static bool append(struct gpu_device *dev, const struct gpu_op *op, const struct gpu_use *uses, uint32_t count)
{
    struct gpu_record *r = &dev->record;
    if (r->count == r->capacity) {
        uint32_t capacity = r->capacity ? r->capacity * 2 : 64;
        struct gpu_op *more = vireo_realloc(r->ops, capacity * sizeof *more);
        if (!more)
            return false;
        r->ops = more;
        r->capacity = capacity;
    }
    if (r->use_count + count > r->use_capacity) {
        uint32_t capacity = VIREO_MAX(r->use_capacity * 2, r->use_count + count + 256);
        struct gpu_use *more = vireo_realloc(r->uses, capacity * sizeof *more);
        if (!more)
            return false;
        r->uses = more;
        r->use_capacity = capacity;
    }
    struct gpu_op *o = &r->ops[r->count++];
    *o = *op;
    o->first_use = r->use_count;
    o->use_count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (uses[i].address && uses[i].bytes) {
            r->uses[r->use_count++] = uses[i];
            o->use_count++;
        }
    r->seconds += op->seconds * dev->timeline.scale;
    return true;
}

// Appends and submits when enough has come together. The result is in dev->failure.
static void add(struct gpu_device *dev, const struct gpu_op *op, const struct gpu_use *uses, uint32_t count)
{
    enum { SHUFFLED_OPS = 512 }; // the shuffle compares all with all
    if (!append(dev, op, uses, count)) {
        struct vireo_error err;
        vireo_fail_memory(&err, sizeof *op);
        record_fail(dev, &err);
        return;
    }
    if (dev->params.shuffle_seed && dev->record.count < SHUFFLED_OPS)
        return;
    if (dev->params.shuffle_seed)
        timeline_flush(dev);
    else
        timeline_cut(dev);
}

static void add_dispatch(struct gpu_device *dev, struct gpu_op *op, const struct gpu_dispatch *d)
{
    uint64_t most_x = dev->caps.max_groups_x;
    double aim = dev->params.submit_seconds;
    if (d->groups > most_x) {
        uint64_t rows = (d->groups + most_x - 1) / most_x;
        op->groups[0] = (uint32_t)((d->groups + rows - 1) / rows);
        op->groups[1] = (uint32_t)rows;
        add(dev, op, d->uses, d->use_count);
        return;
    }
    uint64_t parts = 1;
    double seconds = op->seconds * dev->timeline.scale;
    if (seconds > 2 * aim && !dev->params.shuffle_seed)
        parts = VIREO_MIN(d->groups, (uint64_t)VIREO_MIN(seconds / aim + 1, 4096.0));
    struct gpu_op part = *op;
    part.groups[1] = 1;
    for (uint64_t i = 0; i < parts && dev->failure.code == VIREO_OK; i++) {
        uint64_t begin = d->groups * i / parts, end = d->groups * (i + 1) / parts;
        double share = (double)(end - begin) / (double)d->groups;
        part.continues = i > 0;
        part.base = (uint32_t)begin;
        part.groups[0] = (uint32_t)(end - begin);
        part.seconds = op->seconds * share;
        part.flops = op->flops * share;
        part.moved = op->moved * share;
        add(dev, &part, d->uses, d->use_count);
    }
}

void gpu_dispatch(struct gpu_device *dev, enum gpu_kernel kernel, const struct gpu_dispatch *d)
{
    if (dev->failure.code || d->groups == 0)
        return;
    vireo_assert(d->args_bytes <= 128 && d->args_bytes % 4 == 0 && d->use_count <= GPU_MAX_USES);
    vireo_assert(d->groups <= UINT32_MAX);
    struct vireo_error err = {0};
    struct gpu_pipeline *pipeline = kernel_pipeline(dev, kernel, d->constants, d->constant_count, &err);
    if (!pipeline) {
        record_fail(dev, &err);
        return;
    }
    double bytes = d->bytes;
    for (uint32_t i = 0; d->flops <= 0 && d->bytes <= 0 && i < d->use_count; i++)
        bytes += d->uses[i].address ? (double)d->uses[i].bytes : 0;
    struct gpu_op op = {
        .kind = OP_DISPATCH,
        .args_bytes = d->args_bytes,
        .pipeline = pipeline,
        .label = d->label ? d->label : gpu_kernel_name(kernel),
        .seconds = timeline_estimate(dev, d->flops, bytes),
        .flops = d->flops,
        .moved = d->bytes,
    };
    if (d->args_bytes)
        memcpy(op.args, d->args, d->args_bytes);
    dev->counters.dispatches++;
    dev->counters.flops += d->flops;
    dev->counters.moved += bytes;
    add_dispatch(dev, &op, d);
}

bool record_copy(struct gpu_device *dev, const struct gpu_block *to, uint64_t to_offset, const struct gpu_block *from,
                 uint64_t from_offset, uint64_t bytes, const char *label)
{
    vireo_assert(to_offset + bytes <= to->bytes && from_offset + bytes <= from->bytes);
    struct gpu_op op = {
        .kind = OP_COPY,
        .from = from->buffer,
        .to = to->buffer,
        .from_offset = from_offset,
        .to_offset = to_offset,
        .bytes = bytes,
        .label = label,
        .seconds = timeline_estimate(dev, 0, 2 * (double)bytes),
        .moved = 2 * (double)bytes,
    };
    struct gpu_use uses[] = {{to->address + to_offset, bytes, GPU_WRITE},
                             {from->address + from_offset, bytes, GPU_READ}};
    add(dev, &op, uses, 2);
    return dev->failure.code == VIREO_OK;
}

void gpu_copy(struct gpu_device *dev, struct gpu_span to, struct gpu_span from, uint64_t bytes)
{
    if (dev->failure.code || bytes == 0)
        return;
    vireo_assert(to.block && from.block && bytes <= to.bytes && bytes <= from.bytes);
    vireo_assert(to.address + bytes <= from.address || from.address + bytes <= to.address); // no overlap
    record_copy(dev, to.block, to.offset, from.block, from.offset, bytes, "copy");
}

void gpu_fill(struct gpu_device *dev, struct gpu_span to, uint32_t word, uint64_t bytes)
{
    if (dev->failure.code || bytes == 0)
        return;
    vireo_assert(to.block && bytes <= to.bytes && bytes % 4 == 0 && to.offset % 4 == 0);
    struct gpu_op op = {
        .kind = OP_FILL,
        .to = to.block->buffer,
        .to_offset = to.offset,
        .bytes = bytes,
        .word = word,
        .label = "fill",
        .seconds = timeline_estimate(dev, 0, (double)bytes),
        .moved = (double)bytes,
    };
    struct gpu_use use = {to.address, bytes, GPU_WRITE};
    add(dev, &op, &use, 1);
}

// ---- order and barriers ----

static bool conflicts(const struct gpu_record *r, const struct gpu_op *a, const struct gpu_op *b)
{
    for (uint32_t i = 0; i < a->use_count; i++)
        for (uint32_t k = 0; k < b->use_count; k++) {
            const struct gpu_use *x = &r->uses[a->first_use + i], *y = &r->uses[b->first_use + k];
            if (((x->access | y->access) & GPU_WRITE) && x->address < y->address + y->bytes &&
                y->address < x->address + x->bytes)
                return true;
        }
    return false;
}

// A random order that keeps every declared dependency (Kahn's algorithm with a random choice among the ready).
// Returns NULL without memory: then the order stays.
static uint32_t *shuffled(struct gpu_device *dev)
{
    struct gpu_record *r = &dev->record;
    uint32_t n = r->count;
    uint32_t *order = vireo_calloc((size_t)n * 3, sizeof *order);
    if (!order)
        return NULL;
    uint32_t *waits = order + n, *ready = order + 2 * n, ready_count = 0, done = 0;
    bool free_order = dev->params.skip_barriers;
    for (uint32_t k = 0; k < n; k++) {
        for (uint32_t i = 0; i < k && !free_order; i++)
            waits[k] += conflicts(r, &r->ops[i], &r->ops[k]);
        if (waits[k] == 0)
            ready[ready_count++] = k;
    }
    while (ready_count > 0) {
        uint64_t c = r->shuffle_counter++;
        uint32_t pick = philox(dev->params.shuffle_seed, (uint32_t)c, (uint32_t)(c >> 32), 0, 0).v[0] % ready_count;
        uint32_t i = ready[pick];
        ready[pick] = ready[--ready_count];
        order[done++] = i;
        for (uint32_t k = i + 1; k < n && !free_order; k++)
            if (conflicts(r, &r->ops[i], &r->ops[k]) && --waits[k] == 0)
                ready[ready_count++] = k;
    }
    vireo_assert(done == n);
    return order;
}

static void barrier(struct gpu_device *dev, VkCommandBuffer commands)
{
    const VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    dev->vk->CmdPipelineBarrier(commands, stages, stages, 0, 1,
                                &(VkMemoryBarrier){
                                    .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                    .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
                                    .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                                                     VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
                                },
                                0, NULL, 0, NULL);
    dev->record.reads.count = dev->record.writes.count = 0;
    dev->record.unknown = dev->record.texels = dev->record.transfers = false;
}

// To the validation layers a kernel with views reads all of every block, so a copy or fill beside it, of other bytes, is a
// hazard: for their sake, and with them alone, those wait. (Accesses by address they do not see at all.)
static bool seems_hazard(const struct gpu_device *dev, const struct gpu_op *op)
{
    const struct gpu_record *r = &dev->record;
    return dev->instance.validation && (op->kind == OP_DISPATCH ? op->pipeline->texels && r->transfers : r->texels);
}

static bool must_wait(const struct gpu_device *dev, const struct gpu_op *op)
{
    const struct gpu_record *r = &dev->record;
    if (r->unknown || seems_hazard(dev, op))
        return true;
    for (uint32_t i = 0; i < op->use_count; i++) {
        const struct gpu_use *u = &r->uses[op->first_use + i];
        uint64_t end = u->address + u->bytes;
        if (touches(&r->writes, u->address, end) || ((u->access & GPU_WRITE) && touches(&r->reads, u->address, end)))
            return true;
    }
    return false;
}

static void remember(struct gpu_record *r, const struct gpu_op *op)
{
    r->texels = r->texels || (op->kind == OP_DISPATCH && op->pipeline->texels);
    r->transfers = r->transfers || op->kind != OP_DISPATCH;
    for (uint32_t i = 0; i < op->use_count; i++) {
        const struct gpu_use *u = &r->uses[op->first_use + i];
        uint64_t end = u->address + u->bytes;
        if ((u->access & GPU_READ) && !add_range(&r->reads, u->address, end))
            r->unknown = true;
        if ((u->access & GPU_WRITE) && !add_range(&r->writes, u->address, end))
            r->unknown = true;
    }
}

static void emit_one(struct gpu_device *dev, struct gpu_slot *slot, const struct gpu_op *op, VkPipeline *bound)
{
    struct vk_functions *vk = dev->vk;
    VkCommandBuffer c = slot->commands;
    switch (op->kind) {
    case OP_COPY:
        vk->CmdCopyBuffer(
            c, op->from, op->to, 1,
            &(VkBufferCopy){.srcOffset = op->from_offset, .dstOffset = op->to_offset, .size = op->bytes});
        return;
    case OP_FILL:
        vk->CmdFillBuffer(c, op->to, op->to_offset, op->bytes, op->word);
        return;
    case OP_DISPATCH:
        break;
    }
    if (*bound != op->pipeline->handle) {
        *bound = op->pipeline->handle;
        vk->CmdBindPipeline(c, VK_PIPELINE_BIND_POINT_COMPUTE, *bound);
    }
    if (op->args_bytes)
        vk->CmdPushConstants(c, dev->pipelines.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, op->args_bytes, op->args);
    if (op->base)
        vk->CmdDispatchBase(c, op->base, 0, 0, op->groups[0], op->groups[1], 1);
    else
        vk->CmdDispatch(c, op->groups[0], op->groups[1], 1);
    slot->fresh += !op->pipeline->used;
    op->pipeline->used = true;
}

void record_emit(struct gpu_device *dev, struct gpu_slot *slot)
{
    struct gpu_record *r = &dev->record;
    uint32_t *order = dev->params.shuffle_seed && r->count > 1 ? shuffled(dev) : NULL;
    bool labels = dev->instance.validation && dev->vk->CmdBeginDebugUtilsLabelEXT;
    bool alone = dev->params.full_barriers || dev->timers.on;
    VkPipeline bound = VK_NULL_HANDLE;
    slot->barriers = 0;
    views_bind(dev, slot->commands);
    for (uint32_t i = 0; i < r->count; i++) {
        const struct gpu_op *op = &r->ops[order ? order[i] : i];
        if (!op->continues && !dev->params.skip_barriers && must_wait(dev, op)) {
            barrier(dev, slot->commands);
            dev->counters.barriers++;
            slot->barriers++;
        }
        if (labels)
            dev->vk->CmdBeginDebugUtilsLabelEXT(slot->commands,
                                                &(VkDebugUtilsLabelEXT){
                                                    .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_LABEL_EXT,
                                                    .pLabelName = op->label,
                                                });
        emit_one(dev, slot, op, &bound);
        if (labels)
            dev->vk->CmdEndDebugUtilsLabelEXT(slot->commands);
        remember(r, op);
        if (alone)
            barrier(dev, slot->commands);
        if (dev->timers.on && slot->query_count < slot->query_capacity) {
            slot->timed[slot->query_count - 2] = (struct gpu_timed){op->label, op->flops, op->moved};
            dev->vk->CmdWriteTimestamp(slot->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, slot->queries,
                                       slot->query_count++);
        }
        slot->estimate += op->seconds;
        if (op->kind == OP_DISPATCH || !slot->label[0]) {
            strncpy(slot->label, op->label, sizeof slot->label - 1);
            slot->label[sizeof slot->label - 1] = 0;
        }
    }
    free(order);
    record_drop(dev);
}
