#include "compute/nn/nn.h"

#include "compute/nn/dispatch.h"
#include "shaders/args/elementwise.h"

#include <string.h>

// Columns a lane does in one group, as in the shaders.
enum { LANE_COLUMNS = 32, GELU_LANE_COUNT = 16 };

// Elements of short rows that a group of a wide kernel does: starting a group costs about as much as 100.
enum { WIDE_ELEMENTS = 2048 };

// Rows and columns as the kernels see them: all contiguous tensors are one row.
struct shape {
    uint32_t rows, columns;
};
static struct shape shape_of(struct tensor a, struct tensor b, struct tensor c)
{
    const uint64_t count = tensor_count(a);
    vireo_assert(tensor_count(b) == count && tensor_count(c) == count);
    if (tensor_is_contiguous(a) && tensor_is_contiguous(b) && tensor_is_contiguous(c)) {
        vireo_assert(count <= UINT32_MAX);
        return (struct shape){1, (uint32_t)count};
    }
    vireo_assert(tensor_rows(a) == tensor_rows(b) && tensor_rows(a) == tensor_rows(c));
    vireo_assert(nn_is_addressable(a) && nn_is_addressable(b) && nn_is_addressable(c));
    return (struct shape){tensor_rows(a), tensor_columns(a)};
}

// Rows of 16-bit elements start at whole words, which kernels read and write.
static bool has_whole_words(struct tensor x, struct shape s)
{
    return x.dtype == DTYPE_F32 || (x.span.address % 4 == 0 && (s.rows == 1 || x.stride % 2 == 0));
}

static void add(struct tape *t, struct tensor to, struct tensor a, struct tensor b)
{
    if (tape_failed(t))
        return;
    const struct shape s = shape_of(to, a, b);
    vireo_assert(has_whole_words(to, s) && has_whole_words(a, s) && has_whole_words(b, s));
    const struct add_args args = {
        .to = to.span.address,
        .a = a.span.address,
        .b = b.span.address,
        .rows = s.rows,
        .columns = s.columns,
        .to_stride = to.stride,
        .a_stride = a.stride,
        .b_stride = b.stride,
    };
    const struct gpu_use uses[] = {tensor_use(a, GPU_READ), tensor_use(b, GPU_READ), tensor_use(to, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_ADD,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, s.rows, s.columns, LANE_COLUMNS),
                                  .bytes = 12.0 * (double)tensor_count(to),
                                  .constants = {nn_storage(to.dtype), nn_storage(a.dtype), nn_storage(b.dtype)},
                                  .constant_count = 3},
                uses, VIREO_COUNT(uses));
}

struct sum {
    struct tensor a, b, y;
};

// dy into x's gradient, which may be fresh. It may be shared only by the last who takes it.
static void give(struct tape *t, struct tensor x, struct tensor dy, bool share)
{
    if (!tape_wants_grad(t, x) || (share && tape_grad_share(t, x, dy)))
        return;
    bool fresh;
    struct tensor dx = tape_grad(t, x, &fresh);
    if (fresh)
        nn_convert(t, dx, dy);
    else
        nn_add_into(t, dx, dy);
}

static void add_backward(struct tape *t, const void *data)
{
    const struct sum *s = data;
    if (!tape_has_grad(t, s->y))
        return;
    bool fresh;
    struct tensor dy = tape_grad(t, s->y, &fresh);
    give(t, s->a, dy, false);
    give(t, s->b, dy, true);
}

struct tensor nn_add(struct tape *t, struct tensor a, struct tensor b)
{
    const bool grad = tape_wants_grad(t, a) || tape_wants_grad(t, b);
    const enum dtype type = a.dtype == b.dtype ? a.dtype : DTYPE_F32;
    struct tensor y = tape_new(t, type, tensor_rows(a), tensor_columns(a), grad);
    add(t, y, a, b);
    if (grad)
        tape_push(t, "add", add_backward, &(struct sum){a, b, y}, sizeof(struct sum));
    return y;
}

