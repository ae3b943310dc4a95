#include "compute/nn/nn.h"

#include "compute/base/check.h"
#include "compute/nn/dispatch.h"
#include "compute/nn/gemm_choose.h"
#include "shaders/args/gemm.h"

#include <stdlib.h>
#include <string.h>

// The kernels of a product for CPU drivers, all with the same bits, and their tiles: rows, columns a lane (shaders/meson.build
// has the same sizes). All but ANY want aligned operands: they load 64 bits at a time or, from TEXEL_TALL on, texels of 128.
enum {
    TALL, WIDE, LOW, ONE, WIDE_SHORT,
    TEXEL_TALL, TEXEL_TALL_SHORT, TEXEL_BROAD, TEXEL_WIDE, TEXEL_WIDE_SHORT, TEXEL_LOW, TEXEL_ONE,
    ANY, TILES
};
static const struct {
    uint32_t rows, columns;
} tiles[TILES] = {
    [TALL] = {64, 4},       [WIDE] = {32, 4},             [LOW] = {8, 4},               [ONE] = {1, 8},
    [WIDE_SHORT] = {32, 4}, [TEXEL_TALL] = {64, 4},       [TEXEL_TALL_SHORT] = {64, 4}, [TEXEL_BROAD] = {32, 8},
    [TEXEL_WIDE] = {32, 4}, [TEXEL_WIDE_SHORT] = {32, 4}, [TEXEL_LOW] = {8, 4},         [TEXEL_ONE] = {1, 8},
    [ANY] = {16, 2},
};

// By A, then by B: f32, 16 bits (bf16 in the names; a constant makes them fp16). 0, which is no product: there is no such kernel.
#define K(types, tile) [tile] = KERNEL_GEMM_##types##_##tile
#define EACH(types) K(types, TALL), K(types, WIDE), K(types, LOW), K(types, ANY)
static const enum gpu_kernel simd_kernels[3][2][2][TILES] = {
    [NN_NT] = {{{EACH(NT_F32_F32), K(NT_F32_F32, ONE), K(NT_F32_F32, WIDE_SHORT),
                 K(NT_F32_F32, TEXEL_TALL), K(NT_F32_F32, TEXEL_TALL_SHORT), K(NT_F32_F32, TEXEL_BROAD),
                 K(NT_F32_F32, TEXEL_WIDE), K(NT_F32_F32, TEXEL_WIDE_SHORT), K(NT_F32_F32, TEXEL_LOW),
                 K(NT_F32_F32, TEXEL_ONE)},
                {EACH(NT_F32_BF16), K(NT_F32_BF16, ONE)}},
               {{EACH(NT_BF16_F32), K(NT_BF16_F32, ONE)},
                {EACH(NT_BF16_BF16), K(NT_BF16_BF16, ONE), K(NT_BF16_BF16, TEXEL_BROAD), K(NT_BF16_BF16, TEXEL_WIDE),
                 K(NT_BF16_BF16, TEXEL_LOW), K(NT_BF16_BF16, TEXEL_ONE)}}},
    [NN_NN] = {{{EACH(NN_F32_F32), K(NN_F32_F32, TEXEL_TALL), K(NN_F32_F32, TEXEL_BROAD)},
                {EACH(NN_F32_BF16), K(NN_F32_BF16, TEXEL_BROAD)}},
               {{EACH(NN_BF16_F32)}, {EACH(NN_BF16_BF16), K(NN_BF16_BF16, TEXEL_BROAD)}}},
    [NN_TN] = {{{EACH(TN_F32_F32), K(TN_F32_F32, TEXEL_TALL)}, {EACH(TN_F32_BF16), K(TN_F32_BF16, TEXEL_BROAD)}},
               {{EACH(TN_BF16_F32)}, {EACH(TN_BF16_BF16)}}},
};
#undef EACH
#undef K

static const struct tensor none;

static bool is_float(struct tensor x)
{
    return x.dtype == DTYPE_F32 || x.dtype == DTYPE_BF16 || x.dtype == DTYPE_F16;
}

// Kernels count elements in 32 bits from the operand's start.
static bool is_addressable(struct tensor x)
{
    return (uint64_t)tensor_rows(x) * x.stride + tensor_columns(x) <= UINT32_MAX;
}

// 16-bit operands are read in words: the word's address, and 1 where the operand starts in its upper half.
static uint64_t word_address(struct tensor x, uint32_t *first)
{
    *first = dtype_bytes(x.dtype) == 2 ? (x.span.address >> 1) & 1 : 0;
    return x.span.address & ~(uint64_t)3;
}

// 64-bit loads fit.
static bool is_wide(struct tensor x, bool along_k)
{
    return gemm_load_fits(x, 8 / (uint32_t)dtype_bytes(x.dtype), along_k);
}

