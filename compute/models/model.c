#include "compute/models/model.h"

#include "compute/models/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define X(family) extern const struct model_family model_##family;
#include "compute/models/family_list.h"
#undef X

static const struct model_family *const families[] = {
#define X(family) &model_##family,
#include "compute/models/family_list.h"
#undef X
};

const struct model_family *model_family_find(const char *model_type)
{
    for (size_t i = 0; i < VIREO_COUNT(families); i++)
        if (strcmp(families[i]->name, model_type) == 0)
            return families[i];
    return NULL;
}

void model_trace(const struct model *m, const char *name, int layer, struct tensor x)
{
    if (m->trace)
        m->trace(m->trace_context, name, layer, x);
}

static bool grow(void **items, size_t *room, size_t count, size_t size)
{
    if (count < *room)
        return true;
    size_t more = *room ? 2 * *room : 64;
    void *larger = vireo_realloc(*items, more * size);
    if (!larger)
        return false;
    *items = larger;
    *room = more;
    return true;
}

struct weight *model_declare(struct model *m, enum weight_role role, uint32_t columns, float init,
                             const struct model_part *parts, size_t count, struct vireo_error *err)
{
    struct weight *w = arena_new(&m->host, struct weight);
    if (!w || !grow((void **)&m->weights, &m->weight_room, m->weight_count, sizeof *m->weights)) {
        vireo_fail_memory(err, sizeof *w);
        return NULL;
    }
    uint32_t rows = 0;
    for (size_t i = 0; i < count; i++) {
        if (!grow((void **)&m->params, &m->param_room, m->param_count, sizeof *m->params)) {
            vireo_fail_memory(err, sizeof *m->params);
            return NULL;
        }
        struct model_param *p = &m->params[m->param_count++];
        *p = (struct model_param){.weight = w, .first = rows, .rows = parts[i].rows, .columns = columns, .init = init};
        snprintf(p->name, sizeof p->name, "%s", parts[i].name);
        p->rank = parts[i].rank ? parts[i].rank : columns == 1 ? 1 : 2;
        if (parts[i].rank) {
            memcpy(p->shape, parts[i].shape, sizeof p->shape);
        } else {
            p->shape[0] = parts[i].rows;
            p->shape[1] = columns;
        }
        rows += parts[i].rows;
    }
    *w = (struct weight){.name = arena_copy_string(&m->host, parts[0].name), .role = role};
    w->value =
        (struct tensor){.dtype = m->dtype, .rank = columns == 1 ? 1 : 2, .shape = {rows, columns}, .stride = columns};
    if (columns == 1)
        w->value.dtype = DTYPE_F32; // norms and biases cost nothing and are read by every dtype's kernels
    m->weights[m->weight_count++] = w;
    return w;
}

enum dtype model_activations(const struct model_config *c, enum dtype weights)
{
    const uint32_t odd = (c->text.hidden_size | c->text.intermediate_size | c->vision.hidden_size |
                          c->vision.intermediate_size | c->vision.out_hidden_size) &
                         1u;
    const uint32_t uneven = (c->text.head_dim | c->vision.hidden_size / VIREO_MAX(c->vision.num_heads, 1u)) & 3u;
    return odd || uneven ? DTYPE_F32 : weights;
}

uint64_t model_parameters(const struct model *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->param_count; i++)
        n += (uint64_t)m->params[i].rows * m->params[i].columns;
    return n;
}

const struct model_param *model_param_find(const struct model *m, const char *name)
{
    for (size_t i = 0; i < m->param_count; i++)
        if (strcmp(m->params[i].name, name) == 0)
            return &m->params[i];
    return NULL;
}

// The part of a weight's tensor (or of its gradient) that is this parameter.
static struct tensor part_of(struct tensor x, const struct model_param *p)
{
    uint64_t offset = (uint64_t)p->first * p->columns * dtype_bytes(x.dtype);
    x.shape[0] = p->rows;
    x.node = 0;
    x.span = gpu_span_part(x.span, offset, (uint64_t)p->rows * p->columns * dtype_bytes(x.dtype));
    return x;
}

bool model_read_param(const struct model *m, const struct model_param *p, bool gradient, float *out,
                      struct vireo_error *err)
{
    struct tensor x = gradient ? p->weight->grad : p->weight->value;
    if (!x.span.address)
        return vireo_fail(err, VIREO_INTERNAL, "%s has no %s", p->name, gradient ? "gradient" : "value");
    return tensor_read_floats(m->dev, part_of(x, p), out, err);
}

bool model_write_param(struct model *m, const struct model_param *p, const float *values, struct vireo_error *err)
{
    return tensor_write_floats(m->dev, part_of(p->weight->value, p), values, err);
}

