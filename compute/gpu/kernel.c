#include "compute/gpu/internal.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/log.h"
#include "compute/base/thread.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "gpu"

#define X(NAME, name) extern const uint32_t kernel_##name[], kernel_##name##_bytes;
KERNEL_LIST(X)
#undef X

static const struct {
    const char *name;
    const uint32_t *words, *bytes;
} kernels[KERNEL_COUNT] = {
#define X(NAME, name) {#name, kernel_##name, &kernel_##name##_bytes},
    KERNEL_LIST(X)
#undef X
};

const char *gpu_kernel_name(enum gpu_kernel kernel)
{
    vireo_assert(kernel < KERNEL_COUNT);
    return kernels[kernel].name;
}

// What the SPIR-V says of itself. Some drivers crash on a capability they lack instead of failing, so it is read here.
struct needs {
    bool int16, int64, float16, storage16, coopmat, bfloat16, float64, texels, absent;
    uint32_t local_x; // 0: set by a specialisation constant
};

static struct needs read_needs(enum gpu_kernel kernel)
{
    enum { OP_EXECUTION_MODE = 16, OP_CAPABILITY = 17, OP_FUNCTION = 54, OP_DECORATE = 71 };
    enum { MODE_LOCAL_SIZE = 17, DECORATION_BUILTIN = 11, BUILTIN_WORKGROUP_SIZE = 25 };
    const uint32_t *w = kernels[kernel].words, count = *kernels[kernel].bytes / 4;
    struct needs n = {.local_x = 1, .absent = count == 0};
    bool constant_size = false;
    for (uint32_t i = 5; i < count && w[i] >> 16;) {
        uint32_t op = w[i] & 0xffff, length = w[i] >> 16;
        if (op == OP_FUNCTION)
            break;
        if (op == OP_CAPABILITY) {
            n.float16 |= w[i + 1] == 9;
            n.float64 |= w[i + 1] == 10;
            n.int64 |= w[i + 1] == 11;
            n.int16 |= w[i + 1] == 22;
            n.storage16 |= w[i + 1] == 4433 || w[i + 1] == 4434;
            n.coopmat |= w[i + 1] == 6022;
            n.bfloat16 |= w[i + 1] == 5116;
            n.texels |= w[i + 1] == 5305; // storage texel buffers by an index of the arguments
        }
        if (op == OP_EXECUTION_MODE && length >= 6 && w[i + 2] == MODE_LOCAL_SIZE)
            n.local_x = w[i + 3];
        if (op == OP_DECORATE && length >= 4 && w[i + 2] == DECORATION_BUILTIN && w[i + 3] == BUILTIN_WORKGROUP_SIZE)
            constant_size = true;
        i += length;
    }
    if (constant_size)
        n.local_x = 0;
    return n;
}

static const char *unmet(const struct gpu_caps *c, const struct needs *n)
{
    if (n->absent)
        return "a newer shader compiler than it was built with";
    if (n->texels && !(c->texel_views && c->type == GPU_CPU))
        return "views of memory as texels";
    if (n->float64)
        return "64-bit floats";
    if (n->int64 && !c->int64)
        return "64-bit integers";
    if (n->int16 && !c->int16)
        return "16-bit integers";
    if (n->float16 && !c->float16)
        return "16-bit floats";
    if (n->storage16 && !c->storage16)
        return "16-bit storage";
    if (n->bfloat16 && (!c->bfloat16 || !c->matrix_bf16[0]))
        return "matrix units for bf16 with f32 sums";
    if (n->coopmat && !n->bfloat16 && !c->matrix_f16[0])
        return "matrix units for fp16 with f32 sums";
    return NULL;
}

bool gpu_kernel_runs(const struct gpu_device *dev, enum gpu_kernel kernel)
{
    vireo_assert(kernel < KERNEL_COUNT);
    struct needs n = read_needs(kernel);
    return unmet(&dev->caps, &n) == NULL;
}

