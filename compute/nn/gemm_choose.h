// Which kernel computes a product: the part of gemm.c that knows GPUs. Nothing outside compute/nn includes it.
//
// A product is A B of one kind (NT, NN, TN) and pair of types. Its family is chosen by device, kind and types alone, never by
// M, N, K or the layout: each family has its own order of sums ("simd" and "tile" share one), and a row must have the same
// bits in every batch. Within a family, size and layout choose among kernels of equal bits.
//   "coopmat"  fp16 x fp16 or bf16 x bf16, where the device has matrix units for that type with f32 sums.
//   "tile"     everything else on GPUs; for NT of up to four rows its kernel is gemv.comp.
//   "simd"     everything else on CPU drivers: gemm.c.
#ifndef VIREO_NN_GEMM_CHOOSE_H
#define VIREO_NN_GEMM_CHOOSE_H

#include "compute/nn/dispatch.h"
#include "compute/nn/gemm_tile.h"

// A kernel ready to be dispatched: its specialisation constants from 1 on, the part of C a workgroup computes, and the
// flags that gemm_args gets beside those of the call.
struct gemm_choice {
    enum gpu_kernel kernel;
    uint32_t constants[GEMM_COOPMAT_CONSTANTS], constant_count, rows, columns;
    uint32_t flags;
    uint32_t a_view, a_texel, b_view, b_texel; // kernels that load texels
    bool ends_in_swiglu;  // it can, if gemm_types asks for it
    uint32_t tile, tiles; // number in gemm_tiles or gemm_coopmats, and how many there are
};

// Shapes that share a measured tile: by M, N and K, each up to a bound. The bound is also the size that is measured, except
// of the last, which has none.
static const uint32_t gemm_class_m[] = {32, 128, 512, 2048}, gemm_class_n[] = {256, 2048, 4096}, gemm_class_k[] = {1024, 2048};
enum { GEMM_CLASSES_M = 4, GEMM_CLASSES_N = 3, GEMM_CLASSES_K = 2, GEMM_CLASSES = 24 };
static inline uint32_t gemm_shape_class(uint32_t m, uint32_t n, uint32_t k)
{
    uint32_t i = 0, j = 0;
    while (i < GEMM_CLASSES_M - 1 && m > gemm_class_m[i])
        i++;
    while (j < GEMM_CLASSES_N - 1 && n > gemm_class_n[j])
        j++;
    return (i * GEMM_CLASSES_N + j) * GEMM_CLASSES_K + (k > gemm_class_k[0]);
}

// The types of a product. The 16-bit ones of A, B, bias and residual (address 0: absent) are all bf16 or all fp16.
static inline struct gemm_types gemm_types_of(struct tensor a, struct tensor b, struct tensor c, struct tensor bias,
                                              struct tensor residual)
{
    const struct tensor all[] = {a, b, bias, residual};
    struct gemm_types types = {.c = nn_storage(c.dtype)};
    for (size_t i = 0; i < VIREO_COUNT(all); i++)
        if (all[i].span.address && all[i].dtype != DTYPE_F32) {
            vireo_assert(types.halves == 0 || types.halves == nn_storage(all[i].dtype));
            types.halves = nn_storage(all[i].dtype);
        }
    if (types.halves == 0)
        types.halves = nn_storage(DTYPE_BF16); // nothing asks: one variant for all
    return types;
}

// The choice among the families for GPUs; false: the product belongs to "simd". VIREO_GEMM, for tests and measurements:
// "simd" or "any" that family, "tile" and "coopmat" (where the device and the types allow it) the others, "tile-0" ...,
// "coopmat-0" ... their tile of this number, "tile-gemv" gemv.comp for NT of any number of rows.
// Without a number the tile is the one that gemm_tune.h measured as the fastest for this kernel and class of shapes, else one
// by a formula. The measured table is asked once the family and its kernel are settled: it can choose a tile, never an order
// of sums.
bool gemm_choose_gpu(struct gpu_device *dev, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c,
                     struct gemm_types types, struct gemm_choice *out);

// Loads of so many values fit x: start, stride and, where loads may touch the last column, the width are multiples of them,
// and the rows of a tile, at most 128 of 4 bytes a value, lie within 4 GiB: a lane's offset has 32 bits.
static inline bool gemm_load_fits(struct tensor x, uint32_t values, bool along_k)
{
    return x.span.address % (values * dtype_bytes(x.dtype)) == 0 && x.stride % values == 0 && x.stride < 1u << 23 &&
           (along_k || tensor_columns(x) % values == 0);
}

#endif
