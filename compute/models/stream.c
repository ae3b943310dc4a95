// A frozen model whose layers stay in their file: before a layer runs its weights are read into a window on the device.
//
// What is shared by all (embedding, head, merger, norms outside the layers) is resident. The window is as large as the
// largest layer; on a GPU there are two, so that the copy of one layer need not wait for the one before. The recorder
// orders copies and dispatches by the addresses they declare. A CPU device sees the host's memory: once the layer before
// is done, the file is read straight into the window. The host holds no more of the file than one piece: pages
// that were read are given back to the system's page cache.
#include "compute/models/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/half.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 18, LAYER_WEIGHTS = 16 };

struct model_stream {
    struct shards *shards;
    struct gpu_arena *memory;
    struct gpu_span window[2];
    uint32_t windows, next;
    bool direct;   // the host writes windows
    float *values; // [PIECE], then PIECE halves
};

// The weights of text layer or vision block l, biases included.
static uint32_t weights_of(const struct model *m, bool vision, uint32_t l, struct weight **out)
{
    enum { OWN = 6 };
    struct weight *own[OWN];
    if (vision) {
        const struct vision_block *b = &m->vision[l];
        memcpy(own, (struct weight *[OWN]){b->norm1, b->norm2, b->qkv, b->proj, b->gate_up, b->down}, sizeof own);
    } else {
        const struct text_block *b = &m->layers[l];
        memcpy(own, (struct weight *[OWN]){b->input_norm, b->post_norm, b->qkv, b->o, b->gate_up, b->down}, sizeof own);
    }
    uint32_t n = 0;
    for (size_t i = 0; i < OWN; i++) {
        struct weight *w = own[i];
        vireo_assert(w && n + 2 <= LAYER_WEIGHTS);
        out[n++] = w;
        if (w->bias)
            out[n++] = w->bias;
    }
    return n;
}

bool stream_holds(const struct model *m, const struct weight *w)
{
    struct weight *list[LAYER_WEIGHTS];
    const uint32_t layers = m->config.text.num_hidden_layers;
    for (uint32_t l = 0; l < layers + m->config.vision.depth; l++)
        for (uint32_t n = weights_of(m, l >= layers, l >= layers ? l - layers : l, list); n-- > 0;)
            if (list[n] == w)
                return true;
    return false;
}

static uint64_t layer_bytes(const struct model *m, bool vision, uint32_t l)
{
    struct weight *list[LAYER_WEIGHTS];
    uint64_t bytes = 0;
    for (uint32_t n = weights_of(m, vision, l, list); n-- > 0;)
        bytes += vireo_round_up(tensor_bytes(list[n]->value), 256);
    return bytes;
}

uint64_t model_streamed_bytes(const struct model *m, bool halves, bool cpu)
{
    uint64_t bytes = 0, most = 0;
    for (size_t i = 0; i < m->weight_count; i++)
        if (!stream_holds(m, m->weights[i]))
            bytes += tensor_count(m->weights[i]->value) * (halves ? 2 : 4);
    for (uint32_t l = 0; l < m->config.text.num_hidden_layers + m->config.vision.depth; l++) {
        const bool vision = l >= m->config.text.num_hidden_layers;
        struct weight *list[LAYER_WEIGHTS];
        uint64_t layer = 0;
        for (uint32_t n = weights_of(m, vision, vision ? l - m->config.text.num_hidden_layers : l, list); n-- > 0;)
            layer += tensor_count(list[n]->value) * (halves ? 2 : 4);
        most = VIREO_MAX(most, layer);
    }
    return bytes + (cpu ? 1 : 2) * most;
}