bool kernels_init(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_pipelines *p = &dev->pipelines;
    p->capacity = 256;
    p->table = vireo_calloc(p->capacity, sizeof(struct gpu_pipeline *));
    if (!p->table)
        return vireo_fail_memory(err, p->capacity * sizeof(struct gpu_pipeline *));
    // One layout for all: operands are addresses in 128 bytes of push constants; CPU drivers have the views beside them.
    VkResult r = dev->vk->CreatePipelineLayout(
        dev->handle,
        &(VkPipelineLayoutCreateInfo){
            .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
            .setLayoutCount = dev->views.layout != VK_NULL_HANDLE,
            .pSetLayouts = &dev->views.layout,
            .pushConstantRangeCount = 1,
            .pPushConstantRanges = &(VkPushConstantRange){.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = 128},
        },
        NULL, &p->layout);
    if (r != VK_SUCCESS)
        return vireo_fail(err, VIREO_UNAVAILABLE, "no pipeline layout: %s", vk_result_name(r));
    device_name(dev, VK_OBJECT_TYPE_PIPELINE_LAYOUT, GPU_HANDLE(p->layout), "kernels");
    return cache_load(dev, err);
}

void kernels_finish(struct gpu_device *dev)
{
    struct gpu_pipelines *p = &dev->pipelines;
    for (uint32_t i = 0; p->table && i < p->capacity; i++) {
        if (!p->table[i])
            continue;
        dev->vk->DestroyPipeline(dev->handle, p->table[i]->handle, NULL);
        free(p->table[i]);
    }
    free(p->table);
    p->table = NULL;
    for (int i = 0; i < KERNEL_COUNT; i++)
        if (p->modules[i])
            dev->vk->DestroyShaderModule(dev->handle, p->modules[i], NULL);
    if (p->cache)
        dev->vk->DestroyPipelineCache(dev->handle, p->cache, NULL);
    if (p->layout)
        dev->vk->DestroyPipelineLayout(dev->handle, p->layout, NULL);
}

static bool make_module(struct gpu_device *dev, enum gpu_kernel kernel, struct vireo_error *err)
{
    struct needs n = read_needs(kernel);
    const char *lack = unmet(&dev->caps, &n);
    if (lack)
        return vireo_fail(err, VIREO_UNSUPPORTED, "kernel '%s' needs %s, which '%s' lacks", kernels[kernel].name, lack,
                          dev->caps.name);
    if (dev->pipelines.modules[kernel])
        return true;
    VkShaderModule module;
    VkResult r = dev->vk->CreateShaderModule(dev->handle,
                                             &(VkShaderModuleCreateInfo){
                                                 .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
                                                 .codeSize = *kernels[kernel].bytes,
                                                 .pCode = kernels[kernel].words,
                                             },
                                             NULL, &module);
    if (r != VK_SUCCESS)
        return vireo_fail(err, VIREO_INTERNAL, "kernel '%s' is refused: %s", kernels[kernel].name, vk_result_name(r));
    dev->pipelines.modules[kernel] = module;
    device_name(dev, VK_OBJECT_TYPE_SHADER_MODULE, GPU_HANDLE(module), "%s", kernels[kernel].name);
    return true;
}

// Any thread: touches only the pipeline and what is fixed by now.
static VkResult make_pipeline(struct gpu_device *dev, struct gpu_pipeline *p)
{
    enum { MOST = GPU_MAX_CONSTANTS + 1 };
    uint32_t values[MOST] = {dev->caps.subgroup_size};
    VkSpecializationMapEntry entries[MOST];
    uint32_t count = p->constant_count + 1;
    memcpy(values + 1, p->constants, p->constant_count * sizeof values[0]);
    for (uint32_t i = 0; i < count; i++)
        entries[i] = (VkSpecializationMapEntry){.constantID = i, .offset = i * 4, .size = 4};
    struct needs n = read_needs(p->kernel);
    bool full = n.local_x % dev->caps.subgroup_size == 0; // 0: the subgroup size itself
    bool control = dev->caps.subgroup_size_control;
    return dev->vk->CreateComputePipelines(
        dev->handle, dev->pipelines.cache, 1,
        &(VkComputePipelineCreateInfo){
            .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
            .flags = VK_PIPELINE_CREATE_DISPATCH_BASE, // long dispatches are cut by their base
            .layout = dev->pipelines.layout,
            .stage =
                {
                    .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                    .pNext =
                        control
                            ? &(VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT){
                                  .sType =
                                      VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT,
                                  .requiredSubgroupSize = dev->caps.subgroup_size}
                            : NULL,
                    .flags = control && full ? VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT : 0,
                    .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                    .module = dev->pipelines.modules[p->kernel],
                    .pName = "main",
                    .pSpecializationInfo = &(VkSpecializationInfo){.mapEntryCount = count,
                                                                   .pMapEntries = entries,
                                                                   .dataSize = count * sizeof values[0],
                                                                   .pData = values},
                },
        },
        NULL, &p->handle);
}