// An operand's view and its first texel, where loads of texels fit it and pay.
static bool has_texels(struct gpu_device *dev, struct tensor x, bool along_k, uint32_t *view, uint32_t *texel)
{
    return gpu_device_caps(dev)->subgroup_size == NN_TEXEL_LANES && gpu_span_view(x.span, view, texel) &&
           gemm_load_fits(x, GPU_TEXEL_BYTES / (uint32_t)dtype_bytes(x.dtype), along_k);
}

// What a product's kernels may load.
struct layout {
    const enum gpu_kernel *kernels; // of its kind and types, by tile
    bool wide, texels;
};

static bool can_run(const struct layout *l, int tile)
{
    return l->kernels[tile] && (tile == ANY || (tile < TEXEL_TALL ? l->wide : l->texels));
}

static int first_of(const struct layout *l, const int *list)
{
    while (!can_run(l, *list))
        list++;
    return *list;
}

// VIREO_GEMM=simd-0 ... forces the tile of this number where the product has it; "simd-64bit" leaves out texels.
static bool is_forced(const char *forced, const struct layout *l, int *tile)
{
    char *end;
    if (!forced || strncmp(forced, "simd-", 5) != 0)
        return false;
    const unsigned long number = strtoul(forced + 5, &end, 10);
    *tile = number < ANY ? (int)number : ANY;
    return end != forced + 5 && *end == 0 && *tile != ANY && can_run(l, *tile);
}

// The tile for a C of m rows and n columns when operands are aligned: by rows first. What a row of a tile costs is an estimate
// (64 rows against 32 by measurement, 8 by counting loads, one row by measurement); rows beyond the edge cost as much as any.
// Then among tiles of that height, by measurement (docs/performance.md):
// - Turns of 4 k are faster than those of 8 where B comes from far or k is short, except of 8 rows. Not where rows of B lie in
//   the same few sets of the cache: its lines are gone before the next turn, so a turn should take more of each.
// - Eight columns a lane are faster than four where they leave no rest, and for NT where k is long.
static int choose_tile(const struct layout *l, enum nn_product kind, struct tensor b, uint32_t m, uint32_t n, uint32_t k,
                       uint32_t lanes)
{
    static const double cost[] = {[TALL] = 1, [WIDE] = 1.1, [LOW] = 1.6, [ONE] = 6.5};
    int best = TALL;
    for (int i = WIDE; i <= ONE; i++)
        if (can_run(l, i) &&
            cost[i] * (double)vireo_round_up(m, tiles[i].rows) < cost[best] * (double)vireo_round_up(m, tiles[best].rows))
            best = i;
    const bool crowded = (uint64_t)b.stride * dtype_bytes(b.dtype) % 2048 == 0;
    const bool broad = n % (tiles[TEXEL_BROAD].columns * lanes) == 0 && (kind != NN_NT || k >= 512 || crowded);
    if (best == TALL && broad)
        return first_of(l, (const int[]){TEXEL_BROAD, TEXEL_TALL, TALL, ANY});
    if (best == TALL)
        return crowded ? first_of(l, (const int[]){TEXEL_TALL, TALL, ANY})
                       : first_of(l, (const int[]){TEXEL_TALL_SHORT, TEXEL_TALL, TALL, ANY});
    if (best == WIDE)
        return crowded ? first_of(l, (const int[]){TEXEL_WIDE, WIDE, ANY})
                       : first_of(l, (const int[]){TEXEL_WIDE_SHORT, TEXEL_WIDE, WIDE_SHORT, WIDE, ANY});
    if (best == LOW)
        return first_of(l, (const int[]){TEXEL_LOW, LOW, ANY});
    return first_of(l, (const int[]){TEXEL_ONE, ONE, ANY});
}

// Layout and sizes choose among kernels of equal bits; that is all they may do.
static struct gemm_choice choose(struct gpu_device *dev, enum nn_product kind, struct tensor a, struct tensor b,
                                 struct tensor c, struct gemm_types types)
{
    struct gemm_choice out;
    if (gemm_choose_gpu(dev, kind, a, b, c, types, &out))
        return out;
    const uint32_t m = tensor_rows(c), n = tensor_columns(c), lanes = gpu_device_caps(dev)->subgroup_size;
    const char *forced = getenv("VIREO_GEMM"); // for tests: "any", the general kernels only; "simd-..." above
    out = (struct gemm_choice){.constants = {types.c, types.halves, types.swiglu}, .constant_count = 3};
    struct layout l = {.kernels = simd_kernels[kind][a.dtype != DTYPE_F32][b.dtype != DTYPE_F32]};
    l.wide = is_wide(a, kind != NN_TN) && is_wide(b, kind == NN_NT) && gpu_kernel_runs(dev, l.kernels[TALL]);
    l.texels = !(forced && strcmp(forced, "simd-64bit") == 0) && has_texels(dev, a, kind != NN_TN, &out.a_view, &out.a_texel) &&
               has_texels(dev, b, kind == NN_NT, &out.b_view, &out.b_texel);
    int tile = ANY;
    if (!(forced && strcmp(forced, "any") == 0) && l.wide && !is_forced(forced, &l, &tile))
        tile = choose_tile(&l, kind, b, m, n, kind == NN_TN ? tensor_rows(a) : tensor_columns(a), lanes);
    out.kernel = l.kernels[tile];
    out.rows = tiles[tile].rows;
    out.columns = tiles[tile].columns * lanes;
    out.ends_in_swiglu = tile != ANY;
    return out;
}

