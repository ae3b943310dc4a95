#include "compute/nn/nn.h"

#include "compute/base/check.h"
#include "compute/nn/dispatch.h"
#include "compute/nn/gemm_choose.h"
#include "shaders/args/gemm.h"

#include <stdlib.h>
#include <string.h>

// The kernels of a product for CPU drivers, all with the same bits, and their tiles: rows, columns a lane (shaders/meson.build
// has the same sizes). All but ANY load 64 bits at a time and want aligned operands. ONE exists for NT alone, the two with
// short turns for NT of f32.
enum { TALL, WIDE, LOW, ONE, WIDE_SHORT, LOW_SHORT, ANY, TILES };
static const struct {
    uint32_t rows, columns;
} tiles[TILES] = {[TALL] = {64, 4}, [WIDE] = {32, 4},       [LOW] = {8, 4},       [ONE] = {1, 8},
                  [WIDE_SHORT] = {32, 4}, [LOW_SHORT] = {8, 4}, [ANY] = {16, 2}};

#define FAMILY(types)                                                                                                 \
    {                                                                                                                 \
        [TALL] = KERNEL_GEMM_##types##_TALL, [WIDE] = KERNEL_GEMM_##types##_WIDE, [LOW] = KERNEL_GEMM_##types##_LOW,  \
        [ANY] = KERNEL_GEMM_##types##_ANY,                                                                            \
    }
#define PRODUCT(kind)                                                                                                 \
    {                                                                                                                 \
        {FAMILY(kind##_F32_F32), FAMILY(kind##_F32_BF16)}, {FAMILY(kind##_BF16_F32), FAMILY(kind##_BF16_BF16)},       \
    }
// By A, then by B: f32, 16 bits (bf16 in the names; a constant makes them fp16).
static const enum gpu_kernel simd_kernels[3][2][2][TILES] = {
    [NN_NT] = PRODUCT(NT), [NN_NN] = PRODUCT(NN), [NN_TN] = PRODUCT(TN)};
static const enum gpu_kernel one_kernels[2][2] = {{KERNEL_GEMM_NT_F32_F32_ONE, KERNEL_GEMM_NT_F32_BF16_ONE},
                                                  {KERNEL_GEMM_NT_BF16_F32_ONE, KERNEL_GEMM_NT_BF16_BF16_ONE}};

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

// Is there such a kernel for this product, and which?
static bool find_kernel(enum nn_product kind, struct tensor a, struct tensor b, int tile, enum gpu_kernel *out)
{
    const int a_half = a.dtype != DTYPE_F32, b_half = b.dtype != DTYPE_F32;
    if ((tile == ONE && kind != NN_NT) ||
        ((tile == WIDE_SHORT || tile == LOW_SHORT) && (kind != NN_NT || a_half || b_half)))
        return false;
    *out = tile == ONE          ? one_kernels[a_half][b_half]
           : tile == WIDE_SHORT ? KERNEL_GEMM_NT_F32_F32_WIDE_SHORT
           : tile == LOW_SHORT  ? KERNEL_GEMM_NT_F32_F32_LOW_SHORT
                                : simd_kernels[kind][a_half][b_half][tile];
    return true;
}

// The tile for a C of m rows when operands are aligned. What a row of a tile costs is an estimate (64 rows against 32 by
// measurement, 8 by counting loads, one row by measurement); rows beyond the edge cost as much as any.
// VIREO_GEMM=simd-0 ... forces one of TALL, WIDE, LOW, ONE, WIDE_SHORT, LOW_SHORT where the product has it.
static int choose_rows(const char *forced, enum nn_product kind, struct tensor a, struct tensor b, uint32_t m)
{
    static const double cost[] = {[TALL] = 1, [WIDE] = 1.1, [LOW] = 1.6, [ONE] = 6.5};
    enum gpu_kernel kernel;
    if (forced && strncmp(forced, "simd-", 5) == 0 && forced[5] >= '0' && forced[5] < '0' + ANY &&
        find_kernel(kind, a, b, forced[5] - '0', &kernel))
        return forced[5] - '0';
    int best = TALL;
    for (int i = WIDE; i <= ONE; i++)
        if (find_kernel(kind, a, b, i, &kernel) &&
            cost[i] * (double)vireo_round_up(m, tiles[i].rows) < cost[best] * (double)vireo_round_up(m, tiles[best].rows))
            best = i;
    // Few rows of A: B comes from far, and turns of 4 k are 10 to 40 % faster than those of 8. Not where rows of B lie in the
    // same few sets of the cache: its lines are gone before the next turn, so a turn should take more of each.
    const bool crowded = (uint64_t)b.stride * dtype_bytes(b.dtype) % 2048 == 0;
    const int brief = best == WIDE ? WIDE_SHORT : best == LOW ? LOW_SHORT : best;
    return !crowded && find_kernel(kind, a, b, brief, &kernel) ? brief : best;
}

// Layout and sizes choose among kernels of equal bits; that is all they may do.
static struct gemm_choice choose(struct gpu_device *dev, enum nn_product kind, struct tensor a, struct tensor b,
                                 struct tensor c, struct gemm_types types)
{
    struct gemm_choice out;
    if (gemm_choose_gpu(dev, kind, a, b, c, types, &out))
        return out;
    const uint32_t m = tensor_rows(c), lanes = gpu_device_caps(dev)->subgroup_size;
    const char *forced = getenv("VIREO_GEMM"); // for tests: "any", the general kernels only; "simd-0" ..., one of the tiles
    out = (struct gemm_choice){.constants = {types.c, types.halves, types.swiglu}, .constant_count = 3};
    int tile = ANY;
    if (!(forced && strcmp(forced, "any") == 0) && is_wide(a, kind != NN_TN) && is_wide(b, kind == NN_NT) &&
        gpu_kernel_runs(dev, simd_kernels[kind][a.dtype != DTYPE_F32][b.dtype != DTYPE_F32][TALL]))
        tile = choose_rows(forced, kind, a, b, m);
    find_kernel(kind, a, b, tile, &out.kernel);
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
