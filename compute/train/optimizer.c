#include "compute/train/optimizer.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdlib.h>

struct optimizer {
    struct model *model;
    struct gpu_arena *memory;
    struct optimizer_item *items;
    size_t count;
    uint32_t leaves, levels;
    struct tensor *pending; // [levels * count]: level l holds the sum of 2^l leaves that waits for its partner
    struct nn_update *update;
};

uint64_t optimizer_bytes(uint64_t parameters, uint32_t leaves, bool bf16)
{
    uint64_t copies = 2 + (bf16 ? 1 : 0); // m, v, master
    for (uint32_t n = leaves; n > 1; n /= 2)
        copies++;
    return copies * parameters * 4;
}

static bool take_state(struct optimizer *o, struct vireo_error *err)
{
    struct gpu_device *dev = o->model->dev;
    size_t i = 0;
    for (size_t k = 0; k < o->model->weight_count; k++) {
        struct weight *w = o->model->weights[k];
        if (!w->grad.span.address)
            continue;
        struct optimizer_item *item = &o->items[i];
        item->weight = w;
        bool own_master = w->value.dtype != DTYPE_F32;
        item->m = tensor_take(o->memory, DTYPE_F32, w->value.rank, w->value.shape, err);
        item->v = tensor_take(o->memory, DTYPE_F32, w->value.rank, w->value.shape, err);
        item->master = own_master ? tensor_take(o->memory, DTYPE_F32, w->value.rank, w->value.shape, err) : w->value;
        if (!item->m.span.address || !item->v.span.address || !item->master.span.address)
            return vireo_explain(err, "optimizer state of %s: ", w->name);
        gpu_fill(dev, item->m.span, 0, tensor_bytes(item->m));
        gpu_fill(dev, item->v.span, 0, tensor_bytes(item->v));
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

// The first master copy of bf16 weights is what they hold now.
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

struct optimizer *optimizer_create(struct model *model, uint32_t leaves, struct vireo_error *err)
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
    bool bf16 = false;
    for (size_t k = 0; k < model->weight_count; k++)
        if (model->weights[k]->grad.span.address) {
            o->count++;
            parameters += vireo_round_up(tensor_count(model->weights[k]->value), 64);
            bf16 = bf16 || model->weights[k]->value.dtype != DTYPE_F32;
        }
    o->items = vireo_calloc(o->count, sizeof *o->items);
    o->pending = vireo_calloc((size_t)o->levels * o->count + 1, sizeof *o->pending);
    struct nn_update_item *list = vireo_calloc(o->count, sizeof *list);
    uint64_t bytes = optimizer_bytes(parameters, leaves, bf16) + (1 << 20);
    bool done = (o->items && o->pending && list) || vireo_fail_memory(err, o->count * sizeof *o->items);
    if (done) {
        o->memory =
            gpu_arena_create(model->dev,
                             &(struct gpu_arena_params){
                                 .name = "optimizer", .bytes = bytes, .grows = true},
                             err);
        done = o->memory && take_state(o, err) && fill_masters(o, err);
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
        o->update = nn_update_create(model->dev, o->memory, list, o->count, err);
        done = o->update != NULL;
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
                    double *norm, struct vireo_error *err)
{
    struct nn_update_params p = {.lr = (float)lr,
                                 .beta1 = (float)s->adam_beta1,
                                 .beta2 = (float)s->adam_beta2,
                                 .eps = (float)s->adam_epsilon,
                                 .weight_decay = (float)s->weight_decay,
                                 .max_grad_norm = (float)s->max_grad_norm,
                                 .step = step};
    return nn_update_step(t, o->update, &p, norm, err);
}

double leaf_sum(const double *x, uint32_t n)
{
    return n == 1 ? x[0] : leaf_sum(x, n / 2) + leaf_sum(x + n / 2, n / 2);
}
