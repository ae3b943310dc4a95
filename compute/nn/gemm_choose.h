// Which kernel computes a product: the part of gemm.c that knows GPUs. Nothing outside compute/nn includes it.
//
// A product is A B of one kind (NT, NN, TN) and pair of types. Its family is chosen by device, kind and types alone, never by
// M, N, K or the layout: each family has its own order of sums ("simd" and "tile" share one), and a row must have the same
// bits in every batch. Within a family, size and layout choose among kernels of equal bits.
//   "coopmat"  fp16 x fp16 or bf16 x bf16, where the device has matrix units for that type with f32 sums.
//   "tile"     everything else on GPUs, fp16 on every device.
//   "simd"     everything else on CPU drivers: gemm.c.
#ifndef VIREO_NN_GEMM_CHOOSE_H
#define VIREO_NN_GEMM_CHOOSE_H

#include "compute/nn/gemm_tile.h"
#include "compute/nn/nn.h"

// A kernel ready to be dispatched: its specialisation constants from 1 on, the part of C a workgroup computes, and the
// flags that gemm_args gets beside those of the call.
struct gemm_choice {
    enum gpu_kernel kernel;
    uint32_t constants[GEMM_COOPMAT_CONSTANTS], constant_count, rows, columns;
    uint32_t flags;
};

// The choice among the families for GPUs; false: the product belongs to "simd". VIREO_GEMM, for tests and measurements:
// "simd" or "any" that family, "tile" and "coopmat" (where the device and the types allow it) the others, "tile-0" ...,
// "coopmat-0" ... their tile of this number.
bool gemm_choose_gpu(struct gpu_device *dev, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c,
                     struct gemm_choice *out);

// Loads of so many values fit x: start, stride and, where loads may touch the last column, the width are multiples of them.
static inline bool gemm_load_fits(struct tensor x, uint32_t values, bool along_k)
{
    return x.span.address % (values * dtype_bytes(x.dtype)) == 0 && x.stride % values == 0 &&
           (along_k || tensor_columns(x) % values == 0);
}

#endif
