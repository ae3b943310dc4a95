// What the files of this folder share: the function table, the device and its parts. Nobody else includes this.
//
// Everything is reached through `vk->`: Vulkan is loaded at run time. Ownership: gpu_device owns all; each part has
// an init-like and a finish function, which take a half-made device.
#ifndef VIREO_GPU_INTERNAL_H
#define VIREO_GPU_INTERNAL_H

#define VK_NO_PROTOTYPES
#include "compute/gpu/record.h"
#include "compute/gpu/tune.h"

#include <vulkan/vulkan.h>

#include <stdatomic.h>

// ---- functions ----

#define VK_GLOBAL_FUNCTIONS(X) \
    X(CreateInstance) X(EnumerateInstanceExtensionProperties) X(EnumerateInstanceLayerProperties)
#define VK_INSTANCE_FUNCTIONS(X) \
    X(CreateDevice) X(DestroyInstance) X(EnumerateDeviceExtensionProperties) X(EnumeratePhysicalDevices) \
    X(GetDeviceProcAddr) X(GetPhysicalDeviceFeatures2) X(GetPhysicalDeviceMemoryProperties2) \
    X(GetPhysicalDeviceProperties2) X(GetPhysicalDeviceQueueFamilyProperties)
#define VK_DEVICE_FUNCTIONS(X) \
    X(AllocateCommandBuffers) X(AllocateDescriptorSets) X(AllocateMemory) X(BeginCommandBuffer) X(BindBufferMemory) \
    X(CmdBindDescriptorSets) X(CmdBindPipeline) \
    X(CmdCopyBuffer) X(CmdDispatch) X(CmdDispatchBase) X(CmdFillBuffer) X(CmdPipelineBarrier) X(CmdPushConstants) \
    X(CmdResetQueryPool) X(CmdWriteTimestamp) X(CreateBuffer) X(CreateBufferView) X(CreateCommandPool) \
    X(CreateComputePipelines) X(CreateDescriptorPool) X(CreateDescriptorSetLayout) \
    X(CreatePipelineCache) X(CreatePipelineLayout) X(CreateQueryPool) X(CreateSemaphore) X(CreateShaderModule) \
    X(DestroyBuffer) X(DestroyBufferView) X(DestroyCommandPool) X(DestroyDescriptorPool) \
    X(DestroyDescriptorSetLayout) X(DestroyDevice) X(DestroyPipeline) X(DestroyPipelineCache) \
    X(DestroyPipelineLayout) X(DestroyQueryPool) X(DestroySemaphore) X(DestroyShaderModule) X(EndCommandBuffer) \
    X(FreeMemory) X(GetBufferDeviceAddress) X(GetBufferMemoryRequirements) X(GetDeviceQueue) \
    X(GetPipelineCacheData) X(GetQueryPoolResults) X(GetSemaphoreCounterValue) X(MapMemory) X(QueueSubmit) \
    X(ResetCommandPool) X(UpdateDescriptorSets) X(WaitSemaphores)
// Of VK_EXT_debug_utils; NULL without it.
#define VK_DEBUG_FUNCTIONS(X) \
    X(CreateDebugUtilsMessengerEXT) X(DestroyDebugUtilsMessengerEXT) X(SetDebugUtilsObjectNameEXT) \
    X(CmdBeginDebugUtilsLabelEXT) X(CmdEndDebugUtilsLabelEXT)

struct vk_functions {
    PFN_vkGetInstanceProcAddr GetInstanceProcAddr;
    PFN_vkEnumerateInstanceVersion EnumerateInstanceVersion; // NULL in Vulkan 1.0
#define X(name) PFN_vk##name name;
    VK_GLOBAL_FUNCTIONS(X) VK_INSTANCE_FUNCTIONS(X) VK_DEVICE_FUNCTIONS(X) VK_DEBUG_FUNCTIONS(X)
#undef X
};

// ---- instance.c ----

struct gpu_instance {
    VkInstance handle;
    struct vk_functions vk;
    uint32_t api_version; // what the application asked for: 1.2, or 1.3 where the loader has it
    bool debug_utils, validation;
    VkDebugUtilsMessengerEXT messenger;
    atomic_ullong messages;
};
enum gpu_validation { GPU_VALIDATION_OFF, GPU_VALIDATION_IF_PRESENT, GPU_VALIDATION_ON };
// `in` must stay where it is until instance_finish: the messenger points into it.
bool instance_init(struct gpu_instance *in, enum gpu_validation validation, struct vireo_error *err);
void instance_finish(struct gpu_instance *in);
// The physical devices; *out to be freed.
bool instance_devices(struct gpu_instance *in, VkPhysicalDevice **out, uint32_t *count, struct vireo_error *err);
const char *vk_result_name(VkResult r);