bool stream_open(struct model *m, struct shards *shards, struct vireo_error *err)
{
    struct model_stream *s = vireo_calloc(1, sizeof *s);
    if (!s) {
        shards_close(&shards);
        return vireo_fail_memory(err, sizeof *s);
    }
    m->stream = s;
    s->shards = shards;
    shards_forget(shards);
    uint64_t most = 0;
    for (uint32_t l = 0; l < m->config.text.num_hidden_layers; l++)
        most = VIREO_MAX(most, layer_bytes(m, false, l));
    for (uint32_t l = 0; l < m->config.vision.depth; l++)
        most = VIREO_MAX(most, layer_bytes(m, true, l));
    s->windows = gpu_device_caps(m->dev)->type == GPU_CPU ? 1 : 2;
    s->values = vireo_alloc(PIECE * (sizeof(float) + sizeof(uint16_t)));
    if (!s->values)
        return vireo_fail_memory(err, PIECE * 6);
    s->memory = gpu_arena_create(
        m->dev, &(struct gpu_arena_params){.name = "layer window", .bytes = s->windows * most, .grows = true}, err);
    bool done = s->memory != NULL;
    for (uint32_t i = 0; done && i < s->windows; i++) {
        s->window[i] = gpu_arena_take(s->memory, most, err);
        done = s->window[i].address != 0;
    }
    s->direct = s->windows == 1 && s->window[0].host;
    return done;
}

void stream_close(struct model_stream **stream)
{
    struct model_stream *s = *stream;
    if (!s)
        return;
    gpu_arena_destroy(&s->memory);
    shards_close(&s->shards);
    free(s->values);
    free(s);
    *stream = NULL;
}

// One parameter of the file into its place in the window.
static bool read_param(const struct model *m, const struct model_param *p, struct vireo_error *err)
{
    struct model_stream *s = m->stream;
    const struct safetensor *from = shards_get(s->shards, p->name, p->rank, p->shape, err);
    const struct tensor x = p->weight->value;
    const uint32_t size = dtype_bytes(x.dtype);
    const uint64_t total = (uint64_t)p->rows * p->columns, start = (uint64_t)p->first * p->columns;
    uint8_t *direct = s->direct ? (uint8_t *)x.span.host + start * size : NULL;
    uint16_t *halves = (uint16_t *)(s->values + PIECE);
    bool done = from != NULL;
    for (uint64_t at = 0; done && at < total; at += PIECE) {
        const uint64_t n = VIREO_MIN(total - at, PIECE);
        float *values = direct && size == 4 ? (float *)(void *)(direct + at * size) : s->values;
        if (direct && size == 2)
            halves = (uint16_t *)(void *)(direct + at * size);
        done = safetensors_floats(from, at, n, values, err);
        for (uint64_t i = 0; done && size == 2 && i < n; i++)
            halves[i] = x.dtype == DTYPE_BF16 ? float_to_bf16(values[i]) : float_to_fp16(values[i]);
        if (done && !direct)
            gpu_upload(m->dev, gpu_span_part(x.span, (start + at) * size, n * size),
                       size == 2 ? (const void *)halves : s->values, n * size);
        safetensors_forget(from, at, n);
    }
    return done;
}

void model_enter(struct tape *t, const struct model *m, bool vision, uint32_t l)
{
    struct model_stream *s = m->stream;
    struct weight *list[LAYER_WEIGHTS];
    if (!s || tape_failed(t))
        return;
    const struct gpu_span window = s->window[s->next];
    s->next = (s->next + 1) % s->windows;
    if (s->direct && !gpu_finish(m->dev, tape_error(t))) {
        tape_fail(t, VIREO_DEVICE_LOST, "%s", tape_error(t)->message);
        return;
    }
    uint64_t place = 0;
    const uint32_t n = weights_of(m, vision, l, list);
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t bytes = vireo_round_up(tensor_bytes(list[i]->value), 256);
        list[i]->value.span = gpu_span_part(window, place, bytes);
        place += bytes;
        for (size_t k = 0; k < m->param_count; k++)
            if (m->params[k].weight == list[i] && !read_param(m, &m->params[k], tape_error(t))) {
                tape_fail(t, VIREO_CORRUPT, "%s", tape_error(t)->message);
                return;
            }
    }
    shards_forget(s->shards);
}
