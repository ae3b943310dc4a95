#include "compute/train/optimizer.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/scratch.h"

#include <stdlib.h>

struct optimizer {
    struct model *model;
    struct gpu_arena *memory;
    struct optimizer_item *items;
    size_t count;
    uint32_t leaves, levels;
    struct tensor *pending; // [levels * count]: level l holds the sum of 2^l leaves that waits for its partner
    struct nn_update *update;
    struct scratch *file; // holds m, v and masters; NULL: they are in device memory
};

uint64_t optimizer_bytes(uint64_t parameters, uint32_t leaves, bool halves, bool offload)
{
    const uint64_t state = (2 + (halves ? 1 : 0)) * parameters * 4; // m, v, master
    uint64_t copies = 0;
    for (uint32_t n = leaves; n > 1; n /= 2)
        copies++;
    return copies * parameters * 4 + (offload ? 2 * nn_update_window_bytes(state) : state);
}

// A tensor of the weight's shape that lives in the file.
static struct tensor elsewhere(struct tensor like)
{
    like.span = (struct gpu_span){0};
    like.dtype = DTYPE_F32;
    like.node = 0;
    return like;
}

static bool take_item(struct optimizer *o, struct optimizer_item *item, struct vireo_error *err)
{
    struct gpu_device *dev = o->model->dev;
    const struct weight *w = item->weight;
    const bool own_master = w->value.dtype != DTYPE_F32;
    item->master = w->value;
    if (o->file) {
        item->m = item->v = elsewhere(w->value);
        if (own_master)
            item->master = elsewhere(w->value);
        return true;
    }
    item->m = tensor_take(o->memory, DTYPE_F32, w->value.rank, w->value.shape, err);
    item->v = tensor_take(o->memory, DTYPE_F32, w->value.rank, w->value.shape, err);
    if (own_master)
        item->master = tensor_take(o->memory, DTYPE_F32, w->value.rank, w->value.shape, err);
    if (!item->m.span.address || !item->v.span.address || !item->master.span.address)
        return vireo_explain(err, "optimizer state of %s: ", w->name);
    gpu_fill(dev, item->m.span, 0, tensor_bytes(item->m));
    gpu_fill(dev, item->v.span, 0, tensor_bytes(item->v));
    return true;
}

static bool take_state(struct optimizer *o, struct vireo_error *err)
{
    size_t i = 0;
    for (size_t k = 0; k < o->model->weight_count; k++) {
        struct weight *w = o->model->weights[k];
        if (!w->grad.span.address)
            continue;
        o->items[i].weight = w;
        if (!take_item(o, &o->items[i], err))
            return false;
        for (uint32_t l = 0; l < o->levels; l++) {
            struct tensor *p = &o->pending[l * o->count + i];
            *p = tensor_take(o->memory, DTYPE_F32, w->value.rank, w->value.shape, err);
            if (!p->span.address)
                return vireo_explain(err, "leaf buffer of %s: ", w->name);
        }
        i++;
    }
    return true;
}

// The first master copy of 16-bit weights is what they hold now.
static bool fill_masters(struct optimizer *o, struct vireo_error *err)
{
    struct tape *t = tape_create(o->model->dev, &(struct tape_params){.arena = o->memory}, err);
    if (!t)
        return false;
    for (size_t i = 0; i < o->count; i++)
        if (o->items[i].weight->value.dtype != DTYPE_F32)
            nn_convert(t, o->items[i].master, o->items[i].weight->value);
    return tape_finish(&t, err) && gpu_finish(o->model->dev, err);
}

static bool read_file(void *context, uint64_t at, void *to, size_t bytes, struct vireo_error *err)
{
    return scratch_read(context, at, to, bytes, err);
}
static bool write_file(void *context, uint64_t at, const void *from, size_t bytes, struct vireo_error *err)
{
    return scratch_write(context, at, from, bytes, err);
}