void nn_add_into(struct tape *t, struct tensor a, struct tensor b)
{
    add(t, a, a, b);
}

void nn_fill(struct tape *t, struct tensor x, float value)
{
    if (tape_failed(t))
        return;
    vireo_assert((x.dtype == DTYPE_F32 || (dtype_bytes(x.dtype) == 2 && value == 0)) && tensor_is_contiguous(x));
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    if (tensor_count(x))
        gpu_fill(tape_device(t), x.span, word, vireo_round_up(tensor_bytes(x), 4));
}

void nn_convert(struct tape *t, struct tensor to, struct tensor from)
{
    if (tape_failed(t))
        return;
    const struct shape s = shape_of(to, from, from);
    const bool halves = from.dtype != DTYPE_F32;
    vireo_assert(has_whole_words(to, s));
    const struct convert_args args = {
        .to = to.span.address,
        .from = from.span.address & ~(uint64_t)3,
        .rows = s.rows,
        .columns = s.columns,
        .to_stride = to.stride,
        .from_stride = from.stride,
        .from_first = halves ? (uint32_t)(from.span.address >> 1) & 1 : 0,
    };
    const struct gpu_use uses[] = {tensor_use(from, GPU_READ), tensor_use(to, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_CONVERT,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, s.rows, s.columns, LANE_COLUMNS),
                                  .bytes = 8.0 * (double)tensor_count(to),
                                  .constants = {nn_storage(from.dtype), nn_storage(to.dtype)},
                                  .constant_count = 2},
                uses, VIREO_COUNT(uses));
}

struct unary {
    struct tensor x, y;
};

static void swiglu(struct tape *t, enum gpu_kernel kernel, struct swiglu_args *args, enum dtype type, double bytes,
                   const struct gpu_use *uses, uint32_t use_count)
{
    const bool wide = kernel == KERNEL_SWIGLU_FWD_WIDE || kernel == KERNEL_SWIGLU_BWD_WIDE;
    args->rows_each = wide && args->columns ? VIREO_MAX(WIDE_ELEMENTS / args->columns, 1u) : 1;
    nn_dispatch(t,
                &(struct nn_step){
                    .kernel = kernel,
                    .args = args,
                    .args_bytes = sizeof *args,
                    .groups = nn_row_groups(t, (uint32_t)nn_ceil(args->rows, args->rows_each), args->columns, LANE_COLUMNS),
                    .bytes = bytes * args->rows * args->columns,
                    .constants = {nn_storage(type), 0, args->columns},
                    .constant_count = wide ? 3 : 1},
                uses, use_count);
}

static void swiglu_backward(struct tape *t, const void *data)
{
    const struct unary *u = data;
    if (!tape_has_grad(t, u->y))
        return;
    bool fresh, given;
    struct tensor g = tape_grad(t, u->y, &given), dx = tape_grad(t, u->x, &fresh);
    if (tape_failed(t))
        return;
    vireo_assert(tensor_is_contiguous(dx) && tensor_is_contiguous(g));
    vireo_assert(dx.dtype == u->x.dtype && g.dtype == u->x.dtype);
    const uint32_t rows = tensor_rows(u->y), columns = tensor_columns(u->y);
    struct swiglu_args args = {
        .x = u->x.span.address,
        .z = g.span.address,
        .dx = dx.span.address,
        .rows = rows,
        .columns = columns,
        .x_stride = u->x.stride,
        .add = !fresh,
    };
    const bool wide = nn_takes_wide(t, KERNEL_SWIGLU_BWD_WIDE) && nn_is_wide(u->x) && nn_is_wide(g) && nn_is_wide(dx);
    const struct gpu_use uses[] = {tensor_use(u->x, GPU_READ), tensor_use(g, GPU_READ),
                                   tensor_use(dx, fresh ? GPU_WRITE : GPU_READ_WRITE)};
    swiglu(t, wide ? KERNEL_SWIGLU_BWD_WIDE : KERNEL_SWIGLU_BWD, &args, g.dtype, 20, uses, VIREO_COUNT(uses));
}

