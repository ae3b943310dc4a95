// The tiles of the GPUs' products: shaders/gemm_tile.comp and shaders/gemm_coopmat.comp. gemm_choose.c chooses among them;
// tests/nullgpu compiles each for GPUs that are not here.
#ifndef VIREO_NN_GEMM_TILE_H
#define VIREO_NN_GEMM_TILE_H

#include <stdbool.h>
#include <stdint.h>

// "tile": invocations a workgroup, rows and columns of C it computes, rows and columns of a lane. invocations is a multiple
// of 128 (the largest subgroup), (rows / lane_rows) * (columns / lane_columns) of them, and divides rows * 4, columns * 4.
// All give the same bits.
struct gemm_tile {
    uint32_t invocations, rows, columns, lane_rows, lane_columns;
};

// From large to small: the larger, the more arithmetic a byte read from shared memory; the smaller, the more workgroups.
// Predicted fraction of fp32 peak of these, navi21 and navi31 (docs/gpu-report.md): 0.92 and 0.83, 0.86 and 0.55, 0.8 and 0.4.
static const struct gemm_tile gemm_tiles[] = {
    {256, 128, 128, 8, 8},
    {128, 64, 64, 8, 4},
    {128, 32, 64, 4, 4},
};
enum { GEMM_TILES = sizeof gemm_tiles / sizeof gemm_tiles[0] };

// Of a product, as kernels number storage types (lib/types.glsl): `c` 0 f32, 1 bf16, 2 fp16; `halves` 1 or 2, of those of A, B,
// bias and residual that have 16 bits; `swiglu` 1: NT that ends in SwiGLU (nn_gemm_swiglu).
struct gemm_types {
    uint32_t c, halves, swiglu;
};

// Specialisation constants 1 to 9 of the kernel.
enum { GEMM_TILE_CONSTANTS = 9 };
static inline void gemm_tile_constants(const struct gemm_tile *t, struct gemm_types types, bool aligned,
                                       uint32_t out[GEMM_TILE_CONSTANTS])
{
    out[0] = types.c;
    out[1] = t->invocations;
    out[2] = t->rows;
    out[3] = t->columns;
    out[4] = t->lane_rows;
    out[5] = t->lane_columns;
    out[6] = aligned;
    out[7] = types.halves;
    out[8] = types.swiglu;
}

// "gemv": NT of at most so many rows, with the bits of the tiles; columns of a workgroup. Constants 1 to 4 of the kernel.
enum { GEMV_ROWS = 4, GEMV_COLUMNS = 32, GEMV_CONSTANTS = 4 };
static inline void gemv_constants(struct gemm_types types, bool aligned, uint32_t out[GEMV_CONSTANTS])
{
    out[0] = types.c;
    out[1] = aligned;
    out[2] = types.halves;
    out[3] = types.swiglu;
}

// "coopmat": rows and columns of a workgroup's part of C and of a subgroup's, multiples of 16; a workgroup has a subgroup
// for each. All give the same bits, other ones than "tile".
struct gemm_coopmat {
    uint32_t rows, columns, subgroup_rows, subgroup_columns;
};
static const struct gemm_coopmat gemm_coopmats[] = {
    {128, 128, 64, 64},
    {64, 64, 32, 32},
    {32, 128, 32, 32},
};
enum { GEMM_COOPMATS = sizeof gemm_coopmats / sizeof gemm_coopmats[0] };

// k of a tile: with fewer, both operands are read value by value.
enum { GEMM_COOPMAT_STEP = 32 };

// Specialisation constants 1 to 12 of the kernel. `load`: values of a load, 8, 4 or 1; `matrix`: M, N, K of the device's.
enum { GEMM_COOPMAT_CONSTANTS = 12 };
static inline void gemm_coopmat_constants(const struct gemm_coopmat *t, struct gemm_types types, uint32_t load,
                                          uint32_t subgroup, const uint8_t matrix[3], uint32_t out[GEMM_COOPMAT_CONSTANTS])
{
    out[0] = types.c;
    out[1] = t->rows / t->subgroup_rows * (t->columns / t->subgroup_columns) * subgroup;
    out[2] = t->rows;
    out[3] = t->columns;
    out[4] = t->subgroup_rows;
    out[5] = t->subgroup_columns;
    out[6] = load;
    for (int i = 0; i < 3; i++)
        out[7 + i] = matrix[i];
    out[10] = types.halves;
    out[11] = types.swiglu;
}

#endif