// The file from its first byte to its last, so that a disk without room is known before the first step.
static bool fill_file(struct optimizer *o, struct vireo_error *err)
{
    enum { PIECE = 1 << 16 };
    float *zeros = vireo_calloc(2 * PIECE, sizeof *zeros), *values = zeros + PIECE;
    bool done = zeros || vireo_fail_memory(err, 2 * PIECE * sizeof *zeros);
    for (size_t i = 0; done && i < o->count; i++) {
        const struct tensor w = o->items[i].weight->value;
        const uint64_t count = tensor_count(w);
        for (uint64_t at = 0; done && at < count; at += PIECE) {
            const uint32_t n = (uint32_t)VIREO_MIN(count - at, PIECE);
            const uint64_t size = dtype_bytes(w.dtype);
            done = optimizer_set(o, i, OPTIMIZER_M, at, n, zeros, err) &&
                   optimizer_set(o, i, OPTIMIZER_V, at, n, zeros, err);
            if (!done || w.dtype == DTYPE_F32)
                continue;
            const struct tensor part = {.span = gpu_span_part(w.span, at * size, n * size),
                                        .dtype = w.dtype, .rank = 1, .shape = {n}, .stride = 1};
            done = tensor_read_floats(o->model->dev, part, values, err) &&
                   optimizer_set(o, i, OPTIMIZER_MASTER, at, n, values, err);
        }
    }
    free(zeros);
    return done;
}

struct optimizer *optimizer_create(struct model *model, uint32_t leaves, const char *folder, struct vireo_error *err)
{
    struct optimizer *o = vireo_calloc(1, sizeof *o);
    if (!o) {
        vireo_fail_memory(err, sizeof *o);
        return NULL;
    }
    o->model = model;
    o->leaves = leaves;
    for (uint32_t n = leaves; n > 1; n /= 2)
        o->levels++;
    uint64_t parameters = 0;
    bool halves = false;
    for (size_t k = 0; k < model->weight_count; k++)
        if (model->weights[k]->grad.span.address) {
            o->count++;
            parameters += vireo_round_up(tensor_count(model->weights[k]->value), 64);
            halves = halves || model->weights[k]->value.dtype != DTYPE_F32;
        }
    o->items = vireo_calloc(o->count, sizeof *o->items);
    o->pending = vireo_calloc((size_t)o->levels * o->count + 1, sizeof *o->pending);
    struct nn_update_item *list = vireo_calloc(o->count, sizeof *list);
    uint64_t bytes = optimizer_bytes(parameters, leaves, halves, false) + (1 << 20);
    if (folder) // the windows have an arena of their own
        bytes = optimizer_bytes(parameters, leaves, false, false) - 2 * parameters * 4 + (1 << 20);
    bool done = (o->items && o->pending && list) || vireo_fail_memory(err, o->count * sizeof *o->items);
    if (done && folder)
        done = (o->file = scratch_open(folder, "optimizer", err)) != NULL;
    if (done) {
        o->memory =
            gpu_arena_create(model->dev,
                             &(struct gpu_arena_params){
                                 .name = "optimizer", .bytes = bytes, .grows = true},
                             err);
        done = o->memory && take_state(o, err) && (folder || fill_masters(o, err));
    }
    for (size_t i = 0; done && i < o->count; i++) {
        const struct optimizer_item *item = &o->items[i];
        list[i] =
            (struct nn_update_item){.master = item->master, .grad = item->weight->grad, .m = item->m, .v = item->v};
        if (item->weight->value.dtype != DTYPE_F32)
            list[i].copy = item->weight->value;
        list[i].decay = item->weight->value.rank >= 2;
    }
    if (done) {
        const struct nn_update_store store = {.context = o->file, .read = read_file, .write = write_file};
        o->update = folder ? nn_update_create_stored(model->dev, o->memory, list, o->count, &store, err)
                           : nn_update_create(model->dev, o->memory, list, o->count, err);
        done = o->update && (!folder || fill_file(o, err));
    }
    free(list);
    if (!done)
        optimizer_destroy(&o);
    return o;
}

