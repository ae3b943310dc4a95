// Device memory: arenas that hand out spans. A span is an address range in one VkBuffer with a device address.
//
// An arena is sized up front by a plan (fixed) or grows block by block. Spans are aligned to 256 bytes. Rewinding makes
// memory reusable at once for later dispatches: the recorder orders them after the earlier ones by the declared uses.
// Host writes to mapped spans are not ordered: write a mapped span only when no submitted work still reads it
// (gpu_wait), or use gpu_upload (record.h).
#ifndef VIREO_GPU_MEMORY_H
#define VIREO_GPU_MEMORY_H

#include "compute/gpu/device.h"
#include "shaders/args/views.h"

enum gpu_memory {
    GPU_MEMORY_DEVICE,   // fastest for the GPU; mapped only where the device has unified memory
    GPU_MEMORY_UPLOAD,   // host-visible, coherent: written by the host, read by kernels in place
    GPU_MEMORY_READBACK, // host-visible, cached where possible: written by kernels, read by the host
};

struct gpu_block;

struct gpu_span {
    uint64_t address; // device address; 0: no memory
    uint64_t bytes;
    void *host;       // mapped pointer, or NULL
    struct gpu_block *block;
    uint64_t offset;  // in the block's buffer
};

struct gpu_arena;
struct gpu_arena_params {
    const char *name;       // shown in the memory plan and in debug names
    enum gpu_memory memory;
    uint64_t bytes;         // fixed: all of it is allocated now; grows: what is expected (0: unknown, blocks of 16 MiB)
    bool grows;
};
// NULL + VIREO_DEVICE_MEMORY: the message names the arena, wanted and available bytes.
struct gpu_arena *gpu_arena_create(struct gpu_device *dev, const struct gpu_arena_params *p, struct vireo_error *err);
void gpu_arena_destroy(struct gpu_arena **a); // waits for work that may use it
// `bytes` (rounded up to 256). On failure a span with address 0 is returned and err says why. Never zeroed.
struct gpu_span gpu_arena_take(struct gpu_arena *a, uint64_t bytes, struct vireo_error *err);
uint64_t gpu_arena_mark(const struct gpu_arena *a);
void gpu_arena_rewind(struct gpu_arena *a, uint64_t mark); // everything taken since the mark is gone
// Gives one span back, whole as it was taken; later takes may get its memory (the smallest hole that is large enough),
// in any order. A rewind to a mark does not take back what was taken since from a hole before the mark: between mark and
// rewind either give nothing, or give back everything.
void gpu_arena_give(struct gpu_arena *a, struct gpu_span span);
uint64_t gpu_arena_used(const struct gpu_arena *a);
uint64_t gpu_arena_peak(const struct gpu_arena *a);
uint64_t gpu_arena_held(const struct gpu_arena *a); // bytes allocated from the device

// CPU drivers: a block of memory can also be read as a storage texel buffer (shaders/lib/texels.glsl). The view's place and the
// span's first texel of 16 bytes; false: there is no view of it (other devices, too many blocks, start not at a texel).
enum { GPU_VIEWS = VIEWS, GPU_TEXEL_BYTES = 16 };
bool gpu_span_view(struct gpu_span s, uint32_t *view, uint32_t *texel);

// Part of a span.
struct gpu_span gpu_span_part(struct gpu_span s, uint64_t offset, uint64_t bytes);

#endif
