#include "compute/nn/gemm_choose.h"

#include "compute/base/check.h"
#include "compute/gpu/tune.h"
#include "shaders/args/gemm.h"

#include <stdlib.h>
#include <string.h>

// By A, then by B: f32, 16 bits (bf16 in the names; a constant makes them fp16).
#define TILES(kind)                                                                                                   \
    {                                                                                                                 \
        {KERNEL_GEMM_TILE_##kind##_F32_F32, KERNEL_GEMM_TILE_##kind##_F32_BF16},                                      \
        {KERNEL_GEMM_TILE_##kind##_BF16_F32, KERNEL_GEMM_TILE_##kind##_BF16_BF16},                                    \
    }
static const enum gpu_kernel tile_kernels[3][2][2] = {[NN_NT] = TILES(NT), [NN_NN] = TILES(NN), [NN_TN] = TILES(TN)};
static const enum gpu_kernel gemv_kernels[2][2] = {{KERNEL_GEMV_F32_F32, KERNEL_GEMV_F32_BF16},
                                                   {KERNEL_GEMV_BF16_F32, KERNEL_GEMV_BF16_BF16}};
static const enum gpu_kernel coopmat_kernels[3][2] = {
    // fp16, bf16
    [NN_NT] = {KERNEL_GEMM_COOPMAT_NT_F16, KERNEL_GEMM_COOPMAT_NT_BF16},
    [NN_NN] = {KERNEL_GEMM_COOPMAT_NN_F16, KERNEL_GEMM_COOPMAT_NN_BF16},
    [NN_TN] = {KERNEL_GEMM_COOPMAT_TN_F16, KERNEL_GEMM_COOPMAT_TN_BF16},
};

// Workgroups that keep a GPU busy; there is no way to ask how many units it has.
enum { BUSY_GROUPS = 64 };

// Largest first: enough workgroups of it and not mostly empty?
static bool is_busy(uint32_t rows, uint32_t columns, uint32_t m, uint32_t n)
{
    const uint64_t down = ((uint64_t)m + rows - 1) / rows, across = ((uint64_t)n + columns - 1) / columns;
    return down * across >= BUSY_GROUPS && m > rows / 2;
}

// The number behind "tile-" or "coopmat-", below `count`; -1: none.
static int forced_number(const char *forced, const char *start, int count)
{
    const size_t n = strlen(start);
    const bool given = forced && strncmp(forced, start, n) == 0 && forced[n] >= '0' && forced[n] < '0' + count;
    return given ? forced[n] - '0' : -1;
}

// The number of the tile: the forced one, else the one measured as the fastest on this device, else by the formula.
static uint32_t number_of(struct gpu_device *dev, enum gpu_kernel kernel, int forced, struct tensor c, uint32_t k, uint32_t count,
                          bool (*is_busy_with)(uint32_t i, uint32_t m, uint32_t n))
{
    const uint32_t m = tensor_rows(c), n = tensor_columns(c);
    const int known = forced >= 0 ? forced : gpu_tune_find(dev, kernel, gemm_shape_class(m, n, k), count);
    uint32_t i = known < 0 ? 0 : (uint32_t)known;
    while (known < 0 && i < count - 1 && !is_busy_with(i, m, n))
        i++;
    return i;
}

static bool is_tile_busy(uint32_t i, uint32_t m, uint32_t n)
{
    return is_busy(gemm_tiles[i].rows, gemm_tiles[i].columns, m, n);
}

static bool is_coopmat_busy(uint32_t i, uint32_t m, uint32_t n)
{
    return is_busy(gemm_coopmats[i].rows, gemm_coopmats[i].columns, m, n);
}

static uint32_t depth(enum nn_product kind, struct tensor a)
{
    return kind == NN_TN ? tensor_rows(a) : tensor_columns(a);
}

static void take_tile(struct gpu_device *dev, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c,
                      struct gemm_types types, const char *forced, struct gemm_choice *out)
{
    const bool aligned = gemm_load_fits(a, 4, kind != NN_TN) && gemm_load_fits(b, 4, kind == NN_NT);
    out->kernel = tile_kernels[kind][a.dtype != DTYPE_F32][b.dtype != DTYPE_F32];
    out->tiles = GEMM_TILES;
    out->tile = number_of(dev, out->kernel, forced_number(forced, "tile-", GEMM_TILES), c, depth(kind, a), GEMM_TILES,
                          is_tile_busy);
    const struct gemm_tile *t = &gemm_tiles[out->tile];
    out->rows = t->rows;
    out->columns = t->columns;
    out->constant_count = GEMM_TILE_CONSTANTS;
    gemm_tile_constants(t, types, aligned, out->constants);
}

// Of few rows, unless a tile is asked for: decoding waits for the weights, and a tile's rows would mostly be none.
static bool take_gemv(enum nn_product kind, struct tensor a, struct tensor b, struct tensor c, struct gemm_types types,
                      const char *forced, struct gemm_choice *out)
{
    const bool wanted = forced && strcmp(forced, "tile-gemv") == 0;
    if (kind != NN_NT || !(wanted || tensor_rows(c) <= GEMV_ROWS) || (!wanted && forced_number(forced, "tile-", GEMM_TILES) >= 0))
        return false;
    out->kernel = gemv_kernels[a.dtype != DTYPE_F32][b.dtype != DTYPE_F32];
    out->tiles = 1;
    out->rows = GEMV_ROWS;
    out->columns = GEMV_COLUMNS;
    out->constant_count = GEMV_CONSTANTS;
    gemv_constants(types, gemm_load_fits(a, 4, false) && gemm_load_fits(b, 4, false), out->constants);
    return true;
}

static void take_coopmat(struct gpu_device *dev, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c,
                         struct gemm_types types, const char *forced, struct gemm_choice *out)
{
    const struct gpu_caps *caps = gpu_device_caps(dev);
    const bool bf16 = a.dtype == DTYPE_BF16;
    uint32_t load = 8;
    while (load > 1 && !(gemm_load_fits(a, load, kind != NN_TN) && gemm_load_fits(b, load, kind == NN_NT)))
        load = load == 8 ? 4 : 1;
    if (depth(kind, a) < GEMM_COOPMAT_STEP)
        load = 1;
    out->kernel = coopmat_kernels[kind][bf16];
    out->tiles = GEMM_COOPMATS;
    out->tile = number_of(dev, out->kernel, forced_number(forced, "coopmat-", GEMM_COOPMATS), c, depth(kind, a),
                          GEMM_COOPMATS, is_coopmat_busy);
    const struct gemm_coopmat *t = &gemm_coopmats[out->tile];
    out->rows = t->rows;
    out->columns = t->columns;
    out->constant_count = GEMM_COOPMAT_CONSTANTS;
    gemm_coopmat_constants(t, types, load, caps->subgroup_size, bf16 ? caps->matrix_bf16 : caps->matrix_f16,
                           out->constants);
}

bool gemm_choose_gpu(struct gpu_device *dev, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c,
                     struct gemm_types types, struct gemm_choice *out)
{
    const char *forced = getenv("VIREO_GEMM");
    const bool free_choice = !forced || !forced[0];
    const bool half = a.dtype == b.dtype && (a.dtype == DTYPE_F16 || a.dtype == DTYPE_BF16);
    const bool gpu = gpu_device_caps(dev)->type != GPU_CPU;
    const bool coopmat = half && (free_choice ? gpu : strncmp(forced, "coopmat", 7) == 0) &&
                         gpu_kernel_runs(dev, coopmat_kernels[kind][a.dtype == DTYPE_BF16]);
    if (!coopmat && !(free_choice ? gpu : strncmp(forced, "tile", 4) == 0 || (gpu && forced[0] == 'c')))
        return false;
    // With SwiGLU the rows of a tile of B lie in two places, which a lane's 32-bit offsets must reach.
    *out = (struct gemm_choice){
        .flags = c.dtype == DTYPE_F32 && gemm_load_fits(c, 4, false) ? GEMM_C_QUADS : 0,
        .ends_in_swiglu = (uint64_t)tensor_rows(b) * b.stride * dtype_bytes(b.dtype) <= UINT32_MAX,
    };
    if (coopmat)
        take_coopmat(dev, kind, a, b, c, types, forced, out);
    else if (!take_gemv(kind, a, b, c, types, forced, out))
        take_tile(dev, kind, a, b, c, types, forced, out);
    return true;
}