void nn_swiglu_push(struct tape *t, struct tensor x, struct tensor z)
{
    tape_push(t, "swiglu", swiglu_backward, &(struct unary){x, z}, sizeof(struct unary));
}

struct tensor nn_swiglu(struct tape *t, struct tensor x)
{
    const uint32_t rows = tensor_rows(x), columns = tensor_columns(x) / 2;
    const bool grad = tape_wants_grad(t, x);
    if (x.dtype != DTYPE_F32 && columns % 2 != 0)
        tape_fail(t, VIREO_UNSUPPORTED, "SwiGLU of an odd width (%u) in %s is not built", columns, dtype_name(x.dtype));
    tape_again_begin(t); // as norms
    struct tensor z = tape_new(t, x.dtype, rows, columns, grad);
    if (tape_failed(t)) {
        tape_again_end(t);
        return z;
    }
    vireo_assert(tensor_columns(x) % 2 == 0 && nn_is_addressable(x) && has_whole_words(x, (struct shape){rows, 0}));
    struct swiglu_args args = {
        .x = x.span.address,
        .z = z.span.address,
        .rows = rows,
        .columns = columns,
        .x_stride = x.stride,
    };
    const bool wide = nn_takes_wide(t, KERNEL_SWIGLU_FWD_WIDE) && nn_is_wide(x) && nn_is_wide(z);
    const struct gpu_use uses[] = {tensor_use(x, GPU_READ), tensor_use(z, GPU_WRITE)};
    swiglu(t, wide ? KERNEL_SWIGLU_FWD_WIDE : KERNEL_SWIGLU_FWD, &args, x.dtype, 12, uses, VIREO_COUNT(uses));
    tape_again_end(t);
    if (grad)
        nn_swiglu_push(t, x, z);
    return z;
}

// y = gelu(x), or with g: y (+)= g gelu'(x).
static void gelu(struct tape *t, struct tensor y, struct tensor x, struct tensor g, bool accumulate)
{
    if (tape_failed(t))
        return;
    vireo_assert(y.dtype == x.dtype && tensor_is_contiguous(x) && tensor_is_contiguous(y));
    vireo_assert(!g.span.address || (g.dtype == x.dtype && tensor_is_contiguous(g)));
    vireo_assert(has_whole_words(x, (struct shape){1, 0}) && has_whole_words(y, (struct shape){1, 0}));
    vireo_assert(tensor_count(x) <= UINT32_MAX);
    const struct gelu_args args = {
        .to = y.span.address,
        .x = x.span.address,
        .g = g.span.address,
        .count = (uint32_t)tensor_count(x),
        .add = accumulate,
    };
    const struct gpu_use uses[] = {tensor_use(x, GPU_READ), tensor_use(g, GPU_READ),
                                   tensor_use(y, accumulate ? GPU_READ_WRITE : GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_GELU,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, 1, args.count, GELU_LANE_COUNT),
                                  .bytes = 16.0 * args.count,
                                  .constants = {nn_storage(x.dtype)},
                                  .constant_count = 1},
                uses, VIREO_COUNT(uses));
}

static void gelu_backward(struct tape *t, const void *data)
{
    const struct unary *u = data;
    if (!tape_has_grad(t, u->y))
        return;
    bool fresh, given;
    struct tensor g = tape_grad(t, u->y, &given), dx = tape_grad(t, u->x, &fresh);
    gelu(t, dx, u->x, g, !fresh);
}

struct tensor nn_gelu(struct tape *t, struct tensor x)
{
    const bool grad = tape_wants_grad(t, x);
    struct tensor y = tape_new(t, x.dtype, tensor_rows(x), tensor_columns(x), grad);
    gelu(t, y, x, (struct tensor){0}, false);
    if (grad)
        tape_push(t, "gelu", gelu_backward, &(struct unary){x, y}, sizeof(struct unary));
    return y;
}
