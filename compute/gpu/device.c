#include "compute/gpu/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/log.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LOG_MODULE "gpu"

void gpu_uuid_text(const uint8_t uuid[16], char text[33])
{
    for (int i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", uuid[i]);
}

const char *gpu_device_type_name(enum gpu_device_type t)
{
    static const char *const names[] = {"other", "integrated", "discrete", "virtual", "cpu"};
    return names[t];
}

static bool list_caps(struct gpu_instance *in, VkPhysicalDevice **devices, struct gpu_caps **caps, uint32_t *count,
                      struct vireo_error *err)
{
    if (!instance_devices(in, devices, count, err))
        return false;
    *caps = vireo_calloc(*count + 1, sizeof **caps);
    bool ok = *caps ? true : vireo_fail_memory(err, (*count + 1) * sizeof **caps);
    for (uint32_t i = 0; ok && i < *count; i++)
        ok = features_query(in, (*devices)[i], i, &(*caps)[i], NULL, err);
    if (!ok) {
        free(*caps);
        free(*devices);
        *caps = NULL;
        *devices = NULL;
    }
    return ok;
}

bool gpu_device_list(struct gpu_caps **out, size_t *count, struct vireo_error *err)
{
    struct gpu_instance in;
    VkPhysicalDevice *devices = NULL;
    struct gpu_caps *caps = NULL;
    uint32_t found = 0;
    bool ok = instance_init(&in, GPU_VALIDATION_OFF, err) && list_caps(&in, &devices, &caps, &found, err);
    instance_finish(&in);
    free(devices);
    if (ok) {
        *out = caps;
        *count = found;
    }
    return ok;
}

// Higher is better; 0 for a device that cannot be used.
static int rank(const struct gpu_caps *c)
{
    static const int by_type[] = {[GPU_DISCRETE] = 5, [GPU_INTEGRATED] = 4, [GPU_VIRTUAL] = 3, [GPU_OTHER] = 2,
                                  [GPU_CPU] = 1};
    return c->missing[0] ? 0 : by_type[c->type];
}

static int best_of(const struct gpu_caps *caps, size_t count)
{
    int best = -1;
    for (size_t i = 0; i < count; i++)
        if (rank(&caps[i]) > 0 &&
            (best < 0 || rank(&caps[i]) > rank(&caps[best]) ||
             (rank(&caps[i]) == rank(&caps[best]) && caps[i].heap_bytes > caps[best].heap_bytes)))
            best = (int)i;
    return best;
}

static bool contains_fold(const char *text, const char *part)
{
    size_t n = strlen(part);
    for (; *text; text++)
        if (strncasecmp(text, part, n) == 0)
            return true;
    return false;
}

// UUIDs are compared without their dashes.
static bool is_uuid(const char *select, const uint8_t uuid[16])
{
    char mine[33], asked[33];
    gpu_uuid_text(uuid, mine);
    size_t n = 0;
    for (; *select; select++) {
        if (*select == '-')
            continue;
        if (n == 32 || !isxdigit((unsigned char)*select))
            return false;
        asked[n++] = (char)tolower((unsigned char)*select);
    }
    return n == 32 && memcmp(mine, asked, 32) == 0;
}

// Index of the chosen device, or -1 + err.
static int choose(const struct gpu_caps *caps, size_t count, const char *select, struct vireo_error *err)
{
    if (count == 0) {
        vireo_fail(err, VIREO_UNAVAILABLE, "Vulkan is installed, but there is no device: install a driver "
                                           "(mesa-vulkan-drivers has one for the CPU)");
        return -1;
    }
    if (!select || !select[0] || strcmp(select, "auto") == 0) {
        int best = best_of(caps, count);
        if (best < 0)
            vireo_fail(err, VIREO_UNSUPPORTED, "none of %zu Vulkan devices can be used; '%s' lacks: %s", count,
                       caps[0].name, caps[0].missing);
        return best;
    }
    int found = -1;
    char *end;
    unsigned long index = strtoul(select, &end, 10);
    if (isdigit((unsigned char)select[0]) && *end == 0 && strlen(select) < 6)
        found = index < count ? (int)index : -1;
    for (size_t i = 0; found < 0 && i < count; i++)
        if (is_uuid(select, caps[i].uuid))
            found = (int)i;
    for (size_t i = 0; found < 0 && i < count; i++)
        if (contains_fold(caps[i].name, select))
            found = (int)i;
    if (found < 0)
        vireo_fail(err, VIREO_UNAVAILABLE, "no Vulkan device '%s': %zu found, the first is '%s'", select, count,
                   caps[0].name);
    else if (caps[found].missing[0]) {
        vireo_fail(err, VIREO_UNSUPPORTED, "device %d '%s' lacks: %s", found, caps[found].name, caps[found].missing);
        return -1;
    }
    return found;
}

bool gpu_device_print(FILE *out, struct vireo_error *err)
{
    struct gpu_caps *caps = NULL;
    size_t count = 0;
    if (!gpu_device_list(&caps, &count, err))
        return false;
    int best = best_of(caps, count);
    if (count == 0)
        fprintf(out, "no Vulkan devices\n");
    for (size_t i = 0; i < count; i++) {
        const struct gpu_caps *c = &caps[i];
        char uuid[33];
        gpu_uuid_text(c->uuid, uuid);
        fprintf(out, "%s%zu  %s (%s)\n", (int)i == best ? "* " : "  ", i, c->name, gpu_device_type_name(c->type));
        fprintf(out, "       uuid %s  vulkan %u.%u.%u  driver %s %s\n", uuid, VK_API_VERSION_MAJOR(c->api_version),
                VK_API_VERSION_MINOR(c->api_version), VK_API_VERSION_PATCH(c->api_version), c->driver_name,
                c->driver_info);
        if (c->missing[0]) {
            fprintf(out, "       cannot be used; lacks: %s\n", c->missing);
            continue;
        }
        fprintf(out, "       memory %.1f GiB, free %.1f GiB, largest allocation %.1f GiB%s\n",
                (double)c->heap_bytes / 0x1p30, (double)c->budget_bytes / 0x1p30,
                (double)c->max_allocation_bytes / 0x1p30, c->unified_memory ? ", shared with the host" : "");
        fprintf(out, "       subgroup %u (%u to %u%s), shared memory %u KiB, workgroup %u\n", c->subgroup_size,
                c->subgroup_min, c->subgroup_max, c->subgroup_size_control ? ", selectable" : "",
                c->max_shared_bytes >> 10, c->max_invocations);
        fprintf(out, "       float16 %s, 16-bit storage %s, int16 %s, int64 %s, cooperative matrix %s, timestamps %s\n",
                c->float16 ? "yes" : "no", c->storage16 ? "yes" : "no", c->int16 ? "yes" : "no",
                c->int64 ? "yes" : "no", c->coopmat_khr ? "yes" : "no", c->timestamps ? "yes" : "no");
    }
    free(caps);
    return true;
}

// VIREO_GPU_DEBUG=word,word=value... on top of the caller's parameters.
static bool read_debug(struct gpu_device_params *p, enum gpu_validation *validation, struct vireo_error *err)
{
    *validation = p->validation ? GPU_VALIDATION_ON : GPU_VALIDATION_OFF;
    const char *rest = getenv("VIREO_GPU_DEBUG");
    while (rest && *rest) {
        char word[64];
        size_t n = strcspn(rest, ",");
        if (n >= sizeof word)
            return vireo_fail(err, VIREO_INVALID, "VIREO_GPU_DEBUG holds an unknown word: %.60s", rest);
        memcpy(word, rest, n);
        word[n] = 0;
        rest += n + (rest[n] == ',');
        char *value = strchr(word, '=');
        if (value)
            *value++ = 0;
        unsigned long long number = value ? strtoull(value, NULL, 10) : 0;
        if (strcmp(word, "validation") == 0)
            *validation = GPU_VALIDATION_ON;
        else if (strcmp(word, "auto-validation") == 0)
            *validation = *validation == GPU_VALIDATION_ON ? GPU_VALIDATION_ON : GPU_VALIDATION_IF_PRESENT;
        else if (strcmp(word, "barriers") == 0)
            p->full_barriers = true;
        else if (strcmp(word, "shuffle") == 0)
            p->shuffle_seed = number ? number : 1;
        else if (strcmp(word, "poison") == 0)
            p->poison = true;
        else if (strcmp(word, "robust") == 0)
            p->robust = true;
        else if (strcmp(word, "limit") == 0 && number)
            p->memory_limit = number << 20;
        else if (strcmp(word, "subgroup") == 0 && number)
            p->subgroup_size = (uint32_t)number;
        else if (word[0])
            return vireo_fail(err, VIREO_INVALID,
                              "VIREO_GPU_DEBUG: '%s' is not known; words are validation, auto-validation, barriers, "
                              "shuffle=SEED, poison, robust, limit=MIB, subgroup=N",
                              word);
    }
    return true;
}

static bool choose_subgroup(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_caps *c = &dev->caps;
    uint32_t n = dev->params.subgroup_size;
    if (n == 0 || n == c->subgroup_size)
        return true;
    if (!c->subgroup_size_control || n < c->subgroup_min || n > c->subgroup_max || (n & (n - 1)))
        return vireo_fail(err, VIREO_UNSUPPORTED, "subgroup size %u is not possible on '%s': %u to %u%s", n, c->name,
                          c->subgroup_min, c->subgroup_max, c->subgroup_size_control ? "" : ", not selectable");
    c->subgroup_size = n;
    return true;
}

static bool create_handle(struct gpu_device *dev, struct vireo_error *err)
{
    struct gpu_features *f = &dev->features;
    f->base.features.robustBufferAccess = dev->params.robust;
    float priority = 1;
    VkResult r = dev->vk->CreateDevice(dev->physical,
                                       &(VkDeviceCreateInfo){
                                           .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                           .pNext = &f->base,
                                           .queueCreateInfoCount = 1,
                                           .pQueueCreateInfos =
                                               &(VkDeviceQueueCreateInfo){
                                                   .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                                   .queueFamilyIndex = f->queue_family,
                                                   .queueCount = 1,
                                                   .pQueuePriorities = &priority,
                                               },
                                           .enabledExtensionCount = f->extension_count,
                                           .ppEnabledExtensionNames = f->extensions,
                                       },
                                       NULL, &dev->handle);
    if (r != VK_SUCCESS) {
        dev->handle = VK_NULL_HANDLE;
        return vireo_fail(err, VIREO_UNAVAILABLE, "device '%s' cannot be opened: %s", dev->caps.name,
                          vk_result_name(r));
    }
#define X(function)                                                                                                   \
    dev->vk->function = (PFN_vk##function)dev->vk->GetDeviceProcAddr(dev->handle, "vk" #function);                   \
    if (!dev->vk->function)                                                                                           \
        return vireo_fail(err, VIREO_UNSUPPORTED, "the driver of '%s' lacks vk" #function, dev->caps.name);
    VK_DEVICE_FUNCTIONS(X)
#undef X
    dev->vk->GetDeviceQueue(dev->handle, f->queue_family, 0, &dev->queue);
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2};
    dev->vk->GetPhysicalDeviceMemoryProperties2(dev->physical, &memory);
    dev->memory = memory.memoryProperties;
    return true;
}

static bool open_device(struct gpu_device *dev, enum gpu_validation validation, struct vireo_error *err)
{
    if (!instance_init(&dev->instance, validation, err))
        return false;
    dev->vk = &dev->instance.vk;
    VkPhysicalDevice *devices = NULL;
    struct gpu_caps *caps = NULL;
    uint32_t count = 0;
    if (!list_caps(&dev->instance, &devices, &caps, &count, err))
        return false;
    int chosen = choose(caps, count, dev->params.select, err);
    if (chosen >= 0)
        dev->physical = devices[chosen];
    free(caps);
    free(devices);
    return chosen >= 0 &&
           features_query(&dev->instance, dev->physical, (uint32_t)chosen, &dev->caps, &dev->features, err) &&
           choose_subgroup(dev, err) && create_handle(dev, err) && timeline_init(dev, err) && views_init(dev, err) &&
           kernels_init(dev, err);
}

struct gpu_device *gpu_device_create(const struct gpu_device_params *p, struct vireo_error *err)
{
    static const struct gpu_device_params defaults;
    struct gpu_device_params params = p ? *p : defaults;
    enum gpu_validation validation;
    if (!read_debug(&params, &validation, err))
        return NULL;
    struct gpu_device *dev = vireo_calloc(1, sizeof *dev);
    if (!dev) {
        vireo_fail_memory(err, sizeof *dev);
        return NULL;
    }
    if (params.submit_seconds <= 0)
        params.submit_seconds = 0.1;
    if (params.wait_seconds <= 0)
        params.wait_seconds = 300;
    dev->params = params;
    if (params.cache_folder) {
        snprintf(dev->cache_folder, sizeof dev->cache_folder, "%s", params.cache_folder);
        char mesa[512];
        snprintf(mesa, sizeof mesa, "%s/mesa", params.cache_folder);
        setenv("MESA_SHADER_CACHE_DIR", mesa, 0);
    }
    if (!open_device(dev, validation, err)) {
        gpu_device_destroy(&dev);
        return NULL;
    }
    gpu_tune_load(dev);
    dev->params.select = NULL; // the caller's strings end here
    dev->params.cache_folder = NULL;
    log_info("device %u '%s' (%s), subgroup %u, free %.1f of %.1f GiB%s", dev->caps.index, dev->caps.name,
             gpu_device_type_name(dev->caps.type), dev->caps.subgroup_size, (double)dev->caps.budget_bytes / 0x1p30,
             (double)dev->caps.heap_bytes / 0x1p30, dev->instance.validation ? ", validation on" : "");
    return dev;
}

void gpu_device_destroy(struct gpu_device **device)
{
    struct gpu_device *dev = *device;
    if (!dev)
        return;
    *device = NULL;
    if (dev->handle) {
        timeline_finish(dev); // waits
        cache_save(dev);
        staging_finish(dev);
        vireo_assert(dev->arenas == NULL); // an arena outlives its device
        kernels_finish(dev);
        views_finish(dev);
        timers_finish(dev);
        record_finish(dev);
        if (dev->vk->DestroyDevice)
            dev->vk->DestroyDevice(dev->handle, NULL);
    }
    instance_finish(&dev->instance);
    free(dev);
}

const struct gpu_caps *gpu_device_caps(const struct gpu_device *dev)
{
    return &dev->caps;
}

uint64_t gpu_device_messages(const struct gpu_device *dev)
{
    return atomic_load(&((struct gpu_device *)dev)->instance.messages);
}

bool gpu_device_is_lost(const struct gpu_device *dev)
{
    return dev->lost;
}

struct gpu_counters gpu_device_counters(const struct gpu_device *dev)
{
    return dev->counters;
}

void device_name(struct gpu_device *dev, VkObjectType type, uint64_t handle, const char *fmt, ...)
{
    if (!dev->vk->SetDebugUtilsObjectNameEXT || !handle)
        return;
    char name[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    dev->vk->SetDebugUtilsObjectNameEXT(dev->handle,
                                        &(VkDebugUtilsObjectNameInfoEXT){
                                            .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT,
                                            .objectType = type,
                                            .objectHandle = handle,
                                            .pObjectName = name,
                                        });
}
