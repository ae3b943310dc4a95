// The stream of work of a device: dispatches, copies, submits, waits.
//
// The recorder collects work in order. From the spans each dispatch declares (read, write) it derives the barriers;
// nobody writes one by hand. Work is submitted when it is estimated to last about gpu_device_params.submit_seconds, and
// at gpu_submit. Failure sticks: after the first failed call gpu_dispatch and the copies do nothing and the next
// gpu_submit or gpu_wait reports it. gpu_submit then clears it (what was recorded since is dropped), except a lost
// device, which stays lost. A dispatch that is estimated to last longer than a submit is cut into ranges of groups.
// Fault points (base/fault.h): gpu.submit and gpu.wait report a lost device, gpu.hang makes a wait see no progress,
// gpu.allocate makes an allocation fail.
#ifndef VIREO_GPU_RECORD_H
#define VIREO_GPU_RECORD_H

#include "compute/gpu/memory.h"
#include "shaders/kernels.h" // enum gpu_kernel: KERNEL_<NAME>, generated from shaders/meson.build

enum gpu_access { GPU_READ = 1, GPU_WRITE = 2, GPU_READ_WRITE = 3 };

struct gpu_use {
    uint64_t address, bytes; // a range of device addresses; address 0 is ignored
    enum gpu_access access;
};

enum { GPU_MAX_USES = 24, GPU_MAX_CONSTANTS = 12 };

struct gpu_dispatch {
    const void *args;          // push constants; copied
    uint32_t args_bytes;       // multiple of 4, at most 128
    const uint32_t *constants; // specialisation constants 1, 2, ... (0 is the subgroup size); copied
    uint32_t constant_count;
    const struct gpu_use *uses;
    uint32_t use_count;
    uint64_t groups;           // workgroups in all; the shader reads group_index() (lib/types.glsl) and guards its end
    double flops, bytes;       // estimate of the work, for cutting submits; 0 is allowed
    const char *label;         // static string for timers and debug labels; NULL: the kernel's name
};

const char *gpu_kernel_name(enum gpu_kernel kernel); // "fill_f32"
// False: the kernel uses a feature that this device lacks (16-bit types, cooperative matrices ...); take another.
bool gpu_kernel_runs(const struct gpu_device *dev, enum gpu_kernel kernel);

// Appends one dispatch. The pipeline is created on first use.
void gpu_dispatch(struct gpu_device *dev, enum gpu_kernel kernel, const struct gpu_dispatch *d);

// Ordered with the dispatches. `data` is copied before the call returns.
void gpu_upload(struct gpu_device *dev, struct gpu_span to, const void *data, uint64_t bytes);
void gpu_copy(struct gpu_device *dev, struct gpu_span to, struct gpu_span from, uint64_t bytes);
void gpu_fill(struct gpu_device *dev, struct gpu_span to, uint32_t word, uint64_t bytes); // bytes: multiple of 4

// Submits what was recorded. Returns a ticket (> 0), or 0 + err. An empty stream gives the last ticket.
uint64_t gpu_submit(struct gpu_device *dev, struct vireo_error *err);
// Waits until `ticket` has passed. VIREO_DEVICE_LOST names the label of the last dispatch.
bool gpu_wait(struct gpu_device *dev, uint64_t ticket, struct vireo_error *err);
bool gpu_finish(struct gpu_device *dev, struct vireo_error *err); // submit and wait for all
bool gpu_passed(struct gpu_device *dev, uint64_t ticket);         // without waiting

// Submits, waits, copies `bytes` from the start of `from` to `to`.
bool gpu_read(struct gpu_device *dev, struct gpu_span from, void *to, uint64_t bytes, struct vireo_error *err);
// Waits, then writes in place or through staging; for loading weights. Bounded staging memory.
bool gpu_write(struct gpu_device *dev, struct gpu_span to, const void *from, uint64_t bytes, struct vireo_error *err);

// Compiles the pipelines of kernels ahead of time on several threads (CPU drivers compile at the first dispatch; there
// this dispatches zero groups or the least legal work). Each entry: kernel + constants.
struct gpu_warm {
    enum gpu_kernel kernel;
    uint32_t constants[GPU_MAX_CONSTANTS], constant_count;
};
// Fails only when the device does.
bool gpu_warm_up(struct gpu_device *dev, const struct gpu_warm *list, size_t count, struct vireo_error *err);

// Timestamps per label. gpu_timers_on starts collecting (each dispatch is timed, and runs alone: a full barrier after
// each, so that the times can be told apart); gpu_timers_read submits, waits, and
// returns rows sorted by time, to be freed by the caller with free().
struct gpu_timer_row {
    char label[64];
    uint64_t count;
    double seconds, flops, bytes;
};
// Starts or stops collecting; what was collected is kept until read.
void gpu_timers_on(struct gpu_device *dev, bool on);
// Also clears what was collected.
bool gpu_timers_read(struct gpu_device *dev, struct gpu_timer_row **out, size_t *count, struct vireo_error *err);

#endif
