#include "compute/gpu/internal.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/log.h"
#include "compute/base/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "gpu"

// One timeline semaphore: ticket n has passed when its value is at least n. 1 is the ticket of no work at all.

static void first_guess(struct gpu_device *dev)
{
    struct gpu_timeline *t = &dev->timeline;
    t->scale = 1;
    switch (dev->caps.type) {
    case GPU_CPU: // measured on lavapipe (Mesa 25): 3 GFLOP/s a core and 30 us a dispatch at the least
        t->flop_rate = 3e9 * thread_cores();
        t->byte_rate = 5e8 * thread_cores();
        t->overhead = 30e-6;
        break;
    case GPU_DISCRETE:
        t->flop_rate = 2e12;
        t->byte_rate = 1e11;
        t->overhead = 5e-6;
        break;
    default:
        t->flop_rate = 2e11;
        t->byte_rate = 1e10;
        t->overhead = 1e-5;
    }
}

double timeline_estimate(const struct gpu_device *dev, double flops, double bytes)
{
    const struct gpu_timeline *t = &dev->timeline;
    double work = VIREO_MAX(flops / t->flop_rate, bytes / t->byte_rate);
    return t->overhead + VIREO_MAX(work, 0);
}

// A watchdog forgives no submit that is too long, so the scale rises fast and falls slowly.
void timeline_learn(struct gpu_device *dev, double estimate, double seconds)
{
    struct gpu_timeline *t = &dev->timeline;
    if (seconds < 1e-3 || estimate <= 0)
        return;
    double wanted = seconds / estimate;
    double rise = t->measured ? VIREO_MIN(wanted, 4 * t->scale) : wanted;
    double scale = wanted > t->scale ? rise : 0.75 * t->scale + 0.25 * wanted;
    t->measured = true;
    t->scale = VIREO_MIN(VIREO_MAX(scale, 1e-2), 1e3);
}

void timeline_cut(struct gpu_device *dev)
{
    struct gpu_timeline *t = &dev->timeline;
    bool blind = !t->measured && dev->caps.timestamps;
    // Blind means that a wrong guess would show only after eight submits: begin with small ones, one at a time.
    if (dev->record.seconds < dev->params.submit_seconds * (blind ? 0.125 : 1) && dev->record.count < GPU_MAX_OPS)
        return;
    if (timeline_flush(dev) && blind)
        timeline_wait(dev, t->submitted, NULL);
}

bool timeline_init(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_timeline *t = &dev->timeline;
    first_guess(dev);
    t->submitted = t->passed = 1;
    VkResult r = dev->vk->CreateSemaphore(
        dev->handle,
        &(VkSemaphoreCreateInfo){
            .sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO,
            .pNext = &(VkSemaphoreTypeCreateInfo){.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                                  .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE,
                                                  .initialValue = 1},
        },
        NULL, &t->semaphore);
    if (r != VK_SUCCESS)
        return vireo_fail(err, VIREO_UNAVAILABLE, "no timeline semaphore: %s", vk_result_name(r));
    device_name(dev, VK_OBJECT_TYPE_SEMAPHORE, GPU_HANDLE(t->semaphore), "timeline");
    for (int i = 0; i < GPU_SLOTS; i++) {
        struct gpu_slot *s = &t->slots[i];
        r = dev->vk->CreateCommandPool(dev->handle,
                                       &(VkCommandPoolCreateInfo){
                                           .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                           .flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT,
                                           .queueFamilyIndex = dev->features.queue_family,
                                       },
                                       NULL, &s->pool);
        if (r == VK_SUCCESS)
            r = dev->vk->AllocateCommandBuffers(dev->handle,
                                                &(VkCommandBufferAllocateInfo){
                                                    .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                    .commandPool = s->pool,
                                                    .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                                    .commandBufferCount = 1,
                                                },
                                                &s->commands);
        if (r != VK_SUCCESS)
            return vireo_fail(err, VIREO_UNAVAILABLE, "no command buffers: %s", vk_result_name(r));
        device_name(dev, VK_OBJECT_TYPE_COMMAND_POOL, GPU_HANDLE(s->pool), "slot %d", i);
        device_name(dev, VK_OBJECT_TYPE_COMMAND_BUFFER, GPU_HANDLE(s->commands), "slot %d", i);
    }
    return true;
}

