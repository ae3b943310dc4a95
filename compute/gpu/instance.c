#include "compute/gpu/internal.h"

#include "compute/base/fault.h"
#include "compute/base/log.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "gpu"

const char *vk_result_name(VkResult r)
{
    switch (r) {
#define X(name)                                                                                                       \
    case VK_##name:                                                                                                   \
        return #name;
        X(SUCCESS) X(NOT_READY) X(TIMEOUT) X(INCOMPLETE) X(ERROR_OUT_OF_HOST_MEMORY) X(ERROR_OUT_OF_DEVICE_MEMORY)
        X(ERROR_INITIALIZATION_FAILED) X(ERROR_DEVICE_LOST) X(ERROR_MEMORY_MAP_FAILED) X(ERROR_LAYER_NOT_PRESENT)
        X(ERROR_EXTENSION_NOT_PRESENT) X(ERROR_FEATURE_NOT_PRESENT) X(ERROR_INCOMPATIBLE_DRIVER)
        X(ERROR_TOO_MANY_OBJECTS) X(ERROR_FRAGMENTATION) X(ERROR_INVALID_OPAQUE_CAPTURE_ADDRESS)
#undef X
    default:
        return "an unknown Vulkan error";
    }
}

// Mesa's CPU driver computes in vectors of 256 bits unless told otherwise; where the processor has AVX-512 twice the width
// takes 2.84 instead of 3.03 CPU seconds for a GRPO step of the 4M model (one interleaved round). The driver reads the
// variable once, when it is loaded. No kernel reduces floats over a subgroup but by maximum, so results do not depend on it.
static void prefer_wide_vectors(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
        setenv("LP_NATIVE_VECTOR_WIDTH", "512", 0);
#endif
}

