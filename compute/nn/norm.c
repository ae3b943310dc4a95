#include "compute/nn/nn.h"

#include "compute/nn/dispatch.h"
#include "shaders/args/norm.h"

// A group does several short rows, since starting a group costs about as much as 50 elements on a CPU driver.
// The wide kernels hold rows of up to WIDE_COLUMNS in registers: wider ones would make megabytes of code.
enum { GROUP_ELEMENTS = 512, WEIGHT_ROWS = 64, WIDE_COLUMNS = 1024 };

struct norm {
    struct tensor x, y, r;
    const struct weight *w;
};

static uint32_t rows_each(struct tape *t, uint32_t columns, bool wide)
{
    if (wide)
        return gpu_device_caps(tape_device(t))->subgroup_size;
    return columns && columns < GROUP_ELEMENTS ? GROUP_ELEMENTS / columns : 1;
}

static bool takes_wide(struct tape *t, enum gpu_kernel wide, const struct norm *n, struct tensor y)
{
    return nn_takes_wide(t, wide) && nn_is_wide(n->x) && nn_is_wide(y) && tensor_columns(n->x) <= WIDE_COLUMNS &&
           n->w->value.span.address % 8 == 0;
}

// Where the sums over blocks of WEIGHT_ROWS rows go: into the gradient itself where there is one block.
static struct tensor weight_sums(struct tape *t, const struct norm *n)
{
    const uint32_t blocks = (uint32_t)nn_ceil(tensor_rows(n->x), WEIGHT_ROWS);
    return blocks == 1 ? n->w->grad : tape_new(t, DTYPE_F32, blocks, tensor_columns(n->x), false);
}

// dw += column sums of g x r, by blocks of WEIGHT_ROWS rows and then over the blocks.
static void weight_backward(struct tape *t, const struct norm *n, struct tensor g)
{
    const uint32_t rows = tensor_rows(n->x), columns = tensor_columns(n->x);
    const uint64_t blocks = nn_ceil(rows, WEIGHT_ROWS);
    const bool direct = blocks == 1;
    struct tensor to = weight_sums(t, n);
    if (tape_failed(t))
        return;
    const struct norm_dw_args args = {
        .x = n->x.span.address,
        .g = g.span.address,
        .r = n->r.span.address,
        .to = to.span.address,
        .rows = rows,
        .columns = columns,
        .x_stride = n->x.stride,
        .rows_each = WEIGHT_ROWS,
        .add = direct,
    };
    const bool wide = nn_takes_wide(t, KERNEL_NORM_DW_WIDE) && nn_is_wide(n->x) && nn_is_wide(g) &&
                      columns % 4 == 0 && to.span.address % 8 == 0;
    const struct gpu_use uses[] = {tensor_use(n->x, GPU_READ), tensor_use(g, GPU_READ), tensor_use(n->r, GPU_READ),
                                   tensor_use(to, direct ? GPU_READ_WRITE : GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = wide ? KERNEL_NORM_DW_WIDE : KERNEL_NORM_DW,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = blocks * nn_row_groups(t, 1, columns, wide ? 4 : 1),
                                  .bytes = 8.0 * rows * columns,
                                  .constants = {nn_storage(g.dtype)},
                                  .constant_count = 1},
                uses, VIREO_COUNT(uses));
    if (!direct)
        nn_column_sum(t, to, n->w->grad, true);
}

