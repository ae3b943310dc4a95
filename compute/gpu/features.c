#include "compute/gpu/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_SHARED = 32 << 10, MIN_INVOCATIONS = 256, MIN_PUSH = 128 };

struct extensions {
    VkExtensionProperties *list;
    uint32_t count;
};

static bool list_extensions(struct gpu_instance *in, VkPhysicalDevice device, struct extensions *e)
{
    e->count = 0;
    if (in->vk.EnumerateDeviceExtensionProperties(device, NULL, &e->count, NULL) != VK_SUCCESS)
        return false;
    e->list = vireo_calloc(e->count + 1, sizeof *e->list);
    return e->list && in->vk.EnumerateDeviceExtensionProperties(device, NULL, &e->count, e->list) >= VK_SUCCESS;
}

static bool has(const struct extensions *e, const char *name)
{
    for (uint32_t i = 0; i < e->count; i++)
        if (strcmp(e->list[i].extensionName, name) == 0)
            return true;
    return false;
}

static void lacks(struct gpu_caps *caps, bool condition, const char *what)
{
    if (condition)
        return;
    size_t n = strlen(caps->missing);
    snprintf(caps->missing + n, sizeof caps->missing - n, "%s%s", n ? ", " : "", what);
}

static enum gpu_device_type device_type(VkPhysicalDeviceType t)
{
    switch (t) {
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return GPU_INTEGRATED;
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return GPU_DISCRETE;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
        return GPU_VIRTUAL;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return GPU_CPU;
    default:
        return GPU_OTHER;
    }
}

uint64_t features_budget(struct gpu_instance *in, VkPhysicalDevice device, uint32_t heap, bool has_budget)
{
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                                .pNext = has_budget ? &budget : NULL};
    in->vk.GetPhysicalDeviceMemoryProperties2(device, &memory);
    if (!has_budget)
        return memory.memoryProperties.memoryHeaps[heap].size / 10 * 8;
    // A tenth stays free for the driver and the desktop.
    uint64_t all = budget.heapBudget[heap] / 10 * 9, used = budget.heapUsage[heap];
    return all > used ? all - used : 0;
}

static void query_memory(struct gpu_instance *in, VkPhysicalDevice device, struct gpu_caps *caps)
{
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2};
    in->vk.GetPhysicalDeviceMemoryProperties2(device, &memory);
    const VkPhysicalDeviceMemoryProperties *m = &memory.memoryProperties;
    bool all_local = true;
    for (uint32_t i = 0; i < m->memoryHeapCount; i++) {
        bool local = m->memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT;
        all_local &= local;
        if (local && m->memoryHeaps[i].size > caps->heap_bytes) {
            caps->heap_bytes = m->memoryHeaps[i].size;
            caps->budget_bytes = features_budget(in, device, i, caps->memory_budget);
        }
    }
    caps->unified_memory = caps->type == GPU_CPU || caps->type == GPU_INTEGRATED || all_local;
}

// The shape of the matrix products with A and B of this type and f32 sums: the largest of up to 16 x 16 x 16 that tiles of
// 16 and k of 32 are made of.
static void find_matrix(const VkCooperativeMatrixPropertiesKHR *list, uint32_t count, VkComponentTypeKHR type,
                        uint8_t out[3])
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < count; i++) {
        const VkCooperativeMatrixPropertiesKHR *p = &list[i];
        const uint32_t size = p->MSize * p->NSize * p->KSize;
        const bool fits = p->MSize && 16 % p->MSize == 0 && p->NSize >= 4 && 16 % p->NSize == 0 && p->KSize >= 8 &&
                          16 % p->KSize == 0;
        if (p->AType == type && p->BType == type && p->CType == VK_COMPONENT_TYPE_FLOAT32_KHR &&
            p->ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR && p->scope == VK_SCOPE_SUBGROUP_KHR && fits && size > best) {
            best = size;
            out[0] = (uint8_t)p->MSize;
            out[1] = (uint8_t)p->NSize;
            out[2] = (uint8_t)p->KSize;
        }
    }
}

