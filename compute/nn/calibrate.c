#include "compute/nn/calibrate.h"

#include "compute/nn/dispatch.h"
#include "shaders/args/calibrate.h"

// As in the shader.
enum { CHAINS = 16, UNROLL = 8, COPY_PER_LANE = 8 };

static uint64_t subgroup(struct tape *t)
{
    return gpu_device_caps(tape_device(t))->subgroup_size;
}

double nn_calibrate_multiply_adds(struct tape *t, struct tensor to, uint32_t turns, float a, float b)
{
    if (tape_failed(t))
        return 0;
    vireo_assert(to.dtype == DTYPE_F32 && tensor_is_contiguous(to) && tensor_count(to) <= UINT32_MAX);
    const double n = (double)tensor_count(to), flops = 2.0 * CHAINS * UNROLL * n * turns;
    const struct calibrate_args args = {
        .to = to.span.address, .count = (uint32_t)tensor_count(to), .turns = turns, .a = a, .b = b};
    const struct gpu_use uses[] = {tensor_use(to, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_CALIBRATE_MULTIPLY_ADDS,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_ceil(tensor_count(to), subgroup(t)),
                                  .flops = flops,
                                  .bytes = 4 * n},
                uses, VIREO_COUNT(uses));
    return flops;
}

double nn_calibrate_copy(struct tape *t, struct tensor to, struct tensor from)
{
    if (tape_failed(t))
        return 0;
    const uint64_t n = tensor_count(to);
    vireo_assert(to.dtype == DTYPE_F32 && from.dtype == DTYPE_F32 && tensor_is_contiguous(to) &&
                 tensor_is_contiguous(from) && tensor_count(from) == n && n % 4 == 0 && n <= UINT32_MAX);
    const struct calibrate_args args = {.to = to.span.address, .from = from.span.address, .count = (uint32_t)n};
    const struct gpu_use uses[] = {tensor_use(from, GPU_READ), tensor_use(to, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_CALIBRATE_COPY,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_ceil(n / 4, COPY_PER_LANE * subgroup(t)),
                                  .bytes = 8.0 * (double)n},
                uses, VIREO_COUNT(uses));
    return 8.0 * (double)n;
}