static void norm_backward(struct tape *t, const void *data)
{
    const struct norm *n = data;
    if (!tape_has_grad(t, n->y))
        return;
    bool fresh;
    struct tensor g = tape_grad(t, n->y, &fresh), dx = {0}, dw = {0};
    const bool inputs = tape_wants_grad(t, n->x), weights = n->w->grad.span.address != 0;
    if (inputs)
        dx = tape_grad(t, n->x, &fresh);
    const bool wide = inputs && takes_wide(t, KERNEL_NORM_BWD_WIDE, n, g) && nn_is_wide(dx);
    // The wide kernel sums the weight's part on its way.
    const bool both = wide && weights && n->w->grad.span.address % 8 == 0;
    if (weights && !both)
        weight_backward(t, n, g);
    if (both)
        dw = weight_sums(t, n);
    if (tape_failed(t) || !inputs)
        return;
    // A fresh gradient of a column view would have to be zeroed around the view; no model norms part of a row.
    vireo_assert(tensor_is_contiguous(dx));
    const uint32_t rows = tensor_rows(n->x), columns = tensor_columns(n->x);
    const bool direct = both && rows <= WEIGHT_ROWS;
    const struct norm_args args = {
        .x = n->x.span.address,
        .w = n->w->value.span.address,
        .y = g.span.address,
        .r = n->r.span.address,
        .dx = dx.span.address,
        .dw = dw.span.address,
        .rows = rows,
        .columns = columns,
        .x_stride = n->x.stride,
        .dx_stride = dx.stride,
        .rows_each = both ? WEIGHT_ROWS : rows_each(t, columns, wide),
        .add = !fresh,
        .dw_add = direct,
    };
    const struct gpu_use uses[] = {
        tensor_use(n->x, GPU_READ),
        tensor_use(n->w->value, GPU_READ),
        tensor_use(g, GPU_READ),
        tensor_use(n->r, GPU_READ),
        tensor_use(dx, fresh ? GPU_WRITE : GPU_READ_WRITE),
        tensor_use(dw, direct ? GPU_READ_WRITE : GPU_WRITE),
    };
    nn_dispatch(t,
                &(struct nn_step){.kernel = wide ? KERNEL_NORM_BWD_WIDE : KERNEL_NORM_BWD,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_ceil(rows, args.rows_each),
                                  .bytes = 24.0 * rows * columns,
                                  .constants = {nn_storage(n->w->value.dtype), nn_storage(g.dtype), columns, both},
                                  .constant_count = wide ? 4 : 2},
                uses, VIREO_COUNT(uses));
    if (both && !direct)
        nn_column_sum(t, dw, n->w->grad, true);
}

struct tensor nn_rms_norm(struct tape *t, struct tensor x, const struct weight *w, float eps)
{
    const uint32_t rows = tensor_rows(x), columns = tensor_columns(x);
    const bool grad = tape_wants_grad(t, x) || (tape_saves(t) && w->grad.span.address);
    tape_again_begin(t); // a copy of what was kept would cost as much
    struct tensor y = tape_activation(t, rows, columns, grad), r = {0};
    if (grad)
        r = tape_new(t, DTYPE_F32, rows, 1, false);
    if (tape_failed(t)) {
        tape_again_end(t);
        return y;
    }
    vireo_assert(x.dtype == DTYPE_F32 && nn_is_addressable(x));
    vireo_assert(tensor_count(w->value) == columns && w->value.span.address % 4 == 0);
    const struct norm n = {x, y, r, w};
    const bool wide = takes_wide(t, KERNEL_NORM_FWD_WIDE, &n, y);
    const struct norm_args args = {
        .x = x.span.address,
        .w = w->value.span.address,
        .y = y.span.address,
        .r = r.span.address,
        .rows = rows,
        .columns = columns,
        .x_stride = x.stride,
        .rows_each = rows_each(t, columns, wide),
        .eps = eps,
    };
    const struct gpu_use uses[] = {tensor_use(x, GPU_READ), tensor_use(w->value, GPU_READ), tensor_use(y, GPU_WRITE),
                                   tensor_use(r, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = wide ? KERNEL_NORM_FWD_WIDE : KERNEL_NORM_FWD,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_ceil(rows, args.rows_each),
                                  .bytes = 12.0 * rows * columns,
                                  .constants = {nn_storage(w->value.dtype), nn_storage(y.dtype), columns},
                                  .constant_count = wide ? 3 : 2},
                uses, VIREO_COUNT(uses));
    tape_again_end(t);
    if (grad)
        tape_push(t, "rms_norm", norm_backward, &n, sizeof n);
    return y;
}
