#include "compute/nn/tape.h"

#include "compute/base/arena.h"
#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/nn/kept.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One backward step; data follows in the host arena.
struct record {
    struct record *before;
    tape_backward_fn fn;
    const char *label;
    const void *data;
    uint32_t nodes, taken; // how many there were when it was pushed
};

// The gradient slot of an activation.
struct node {
    enum dtype dtype;
    uint32_t rows, columns;
    struct tensor grad; // address 0: not yet
    bool owned;         // the tape's memory (shared with another node, perhaps)
};

// An activation of a tape that reuses memory, in order of making; address 0: given back.
struct taken {
    struct gpu_span span;
    bool pinned;
};

struct tape {
    struct gpu_device *dev;
    struct gpu_arena *memory, *upload;
    bool grad, reuse, checkpoint, failed;
    enum dtype activations;
    struct vireo_error error;
    struct arena host; // records and their data
    struct record *last;
    struct node *nodes; // node i of a tensor is nodes[i - 1]
    uint32_t node_count, node_room;
    struct taken *taken;
    uint32_t taken_count, taken_room;
    struct kept *keep;      // an open run, or NULL
    struct adoption *adopt; // where results come from, or NULL
    bool again;             // results are computed, whatever is kept or adopted
    bool forgets;           // the part that runs is computed again in the walk
    struct adoption **adoptions; // all that were begun: parts come back to them in the walk
    uint32_t adoption_count;
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
    t->reuse = p->reuse;
    t->checkpoint = p->checkpoint;
    arena_init(&t->host, 0);
    if (p->activations != DTYPE_F32 && dtype_bytes(p->activations) != 2)
        tape_fail(t, VIREO_UNSUPPORTED, "activations in %s are not built; built: f32, bf16, f16",
                  dtype_name(p->activations));
    return t;
}

