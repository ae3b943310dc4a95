// Compiles every kernel for AMD GPUs that are not here: Mesa's RADV starts a null device for a named family, whose
// compiler (ACO) is the real one. Nothing is executed.
//
//   nullgpu [--all] FAMILY...                every kernel in every variant; exit 1 if one fails to compile or spills. --all: also
//                                            every combination of the values that constants of products and attention have
//   nullgpu --isa FOLDER FAMILY KERNEL...    those kernels, their final assembly into FOLDER, a JSON line each
// Exit 77: no RADV of Mesa 25 or newer here. VIREO_RADV_ICD names its JSON file where it lies elsewhere.
#include "compute/gpu/internal.h"
#include "compute/base/check.h"
#include "compute/nn/gemm_tile.h"
#include "tests/nullgpu/variants.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { SKIP = 77 };

struct null_gpu {
    struct gpu_device dev; // caps and functions; the rest stays empty
    VkDescriptorSetLayout views; // of kernels for CPU drivers
    VkPipelineLayout layout;
    PFN_vkGetPipelineExecutableStatisticsKHR statistics;
    PFN_vkGetPipelineExecutableInternalRepresentationsKHR representations;
};

struct compiled {
    uint64_t vgprs, sgprs, spilled_vgprs, spilled_sgprs, scratch, lds, code, instructions;
};

// The JSON file that names libvulkan_radeon. False: there is none.
static bool find_driver(char *out, size_t bytes)
{
    static const char *const folders[] = {"/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"};
    const char *given = getenv("VIREO_RADV_ICD");
    if (given) {
        snprintf(out, bytes, "%s", given);
        return true;
    }
    for (size_t i = 0; i < VIREO_COUNT(folders); i++) {
        DIR *d = opendir(folders[i]);
        for (struct dirent *e; d && (e = readdir(d));)
            if (strncmp(e->d_name, "radeon_icd", 10) == 0 && strstr(e->d_name, ".json")) {
                snprintf(out, bytes, "%s/%s", folders[i], e->d_name);
                closedir(d);
                return true;
            }
        if (d)
            closedir(d);
    }
    return false;
}

// Opens the null device of a family with the features Vireo switches on. 0, or the exit code.
static int open_family(struct null_gpu *g, const char *family)
{
    struct vireo_error err = {0};
    memset(g, 0, sizeof *g);
    struct gpu_device *dev = &g->dev;
    setenv("RADV_FORCE_FAMILY", family, 1);
    VkPhysicalDevice *list = NULL;
    uint32_t count = 0;
    if (!instance_init(&dev->instance, GPU_VALIDATION_OFF, &err) ||
        !instance_devices(&dev->instance, &list, &count, &err) || count == 0) {
        printf("%s: the driver starts no null device (%s)\n", family, count ? err.message : "too old for this family?");
        free(list);
        return SKIP;
    }
    dev->physical = list[0];
    free(list);
    dev->vk = &dev->instance.vk;
    if (!features_query(&dev->instance, dev->physical, 0, &dev->caps, &dev->features, &err)) {
        printf("%s: %s\n", family, err.message);
        return 1;
    }
    int major = 0;
    if (sscanf(dev->caps.driver_info, "Mesa %d", &major) != 1 || major < 25) {
        printf("%s: driver '%s' is older than Mesa 25\n", family, dev->caps.driver_info);
        return SKIP;
    }
    if (dev->caps.missing[0]) {
        printf("%s lacks what Vireo needs: %s\n", family, dev->caps.missing);
        return 1;
    }
    struct gpu_features *f = &dev->features;
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executable = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR,
        .pNext = &f->base,
        .pipelineExecutableInfo = VK_TRUE,
    };
    f->extensions[f->extension_count++] = VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
    VkResult r = dev->vk->CreateDevice(
        dev->physical,
        &(VkDeviceCreateInfo){
            .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
            .pNext = &executable,
            .queueCreateInfoCount = 1,
            .pQueueCreateInfos = &(VkDeviceQueueCreateInfo){.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                                            .queueFamilyIndex = f->queue_family,
                                                            .queueCount = 1,
                                                            .pQueuePriorities = &(float){1}},
            .enabledExtensionCount = f->extension_count,
            .ppEnabledExtensionNames = f->extensions,
        },
        NULL, &dev->handle);
    if (r != VK_SUCCESS) {
        printf("%s: no device: %s\n", family, vk_result_name(r));
        return 1;
    }