static double gaussian(uint64_t seed, uint32_t param, uint64_t i)
{
    struct philox r = philox(seed, param, (uint32_t)(i >> 1), (uint32_t)(i >> 33), 0x1417u);
    double u = ((double)r.v[0] + 1) * 0x1p-32, v = (double)r.v[1] * 0x1p-32 * 6.283185307179586;
    return sqrt(-2 * log(u)) * (i & 1 ? sin(v) : cos(v));
}

void model_random_values(const struct model *m, size_t index, uint64_t seed, float *out)
{
    const struct model_param *p = &m->params[index];
    uint64_t n = (uint64_t)p->rows * p->columns;
    for (uint64_t i = 0; i < n; i++)
        out[i] = p->init < 0 ? -p->init - 1 : (float)(p->init * gaussian(seed, (uint32_t)index, i));
}

// Rope tables are part of the weights' memory: host-made once, read by every step.
static bool take_rope(struct model *m, uint32_t positions, float theta, uint32_t dim, uint32_t frequencies,
                      struct tensor *out, struct vireo_error *err)
{
    size_t count = (size_t)positions * 2 * frequencies;
    float *table = vireo_calloc(count, sizeof *table);
    if (!table)
        return vireo_fail_memory(err, count * sizeof *table);
    nn_rope_table(theta, dim, frequencies, positions, m->cast_rope && m->config.stored == DTYPE_BF16, table);
    *out = tensor_matrix(m->memory, DTYPE_F32, positions, 2 * frequencies, err);
    bool done = out->span.address && tensor_write_floats(m->dev, *out, table, err);
    free(table);
    return done;
}

bool model_allocate(struct model *m, uint32_t max_positions, struct vireo_error *err)
{
    const struct model_text_config *t = &m->config.text;
    const struct model_vision_config *v = &m->config.vision;
    uint32_t most = t->max_position_embeddings ? t->max_position_embeddings : 8192;
    m->text_rope_positions = max_positions ? max_positions : VIREO_MIN(most, 8192);
    m->vision_rope_positions = 1176; // patches a side: the 16,384 px limit of an image over 14, and some
    uint64_t total = ((uint64_t)m->text_rope_positions * t->head_dim +
                      (uint64_t)m->vision_rope_positions * (v->hidden_size / v->num_heads / 2)) *
                         4 +
                     1024;
    for (size_t i = 0; i < m->weight_count; i++)
        if (!m->streams || !stream_holds(m, m->weights[i]))
            total += vireo_round_up(tensor_bytes(m->weights[i]->value), 256);
    m->memory =
        gpu_arena_create(m->dev, &(struct gpu_arena_params){.name = "weights", .bytes = total, .grows = true}, err);
    if (!m->memory)
        return false;
    for (size_t i = 0; i < m->weight_count; i++) {
        struct tensor *x = &m->weights[i]->value;
        if (m->streams && stream_holds(m, m->weights[i]))
            continue;
        *x = tensor_take(m->memory, x->dtype, x->rank, x->shape, err);
        if (!x->span.address)
            return vireo_explain(err, "%s: ", m->weights[i]->name);
    }
    uint32_t vision_dim = v->hidden_size / v->num_heads;
    return take_rope(m, m->text_rope_positions, t->rope_theta, t->head_dim, t->head_dim / 2, &m->text_rope, err) &&
           take_rope(m, m->vision_rope_positions, 10000.f, vision_dim / 2, vision_dim / 4, &m->vision_rope, err);
}

static struct model *create(struct gpu_device *dev, const json_t *config, enum dtype wanted, struct vireo_error *err)
{
    struct model *m = vireo_calloc(1, sizeof *m);
    if (!m) {
        vireo_fail_memory(err, sizeof *m);
        return NULL;
    }
    m->dev = dev;
    arena_init(&m->host, 1 << 16);
    const char *type = json_string_value(json_object_get(config, "model_type"));
    m->family = type ? model_family_find(type) : NULL;
    if (!m->family) {
        char list[128] = "";
        for (size_t i = 0; i < VIREO_COUNT(families); i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", families[i]->name);
        vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "model_type",
                        "config.json: model_type '%.60s' is not built; built: %s.", type ? type : "(absent)", list);
        model_destroy(&m);
        return NULL;
    }
    if (!m->family->configure(&m->config, config, err)) {
        model_destroy(&m);
        return NULL;
    }
    m->dtype = wanted == DTYPE_F32 || wanted == DTYPE_BF16 || wanted == DTYPE_F16 ? wanted : m->config.stored;
    m->activations = model_activations(&m->config, m->dtype);
    m->vision = arena_array(&m->host, struct vision_block, m->config.vision.depth);
    m->layers = arena_array(&m->host, struct text_block, m->config.text.num_hidden_layers);
    if (!m->vision || !m->layers) {
        vireo_fail_memory(err, sizeof *m->layers * m->config.text.num_hidden_layers);
        model_destroy(&m);
    } else if (!m->family->declare(m, err)) {
        model_destroy(&m);
    }
    return m;
}