// ---- features.c ----

// The structs that Vulkan 1.3.239's headers lack.
#ifndef VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME
#define VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME "VK_KHR_cooperative_matrix"
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR ((VkStructureType)1000506000)
typedef struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix, cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506001)
typedef uint32_t VkComponentTypeKHR;
#define VK_COMPONENT_TYPE_FLOAT16_KHR 0u
#define VK_COMPONENT_TYPE_FLOAT32_KHR 1u
typedef uint32_t VkScopeKHR;
#define VK_SCOPE_SUBGROUP_KHR 3u
typedef struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    uint32_t MSize, NSize, KSize;
    VkComponentTypeKHR AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    VkScopeKHR scope;
} VkCooperativeMatrixPropertiesKHR;
typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(VkPhysicalDevice, uint32_t *,
                                                                                   VkCooperativeMatrixPropertiesKHR *);
#endif
#ifndef VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME
#define VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME "VK_KHR_shader_bfloat16"
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR ((VkStructureType)1000141000)
#define VK_COMPONENT_TYPE_BFLOAT16_KHR 1000141000u
typedef struct VkPhysicalDeviceShaderBfloat16FeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 shaderBFloat16Type, shaderBFloat16DotProduct, shaderBFloat16CooperativeMatrix;
} VkPhysicalDeviceShaderBfloat16FeaturesKHR;
#endif

enum { GPU_MAX_EXTENSIONS = 8 };
// What a device offers, and the same struct as the list of what is switched on at creation.
struct gpu_features {
    VkPhysicalDeviceFeatures2 base;
    VkPhysicalDeviceVulkan11Features v11;
    VkPhysicalDeviceVulkan12Features v12;
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT subgroup;
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR coopmat;
    VkPhysicalDeviceShaderBfloat16FeaturesKHR bfloat16;
    const char *extensions[GPU_MAX_EXTENSIONS];
    uint32_t extension_count;
    uint32_t queue_family, timestamp_bits;
};
// Fills caps (caps->missing if it is below the minimum) and, if `on` is given, the features to switch on: everything
// Vireo uses that the device has. `on` is chained by pointers into itself: do not copy it.
bool features_query(struct gpu_instance *in, VkPhysicalDevice device, uint32_t index, struct gpu_caps *caps,
                    struct gpu_features *on, struct vireo_error *err);
// Budget of the device's memory heaps: bytes still free of heap `heap` for this process.
uint64_t features_budget(struct gpu_instance *in, VkPhysicalDevice device, uint32_t heap, bool has_budget);

// ---- memory.c ----

struct gpu_block {
    VkBuffer buffer;
    VkDeviceMemory memory;
    uint64_t address, bytes;
    uint8_t *host;     // mapped, or NULL
    uint32_t view;     // its place in gpu_views; GPU_VIEWS: it has none
    bool cached;       // reading through `host` is fast
    uint64_t used;     // bump position; final once the arena has gone on to the next block
};
// Memory given back before a rewind: [begin, end) of a block.
struct gpu_hole {
    uint32_t block;
    uint64_t begin, end;
};
struct gpu_arena {
    struct gpu_device *dev;
    struct gpu_arena *next; // in gpu_device.arenas
    char name[64];
    enum gpu_memory memory;
    uint64_t block_bytes, expected;
    bool grows;
    struct gpu_block **blocks;
    uint32_t count, current;
    struct gpu_hole *holes; // sorted
    uint32_t hole_count, hole_room;
    uint64_t used, peak, held;
};

// ---- view.c: blocks as buffers of texels, for CPU drivers ----