// What the device is (or was) busy with: the first ticket that has not passed. NULL: nothing.
static const struct gpu_slot *busy_slot(const struct gpu_device *dev)
{
    const struct gpu_slot *first = NULL;
    for (int i = 0; i < GPU_SLOTS; i++) {
        const struct gpu_slot *s = &dev->timeline.slots[i];
        if (s->ticket > dev->timeline.passed && (!first || s->ticket < first->ticket))
            first = s;
    }
    return first;
}

static const char *busy_label(const struct gpu_device *dev)
{
    const struct gpu_slot *s = busy_slot(dev);
    return s && s->label[0] ? s->label : "none";
}

// How long without progress means that the device is lost. CPU drivers compile a pipeline inside the submit that first
// dispatches it, which old ones take minutes for: no hang, though from outside it looks like one.
static double patience(const struct gpu_device *dev)
{
    enum { EACH = 2, MOST = 12 }; // times wait_seconds: more for each such pipeline; and in all
    const struct gpu_slot *s = busy_slot(dev);
    const uint32_t fresh = s && dev->caps.type == GPU_CPU ? s->fresh : 0;
    return dev->params.wait_seconds * VIREO_MIN(1 + EACH * (double)fresh, MOST);
}

// The first loss is what every later call reports.
static bool lose(struct gpu_device *dev, const char *what, const char *label, struct vireo_error *err)
{
    if (!dev->lost) {
        dev->lost = true;
        vireo_fail(&dev->failure, VIREO_DEVICE_LOST, "the device '%s' was lost: %s (last dispatch of that submit: %s)",
                   dev->caps.name, what, label);
        log_error("%s", dev->failure.message);
    }
    record_drop(dev);
    if (err)
        *err = dev->failure;
    return false;
}

static void collect_passed(struct gpu_device *dev)
{
    for (int i = 0; i < GPU_SLOTS; i++) {
        struct gpu_slot *s = &dev->timeline.slots[i];
        if (s->ticket && s->ticket <= dev->timeline.passed) {
            timers_collect(dev, s);
            s->ticket = 0;
        }
    }
}

static bool look(struct gpu_device *dev, VkResult *r)
{
    uint64_t value = 0;
    *r = dev->vk->GetSemaphoreCounterValue(dev->handle, dev->timeline.semaphore, &value);
    if (*r != VK_SUCCESS || value <= dev->timeline.passed)
        return false;
    // A lost device may report any value.
    dev->timeline.passed = VIREO_MIN(value, dev->timeline.submitted);
    collect_passed(dev);
    return true;
}

bool timeline_wait(struct gpu_device *dev, uint64_t ticket, struct vireo_error *err)
{
    struct gpu_timeline *t = &dev->timeline;
    const double slice = 5; // never without end: a hung device must be noticed
    double progress = clock_seconds();
    if (dev->lost)
        return lose(dev, "", "", err);
    while (t->passed < ticket) {
        VkResult r;
        bool hung = vireo_fault("gpu.hang");
        if (vireo_fault("gpu.wait"))
            r = VK_ERROR_DEVICE_LOST;
        else if (hung)
            r = VK_TIMEOUT;
        else
            r = dev->vk->WaitSemaphores(dev->handle,
                                        &(VkSemaphoreWaitInfo){
                                            .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                            .semaphoreCount = 1,
                                            .pSemaphores = &t->semaphore,
                                            .pValues = &ticket,
                                        },
                                        (uint64_t)(VIREO_MIN(slice, dev->params.wait_seconds) * 1e9));
        if (r == VK_SUCCESS || (r == VK_TIMEOUT && !hung)) {
            bool timed_out = r == VK_TIMEOUT;
            if (look(dev, &r)) {
                progress = clock_seconds();
                continue;
            }
            if (r == VK_SUCCESS && timed_out)
                r = VK_TIMEOUT;
        }
        if (r == VK_TIMEOUT && !hung && clock_seconds() - progress < patience(dev))
            continue;
        char what[96];
        if (r == VK_TIMEOUT)
            snprintf(what, sizeof what, "no progress for %g s", patience(dev));
        else
            snprintf(what, sizeof what, "waiting gave %s", vk_result_name(r));
        return lose(dev, what, busy_label(dev), err);
    }
    return true;
}

