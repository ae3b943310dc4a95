// A Vulkan compute device: choosing it, what it can do, losing it.
//
// All calls come from the one thread that owns the device. Vulkan is loaded at run time; without it
// gpu_device_create fails with VIREO_UNAVAILABLE and says so.
#ifndef VIREO_GPU_DEVICE_H
#define VIREO_GPU_DEVICE_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct gpu_device;

enum gpu_device_type { GPU_OTHER, GPU_INTEGRATED, GPU_DISCRETE, GPU_VIRTUAL, GPU_CPU };

// What was found and what kernels may rely on. Sizes in bytes.
struct gpu_caps {
    char name[256], driver_name[256], driver_info[256];
    uint8_t uuid[16];
    uint32_t index, vendor_id, device_id, driver_version, api_version;
    enum gpu_device_type type;
    uint32_t subgroup_size;                  // the size every kernel is built for (specialisation constant 0)
    uint32_t subgroup_min, subgroup_max;     // equal where the size cannot be chosen
    uint32_t max_invocations, max_shared_bytes, max_push_bytes;
    uint64_t max_groups_x;                   // of one dispatch; gpu_dispatch splits beyond it
    uint64_t heap_bytes, budget_bytes;       // largest device heap; what is free of it now (heap x 0.8 if unknown)
    uint64_t max_allocation_bytes;
    bool subgroup_size_control, int16, int64, float16, storage16, memory_budget, timestamps, unified_memory;
    bool coopmat_khr, memory_model, bfloat16;
    bool texel_views;                        // arrays of storage texel buffers that may change while others of them are read
    uint64_t max_texels;                     // of a texel buffer
    uint8_t matrix_f16[3], matrix_bf16[3];   // M, N, K of the matrix units' products with f32 sums; 0: none for this type
    double timestamp_ns;                     // nanoseconds a timestamp tick
    char missing[256];                       // empty, or which requirement of the minimum is not met
};

// Lists all devices. *out is an array to free(); count 0 with success means Vulkan is there without devices.
bool gpu_device_list(struct gpu_caps **out, size_t *count, struct vireo_error *err);
// What `vireo devices` prints: all devices with what matters of them, which of them cannot be used and why, and the
// choice that "auto" would make.
bool gpu_device_print(FILE *out, struct vireo_error *err);
const char *gpu_device_type_name(enum gpu_device_type t); // "discrete", "integrated", "virtual", "cpu", "other"
void gpu_uuid_text(const uint8_t uuid[16], char text[33]); // lower-case hexadecimal

struct gpu_device_params {
    const char *select;         // index, UUID (hex) or part of the name; NULL or "auto": the best (discrete,
                                // integrated, virtual, CPU; then by memory)
    const char *cache_folder;   // pipeline cache; NULL: none kept
    bool validation;            // validation layer with synchronisation validation; messages counted (below)
    bool full_barriers;         // debug: a full barrier after each dispatch
    uint64_t shuffle_seed;      // debug: not 0: independent dispatches run in random order
    bool skip_barriers;         // test seam: leave out every derived barrier, to prove that the two modes catch it
    bool poison;                // debug: NaN in fresh memory; device memory is not mapped, as on most GPUs
    uint64_t memory_limit;      // most bytes all arenas together may hold; 0: the device's budget
    uint32_t subgroup_size;     // 0: best of the device; else this size where it can be chosen
    double submit_seconds;      // aim for the length of one submit; 0: 0.1
    double wait_seconds;        // a wait without any progress for this long means that the device is lost; 0: 300. CPU
                                // drivers compile in the submit: up to 12 times as long where pipelines first run
    bool robust;                // debug: robustBufferAccess
};

// NULL + err: VIREO_UNAVAILABLE (no Vulkan, no such device), VIREO_UNSUPPORTED (below the minimum; names what is
// missing).
// Environment: VIREO_GPU_DEBUG=validation,barriers,shuffle=SEED,poison,robust,limit=MIB,subgroup=N adds to `p`
// (`auto-validation`: where the layer is installed). VIREO_VULKAN_LIBRARY: file to load instead of libvulkan.so.1.
// With a cache folder and no MESA_SHADER_CACHE_DIR, Mesa's shader cache is put there too (a CPU driver has no other).
struct gpu_device *gpu_device_create(const struct gpu_device_params *p, struct vireo_error *err);
void gpu_device_destroy(struct gpu_device **dev); // waits until idle; NULL is fine
const struct gpu_caps *gpu_device_caps(const struct gpu_device *dev);

// Messages of the validation layers since creation (warnings and errors); 0 when they are off.
uint64_t gpu_device_messages(const struct gpu_device *dev);
// True once a call returned VK_ERROR_DEVICE_LOST (or a wait ran out of time): every further call fails at once.
bool gpu_device_is_lost(const struct gpu_device *dev);

// Counters since creation, for benchmarks and /metrics.
struct gpu_counters {
    uint64_t dispatches, barriers; // barriers: those derived from declared uses
    uint64_t replays; // submits whose command buffer had been recorded before
    uint64_t submits, pipelines, bytes_held, bytes_peak;
    double device_seconds; // summed time of the submits that are over, where the device has timestamps
    double flops;          // floating-point work the dispatches declared
    double moved;          // bytes of memory traffic they declared; of all operands where they declared no work
};
// As of now; cheap.
struct gpu_counters gpu_device_counters(const struct gpu_device *dev);

#endif