// `h`: what the product ends in (nn_gemm_swiglu), or address 0.
static void multiply(struct tape *t, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c, int beta,
                     struct tensor bias, struct tensor residual, struct tensor h)
{
    const uint32_t m = tensor_rows(c), n = tensor_columns(c);
    const uint32_t k = kind == NN_TN ? tensor_rows(a) : tensor_columns(a);
    vireo_assert(is_float(a) && is_float(b) && is_float(c) && (beta == 0 || beta == 1));
    vireo_assert((kind == NN_TN ? tensor_columns(a) : tensor_rows(a)) == m);
    vireo_assert((kind == NN_NT ? tensor_rows(b) : tensor_columns(b)) == n);
    vireo_assert((kind == NN_NT ? tensor_columns(b) : tensor_rows(b)) == k);
    vireo_assert(is_addressable(a) && is_addressable(b) && is_addressable(c));
    // Two halves of a row share a word that one lane writes.
    vireo_assert(c.dtype == DTYPE_F32 || (c.span.address % 4 == 0 && (c.stride % 2 == 0 || m == 1)));
    if (bias.span.address)
        vireo_assert(is_float(bias) && tensor_count(bias) == n);
    if (residual.span.address)
        vireo_assert(is_float(residual) && tensor_rows(residual) == m && tensor_columns(residual) == n &&
                     is_addressable(residual));
    if (m == 0 || n == 0)
        return;

    struct gpu_device *dev = tape_device(t);
    struct gemm_args args = {.c = c.span.address, .h = h.span.address, .m = m, .n = n, .k = k};
    args.a = word_address(a, &args.a_first);
    args.b = word_address(b, &args.b_first);
    args.bias = word_address(bias, &args.bias_first);
    args.residual = word_address(residual, &args.residual_first);
    args.a_stride = a.stride;
    args.b_stride = b.stride;
    args.c_stride = c.stride;
    args.residual_stride = residual.stride;
    args.flags = (beta ? GEMM_BETA : 0) | (bias.dtype != DTYPE_F32 ? GEMM_BIAS_HALF : 0) |
                 (residual.dtype != DTYPE_F32 ? GEMM_RESIDUAL_HALF : 0);

    struct gemm_types types = gemm_types_of(a, b, c, bias, residual);
    types.swiglu = h.span.address != 0;
    const struct gemm_choice v = choose(dev, kind, a, b, c, types);
    vireo_assert(!types.swiglu || v.ends_in_swiglu);
    const uint64_t down = ((uint64_t)m + v.rows - 1) / v.rows, across = ((uint64_t)n + v.columns - 1) / v.columns;
    args.flags |= v.flags;
    args.a_view = v.a_view;
    args.a_texel = v.a_texel;
    args.b_view = v.b_view;
    args.b_texel = v.b_texel;
    const struct gpu_use uses[] = {
        tensor_use(a, GPU_READ),
        tensor_use(b, GPU_READ),
        tensor_use(c, beta ? GPU_READ_WRITE : GPU_WRITE),
        tensor_use(bias, GPU_READ),
        tensor_use(residual, GPU_READ),
        tensor_use(h, GPU_WRITE),
    };
    const double stored = (c.span.address ? (double)tensor_bytes(c) : 0) + (h.span.address ? (double)tensor_bytes(h) : 0);
    gpu_dispatch(dev, v.kernel,
                 &(struct gpu_dispatch){
                     .args = &args,
                     .args_bytes = sizeof args,
                     .constants = v.constants,
                     .constant_count = v.constant_count,
                     .uses = uses,
                     .use_count = VIREO_COUNT(uses),
                     .groups = down * across,
                     .flops = 2.0 * m * n * k,
                     .bytes = (double)tensor_bytes(a) + (double)tensor_bytes(b) + stored,
                 });
}