void timeline_drain(struct gpu_device *dev)
{
    struct gpu_timeline *t = &dev->timeline;
    record_drop(dev);
    // Also after a loss: a device that hung or was declared lost may still run. One that is gone answers at once.
    if (t->semaphore)
        dev->vk->WaitSemaphores(dev->handle,
                                &(VkSemaphoreWaitInfo){
                                    .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                    .semaphoreCount = 1,
                                    .pSemaphores = &t->semaphore,
                                    .pValues = &t->submitted,
                                },
                                (uint64_t)((dev->lost ? 5 : patience(dev)) * 1e9));
}

void timeline_finish(struct gpu_device *dev)
{
    struct gpu_timeline *t = &dev->timeline;
    timeline_drain(dev);
    for (int i = 0; i < GPU_SLOTS; i++) {
        struct gpu_slot *s = &t->slots[i];
        if (s->pool)
            dev->vk->DestroyCommandPool(dev->handle, s->pool, NULL);
        if (s->queries)
            dev->vk->DestroyQueryPool(dev->handle, s->queries, NULL);
        free(s->timed);
        replay_finish(s);
    }
    if (t->semaphore)
        dev->vk->DestroySemaphore(dev->handle, t->semaphore, NULL);
    memset(t, 0, sizeof *t);
}

// After the submit everything is visible to the host and to what follows.
static void end_barrier(struct gpu_device *dev, VkCommandBuffer commands)
{
    const VkPipelineStageFlags work = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    dev->vk->CmdPipelineBarrier(
        commands, work, work | VK_PIPELINE_STAGE_HOST_BIT, 0, 1,
        &(VkMemoryBarrier){
            .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
            .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
            .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                             VK_ACCESS_TRANSFER_WRITE_BIT | VK_ACCESS_HOST_READ_BIT | VK_ACCESS_HOST_WRITE_BIT,
        },
        0, NULL, 0, NULL);
    dev->record.reads.count = dev->record.writes.count = 0;
    dev->record.unknown = dev->record.texels = dev->record.transfers = false;
}

// The slot that has rested longest.
static struct gpu_slot *oldest_slot(struct gpu_timeline *t)
{
    struct gpu_slot *oldest = &t->slots[0];
    for (int i = 1; i < GPU_SLOTS; i++)
        if (t->slots[i].last_ticket < oldest->last_ticket)
            oldest = &t->slots[i];
    return oldest;
}

static VkResult fill_slot(struct gpu_device *dev, struct gpu_slot *s)
{
    struct vk_functions *vk = dev->vk;
    s->replay.count = 0;
    VkResult r = vk->ResetCommandPool(dev->handle, s->pool, 0);
    if (r == VK_SUCCESS)
        r = vk->BeginCommandBuffer(
            s->commands, &(VkCommandBufferBeginInfo){.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO});
    if (r != VK_SUCCESS)
        return r;
    replay_keep(dev, s);
    s->estimate = 0;
    s->fresh = 0;
    s->label[0] = 0;
    s->query_count = 0;
    timers_prepare(dev, s, dev->timers.on ? dev->record.count : 0);
    if (s->queries) {
        vk->CmdResetQueryPool(s->commands, s->queries, 0, s->query_capacity);
        vk->CmdWriteTimestamp(s->commands, VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT, s->queries, 0);
        s->query_count = 2;
    }
    record_emit(dev, s);
    end_barrier(dev, s->commands);
    if (s->queries)
        vk->CmdWriteTimestamp(s->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, s->queries, 1);
    r = vk->EndCommandBuffer(s->commands);
    if (r != VK_SUCCESS)
        s->replay.count = 0;
    return r;
}

