// What the tests of compute/gpu share (gpu.c, gpu_stream.c): devices and memory that must be had, one simple kernel.
#ifndef VIREO_TESTS_UNIT_GPU_H
#define VIREO_TESTS_UNIT_GPU_H

#include "tests/check.h"

#include "compute/gpu/record.h"
#include "shaders/args/fill.h"

static inline struct gpu_device *make(const struct gpu_device_params *p)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = gpu_device_create(p, &err);
    if (!dev)
        fail_msg("no device: %s", err.message);
    return dev;
}

// Ends a device that must have given no message of the validation layer.
static inline void end(struct gpu_device **dev)
{
    REQUIRE_INT(gpu_device_messages(*dev), 0);
    gpu_device_destroy(dev);
}

static inline struct gpu_arena *arena(struct gpu_device *dev, const char *name, enum gpu_memory memory, uint64_t bytes)
{
    struct vireo_error err = {0};
    struct gpu_arena *a = gpu_arena_create(
        dev, &(struct gpu_arena_params){.name = name, .memory = memory, .bytes = bytes}, &err);
    if (!a)
        fail_msg("no arena: %s", err.message);
    return a;
}

static inline struct gpu_span take(struct gpu_arena *a, uint64_t bytes)
{
    struct vireo_error err = {0};
    struct gpu_span s = gpu_arena_take(a, bytes, &err);
    if (!s.address)
        fail_msg("no span: %s", err.message);
    return s;
}

// to = scale * from + value over `count` floats; `from` without a block: to = value. Declared as asked.
static inline void affine_declared(struct gpu_device *dev, struct gpu_span to, struct gpu_span from, uint32_t count,
                                   float scale, float value, bool declare_from, double flops)
{
    struct fill_args args = {.to = to.address, .from = from.address, .count = count, .scale = scale, .value = value};
    struct gpu_use uses[] = {{to.address, count * 4ull, GPU_WRITE}, {from.address, count * 4ull, GPU_READ}};
    uint32_t per_group = 32 * gpu_device_caps(dev)->subgroup_size;
    gpu_dispatch(dev, KERNEL_FILL_F32,
                 &(struct gpu_dispatch){
                     .args = &args,
                     .args_bytes = sizeof args,
                     .uses = uses,
                     .use_count = declare_from ? 2 : 1,
                     .groups = (count + per_group - 1) / per_group,
                     .flops = flops,
                     .bytes = flops > 0 ? 0 : count * 8.0,
                     .label = "affine",
                 });
}

static inline void affine(struct gpu_device *dev, struct gpu_span to, struct gpu_span from, uint32_t count, float scale,
                          float value)
{
    affine_declared(dev, to, from, count, scale, value, true, 0);
}

static const struct gpu_span nothing;

// To be asked first. False: there is no device, and stderr says so.
static inline bool gpu_is_there(void)
{
    setenv("VIREO_GPU_DEBUG", "auto-validation", 1); // the tests choose the other modes themselves
    struct vireo_error err = {0};
    struct gpu_caps *caps = NULL;
    size_t count = 0;
    bool found = gpu_device_list(&caps, &count, &err) && count > 0;
    if (!found)
        fprintf(stderr, "skipped: %s\n", err.code ? err.message : "no Vulkan device");
    free(caps);
    return found;
}

#endif