bool tape_finish(struct tape **tape, struct vireo_error *err)
{
    struct tape *t = *tape;
    if (!t)
        return true;
    bool fine = !t->failed;
    for (uint32_t i = 0; i < t->adoption_count; i++)
        adoption_destroy(t->adoptions[i]);
    free(t->adoptions);
    if (!fine && err)
        *err = t->error;
    arena_finish(&t->host);
    free(t->nodes);
    free(t->taken);
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

bool tape_saves(const struct tape *t)
{
    return t->grad || t->keep;
}

bool tape_stores(const struct tape *t)
{
    return tape_saves(t) && !t->forgets;
}

bool tape_adopts(const struct tape *t)
{
    return t->adopt && (!t->again || adoption_holds(t->adopt));
}

void tape_again_begin(struct tape *t)
{
    vireo_assert(!t->again);
    t->again = true;
}

void tape_again_end(struct tape *t)
{
    t->again = false;
}

struct kept_place tape_keep_begin(struct tape *t, struct kept *k, uint32_t rows)
{
    vireo_assert(!t->grad && !t->keep);
    struct kept_place first = {KEPT_NOWHERE, 0};
    if (k)
        first.run = kept_begin(k, rows);
    if (first.run != KEPT_NOWHERE)
        t->keep = k;
    return first;
}

void tape_keep_end(struct tape *t)
{
    if (t->keep)
        kept_end(t->keep);
    t->keep = NULL;
}

void tape_adopt_begin(struct tape *t, const struct kept *k, const struct kept_place *places, uint32_t rows)
{
    vireo_assert(t->grad && !t->adopt);
    struct adoption **more = vireo_realloc(t->adoptions, (t->adoption_count + 1) * sizeof *more);
    if (!more) {
        tape_fail(t, VIREO_NO_MEMORY, "out of host memory for kept activations");
        return;
    }
    t->adoptions = more;
    t->adopt = adoption_begin(t, k, places, rows);
    if (t->adopt)
        more[t->adoption_count++] = t->adopt;
}

void tape_adopt_end(struct tape *t)
{
    const struct adoption *a = t->adopt;
    t->adopt = NULL;
    if (a && !adoption_all(a))
        tape_fail(t, VIREO_INTERNAL, "fewer activations were made than are kept");
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

// Memory of an activation or a gradient; a failed tape when there is none.
static struct tensor take(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns)
{
    struct tensor x = {.dtype = type, .rank = 2, .shape = {rows, columns}, .stride = columns};
    if (t->failed)
        return x;
    x = tensor_matrix(t->memory, type, rows, columns, &t->error);
    t->failed = !x.span.address;
    return x;
}

static void note_taken(struct tape *t, struct gpu_span span)
{
    if (t->taken_count == t->taken_room) {
        uint32_t room = t->taken_room ? 2 * t->taken_room : 128;
        struct taken *more = vireo_realloc(t->taken, room * sizeof *more);
        if (!more) {
            tape_fail(t, VIREO_NO_MEMORY, "out of host memory for %u activations", room);
            return;
        }
        t->taken = more;
        t->taken_room = room;
    }
    t->taken[t->taken_count++] = (struct taken){.span = span};
}

// The address of what has a shape and no memory, until the walk makes it.
enum { NOWHERE = 256 };

struct tensor tape_new(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns, bool grad)
{
    struct tensor x = {.dtype = type, .rank = 2, .shape = {rows, columns}, .stride = columns};
    bool own = true; // memory of this tape, which it may give back
    if (t->failed)
        return x;
    if (t->adopt && t->again && adoption_holds(t->adopt)) {
        x.span = (struct gpu_span){.address = NOWHERE, .bytes = (uint64_t)rows * columns * dtype_bytes(type)};
        own = false;
    } else if (t->adopt && !t->again) {
        x = adoption_next(t, t->adopt, t->memory, type, rows, columns, &own);
        x.node = 0;
    } else {
        if (t->keep && !t->again)
            x = kept_new(t->keep, type, rows, columns);
        own = !x.span.address;
        if (own)
            x = take(t, type, rows, columns);
    }
    if (!t->failed && own && t->reuse)
        note_taken(t, x.span);
    if (!t->failed && grad && tape_saves(t))
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

// Gives back what was made in [first, end) of the list, except what is pinned and the memory at `keep`.
static void give_taken(struct tape *t, uint32_t first, uint32_t end, uint64_t keep)
{
    for (uint32_t i = first; i < end; i++) {
        struct taken *x = &t->taken[i];
        if (!x->span.address || x->pinned || x->span.address == keep)
            continue;
        gpu_arena_give(t->memory, x->span);
        x->span = (struct gpu_span){0};
    }
    // Given entries at the end are forgotten.
    while (t->taken_count > first && !t->taken[t->taken_count - 1].span.address)
        t->taken_count--;
}

static struct taken *taken_at(struct tape *t, uint64_t address)
{
    for (uint32_t i = t->taken_count; i-- > 0;)
        if (address && t->taken[i].span.address == address)
            return &t->taken[i];
    return NULL;
}

void tape_pin(struct tape *t, struct tensor x)
{
    struct taken *found = taken_at(t, x.span.address);
    if (found)
        found->pinned = true;
}

// Drops the gradients of nodes (first, end]: the walk has passed their makers. Memory that an earlier node shares stays
// that node's.
static void drop_grads(struct tape *t, uint32_t first, uint32_t end)
{
    for (uint32_t i = end; i-- > first;) {
        struct node *n = &t->nodes[i];
        if (!n->grad.span.address)
            continue;
        bool shared = !n->owned;
        for (uint32_t k = 0; k < i && !shared; k++)
            shared = t->nodes[k].grad.span.address == n->grad.span.address;
        if (!shared)
            gpu_arena_give(t->memory, n->grad.span);
        n->grad = (struct tensor){0};
    }
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

const void *tape_copy(struct tape *t, const void *data, size_t bytes)
{
    const void *copy = t->failed ? NULL : arena_copy_bytes(&t->host, data, bytes);
    if (!copy)
        tape_fail(t, VIREO_NO_MEMORY, "out of host memory for the tape");
    return copy;
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
    *r = (struct record){.before = t->last,
                         .fn = fn,
                         .label = label,
                         .data = copy,
                         .nodes = t->node_count,
                         .taken = t->taken_count};
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
    if (*fresh) {
        n->grad = take(t, n->dtype, n->rows, n->columns);
        n->owned = true;
    }
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
    n->owned = false;
    for (uint32_t i = 0; i < t->node_count && !n->owned; i++)
        n->owned = &t->nodes[i] != n && t->nodes[i].owned && t->nodes[i].grad.span.address == g.span.address;
    return true;
}

// Runs the records pushed since the caller's last one, newest first. `nodes`, `taken`: how many there were before them.
static void walk(struct tape *t, uint32_t nodes, uint32_t taken)
{
    // Records may be pushed by nobody during the walk, except by parts, which run and forget theirs; each runs once.
    for (const struct record *r = t->last; r && !t->failed; r = r->before) {
        const uint32_t scratch = t->taken_count;
        r->fn(t, r->data);
        if (!t->reuse || t->failed)
            continue;
        give_taken(t, scratch, t->taken_count, 0);
        // What was made since the record before is read by later records alone, and they have run.
        drop_grads(t, r->before ? r->before->nodes : nodes, r->nodes);
        give_taken(t, r->before ? r->before->taken : taken, VIREO_MIN(r->taken, t->taken_count), 0);
    }
    t->last = NULL;
}

struct part {
    tape_part_fn fn;
    struct tensor in, out;
    struct adoption *adopt; // where its results come from; NULL: they are computed
    struct adoption_part adopted;
    _Alignas(16) unsigned char data[TAPE_PART_BYTES];
};

static void part_backward(struct tape *t, const void *data)
{
    const struct part *p = data;
    if (!tape_has_grad(t, p->out))
        return;
    const struct tensor grad = node_of(t, p->out)->grad;
    const uint32_t nodes = t->node_count, taken = t->taken_count;
    struct arena_mark host = arena_mark(&t->host);
    t->last = NULL;
    if (p->adopt)
        adoption_enter(p->adopt, &p->adopted);
    t->adopt = p->adopt;
    struct tensor y = p->fn(t, p->data, p->in);
    t->adopt = NULL;
    if (!t->failed) {
        // The gradient stays the outer node's memory.
        struct node *n = node_of(t, y);
        n->grad = grad;
        n->owned = false;
        walk(t, nodes, taken);
    }
    if (t->failed)
        return;
    drop_grads(t, nodes, t->node_count);
    if (t->reuse)
        give_taken(t, taken, t->taken_count, 0);
    t->node_count = nodes;
    t->last = NULL;
    arena_rewind(&t->host, host);
}

struct tensor tape_part(struct tape *t, tape_part_fn fn, const void *data, size_t bytes, struct tensor in)
{
    struct part p = {.fn = fn, .in = in};
    vireo_assert(bytes <= sizeof p.data);
    memcpy(p.data, data, bytes);
    if (t->failed)
        return in;
    const bool forget = t->grad && (t->checkpoint || t->adopt);
    const uint32_t nodes = t->node_count, taken = t->taken_count;
    struct record *last = t->last;
    struct arena_mark host = arena_mark(&t->host);
    if (t->adopt)
        adoption_hold(t->adopt, &p.adopted);
    t->forgets = forget;
    struct tensor y = fn(t, data, in);
    t->forgets = false;
    if (t->adopt) {
        bool own;
        p.adopt = t->adopt;
        y = adoption_release(t, t->adopt, t->memory, y, &p.adopted, &own);
        if (own && !t->failed && t->reuse)
            note_taken(t, y.span);
    }
    if (t->failed || (t->grad && !forget))
        return y;
    if (t->reuse && !t->adopt) {
        give_taken(t, taken, t->taken_count, y.span.address);
        struct taken *input = forget ? NULL : taken_at(t, in.span.address);
        if (input && !input->pinned) {
            gpu_arena_give(t->memory, input->span);
            input->span = (struct gpu_span){0};
        }
    }
    if (!forget)
        return y;
    t->last = last;
    t->node_count = nodes;
    arena_rewind(&t->host, host);
    if (y.node) {
        y.node = add_node(t, y.dtype, tensor_rows(y), tensor_columns(y));
        p.out = y;
        tape_push(t, "part", part_backward, &p, sizeof p);
    }
    return y;
}

bool tape_backward(struct tape *t, struct tensor of, struct tensor grad, struct vireo_error *err)
{
    if (!t->failed) {
        vireo_assert(t->grad && of.node);
        vireo_assert(tensor_count(grad) == tensor_count(of));
        struct node *n = node_of(t, of);
        vireo_assert(!n->grad.span.address && grad.dtype == n->dtype);
        n->grad = tensor_reshape(grad, 2, (uint32_t[]){n->rows, n->columns});
        n->owned = false;
        walk(t, 0, 0);
    }
    if (t->failed && err)
        *err = t->error;
    return !t->failed;
}