void optimizer_destroy(struct optimizer **optimizer)
{
    struct optimizer *o = *optimizer;
    if (!o)
        return;
    nn_update_destroy(&o->update);
    scratch_close(&o->file);
    gpu_arena_destroy(&o->memory);
    free(o->items);
    free(o->pending);
    free(o);
    *optimizer = NULL;
}

size_t optimizer_items(const struct optimizer *o, const struct optimizer_item **items)
{
    *items = o->items;
    return o->count;
}

static struct gpu_span values_of(const struct optimizer_item *x, enum optimizer_part part, uint64_t at, uint64_t n)
{
    const struct tensor t = part == OPTIMIZER_M ? x->m : part == OPTIMIZER_V ? x->v : x->master;
    return gpu_span_part(t.span, at * 4, n * 4);
}

// A weight that is its own master is, whatever is offloaded.
static bool is_on_device(const struct optimizer *o, size_t item, enum optimizer_part part)
{
    return !o->file || (part == OPTIMIZER_MASTER && o->items[item].master.span.address);
}

bool optimizer_get(struct optimizer *o, size_t item, enum optimizer_part part, uint64_t at, uint64_t n, float *values,
                   struct vireo_error *err)
{
    if (is_on_device(o, item, part))
        return gpu_read(o->model->dev, values_of(&o->items[item], part, at, n), values, n * 4, err);
    for (uint64_t done = 0, run; done < n; done += run) {
        const uint64_t place = nn_update_place(o->update, item, part, at + done, &run);
        run = VIREO_MIN(run, n - done);
        if (!scratch_read(o->file, place, values + done, run * 4, err))
            return false;
    }
    return true;
}

bool optimizer_set(struct optimizer *o, size_t item, enum optimizer_part part, uint64_t at, uint64_t n,
                   const float *values, struct vireo_error *err)
{
    if (is_on_device(o, item, part))
        return gpu_write(o->model->dev, values_of(&o->items[item], part, at, n), values, n * 4, err);
    for (uint64_t done = 0, run; done < n; done += run) {
        const uint64_t place = nn_update_place(o->update, item, part, at + done, &run);
        run = VIREO_MIN(run, n - done);
        if (!scratch_write(o->file, place, values + done, run * 4, err))
            return false;
    }
    return true;
}

void optimizer_zero(struct optimizer *o, struct tape *t)
{
    nn_update_zero_grad(t, o->update);
}

void optimizer_leaf_done(struct optimizer *o, struct tape *t, uint32_t leaf)
{
    uint32_t level = 0;
    // Binary counter: a carry meets the partner that waits on its level; the earlier leaves are the left operand.
    for (uint32_t n = leaf; n & 1; n >>= 1, level++)
        for (size_t i = 0; i < o->count; i++)
            nn_add_into(t, o->items[i].weight->grad, o->pending[level * o->count + i]);
    if (leaf + 1 == o->leaves)
        return;
    for (size_t i = 0; i < o->count; i++)
        nn_convert(t, o->pending[level * o->count + i], o->items[i].weight->grad);
    nn_update_zero_grad(t, o->update);
}

bool optimizer_step(struct optimizer *o, struct tape *t, const struct job_spec *s, double lr, uint32_t step,
                    double loss_scale, double *norm, struct vireo_error *err)
{
    struct nn_update_params p = {.lr = (float)lr,
                                 .beta1 = (float)s->adam_beta1,
                                 .beta2 = (float)s->adam_beta2,
                                 .eps = (float)s->adam_epsilon,
                                 .weight_decay = (float)s->weight_decay,
                                 .max_grad_norm = (float)s->max_grad_norm,
                                 .step = step,
                                 .loss_scale = (float)loss_scale};
    return nn_update_step(t, o->update, &p, norm, err);
}

double leaf_sum(const double *x, uint32_t n)
{
    return n == 1 ? x[0] : leaf_sum(x, n / 2) + leaf_sum(x + n / 2, n / 2);
}