static uint32_t key_hash(enum gpu_kernel kernel, const uint32_t *constants, uint32_t count)
{
    uint32_t h = 2166136261u ^ (uint32_t)kernel;
    for (uint32_t i = 0; i < count; i++)
        h = (h ^ constants[i]) * 16777619u ^ (h >> 15);
    return h * 2654435769u;
}

// The slot of the key: its pipeline, or NULL where it belongs.
static struct gpu_pipeline **find(struct gpu_pipelines *p, enum gpu_kernel kernel, const uint32_t *constants,
                                  uint32_t count)
{
    uint32_t mask = p->capacity - 1, i = key_hash(kernel, constants, count) & mask;
    for (; p->table[i]; i = (i + 1) & mask) {
        struct gpu_pipeline *e = p->table[i];
        if (e->kernel == kernel && e->constant_count == count &&
            (count == 0 || memcmp(e->constants, constants, count * sizeof constants[0]) == 0))
            break;
    }
    return &p->table[i];
}

static bool grow(struct gpu_pipelines *p, struct vireo_error *err)
{
    if (p->count * 2 < p->capacity)
        return true;
    struct gpu_pipelines bigger = *p;
    bigger.capacity *= 2;
    bigger.table = vireo_calloc(bigger.capacity, sizeof(struct gpu_pipeline *));
    if (!bigger.table)
        return vireo_fail_memory(err, bigger.capacity * sizeof(struct gpu_pipeline *));
    for (uint32_t i = 0; i < p->capacity; i++)
        if (p->table[i])
            *find(&bigger, p->table[i]->kernel, p->table[i]->constants, p->table[i]->constant_count) = p->table[i];
    free(p->table);
    *p = bigger;
    return true;
}

// A new entry without its VkPipeline.
static struct gpu_pipeline *new_entry(struct gpu_device *dev, enum gpu_kernel kernel, const uint32_t *constants,
                                      uint32_t count, struct vireo_error *err)
{
    vireo_assert(kernel < KERNEL_COUNT && count <= GPU_MAX_CONSTANTS);
    if (!grow(&dev->pipelines, err) || !make_module(dev, kernel, err))
        return NULL;
    struct gpu_pipeline *p = vireo_calloc(1, sizeof *p);
    if (!p) {
        vireo_fail_memory(err, sizeof *p);
        return NULL;
    }
    p->kernel = kernel;
    p->texels = read_needs(kernel).texels;
    p->constant_count = count;
    if (count)
        memcpy(p->constants, constants, count * sizeof constants[0]);
    return p;
}

static bool refused(const struct gpu_pipeline *p, VkResult r, struct vireo_error *err)
{
    return vireo_fail(err, r == VK_ERROR_OUT_OF_DEVICE_MEMORY ? VIREO_DEVICE_MEMORY : VIREO_INTERNAL,
                      "kernel '%s' cannot be built: %s", kernels[p->kernel].name, vk_result_name(r));
}

static void add_entry(struct gpu_device *dev, struct gpu_pipeline *p)
{
    device_name(dev, VK_OBJECT_TYPE_PIPELINE, GPU_HANDLE(p->handle), "%s", kernels[p->kernel].name);
    *find(&dev->pipelines, p->kernel, p->constants, p->constant_count) = p;
    dev->pipelines.count++;
    dev->counters.pipelines++;
}