struct gpu_views {
    VkDescriptorSetLayout layout; // set 0, binding 0: storage texel buffers [GPU_VIEWS]
    VkDescriptorPool pool;
    VkDescriptorSet set;          // NULL: this device has none
    VkBufferView handles[GPU_VIEWS];
    bool taken[GPU_VIEWS];
};
bool views_fit(const struct gpu_device *dev); // are blocks of this device to have views?
VkResult views_layout(struct gpu_device *dev, VkDescriptorSetLayout *out); // what kernels with views are built for
bool views_init(struct gpu_device *dev, struct vireo_error *err); // before the pipelines' layout
void views_finish(struct gpu_device *dev);
// Gives the block a view if there is a place left; its absence is no failure. Sets block->view.
void view_add(struct gpu_device *dev, struct gpu_block *b);
// Nothing that is recorded or submitted may read it.
void view_remove(struct gpu_device *dev, struct gpu_block *b);
void views_bind(struct gpu_device *dev, VkCommandBuffer commands);

// ---- kernel.c, cache.c ----

struct gpu_pipeline {
    enum gpu_kernel kernel;
    uint32_t constant_count, constants[GPU_MAX_CONSTANTS];
    VkPipeline handle;
    bool texels; // it reads views (view.c)
    bool used; // dispatched at least once (a CPU driver compiled it then)
};
struct gpu_pipelines {
    VkPipelineLayout layout;
    VkPipelineCache cache;
    size_t cache_bytes;             // size of the data last read or written
    struct gpu_pipeline **table;    // open addressing; capacity is a power of two
    uint32_t capacity, count;
    VkShaderModule modules[KERNEL_COUNT];
};
bool kernels_init(struct gpu_device *dev, struct vireo_error *err);
void kernels_finish(struct gpu_device *dev);
// Finds or creates. NULL + err.
struct gpu_pipeline *kernel_pipeline(struct gpu_device *dev, enum gpu_kernel kernel, const uint32_t *constants,
                                     uint32_t count, struct vireo_error *err);
bool cache_load(struct gpu_device *dev, struct vireo_error *err); // a bad or absent file gives an empty cache
void cache_save(struct gpu_device *dev);                          // if it grew; failure is logged only

// ---- record.c: what was recorded and not submitted ----

struct gpu_op {
    enum { OP_DISPATCH, OP_COPY, OP_FILL } kind;
    bool continues;              // a further part of the dispatch before it: independent of it
    uint32_t args_bytes;
    uint32_t first_use, use_count;
    uint32_t groups[2], base;    // dispatch
    struct gpu_pipeline *pipeline;
    VkBuffer from, to;
    uint64_t from_offset, to_offset, bytes; // copy and fill
    uint32_t word;               // fill
    const char *label;
    double seconds;              // first guess; times gpu_timeline.scale: estimate
    double flops, moved;         // as declared, for the timers
    uint32_t args[32];
};

// Sorted, disjoint address ranges [begin, end).
struct gpu_range {
    uint64_t begin, end;
};
struct gpu_ranges {
    struct gpu_range *items;
    uint32_t count, capacity;
};

struct gpu_record {
    struct gpu_op *ops;
    uint32_t count, capacity;
    struct gpu_use *uses;
    uint32_t use_count, use_capacity;
    double seconds;               // estimated sum
    struct gpu_ranges reads, writes; // since the last barrier
    bool texels, transfers;       // since then: a dispatch that reads views, a copy or fill
    bool unknown;                 // a range could not be kept: the next op gets a barrier
    uint64_t shuffle_counter;
};
void record_finish(struct gpu_device *dev);
// Marks the stream failed; the first failure is kept.
void record_fail(struct gpu_device *dev, const struct vireo_error *err);
// Writes all ops with their barriers into the slot's command buffer and forgets them.
struct gpu_slot;
void record_emit(struct gpu_device *dev, struct gpu_slot *slot);
void record_drop(struct gpu_device *dev); // forgets them
bool record_copy(struct gpu_device *dev, const struct gpu_block *to, uint64_t to_offset, const struct gpu_block *from,
                 uint64_t from_offset, uint64_t bytes, const char *label);

// ---- timeline.c: command buffers in flight ----

