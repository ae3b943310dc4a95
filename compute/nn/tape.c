#include "compute/nn/tape.h"

#include "compute/base/arena.h"
#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One backward step; data follows in the host arena.
struct record {
    struct record *before;
    tape_backward_fn fn;
    const char *label;
    const void *data;
};

// The gradient slot of an activation.
struct node {
    enum dtype dtype;
    uint32_t rows, columns;
    struct tensor grad; // address 0: not yet
};

struct tape {
    struct gpu_device *dev;
    struct gpu_arena *memory, *upload;
    bool grad, failed;
    enum dtype activations;
    struct vireo_error error;
    struct arena host; // records and their data
    struct record *last;
    struct node *nodes; // node i of a tensor is nodes[i - 1]
    uint32_t node_count, node_room;
};

struct tape *tape_create(struct gpu_device *dev, const struct tape_params *p, struct vireo_error *err)
{
    struct tape *t = vireo_calloc(1, sizeof *t);
    if (!t) {
        vireo_fail_memory(err, sizeof *t);
        return NULL;
    }
    t->dev = dev;
    t->memory = p->arena;
    t->upload = p->upload;
    t->grad = p->grad;
    t->activations = p->activations;
    arena_init(&t->host, 0);
    if (p->activations != DTYPE_F32 && p->activations != DTYPE_BF16)
        tape_fail(t, VIREO_UNSUPPORTED, "activations in %s are not built; built: f32, bf16", dtype_name(p->activations));
    return t;
}

bool tape_finish(struct tape **tape, struct vireo_error *err)
{
    struct tape *t = *tape;
    if (!t)
        return true;
    bool fine = !t->failed;
    if (!fine && err)
        *err = t->error;
    arena_finish(&t->host);
    free(t->nodes);
    free(t);
    *tape = NULL;
    return fine;
}

struct gpu_device *tape_device(struct tape *t)
{
    return t->dev;
}

bool tape_takes_gradients(const struct tape *t)
{
    return t->grad;
}

enum dtype tape_activations(const struct tape *t)
{
    return t->activations;
}

bool tape_failed(const struct tape *t)
{
    return t->failed;
}

struct vireo_error *tape_error(struct tape *t)
{
    // Later failures land in a copy nobody reads: the first one is the cause.
    static _Thread_local struct vireo_error ignored;
    if (t->failed)
        return &ignored;
    return &t->error;
}

void tape_fail(struct tape *t, enum vireo_code code, const char *fmt, ...)
{
    if (t->failed)
        return;
    char message[sizeof t->error.message];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    vireo_fail(&t->error, code, "%s", message);
    t->failed = true;
}

static uint32_t add_node(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns)
{
    if (t->node_count == t->node_room) {
        uint32_t room = t->node_room ? 2 * t->node_room : 64;
        struct node *nodes = vireo_realloc(t->nodes, room * sizeof *nodes);
        if (!nodes) {
            tape_fail(t, VIREO_NO_MEMORY, "out of host memory for %u gradient slots", room);
            return 0;
        }
        t->nodes = nodes;
        t->node_room = room;
    }
    t->nodes[t->node_count] = (struct node){.dtype = type, .rows = rows, .columns = columns};
    return ++t->node_count;
}

struct tensor tape_new(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns, bool grad)
{
    struct tensor x = {.dtype = type, .rank = 2, .shape = {rows, columns}, .stride = columns};
    if (t->failed)
        return x;
    x = tensor_matrix(t->memory, type, rows, columns, &t->error);
    if (!x.span.address)
        t->failed = true;
    else if (grad && t->grad)
        x.node = add_node(t, type, rows, columns);
    return x;
}

struct tensor tape_activation(struct tape *t, uint32_t rows, uint32_t columns, bool grad)
{
    if (t->activations != DTYPE_F32 && rows > 1 && columns % 2 != 0)
        tape_fail(t, VIREO_UNSUPPORTED, "%s activations of an odd width (%u) are not built",
                  dtype_name(t->activations), columns);
    return tape_new(t, t->activations, rows, columns, grad);
}

