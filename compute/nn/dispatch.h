// What the ops of this folder share when they dispatch: nothing outside compute/nn includes it.
#ifndef VIREO_NN_DISPATCH_H
#define VIREO_NN_DISPATCH_H

#include "compute/base/check.h"
#include "compute/nn/nn.h"

// Appends one dispatch of `groups` groups; `bytes` of memory traffic estimate its length. `constants`: specialisation
// constants from 1 on. Does nothing on a failed tape, while results are adopted, or for
// no groups.
struct nn_step {
    enum gpu_kernel kernel;
    const void *args;
    uint32_t args_bytes;
    uint64_t groups;
    double flops, bytes;
    uint32_t constants[4], constant_count;
};
static inline void nn_dispatch(struct tape *t, const struct nn_step *s, const struct gpu_use *uses, uint32_t use_count)
{
    if (tape_failed(t) || tape_adopts(t) || s->groups == 0)
        return;
    gpu_dispatch(tape_device(t), s->kernel,
                 &(struct gpu_dispatch){
                     .args = s->args,
                     .args_bytes = s->args_bytes,
                     .constants = s->constants,
                     .constant_count = s->constant_count,
                     .uses = uses,
                     .use_count = use_count,
                     .groups = s->groups,
                     .flops = s->flops,
                     .bytes = s->bytes,
                 });
}

// Records the backward half of z = nn_swiglu(x), for an op that computes z itself.
void nn_swiglu_push(struct tape *t, struct tensor x, struct tensor z);

static inline uint64_t nn_ceil(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit;
}

// Groups of a kernel whose group does `lane_columns` columns a lane of one row.
static inline uint64_t nn_row_groups(struct tape *t, uint32_t rows, uint32_t columns, uint32_t lane_columns)
{
    return rows * nn_ceil(columns, (uint64_t)lane_columns * gpu_device_caps(tape_device(t))->subgroup_size);
}

// The number kernels know a storage type by (lib/types.glsl).
static inline uint32_t nn_storage(enum dtype type)
{
    vireo_assert(type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_F16);
    return type == DTYPE_F32 ? 0 : type == DTYPE_BF16 ? 1 : 2;
}

// 64-bit accesses fit (lib/quads.glsl): x starts at 8 bytes, its rows hold and begin at multiples of four elements.
static inline bool nn_is_wide(struct tensor x)
{
    return x.span.address % 8 == 0 && x.stride % 4 == 0 && tensor_columns(x) % 4 == 0;
}

// The wide variant of a row operator suits the device: CPU drivers, where accesses are what is paid for. Elsewhere half
// of the lanes would stand idle.
static inline bool nn_takes_wide(struct tape *t, enum gpu_kernel wide)
{
    const struct gpu_caps *c = gpu_device_caps(tape_device(t));
    return c->type == GPU_CPU && c->subgroup_size >= 4 && c->subgroup_size <= 16 && gpu_kernel_runs(tape_device(t), wide);
}

// Kernels count elements in 32 bits from a tensor's start.
static inline bool nn_is_addressable(struct tensor x)
{
    return (uint64_t)tensor_rows(x) * x.stride + tensor_columns(x) <= UINT32_MAX;
}

#endif