// The library stays loaded for the life of the process: drivers keep threads and exit handlers.
static void *load_library(void)
{
    static void *library;
    const char *chosen = getenv("VIREO_VULKAN_LIBRARY");
    if (chosen && chosen[0])
        return dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
    static const char *const names[] = {"libvulkan.so.1", "libvulkan.so", "libvulkan.1.dylib", "libvulkan.dylib",
                                        "libMoltenVK.dylib"};
    for (size_t i = 0; !library && i < sizeof names / sizeof names[0]; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
// The loader unloads drivers and layers with the last instance; the leak checker could then not tell their leaks from
// ours (tests/lsan.supp goes by library name). So in such a build everything stays.
static void keep_libraries(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4400];
    while (maps && fgets(line, sizeof line, maps)) {
        char *path = strchr(line, '/');
        if (!path || !strstr(path, ".so"))
            continue;
        path[strcspn(path, "\n")] = 0;
        dlopen(path, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    }
    if (maps)
        fclose(maps);
}
#else
static void keep_libraries(void) {}
#endif

static bool has_layer(const struct vk_functions *vk, const char *name)
{
    uint32_t count = 0;
    if (vk->EnumerateInstanceLayerProperties(&count, NULL) != VK_SUCCESS || count == 0)
        return false;
    VkLayerProperties *list = vireo_calloc(count, sizeof *list);
    bool found = false;
    if (list && vk->EnumerateInstanceLayerProperties(&count, list) >= VK_SUCCESS)
        for (uint32_t i = 0; i < count; i++)
            found |= strcmp(list[i].layerName, name) == 0;
    free(list);
    return found;
}

static bool has_extension(const struct vk_functions *vk, const char *layer, const char *name)
{
    uint32_t count = 0;
    if (vk->EnumerateInstanceExtensionProperties(layer, &count, NULL) != VK_SUCCESS || count == 0)
        return false;
    VkExtensionProperties *list = vireo_calloc(count, sizeof *list);
    bool found = false;
    if (list && vk->EnumerateInstanceExtensionProperties(layer, &count, list) >= VK_SUCCESS)
        for (uint32_t i = 0; i < count; i++)
            found |= strcmp(list[i].extensionName, name) == 0;
    free(list);
    return found;
}

static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                 VkDebugUtilsMessageTypeFlagsEXT types,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data, void *user)
{
    struct gpu_instance *in = user;
    atomic_fetch_add(&in->messages, 1);
    vireo_log(severity >= VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT ? VIREO_ERROR : VIREO_WARN, LOG_MODULE,
              "validation: %s", data->pMessage ? data->pMessage : "");
    return VK_FALSE;
}

static VkDebugUtilsMessengerCreateInfoEXT messenger_info(struct gpu_instance *in)
{
    // GENERAL is left out: the loader reports every driver it could not open there.
    return (VkDebugUtilsMessengerCreateInfoEXT){
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                       VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
        .pfnUserCallback = on_message,
        .pUserData = in,
    };
}

#define VALIDATION_LAYER "VK_LAYER_KHRONOS_validation"

static bool create_instance(struct gpu_instance *in, struct vireo_error *err)
{
    struct vk_functions *vk = &in->vk;
    const char *extensions[4], *layers[1];
    uint32_t extension_count = 0, layer_count = 0;
    VkInstanceCreateFlags flags = 0;
    in->debug_utils = has_extension(vk, NULL, VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
    if (in->debug_utils)
        extensions[extension_count++] = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    if (has_extension(vk, NULL, "VK_KHR_portability_enumeration")) {
        extensions[extension_count++] = "VK_KHR_portability_enumeration";
        flags |= 1; // VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR: MoltenVK
    }
    const void *next = NULL;
    static const VkValidationFeatureEnableEXT enabled[] = {
        VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
    VkValidationFeaturesEXT validation = {
        .sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
        .enabledValidationFeatureCount = 1,
        .pEnabledValidationFeatures = enabled,
    };
    VkDebugUtilsMessengerCreateInfoEXT messenger = messenger_info(in);
    if (in->validation) {
        layers[layer_count++] = VALIDATION_LAYER;
        if (has_extension(vk, VALIDATION_LAYER, VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME)) {
            extensions[extension_count++] = VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME;
            next = &validation;
        }
        if (in->debug_utils) {
            messenger.pNext = next;
            next = &messenger; // also hears of vkCreateInstance itself
        }
    }
    VkResult r = vk->CreateInstance(
        &(VkInstanceCreateInfo){
            .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
            .pNext = next,
            .flags = flags,
            .pApplicationInfo =
                &(VkApplicationInfo){
                    .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                    .pApplicationName = "vireo",
                    .pEngineName = "vireo",
                    .apiVersion = in->api_version,
                },
            .enabledLayerCount = layer_count,
            .ppEnabledLayerNames = layers,
            .enabledExtensionCount = extension_count,
            .ppEnabledExtensionNames = extensions,
        },
        NULL, &in->handle);
    if (r != VK_SUCCESS) {
        in->handle = VK_NULL_HANDLE;
        return vireo_fail(err, VIREO_UNAVAILABLE, "no Vulkan instance could be made (%s): is a driver installed?",
                          vk_result_name(r));
    }
    return true;
}

bool instance_init(struct gpu_instance *in, enum gpu_validation validation, struct vireo_error *err)
{
    memset(in, 0, sizeof *in);
    struct vk_functions *vk = &in->vk;
    prefer_wide_vectors();
    void *library = load_library();
    if (!library)
        return vireo_fail(err, VIREO_UNAVAILABLE, "the Vulkan library (libvulkan.so.1) is not installed");
    // POSIX lets a data pointer from dlsym be read as a function pointer.
    *(void **)&vk->GetInstanceProcAddr = dlsym(library, "vkGetInstanceProcAddr");
    if (!vk->GetInstanceProcAddr)
        return vireo_fail(err, VIREO_UNAVAILABLE, "the Vulkan library has no vkGetInstanceProcAddr");
#define X(name) vk->name = (PFN_vk##name)vk->GetInstanceProcAddr(NULL, "vk" #name);
    VK_GLOBAL_FUNCTIONS(X)
    X(EnumerateInstanceVersion)
#undef X
    uint32_t loader = VK_API_VERSION_1_0;
    if (vk->EnumerateInstanceVersion)
        vk->EnumerateInstanceVersion(&loader);
    if (loader < VK_API_VERSION_1_2)
        return vireo_fail(err, VIREO_UNAVAILABLE, "the Vulkan library offers version %u.%u, 1.2 is needed",
                          (unsigned)VK_API_VERSION_MAJOR(loader), (unsigned)VK_API_VERSION_MINOR(loader));
    // 1.2 is the minimum of the devices; 1.3 lets those that have it offer subgroup size control without an extension.
    in->api_version = loader >= VK_API_VERSION_1_3 ? VK_API_VERSION_1_3 : VK_API_VERSION_1_2;
    bool layer = validation != GPU_VALIDATION_OFF && has_layer(vk, VALIDATION_LAYER);
    if (validation == GPU_VALIDATION_ON && !layer)
        return vireo_fail(err, VIREO_UNAVAILABLE, "the validation layer was asked for, but " VALIDATION_LAYER
                                                  " is not installed");
    in->validation = layer;
    if (!create_instance(in, err))
        return false;
#define X(name) vk->name = (PFN_vk##name)vk->GetInstanceProcAddr(in->handle, "vk" #name);
    VK_INSTANCE_FUNCTIONS(X)
    if (in->debug_utils) {
        VK_DEBUG_FUNCTIONS(X)
    }
#undef X
    if (in->validation && vk->CreateDebugUtilsMessengerEXT) {
        VkDebugUtilsMessengerCreateInfoEXT info = messenger_info(in);
        vk->CreateDebugUtilsMessengerEXT(in->handle, &info, NULL, &in->messenger);
    }
    return true;
}

void instance_finish(struct gpu_instance *in)
{
    keep_libraries();
    if (in->messenger)
        in->vk.DestroyDebugUtilsMessengerEXT(in->handle, in->messenger, NULL);
    if (in->handle)
        in->vk.DestroyInstance(in->handle, NULL);
    in->handle = VK_NULL_HANDLE;
    in->messenger = VK_NULL_HANDLE;
}

bool instance_devices(struct gpu_instance *in, VkPhysicalDevice **out, uint32_t *count, struct vireo_error *err)
{
    uint32_t found = 0;
    VkResult r = in->vk.EnumeratePhysicalDevices(in->handle, &found, NULL);
    if (r != VK_SUCCESS)
        return vireo_fail(err, VIREO_UNAVAILABLE, "Vulkan devices cannot be listed: %s", vk_result_name(r));
    VkPhysicalDevice *list = vireo_calloc(found + 1, sizeof(VkPhysicalDevice));
    if (!list)
        return vireo_fail_memory(err, (found + 1) * sizeof(VkPhysicalDevice));
    r = in->vk.EnumeratePhysicalDevices(in->handle, &found, list);
    if (r != VK_SUCCESS && r != VK_INCOMPLETE) {
        free(list);
        return vireo_fail(err, VIREO_UNAVAILABLE, "Vulkan devices cannot be listed: %s", vk_result_name(r));
    }
    *out = list;
    *count = found;
    return true;
}