#define X(name) dev->vk->name = (PFN_vk##name)dev->vk->GetDeviceProcAddr(dev->handle, "vk" #name);
    VK_DEVICE_FUNCTIONS(X)
#undef X
    g->statistics = (PFN_vkGetPipelineExecutableStatisticsKHR)dev->vk->GetDeviceProcAddr(
        dev->handle, "vkGetPipelineExecutableStatisticsKHR");
    g->representations = (PFN_vkGetPipelineExecutableInternalRepresentationsKHR)dev->vk->GetDeviceProcAddr(
        dev->handle, "vkGetPipelineExecutableInternalRepresentationsKHR");
    r = views_layout(dev, &g->views);
    if (r == VK_SUCCESS)
        r = dev->vk->CreatePipelineLayout(
        dev->handle,
        &(VkPipelineLayoutCreateInfo){
            .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
            .setLayoutCount = 1,
            .pSetLayouts = &g->views,
            .pushConstantRangeCount = 1,
            .pPushConstantRanges = &(VkPushConstantRange){.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = 128},
        },
        NULL, &g->layout);
    if (r != VK_SUCCESS || !g->statistics || !g->representations) {
        printf("%s: no pipeline layout or no statistics\n", family);
        return 1;
    }
    return 0;
}

static void close_family(struct null_gpu *g)
{
    struct gpu_device *dev = &g->dev;
    if (g->layout)
        dev->vk->DestroyPipelineLayout(dev->handle, g->layout, NULL);
    if (g->views)
        dev->vk->DestroyDescriptorSetLayout(dev->handle, g->views, NULL);
    if (dev->handle)
        dev->vk->DestroyDevice(dev->handle, NULL);
    instance_finish(&dev->instance);
}

// The compiler's last word on a pipeline, usually true disassembly.
static bool write_assembly(struct null_gpu *g, VkPipeline pipeline, const char *path)
{
    const VkPipelineExecutableInfoKHR info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR,
                                              .pipeline = pipeline};
    VkPipelineExecutableInternalRepresentationKHR all[16] = {{0}};
    uint32_t count = VIREO_COUNT(all);
    for (uint32_t i = 0; i < count; i++)
        all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR;
    if (g->representations(g->dev.handle, &info, &count, all) < VK_SUCCESS || count == 0)
        return false;
    for (uint32_t i = 0; i < count; i++)
        all[i].pData = calloc(1, all[i].dataSize + 1);
    bool ok = g->representations(g->dev.handle, &info, &count, all) == VK_SUCCESS && all[count - 1].isText;
    FILE *out = ok ? fopen(path, "w") : NULL;
    ok = out && fputs(all[count - 1].pData, out) >= 0;
    ok = out && fclose(out) == 0 && ok;
    for (uint32_t i = 0; i < count; i++)
        free(all[i].pData);
    return ok;
}

static void read_statistics(struct null_gpu *g, VkPipeline pipeline, struct compiled *c)
{
    const VkPipelineExecutableInfoKHR info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR,
                                              .pipeline = pipeline};
    VkPipelineExecutableStatisticKHR all[64] = {{0}};
    uint32_t count = VIREO_COUNT(all);
    for (uint32_t i = 0; i < count; i++)
        all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    memset(c, 0, sizeof *c);
    if (g->statistics(g->dev.handle, &info, &count, all) < VK_SUCCESS)
        return;
    const struct {
        const char *name;
        uint64_t *value;
    } wanted[] = {{"VGPRs", &c->vgprs}, {"SGPRs", &c->sgprs}, {"Spilled VGPRs", &c->spilled_vgprs},
                  {"Spilled SGPRs", &c->spilled_sgprs}, {"Scratch size", &c->scratch}, {"LDS size", &c->lds},
                  {"Code size", &c->code}, {"Instructions", &c->instructions}};
    for (uint32_t i = 0; i < count; i++)
        for (size_t w = 0; w < VIREO_COUNT(wanted); w++)
            if (strcmp(all[i].name, wanted[w].name) == 0)
                *wanted[w].value = all[i].value.u64;
}