static void query_matrices(struct gpu_instance *in, VkPhysicalDevice device, struct gpu_caps *caps)
{
    enum { MOST = 256 };
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR properties =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)in->vk.GetInstanceProcAddr(
            in->handle, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    VkCooperativeMatrixPropertiesKHR *list = vireo_calloc(MOST, sizeof *list);
    uint32_t count = MOST;
    for (uint32_t i = 0; list && i < MOST; i++)
        list[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    if (list && properties && properties(device, &count, list) >= VK_SUCCESS) {
        if (caps->float16)
            find_matrix(list, count, VK_COMPONENT_TYPE_FLOAT16_KHR, caps->matrix_f16);
        if (caps->bfloat16)
            find_matrix(list, count, VK_COMPONENT_TYPE_BFLOAT16_KHR, caps->matrix_bf16);
    }
    free(list);
}

static bool is_power_of_two(uint32_t v)
{
    return v && !(v & (v - 1));
}

static bool query(struct gpu_instance *in, VkPhysicalDevice device, uint32_t index, const struct extensions *e,
                  struct gpu_caps *caps, struct gpu_features *on)
{
    VkPhysicalDeviceProperties2 p = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    in->vk.GetPhysicalDeviceProperties2(device, &p);
    const VkPhysicalDeviceLimits *limit = &p.properties.limits;
    snprintf(caps->name, sizeof caps->name, "%s", p.properties.deviceName);
    caps->index = index;
    caps->vendor_id = p.properties.vendorID;
    caps->device_id = p.properties.deviceID;
    caps->driver_version = p.properties.driverVersion;
    caps->api_version = p.properties.apiVersion;
    caps->type = device_type(p.properties.deviceType);
    if (p.properties.apiVersion < VK_API_VERSION_1_2) {
        lacks(caps, false, "Vulkan 1.2");
        return true;
    }
    bool core13 = VIREO_MIN(in->api_version, p.properties.apiVersion) >= VK_API_VERSION_1_3;
    bool size_control = core13 || has(e, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
    bool coopmat = has(e, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
    bool bfloat16 = coopmat && has(e, VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME);
    caps->memory_budget = has(e, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);

    VkPhysicalDeviceSubgroupSizeControlPropertiesEXT sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT};
    VkPhysicalDeviceVulkan12Properties p12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES,
                                              .pNext = size_control ? &sizes : NULL};
    VkPhysicalDeviceVulkan11Properties p11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES,
                                              .pNext = &p12};
    p.pNext = &p11;
    in->vk.GetPhysicalDeviceProperties2(device, &p);
    snprintf(caps->driver_name, sizeof caps->driver_name, "%s", p12.driverName);
    snprintf(caps->driver_info, sizeof caps->driver_info, "%s", p12.driverInfo);
    memcpy(caps->uuid, p11.deviceUUID, sizeof caps->uuid);
    caps->max_invocations = limit->maxComputeWorkGroupInvocations;
    caps->max_shared_bytes = limit->maxComputeSharedMemorySize;
    caps->max_push_bytes = limit->maxPushConstantsSize;
    caps->max_groups_x = limit->maxComputeWorkGroupCount[0];
    caps->max_allocation_bytes = p11.maxMemoryAllocationSize;
    caps->timestamp_ns = limit->timestampPeriod;
    query_memory(in, device, caps);

    // What the device has ...
    VkPhysicalDeviceShaderBfloat16FeaturesKHR f_bfloat16 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR};
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR f_coopmat = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR,
        .pNext = bfloat16 ? &f_bfloat16 : NULL};
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT f_size = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT,
        .pNext = coopmat ? &f_coopmat : NULL};
    VkPhysicalDeviceVulkan12Features f12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .pNext = size_control ? (void *)&f_size : f_size.pNext};
    VkPhysicalDeviceVulkan11Features f11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
                                            .pNext = &f12};
    VkPhysicalDeviceFeatures2 f = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &f11};
    in->vk.GetPhysicalDeviceFeatures2(device, &f);

    caps->int16 = f.features.shaderInt16;
    caps->int64 = f.features.shaderInt64;
    caps->float16 = f12.shaderFloat16;
    caps->storage16 = f11.storageBuffer16BitAccess;
    caps->memory_model = f12.vulkanMemoryModel;
    caps->texel_views = f12.shaderStorageTexelBufferArrayDynamicIndexing && f12.descriptorBindingPartiallyBound &&
                        f12.descriptorBindingUpdateUnusedWhilePending &&
                        limit->maxPerStageDescriptorStorageImages >= GPU_VIEWS;
    caps->max_texels = limit->maxTexelBufferElements;
    caps->coopmat_khr = coopmat && f_coopmat.cooperativeMatrix && caps->memory_model;
    caps->bfloat16 = caps->coopmat_khr && f_bfloat16.shaderBFloat16Type && f_bfloat16.shaderBFloat16CooperativeMatrix;
    if (caps->coopmat_khr)
        query_matrices(in, device, caps);
    caps->subgroup_min = caps->subgroup_max = p11.subgroupSize;
    if (size_control) {
        caps->subgroup_min = sizes.minSubgroupSize;
        caps->subgroup_max = sizes.maxSubgroupSize;
        caps->subgroup_size_control = f_size.subgroupSizeControl && f_size.computeFullSubgroups &&
                                      (sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT);
    }
    // 32 suits RDNA, NVIDIA and Apple; Intel has twice the registers per lane at 16.
    uint32_t best = caps->vendor_id == 0x8086 && caps->type != GPU_CPU ? 16 : 32;
    best = VIREO_MAX(best, caps->subgroup_min);
    caps->subgroup_size = caps->subgroup_size_control ? VIREO_MIN(best, caps->subgroup_max) : p11.subgroupSize;

    // ... and what it must have.
    const VkSubgroupFeatureFlags operations = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_BALLOT_BIT |
                                              VK_SUBGROUP_FEATURE_SHUFFLE_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT;
    lacks(caps, f12.bufferDeviceAddress, "bufferDeviceAddress");
    lacks(caps, f12.timelineSemaphore, "timelineSemaphore");
    lacks(caps, f12.scalarBlockLayout, "scalarBlockLayout");
    lacks(caps, f12.subgroupBroadcastDynamicId, "subgroupBroadcastDynamicId");
    lacks(caps, (p11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
                    (p11.subgroupSupportedOperations & operations) == operations,
          "subgroup operations (basic, ballot, shuffle, arithmetic) in compute shaders");
    lacks(caps, is_power_of_two(caps->subgroup_size) && caps->subgroup_size >= 4 && caps->subgroup_size <= 128,
          "a subgroup size from 4 to 128");
    lacks(caps, caps->subgroup_size_control || caps->subgroup_min == caps->subgroup_max, "a fixed subgroup size");
    lacks(caps, caps->max_shared_bytes >= MIN_SHARED, "32 KiB of shared memory");
    lacks(caps, caps->max_invocations >= MIN_INVOCATIONS, "256 invocations a workgroup");
    lacks(caps, caps->max_push_bytes >= MIN_PUSH, "128 bytes of push constants");

    uint32_t count = 0;
    in->vk.GetPhysicalDeviceQueueFamilyProperties(device, &count, NULL);
    VkQueueFamilyProperties *families = vireo_calloc(count + 1, sizeof *families);
    if (!families)
        return false;
    in->vk.GetPhysicalDeviceQueueFamilyProperties(device, &count, families);
    // A family without graphics first: on desktops it does not compete with the screen.
    int chosen = -1;
    for (uint32_t i = 0; i < count; i++) {
        if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT))
            continue;
        bool pure = !(families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT);
        if (chosen < 0 || (pure && (families[chosen].queueFlags & VK_QUEUE_GRAPHICS_BIT)))
            chosen = (int)i;
    }
    lacks(caps, chosen >= 0, "a compute queue");
    uint32_t bits = chosen >= 0 ? families[chosen].timestampValidBits : 0;
    free(families);
    caps->timestamps = bits > 0 && caps->timestamp_ns > 0;
    if (!on)
        return true;

    memset(on, 0, sizeof *on);
    on->queue_family = chosen < 0 ? 0 : (uint32_t)chosen;
    on->timestamp_bits = bits;
    on->bfloat16 = (VkPhysicalDeviceShaderBfloat16FeaturesKHR){.sType = f_bfloat16.sType,
                                                               .shaderBFloat16Type = VK_TRUE,
                                                               .shaderBFloat16CooperativeMatrix = VK_TRUE};
    on->coopmat = (VkPhysicalDeviceCooperativeMatrixFeaturesKHR){.sType = f_coopmat.sType,
                                                                 .pNext = caps->bfloat16 ? &on->bfloat16 : NULL,
                                                                 .cooperativeMatrix = VK_TRUE};
    on->subgroup = (VkPhysicalDeviceSubgroupSizeControlFeaturesEXT){
        .sType = f_size.sType,
        .pNext = caps->coopmat_khr ? &on->coopmat : NULL,
        .subgroupSizeControl = VK_TRUE,
        .computeFullSubgroups = VK_TRUE,
    };
    on->v12 = (VkPhysicalDeviceVulkan12Features){
        .sType = f12.sType,
        .pNext = caps->subgroup_size_control ? (void *)&on->subgroup : on->subgroup.pNext,
        .bufferDeviceAddress = VK_TRUE,
        .timelineSemaphore = VK_TRUE,
        .scalarBlockLayout = VK_TRUE,
        .subgroupBroadcastDynamicId = VK_TRUE,
        .shaderFloat16 = f12.shaderFloat16,
        .shaderStorageTexelBufferArrayDynamicIndexing = caps->texel_views,
        .descriptorBindingPartiallyBound = caps->texel_views,
        .descriptorBindingUpdateUnusedWhilePending = caps->texel_views,
        .shaderInt8 = f12.shaderInt8,
        .storageBuffer8BitAccess = f12.storageBuffer8BitAccess,
        .vulkanMemoryModel = f12.vulkanMemoryModel,
        .vulkanMemoryModelDeviceScope = f12.vulkanMemoryModelDeviceScope,
    };
    on->v11 = (VkPhysicalDeviceVulkan11Features){
        .sType = f11.sType,
        .pNext = &on->v12,
        .storageBuffer16BitAccess = f11.storageBuffer16BitAccess,
    };
    on->base = (VkPhysicalDeviceFeatures2){
        .sType = f.sType,
        .pNext = &on->v11,
        .features = {.shaderInt16 = f.features.shaderInt16, .shaderInt64 = f.features.shaderInt64},
    };
    if (caps->subgroup_size_control && !core13)
        on->extensions[on->extension_count++] = VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME;
    if (caps->memory_budget)
        on->extensions[on->extension_count++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    if (caps->coopmat_khr)
        on->extensions[on->extension_count++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
    if (caps->bfloat16)
        on->extensions[on->extension_count++] = VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME;
    if (has(e, "VK_KHR_portability_subset")) // must be switched on where it is offered
        on->extensions[on->extension_count++] = "VK_KHR_portability_subset";
    return true;
}

bool features_query(struct gpu_instance *in, VkPhysicalDevice device, uint32_t index, struct gpu_caps *caps,
                    struct gpu_features *on, struct vireo_error *err)
{
    struct extensions e = {0};
    memset(caps, 0, sizeof *caps);
    bool done = list_extensions(in, device, &e) && query(in, device, index, &e, caps, on);
    free(e.list);
    return done || vireo_fail(err, VIREO_NO_MEMORY, "the features of device %u cannot be read", index);
}