struct model *model_create(struct gpu_device *dev, const json_t *config, const struct model_load_params *p,
                           struct vireo_error *err)
{
    struct model *m = create(dev, config, p->dtype, err);
    if (m) {
        m->cast_rope = p->cast_rope;
        m->streams = p->stream;
    }
    if (m && !model_allocate(m, p->max_positions, err))
        model_destroy(&m);
    return m;
}

struct model *model_describe(const json_t *config, struct vireo_error *err)
{
    return create(NULL, config, DTYPE_U32, err);
}

struct model *model_random(struct gpu_device *dev, const json_t *config, uint64_t seed,
                           const struct model_load_params *p, struct vireo_error *err)
{
    struct model *m = model_create(dev, config, p, err);
    for (size_t i = 0; m && i < m->param_count; i++) {
        const struct model_param *q = &m->params[i];
        size_t count = (size_t)q->rows * q->columns;
        float *values = vireo_alloc(count * sizeof *values);
        bool done = values || vireo_fail_memory(err, count * sizeof *values);
        if (done) {
            model_random_values(m, i, seed, values);
            done = model_write_param(m, q, values, err);
        }
        free(values);
        if (!done)
            model_destroy(&m);
    }
    return m;
}

struct model *model_clone_weights(const struct model *of, struct vireo_error *err)
{
    struct model *m = vireo_calloc(1, sizeof *m);
    if (!m) {
        vireo_fail_memory(err, sizeof *m);
        return NULL;
    }
    m->dev = of->dev;
    m->family = of->family;
    m->config = of->config;
    m->dtype = of->dtype;
    m->activations = of->activations;
    m->processor = of->processor;
    m->cast_rope = of->cast_rope;
    arena_init(&m->host, 1 << 16);
    m->vision = arena_array(&m->host, struct vision_block, m->config.vision.depth);
    m->layers = arena_array(&m->host, struct text_block, m->config.text.num_hidden_layers);
    bool done = m->vision && m->layers;
    done = done ? m->family->declare(m, err) && model_allocate(m, of->text_rope_positions, err)
                : vireo_fail_memory(err, sizeof *m->layers);
    for (size_t i = 0; done && i < m->weight_count; i++)
        gpu_copy(m->dev, m->weights[i]->value.span, of->weights[i]->value.span,
                 vireo_round_up(tensor_bytes(of->weights[i]->value), 4));
    if (!done || !gpu_finish(m->dev, err))
        model_destroy(&m);
    return m;
}

static bool is_frozen(const struct weight *w, bool freeze_vision)
{
    return freeze_vision && (w->role == WEIGHT_VISION || w->role == WEIGHT_MERGER);
}

bool model_take_gradients(struct model *m, bool freeze_vision, struct vireo_error *err)
{
    uint64_t total = 0;
    for (size_t i = 0; i < m->weight_count; i++)
        if (!is_frozen(m->weights[i], freeze_vision))
            total += vireo_round_up(tensor_count(m->weights[i]->value) * 4, 256);
    m->grad_memory = gpu_arena_create(
        m->dev, &(struct gpu_arena_params){.name = "gradients", .bytes = total, .grows = true}, err);
    if (!m->grad_memory)
        return false;
    for (size_t i = 0; i < m->weight_count; i++) {
        struct weight *w = m->weights[i];
        if (is_frozen(w, freeze_vision))
            continue;
        w->grad = tensor_take(m->grad_memory, DTYPE_F32, w->value.rank, w->value.shape, err);
        if (!w->grad.span.address)
            return vireo_explain(err, "gradient of %s: ", w->name);
        gpu_fill(m->dev, w->grad.span, 0, tensor_bytes(w->grad));
    }
    return gpu_finish(m->dev, err);
}

void model_destroy(struct model **model)
{
    struct model *m = *model;
    if (!m)
        return;
    stream_close(&m->stream);
    gpu_arena_destroy(&m->memory);
    gpu_arena_destroy(&m->grad_memory);
    tokenizer_destroy(&m->tokenizer);
    template_destroy(&m->chat_template);
    arena_finish(&m->host);
    free(m->weights);
    free(m->params);
    free(m);
    *model = NULL;
}