// As compute/gpu/kernel.c does it, and with statistics. `assembly`: file to write, or NULL.
static VkResult compile(struct null_gpu *g, const struct variant *v, uint32_t subgroup, const char *assembly,
                        struct compiled *out)
{
    struct gpu_device *dev = &g->dev;
    VkShaderModule module;
    VkResult r = dev->vk->CreateShaderModule(dev->handle,
                                             &(VkShaderModuleCreateInfo){
                                                 .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
                                                 .codeSize = *modules[v->kernel].bytes,
                                                 .pCode = modules[v->kernel].words,
                                             },
                                             NULL, &module);
    if (r != VK_SUCCESS)
        return r;
    uint32_t values[GPU_MAX_CONSTANTS + 1] = {subgroup};
    VkSpecializationMapEntry entries[GPU_MAX_CONSTANTS + 1];
    memcpy(values + 1, v->constants, v->count * sizeof values[0]);
    if (variant_has_name(v, "gemm_coopmat"))
        values[2] = variant_invocations(v, subgroup);
    for (uint32_t i = 0; i <= v->count; i++)
        entries[i] = (VkSpecializationMapEntry){.constantID = i, .offset = i * 4, .size = 4};
    const VkPipelineShaderStageRequiredSubgroupSizeCreateInfo size = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = subgroup,
    };
    const bool control = dev->caps.subgroup_size_control;
    VkPipeline pipeline;
    r = dev->vk->CreateComputePipelines(
        dev->handle, VK_NULL_HANDLE, 1,
        &(VkComputePipelineCreateInfo){
            .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
            .flags = VK_PIPELINE_CREATE_DISPATCH_BASE | VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR |
                     (assembly ? VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR : 0),
            .layout = g->layout,
            .stage =
                {
                    .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                    .pNext = control ? &size : NULL,
                    .flags = control ? VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT : 0,
                    .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                    .module = module,
                    .pName = "main",
                    .pSpecializationInfo = &(VkSpecializationInfo){.mapEntryCount = v->count + 1,
                                                                   .pMapEntries = entries,
                                                                   .dataSize = (v->count + 1) * sizeof values[0],
                                                                   .pData = values},
                },
        },
        NULL, &pipeline);
    if (r == VK_SUCCESS) {
        read_statistics(g, pipeline, out);
        if (assembly && !write_assembly(g, pipeline, assembly))
            r = VK_INCOMPLETE;
        dev->vk->DestroyPipeline(dev->handle, pipeline, NULL);
    }
    dev->vk->DestroyShaderModule(dev->handle, module, NULL);
    return r;
}

static const char *label(const struct variant *v, char out[96])
{
    int n = snprintf(out, 96, "%s", gpu_kernel_name(v->kernel));
    for (uint32_t i = 0; i < v->count; i++)
        n += snprintf(out + n, 96 - (size_t)n, "%c%u", i ? ',' : ' ', v->constants[i]);
    return out;
}

