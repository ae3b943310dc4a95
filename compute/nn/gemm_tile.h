// The tiles of shaders/gemm_tile.comp. gemm.c chooses among them; tests/nullgpu compiles each for GPUs that are not here.
#ifndef VIREO_NN_GEMM_TILE_H
#define VIREO_NN_GEMM_TILE_H

#include <stdint.h>

// Invocations a workgroup, rows and columns of C it computes, rows and columns of a lane. invocations is a multiple of
// 128 (the largest subgroup), (rows / lane_rows) * (columns / lane_columns) of them, and divides rows * 4, columns * 4.
struct gemm_tile {
    uint32_t invocations, rows, columns, lane_rows, lane_columns;
};

// From large to small: the larger, the more arithmetic a byte read from shared memory; the smaller, the more workgroups.
// Predicted fraction of fp32 peak of these, navi21 and navi31 (docs/gpu-report.md): 0.90 and 0.80, 0.8 and 0.55, 0.7 and 0.4.
static const struct gemm_tile gemm_tiles[] = {
    {256, 128, 128, 8, 8},
    {128, 64, 64, 8, 4},
    {128, 32, 64, 4, 4},
};
enum { GEMM_TILES = sizeof gemm_tiles / sizeof gemm_tiles[0] };

// Specialisation constants 1 to 7 of the kernel.
enum { GEMM_TILE_CONSTANTS = 7 };
static inline void gemm_tile_constants(const struct gemm_tile *t, int c_bf16, int aligned, uint32_t out[GEMM_TILE_CONSTANTS])
{
    out[0] = c_bf16 != 0;
    out[1] = t->invocations;
    out[2] = t->rows;
    out[3] = t->columns;
    out[4] = t->lane_rows;
    out[5] = t->lane_columns;
    out[6] = aligned != 0;
}

#endif