enum { GPU_SLOTS = 8, GPU_MAX_OPS = 2048 };
struct gpu_timed {
    const char *label;
    double flops, bytes;
};
// The list a command buffer was recorded from.
struct gpu_replay {
    struct gpu_op *ops;
    struct gpu_use *uses;
    uint32_t count, room, use_count, use_room; // count 0: it is not to be replayed
};
struct gpu_slot {
    VkCommandPool pool;
    VkCommandBuffer commands;
    uint64_t ticket;          // 0: free
    uint64_t last_ticket;     // the newest one it had
    struct gpu_replay replay;
    uint64_t barriers;        // in the command buffer
    double estimate;          // seconds, first guess
    uint32_t fresh;           // pipelines whose first dispatch it holds: if any, it is no measure of the rate
    VkQueryPool queries;      // 0, 1: begin and end; then one after each timed dispatch
    uint32_t query_capacity, query_count;
    struct gpu_timed *timed;  // [query_count - 2]
    char label[64];           // of the last dispatch
};
struct gpu_timeline {
    VkSemaphore semaphore;
    uint64_t submitted, passed; // last ticket given out; last known to be over
    struct gpu_slot slots[GPU_SLOTS];
    double scale;               // measured seconds / first guess
    bool measured;              // false: the scale is a guess too
    double flop_rate, byte_rate, overhead; // first guess by device type
};
bool timeline_init(struct gpu_device *dev, struct vireo_error *err);
void timeline_finish(struct gpu_device *dev);
// Drops what is not submitted and waits for what is, before objects are destroyed; at most 5 s if the device is lost.
void timeline_drain(struct gpu_device *dev);
// Submits what is recorded; false: the stream has failed, now or before (dev->failure).
bool timeline_flush(struct gpu_device *dev);
// Submits if what is recorded makes a whole submit.
void timeline_cut(struct gpu_device *dev);
bool timeline_wait(struct gpu_device *dev, uint64_t ticket, struct vireo_error *err);
double timeline_estimate(const struct gpu_device *dev, double flops, double bytes); // first guess, seconds
// A submit with this first guess took `seconds`.
void timeline_learn(struct gpu_device *dev, double estimate, double seconds);

// ---- replay.c ----

// A slot whose work has passed and whose command buffer does just what is recorded; NULL: there is none.
struct gpu_slot *replay_find(struct gpu_device *dev);
// Notes what the slot's command buffer will be recorded from; before record_emit.
void replay_keep(struct gpu_device *dev, struct gpu_slot *slot);
void replay_forget(struct gpu_device *dev); // a buffer is going away that command buffers may name
void replay_finish(struct gpu_slot *slot);

// ---- staging.c ----

enum { GPU_STAGING_PARTS = 4, GPU_STAGING_PART_BYTES = 4 << 20 };
struct gpu_staging {
    struct gpu_arena *up, *down;
    struct gpu_span part[GPU_STAGING_PARTS], back;
    uint64_t ticket[GPU_STAGING_PARTS]; // after which the part is free
    uint32_t current;
    uint64_t used;                      // of the current part
};
void staging_finish(struct gpu_device *dev);

// ---- timer.c ----

struct gpu_timers {
    bool on;
    struct gpu_timer_row *rows;
    size_t count, capacity;
};
void timers_finish(struct gpu_device *dev);
// Reads the queries of a slot that has passed: counters, rate, rows.
void timers_collect(struct gpu_device *dev, struct gpu_slot *slot);
// Room for `timed` dispatches in the slot's query pool. Without timestamps or memory the slot is just not timed.
void timers_prepare(struct gpu_device *dev, struct gpu_slot *slot, uint32_t timed);

// ---- tune.c ----

struct gpu_tune {
    bool known;
    struct gpu_tune_entry entries[KERNEL_COUNT][GPU_TUNE_CLASSES];
};

// ---- the device ----

struct gpu_device {
    struct gpu_instance instance;
    struct vk_functions *vk; // &instance.vk, with the device's functions
    VkPhysicalDevice physical;
    VkDevice handle;
    VkQueue queue;
    struct gpu_caps caps;
    struct gpu_features features;
    struct gpu_device_params params; // strings copied below
    char cache_folder[480];
    VkPhysicalDeviceMemoryProperties memory;
    struct gpu_arena *arenas;
    struct gpu_views views;
    struct gpu_pipelines pipelines;
    struct gpu_record record;
    struct gpu_timeline timeline;
    struct gpu_staging staging;
    struct gpu_timers timers;
    struct gpu_tune tune;
    struct gpu_counters counters;
    bool lost;
    struct vireo_error failure; // sticky; code VIREO_OK: none
};

// Debug name of an object; nothing without debug utils.
void device_name(struct gpu_device *dev, VkObjectType type, uint64_t handle, const char *fmt, ...) VIREO_PRINTF(4, 5);
#define GPU_HANDLE(h) ((uint64_t)(uintptr_t)(h))

#endif