static int check_family(const char *family, bool all)
{
    static struct null_gpu g;
    int code = open_family(&g, family);
    uint32_t compiled = 0, spills = 0, failed = 0;
    for (uint32_t subgroup = 32; code == 0 && subgroup <= 64; subgroup *= 2) {
        if (subgroup != g.dev.caps.subgroup_size &&
            (!g.dev.caps.subgroup_size_control || subgroup < g.dev.caps.subgroup_min || subgroup > g.dev.caps.subgroup_max))
            continue;
        struct variant v;
        for (uint32_t i = 0; variant_at(i, all, &v); i++) {
            if (!gpu_kernel_runs(&g.dev, v.kernel) || !variant_matters(&v, subgroup == g.dev.caps.subgroup_size))
                continue;
            char text[96];
            struct compiled c = {0};
            VkResult r = compile(&g, &v, subgroup, NULL, &c);
            compiled++;
            if (r != VK_SUCCESS || c.vgprs == 0) {
                printf("%s, subgroup %u: %s does not compile: %s\n", family, subgroup, label(&v, text), vk_result_name(r));
                failed++;
            } else if ((c.spilled_vgprs + c.spilled_sgprs + c.scratch) != 0) {
                bool hot = variant_is_hot(&v);
                printf("%s, subgroup %u: %s spills %llu vector and %llu scalar registers, scratch %llu bytes%s\n", family,
                       subgroup, label(&v, text), (unsigned long long)c.spilled_vgprs,
                       (unsigned long long)c.spilled_sgprs, (unsigned long long)c.scratch, hot ? "" : " (known)");
                spills += hot;
            }
        }
    }
    close_family(&g);
    if (code == 0)
        printf("%s: %u pipelines, %u failed, %u spill\n", family, compiled, failed, spills);
    return code ? code : failed + spills != 0;
}

// One JSON line a variant: what tools/gpu-report reads.
static int dump_family(const char *folder, const char *family, char **names, int count)
{
    static struct null_gpu g;
    int code = open_family(&g, family);
    struct variant v;
    for (uint32_t i = 0; code == 0 && variant_at(i, false, &v); i++) {
        bool wanted = false;
        for (int n = 0; n < count; n++)
            wanted = wanted || strcmp(names[n], gpu_kernel_name(v.kernel)) == 0;
        if (!wanted || !variant_is_reported(&v) || !gpu_kernel_runs(&g.dev, v.kernel))
            continue;
        char path[1024], text[96];
        struct compiled c = {0};
        snprintf(path, sizeof path, "%s/%s.%u.s", folder, family, i);
        VkResult r = compile(&g, &v, g.dev.caps.subgroup_size, path, &c);
        if (r != VK_SUCCESS) {
            printf("%s: %s does not compile: %s\n", family, label(&v, text), vk_result_name(r));
            code = 1;
            break;
        }
        printf("{\"family\": \"%s\", \"kernel\": \"%s\", \"variant\": \"%s\", \"invocations\": %u, \"subgroup\": %u, "
               "\"vgprs\": %llu, \"lds\": %llu, \"code\": %llu, \"spilled\": %llu, \"scratch\": %llu, "
               "\"assembly\": \"%s\"}\n",
               family, gpu_kernel_name(v.kernel), label(&v, text), variant_invocations(&v, g.dev.caps.subgroup_size),
               g.dev.caps.subgroup_size, (unsigned long long)c.vgprs, (unsigned long long)c.lds,
               (unsigned long long)c.code,
               (unsigned long long)(c.spilled_vgprs + c.spilled_sgprs), (unsigned long long)c.scratch, path);
    }
    close_family(&g);
    return code;
}

int main(int argc, char **argv)
{
    const bool dump = argc > 4 && strcmp(argv[1], "--isa") == 0, all = argc > 2 && strcmp(argv[1], "--all") == 0;
    if (argc < 2 || (!dump && !all && argv[1][0] == '-')) {
        fprintf(stderr, "usage: nullgpu [--all] FAMILY... | nullgpu --isa FOLDER FAMILY KERNEL...\n");
        return 64;
    }
    char driver[512];
    if (!find_driver(driver, sizeof driver)) {
        printf("no RADV here: Mesa's Vulkan drivers are not installed\n");
        return SKIP;
    }
    setenv("VK_ICD_FILENAMES", driver, 1);
    setenv("VK_DRIVER_FILES", driver, 1);
    setenv("MESA_SHADER_CACHE_DISABLE", "true", 1);
    if (dump)
        return dump_family(argv[2], argv[3], argv + 4, argc - 4);
    int worst = 0;
    for (int i = 1 + all; i < argc; i++) {
        int code = check_family(argv[i], all);
        worst = code == 1 || worst == 0 ? code : worst;
    }
    return worst;
}
