#include "compute/nn/nn.h"

#include "compute/base/fault.h"
#include "compute/nn/dispatch.h"
#include "shaders/args/embedding.h"

#include <stdlib.h>

enum { EMBED_LANE_COLUMNS = 32, SCATTER_LANE_COLUMNS = 4 };

struct entry {
    uint32_t target, member;
};

static int by_target(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    return (x->member > y->member) - (x->member < y->member);
}

struct nn_scatter nn_scatter_build(struct tape *t, const int32_t *index, uint32_t n)
{
    struct nn_scatter s = {0};
    if (tape_failed(t))
        return s;
    uint32_t used = 0;
    for (uint32_t i = 0; i < n; i++)
        used += index[i] >= 0;
    if (used == 0)
        return s;
    // Sorted entries, and after them what goes to the device: targets, starts (one more), members.
    const size_t bytes = used * (sizeof(struct entry) + 3 * sizeof(uint32_t)) + sizeof(uint32_t);
    struct entry *entries = vireo_alloc(bytes);
    if (!entries) {
        tape_fail(t, VIREO_NO_MEMORY, "out of host memory for %u row indices", used);
        return s;
    }
    uint32_t *targets = (uint32_t *)(entries + used), *starts = targets + used, *members = starts + used + 1, k = 0;
    for (uint32_t i = 0; i < n; i++)
        if (index[i] >= 0)
            entries[k++] = (struct entry){(uint32_t)index[i], i};
    qsort(entries, used, sizeof *entries, by_target);
    for (uint32_t i = 0; i < used; i++) {
        if (i == 0 || entries[i].target != entries[i - 1].target) {
            targets[s.count] = entries[i].target;
            starts[s.count++] = i;
        }
        members[i] = entries[i].member;
    }
    starts[s.count] = used;
    s.target = tape_upload(t, DTYPE_U32, s.count, targets);
    s.starts = tape_upload(t, DTYPE_U32, s.count + 1, starts);
    s.members = tape_upload(t, DTYPE_U32, used, members);
    free(entries);
    return s;
}

// to[target] += sum of from[members].
static void scatter_add(struct tape *t, struct tensor to, struct tensor from, const struct nn_scatter *s)
{
    if (tape_failed(t) || s->count == 0)
        return;
    vireo_assert(tensor_columns(to) == tensor_columns(from));
    vireo_assert(from.dtype == DTYPE_F32 || from.stride % 2 == 0 || tensor_rows(from) == 1);
    vireo_assert(to.dtype == DTYPE_F32 || to.stride % 2 == 0 || tensor_rows(to) == 1);
    vireo_assert(nn_is_addressable(to) && nn_is_addressable(from));
    const uint32_t columns = tensor_columns(to);
    const struct scatter_args args = {
        .to = to.span.address,
        .from = from.span.address,
        .target = s->target.span.address,
        .starts = s->starts.span.address,
        .members = s->members.span.address,
        .count = s->count,
        .columns = columns,
        .to_stride = to.stride,
        .from_stride = from.stride,
    };
    const struct gpu_use uses[] = {tensor_use(from, GPU_READ), tensor_use(s->target, GPU_READ),
                                   tensor_use(s->starts, GPU_READ), tensor_use(s->members, GPU_READ),
                                   tensor_use(to, GPU_READ_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_SCATTER_ADD,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, s->count, columns, SCATTER_LANE_COLUMNS),
                                  .bytes = 8.0 * columns * (double)(tensor_count(s->members) + s->count),
                                  .constants = {nn_storage(from.dtype), nn_storage(to.dtype)},
                                  .constant_count = 2},
                uses, VIREO_COUNT(uses));
}