struct tensor tape_upload_matrix(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns, const void *data)
{
    struct tensor x = {.dtype = type, .rank = 2, .shape = {rows, columns}, .stride = columns};
    if (t->failed)
        return x;
    x = tensor_matrix(t->upload, type, rows, columns, &t->error);
    if (!x.span.address) {
        t->failed = true;
        return x;
    }
    vireo_assert(x.span.host);
    if (data)
        memcpy(x.span.host, data, (size_t)tensor_count(x) * dtype_bytes(type));
    return x;
}

struct tensor tape_upload(struct tape *t, enum dtype type, uint32_t count, const void *data)
{
    struct tensor x = tape_upload_matrix(t, type, count, 1, data);
    x.rank = 1;
    return x;
}

void tape_push(struct tape *t, const char *label, tape_backward_fn fn, const void *data, size_t bytes)
{
    if (!t->grad || t->failed)
        return;
    struct record *r = arena_new(&t->host, struct record);
    void *copy = arena_copy_bytes(&t->host, data, bytes);
    if (!r || !copy) {
        tape_fail(t, VIREO_NO_MEMORY, "out of host memory for the tape");
        return;
    }
    *r = (struct record){.before = t->last, .fn = fn, .label = label, .data = copy};
    t->last = r;
}

static struct node *node_of(const struct tape *t, struct tensor x)
{
    vireo_assert(x.node <= t->node_count);
    return x.node ? &t->nodes[x.node - 1] : NULL;
}

bool tape_has_grad(const struct tape *t, struct tensor x)
{
    const struct node *n = node_of(t, x);
    return n && n->grad.span.address;
}

bool tape_wants_grad(const struct tape *t, struct tensor x)
{
    return x.node != 0;
}

struct tensor tape_grad(struct tape *t, struct tensor x, bool *fresh)
{
    struct node *n = node_of(t, x);
    vireo_assert(n);
    *fresh = !n->grad.span.address;
    if (*fresh)
        n->grad = tape_new(t, n->dtype, n->rows, n->columns, false);
    struct tensor g = n->grad;
    uint32_t rows = tensor_rows(x), columns = tensor_columns(x);
    if (t->failed)
        return g;
    // A reshaped view (the merger's four rows as one) covers the same elements with other rows and columns.
    if ((uint64_t)rows * columns == (uint64_t)n->rows * n->columns && columns != n->columns)
        return tensor_reshape(g, 2, (uint32_t[]){rows, columns});
    vireo_assert(rows == n->rows);
    return columns == n->columns ? g : tensor_column_part(g, x.column, columns);
}

bool tape_grad_share(struct tape *t, struct tensor x, struct tensor g)
{
    struct node *n = node_of(t, x);
    vireo_assert(n);
    if (n->grad.span.address || g.dtype != n->dtype || tensor_rows(g) != n->rows || tensor_columns(g) != n->columns)
        return false;
    n->grad = g;
    n->grad.node = 0;
    return true;
}

bool tape_backward(struct tape *t, struct tensor of, struct tensor grad, struct vireo_error *err)
{
    if (!t->failed) {
        vireo_assert(t->grad && of.node);
        vireo_assert(tensor_count(grad) == tensor_count(of));
        struct node *n = node_of(t, of);
        vireo_assert(!n->grad.span.address && grad.dtype == n->dtype);
        n->grad = tensor_reshape(grad, 2, (uint32_t[]){n->rows, n->columns});
        // Records may be pushed by nobody during the walk; each runs once.
        for (struct record *r = t->last; r && !t->failed; r = r->before)
            r->fn(t, r->data);
        t->last = NULL;
    }
    if (t->failed && err)
        *err = t->error;
    return !t->failed;
}