void nn_gemm(struct tape *t, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c, int beta,
             struct tensor bias, struct tensor residual)
{
    // Weight gradients sum over thousands of rows, and every tile of C walks down all of them: in blocks both operands stay
    // in a CPU's cache. The blocks depend on K alone. Whatever is added once is added with the first block.
    enum { ROWS = 512 };
    const uint32_t k = tensor_rows(a);
    if (tape_failed(t) || tape_adopts(t))
        return;
    if (kind != NN_TN || k <= ROWS + ROWS / 2 || c.dtype != DTYPE_F32 || tensor_rows(b) != k) {
        multiply(t, kind, a, b, c, beta, bias, residual, none);
        return;
    }
    for (uint32_t first = 0; first < k;) {
        // The last block takes a short rest with it.
        uint32_t rows = k - first <= ROWS + ROWS / 2 ? k - first : ROWS;
        multiply(t, kind, tensor_row_part(a, first, rows), tensor_row_part(b, first, rows), c, first ? 1 : beta,
                 first ? none : bias, first ? none : residual, none);
        first += rows;
    }
}

bool nn_gemm_takes_swiglu(struct tape *t, struct tensor a, struct tensor b, enum dtype type)
{
    const uint32_t n = tensor_rows(b);
    const struct tensor c = {.dtype = type, .rank = 2, .shape = {tensor_rows(a), n}, .stride = n};
    if (tape_failed(t) || n % 4 != 0)
        return false;
    return choose(tape_device(t), NN_NT, a, b, c, gemm_types_of(a, b, c, none, none)).ends_in_swiglu;
}

void nn_gemm_swiglu(struct tape *t, struct tensor a, struct tensor b, struct tensor bias, struct tensor c, struct tensor h)
{
    if (tape_failed(t) || tape_adopts(t))
        return;
    vireo_assert(c.dtype == h.dtype && tensor_rows(h) == tensor_rows(c) && 2 * tensor_columns(h) == tensor_columns(c));
    vireo_assert(tensor_is_contiguous(h) && h.span.address % 8 == 0 && c.span.address % 8 == 0 && c.stride % 2 == 0);
    multiply(t, NN_NT, a, b, c, 0, bias, none, h);
}

// Rows summed by one lane. One stage is enough for most batches: a second dispatch costs more than it gains.
enum { SUM_BLOCK = 2048 };

static void sum_blocks(struct tape *t, struct tensor x, struct tensor sums, bool accumulate)
{
    struct gpu_device *dev = tape_device(t);
    const uint32_t rows = tensor_rows(x), columns = tensor_columns(x);
    const struct column_sum_args args = {
        .x = x.span.address,
        .sums = sums.span.address,
        .rows = rows,
        .columns = columns,
        .block = SUM_BLOCK,
        .x_stride = x.stride,
        .sums_stride = columns,
        .accumulate = accumulate,
    };
    const bool wide =
        nn_takes_wide(t, KERNEL_COLUMN_SUM_WIDE) && nn_is_wide(x) && sums.span.address % 8 == 0;
    const uint32_t width = gpu_device_caps(dev)->subgroup_size, type = nn_storage(x.dtype);
    const uint64_t blocks = rows ? (rows + SUM_BLOCK - 1) / SUM_BLOCK : 1, across = nn_ceil(columns, (wide ? 4 : 1) * width);
    const struct gpu_use uses[] = {
        tensor_use(x, GPU_READ),
        tensor_use(sums, accumulate ? GPU_READ_WRITE : GPU_WRITE),
    };
    gpu_dispatch(dev, wide ? KERNEL_COLUMN_SUM_WIDE : KERNEL_COLUMN_SUM,
                 &(struct gpu_dispatch){
                     .args = &args,
                     .args_bytes = sizeof args,
                     .constants = &type,
                     .constant_count = 1,
                     .uses = uses,
                     .use_count = VIREO_COUNT(uses),
                     .groups = blocks * across,
                     .flops = (double)rows * columns,
                     .bytes = (double)tensor_bytes(x),
                 });
}

void nn_column_sum(struct tape *t, struct tensor x, struct tensor out, bool accumulate)
{
    vireo_assert(is_float(x) && out.dtype == DTYPE_F32 && x.span.address % 4 == 0);
    vireo_assert(tensor_count(out) == tensor_columns(x) && is_addressable(x));
    while (!tape_failed(t) && tensor_rows(x) > SUM_BLOCK) {
        const uint32_t blocks = (tensor_rows(x) + SUM_BLOCK - 1) / SUM_BLOCK;
        struct tensor sums = tape_new(t, DTYPE_F32, blocks, tensor_columns(x), false);
        if (tape_failed(t))
            return;
        sum_blocks(t, x, sums, false);
        x = sums;
    }
    if (!tape_failed(t) && tensor_columns(x) > 0)
        sum_blocks(t, x, out, accumulate);
}