// Makes the slot as if it had just been filled.
static void replay_slot(struct gpu_device *dev, struct gpu_slot *s)
{
    s->estimate = 0;
    for (uint32_t i = 0; i < dev->record.count; i++)
        s->estimate += dev->record.ops[i].seconds;
    s->fresh = 0;
    s->query_count = s->queries ? 2 : 0;
    dev->counters.barriers += s->barriers;
    dev->counters.replays++;
    record_drop(dev);
}

static VkResult submit_slot(struct gpu_device *dev, struct gpu_slot *s)
{
    struct gpu_timeline *t = &dev->timeline;
    if (vireo_fault("gpu.submit"))
        return VK_ERROR_DEVICE_LOST;
    uint64_t ticket = t->submitted + 1;
    VkResult r = dev->vk->QueueSubmit(
        dev->queue, 1,
        &(VkSubmitInfo){
            .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
            .pNext = &(VkTimelineSemaphoreSubmitInfo){.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                                      .signalSemaphoreValueCount = 1,
                                                      .pSignalSemaphoreValues = &ticket},
            .commandBufferCount = 1,
            .pCommandBuffers = &s->commands,
            .signalSemaphoreCount = 1,
            .pSignalSemaphores = &t->semaphore,
        },
        VK_NULL_HANDLE);
    if (r == VK_SUCCESS)
        s->ticket = s->last_ticket = t->submitted = ticket;
    return r;
}

bool timeline_flush(struct gpu_device *dev)
{
    struct gpu_timeline *t = &dev->timeline;
    if (dev->failure.code) {
        record_drop(dev);
        return false;
    }
    if (dev->record.count == 0)
        return true;
    VkResult r;
    look(dev, &r); // learn from what is over
    struct gpu_slot *s = replay_find(dev);
    r = VK_SUCCESS;
    if (s) {
        replay_slot(dev, s);
    } else {
        s = oldest_slot(t);
        if (s->ticket && !timeline_wait(dev, s->ticket, NULL))
            return false;
        r = fill_slot(dev, s);
    }
    if (r == VK_SUCCESS)
        r = submit_slot(dev, s);
    if (r == VK_SUCCESS) {
        dev->counters.submits++;
        return true;
    }
    if (r == VK_ERROR_OUT_OF_HOST_MEMORY || r == VK_ERROR_OUT_OF_DEVICE_MEMORY) {
        struct vireo_error err;
        vireo_fail(&err, VIREO_DEVICE_MEMORY, "work up to '%s' cannot be submitted: %s", s->label, vk_result_name(r));
        record_fail(dev, &err);
        return false;
    }
    char what[96];
    snprintf(what, sizeof what, "submitting gave %s", vk_result_name(r));
    return lose(dev, what, s->label[0] ? s->label : "none", NULL);
}

uint64_t gpu_submit(struct gpu_device *dev, struct vireo_error *err)
{
    if (timeline_flush(dev))
        return dev->timeline.submitted;
    if (err)
        *err = dev->failure;
    if (!dev->lost)
        dev->failure = (struct vireo_error){0};
    return 0;
}

bool gpu_wait(struct gpu_device *dev, uint64_t ticket, struct vireo_error *err)
{
    if (dev->failure.code) {
        if (err)
            *err = dev->failure;
        return false;
    }
    vireo_assert(ticket >= 1 && ticket <= dev->timeline.submitted);
    return timeline_wait(dev, ticket, err);
}

bool gpu_finish(struct gpu_device *dev, struct vireo_error *err)
{
    uint64_t ticket = gpu_submit(dev, err);
    return ticket && timeline_wait(dev, ticket, err);
}

bool gpu_passed(struct gpu_device *dev, uint64_t ticket)
{
    VkResult r;
    if (ticket > dev->timeline.passed && !dev->lost)
        look(dev, &r);
    return ticket <= dev->timeline.passed;
}