static void lookup(struct tape *t, struct tensor y, struct tensor source, struct tensor table, struct tensor images)
{
    if (tape_failed(t))
        return;
    const uint32_t rows = tensor_rows(y), columns = tensor_columns(y);
    vireo_assert(tensor_count(source) == rows && tensor_columns(table) == columns);
    vireo_assert(nn_is_addressable(table) && table.span.address % 4 == 0);
    if (images.span.address)
        vireo_assert(images.span.address % 4 == 0 && tensor_columns(images) == columns && nn_is_addressable(images));
    const struct embed_args args = {
        .source = source.span.address,
        .table = table.span.address,
        .images = images.span.address,
        .y = y.span.address,
        .rows = rows,
        .columns = columns,
        .table_stride = table.stride,
        .images_stride = images.stride,
        .table_rows = tensor_rows(table),
        .images_rows = images.span.address ? tensor_rows(images) : 0,
    };
    // Only the rows that are read matter for barriers, but who they are is known to the device alone.
    const struct gpu_use uses[] = {tensor_use(source, GPU_READ), tensor_use(table, GPU_READ),
                                   tensor_use(images, GPU_READ), tensor_use(y, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_EMBED_FWD,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, rows, columns, EMBED_LANE_COLUMNS),
                                  .bytes = 8.0 * rows * columns,
                                  .constants = {nn_storage(table.dtype),
                                                images.span.address ? nn_storage(images.dtype) : 0,
                                                nn_storage(y.dtype)},
                                  .constant_count = 3},
                uses, VIREO_COUNT(uses));
}

// The gradient of x, zeros where nothing was written yet: a scatter adds to it.
static struct tensor zeroed_grad(struct tape *t, struct tensor x)
{
    bool fresh;
    struct tensor dx = tape_grad(t, x, &fresh);
    if (fresh && !tape_failed(t)) {
        vireo_assert(tensor_is_contiguous(dx) && "row lookups in a column view are not built");
        nn_fill(t, dx, 0);
    }
    return dx;
}

struct embed {
    struct tensor images, y;
    const struct weight *table;
    struct nn_embedding e;
};

static void embed_backward(struct tape *t, const void *data)
{
    const struct embed *b = data;
    if (!tape_has_grad(t, b->y))
        return;
    bool given;
    struct tensor g = tape_grad(t, b->y, &given);
    if (b->table->grad.span.address)
        scatter_add(t, b->table->grad, g, &b->e.tokens);
    if (tape_wants_grad(t, b->images))
        scatter_add(t, zeroed_grad(t, b->images), g, &b->e.images);
}

struct tensor nn_embed(struct tape *t, const struct weight *table, struct tensor images, const struct nn_embedding *e)
{
    const bool grad = tape_saves(t) && (table->grad.span.address || tape_wants_grad(t, images));
    struct tensor y = tape_new(t, DTYPE_F32, tensor_rows(e->source), tensor_columns(table->value), grad);
    lookup(t, y, e->source, table->value, images);
    if (grad)
        tape_push(t, "embed", embed_backward, &(struct embed){images, y, table, *e}, sizeof(struct embed));
    return y;
}

struct nn_embedding nn_embedding_build(struct tape *t, const int32_t *source, uint32_t n)
{
    struct nn_embedding e = {.source = tape_upload(t, DTYPE_I32, n, source)};
    if (tape_failed(t) || !tape_takes_gradients(t))
        return e;
    int32_t *index = vireo_alloc((n ? n : 1) * sizeof *index);
    if (!index) {
        tape_fail(t, VIREO_NO_MEMORY, "out of host memory for %u token sources", n);
        return e;
    }
    e.tokens = nn_scatter_build(t, source, n);
    for (uint32_t i = 0; i < n; i++)
        index[i] = -1 - source[i]; // of a token: negative, skipped
    e.images = nn_scatter_build(t, index, n);
    free(index);
    return e;
}

struct gather {
    struct tensor x, y;
    struct nn_scatter rows;
};

static void gather_backward(struct tape *t, const void *data)
{
    const struct gather *b = data;
    if (!tape_has_grad(t, b->y))
        return;
    bool given;
    struct tensor g = tape_grad(t, b->y, &given);
    scatter_add(t, zeroed_grad(t, b->x), g, &b->rows);
}

struct tensor nn_gather(struct tape *t, struct tensor x, const uint32_t *rows, uint32_t m)
{
    const bool grad = tape_wants_grad(t, x);
    struct tensor y = tape_new(t, x.dtype, m, tensor_columns(x), grad);
    for (uint32_t i = 0; i < m && !tape_failed(t); i++)
        vireo_assert(rows[i] < tensor_rows(x));
    lookup(t, y, tape_upload(t, DTYPE_I32, m, rows), x, (struct tensor){0});
    if (grad) {
        // Row numbers are far below 2^31.
        struct gather b = {x, y, nn_scatter_build(t, (const int32_t *)rows, m)};
        tape_push(t, "gather", gather_backward, &b, sizeof b);
    }
    return y;
}