struct gpu_pipeline *kernel_pipeline(struct gpu_device *dev, enum gpu_kernel kernel, const uint32_t *constants,
                                     uint32_t count, struct vireo_error *err)
{
    struct gpu_pipeline *p = *find(&dev->pipelines, kernel, constants, count);
    if (p || !(p = new_entry(dev, kernel, constants, count, err)))
        return p;
    VkResult r = make_pipeline(dev, p);
    if (r != VK_SUCCESS) {
        refused(p, r, err);
        free(p);
        return NULL;
    }
    add_entry(dev, p);
    return p;
}

struct warm {
    struct gpu_device *dev;
    struct gpu_pipeline **entries;
    VkResult *results;
};

static void warm_one(void *context, size_t i)
{
    struct warm *w = context;
    w->results[i] = make_pipeline(w->dev, w->entries[i]);
}

// New entries for what is not there yet; duplicates in the list are taken once.
static bool collect(struct gpu_device *dev, const struct gpu_warm *list, size_t count, struct warm *w, size_t *fresh,
                    struct vireo_error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct gpu_warm *l = &list[i];
        bool known = *find(&dev->pipelines, l->kernel, l->constants, l->constant_count) != NULL;
        for (size_t k = 0; !known && k < *fresh; k++)
            known = w->entries[k]->kernel == l->kernel && w->entries[k]->constant_count == l->constant_count &&
                    memcmp(w->entries[k]->constants, l->constants, l->constant_count * 4) == 0;
        if (known)
            continue;
        struct gpu_pipeline *p = new_entry(dev, l->kernel, l->constants, l->constant_count, err);
        if (!p)
            return false;
        w->entries[(*fresh)++] = p;
    }
    return true;
}

bool gpu_warm_up(struct gpu_device *dev, const struct gpu_warm *list, size_t count, struct vireo_error *err)
{
    if (count == 0)
        return true;
    double start = clock_seconds();
    struct warm w = {.dev = dev,
                     .entries = vireo_calloc(count, sizeof(struct gpu_pipeline *)),
                     .results = vireo_calloc(count, sizeof(VkResult))};
    size_t fresh = 0;
    bool ok = w.entries && w.results ? true : vireo_fail_memory(err, count * sizeof(struct gpu_pipeline *));
    ok = ok && collect(dev, list, count, &w, &fresh, err);
    if (ok)
        thread_for(fresh, 0, warm_one, &w);
    for (size_t i = 0; i < fresh; i++) {
        if (ok && w.results[i] == VK_SUCCESS && grow(&dev->pipelines, err)) {
            add_entry(dev, w.entries[i]);
            continue;
        }
        if (ok && w.results[i] != VK_SUCCESS)
            refused(w.entries[i], w.results[i], err);
        ok = false;
        if (w.entries[i]->handle)
            dev->vk->DestroyPipeline(dev->handle, w.entries[i]->handle, NULL);
        free(w.entries[i]);
    }
    free(w.entries);
    free(w.results);
    // A CPU driver compiles at the first dispatch only: one group with all-zero arguments, which every kernel takes as
    // "nothing to do".
    static const uint32_t nothing[32];
    for (size_t i = 0; ok && dev->caps.type == GPU_CPU && i < count; i++)
        if (!(*find(&dev->pipelines, list[i].kernel, list[i].constants, list[i].constant_count))->used)
            gpu_dispatch(dev, list[i].kernel,
                         &(struct gpu_dispatch){.args = nothing,
                                                .args_bytes = sizeof nothing,
                                                .constants = list[i].constants,
                                                .constant_count = list[i].constant_count,
                                                .groups = 1,
                                                .label = "warm up"});
    ok = ok && gpu_finish(dev, err);
    if (ok && fresh > 0) {
        log_info("%zu kernels ready in %.2f s", fresh, clock_seconds() - start);
        cache_save(dev);
    }
    return ok;
}
