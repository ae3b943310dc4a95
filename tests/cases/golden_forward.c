// Forward cases: prompt, vision tower, every hidden state, logits, log-probs, entropies, greedy decoding by the engine.
#include "tests/cases/golden.h"

#include "compute/base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Copies of intermediate results, taken while the forward runs.
struct kept {
    struct kept *next;
    char name[48];
    float *values;
    size_t count;
};
struct tracer {
    struct golden *g;
    struct kept *first;
};

static void keep(void *context, const char *name, int layer, struct tensor x)
{
    struct tracer *t = context;
    struct vireo_error err;
    struct kept *k = arena_new(&t->g->host, struct kept);
    if (!x.span.address)
        return;
    if (layer < 0)
        snprintf(k->name, sizeof k->name, "%s", name);
    else
        snprintf(k->name, sizeof k->name, "%s.%d", name, layer);
    k->count = tensor_count(x);
    k->values = arena_array(&t->g->host, float, k->count);
    if (!tensor_read_floats(t->g->dev, x, k->values, &err))
        golden_fail(t->g, "%s: %s", k->name, err.message);
    k->next = t->first;
    t->first = k;
}

static const struct kept *find(const struct tracer *t, const char *name)
{
    for (const struct kept *k = t->first; k; k = k->next)
        if (strcmp(k->name, name) == 0)
            return k;
    return NULL;
}

static void compare_kept(struct golden *g, const struct tracer *t, const struct safetensors *f, const char *mine,
                         const char *theirs, double rel, double abs)
{
    size_t n;
    const float *want = golden_floats(g, f, theirs, &n);
    const struct kept *k = find(t, mine);
    if (!want)
        return;
    if (!k || k->count != n)
        golden_fail(g, "%s: %zu values, expected %zu", theirs, k ? k->count : 0, n);
    else
        golden_compare(g, theirs, k->values, want, n, rel, abs);
}

static void check_prompt(struct golden *g, const struct model *m, const json_t *c, const struct image_grid *grids,
                         uint32_t images, const int32_t *ids, uint32_t prompt_length)
{
    const char *raw = json_string_value(json_object_get(c, "expanded_prompt"));
    const char *rendered = json_string_value(json_object_get(c, "rendered_prompt"));
    struct vireo_error err;
    struct prompt p;
    (void)raw;
    if (!rendered)
        return;
    struct prompt_options o = {.raw_text = rendered};
    bool same = prompt_build(m, NULL, grids, images, &o, &g->host, &p, &err) && p.count == prompt_length;
    for (uint32_t i = 0; same && i < p.count; i++)
        same = p.ids[i] == (uint32_t)ids[i];
    golden_report(g, "prompt ids differ", !same, 0);
}

// The engine's greedy tokens with the end-of-sequence tokens ignored, as the reference run did.
struct greedy {
    uint32_t tokens[64], count;
    bool failed;
};

static bool on_token(void *user, uint32_t sample, const struct engine_token *token)
{
    struct greedy *x = user;
    if (x->count < 64)
        x->tokens[x->count++] = token->id;
    return true;
}

static void on_end(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why)
{
    if (reason == ENGINE_FAILED) {
        printf("     %s\n", why->message);
        ((struct greedy *)user)->failed = true;
    }
}

static void check_greedy(struct golden *g, struct model *m, const struct safetensors *f, const struct prompt *prompt,
                         const struct patches *patches)
{
    size_t n;
    const int32_t *want = golden_integers(g, f, "greedy_tokens", &n);
    if (!want)
        return;
    struct vireo_error err;
    struct engine_params p = {.kv_tokens = prompt->count + 64, .max_sequences = 1, .max_batch_tokens = prompt->count};
    struct engine *e = engine_create(m, &p, &err);
    const struct patches *images[16];
    for (uint32_t i = 0; i < prompt->image_count && i < 16; i++)
        images[i] = &patches[i];
    struct greedy got = {0};
    struct generation gen = {.id = 1,
                             .prompt = prompt,
                             .images = images,
                             .n = 1,
                             .sampling = {.top_p = 1,
                                          .repetition_penalty = 1,
                                          .logprob_temperature = 1,
                                          .max_tokens = (uint32_t)n,
                                          .ignore_eos = true},
                             .on_token = on_token,
                             .on_end = on_end,
                             .user = &got};
    bool busy = e && engine_submit(e, &gen, &err);
    while (busy && engine_step(e, &busy, &err))
        ;
    uint32_t wrong = got.count != n;
    for (size_t i = 0; i < n && i < got.count; i++)
        wrong += got.tokens[i] != (uint32_t)want[i];
    golden_report(g, "greedy tokens that differ", wrong, 0);
    engine_destroy(&e);
}

// What a forward needs besides the model: the case's prompt with its completion, ids [prompt.count + completion].
struct inputs {
    const struct prompt *prompt;
    const struct patches **images;
    const uint32_t *index, *ids;
    uint32_t image_count, count;
};

// Every intermediate result, logits, log-probs and entropies into `tracer`; *vision: the way back from window order.
static bool forward(struct golden *g, struct model *m, const struct inputs *in, enum dtype activations,
                    struct tracer *tracer, struct vision_batch *vision)
{
    struct vireo_error err;
    m->trace = keep;
    m->trace_context = tracer;
    struct tape *t = golden_tape_of(g, activations, false);
    struct tensor features = {0};
    if (in->image_count && vision_batch_build(m, t, in->images, in->image_count, &g->host, vision, &err))
        features = m->family->vision(t, m, vision);
    struct text_rows rows;
    text_rows_init(&rows, &g->host);
    // The completion as a completion: prompt shared, spans of two runs, as a rollout group has them.
    const uint32_t P = in->prompt->count, C = in->count - P;
    uint32_t first = text_rows_prompt(&rows, in->prompt, vision, in->index);
    text_rows_completion(&rows, first, P, in->ids + P, C, in->prompt->next_position);
    struct text_batch batch;
    if (!text_batch_build(m, t, &rows, NULL, &batch, &err)) {
        golden_fail(g, "%s", err.message);
        tape_finish(&t, NULL);
        m->trace = NULL;
        return false;
    }
    struct tensor hidden = m->family->text(t, m, &batch, features);
    keep(tracer, "logits", -1, nn_linear_f32(t, hidden, m->head));
    uint32_t *row = arena_array(&g->host, uint32_t, C + 1);
    for (uint32_t i = 0; i < C; i++)
        row[i] = P - 1 + i;
    const float temperatures[2] = {1.f, 0.7f};
    for (int k = 0; k < 2; k++) {
        struct nn_logprob lp = nn_logprob(t, nn_gather(t, hidden, row, C), m->head,
                                          tape_upload(t, DTYPE_U32, C, in->ids + P), temperatures[k]);
        keep(tracer, k ? "logprobs_0.7" : "logprobs", -1, lp.logprob);
        keep(tracer, k ? "entropies_0.7" : "entropies", -1, lp.entropy);
    }
    m->trace = NULL;
    return golden_tape_end(g, &t);
}

// The same in 16 bits throughout, as such weights are trained and sampled. bf16: tolerances of the fixtures' README, which
// come from torch's own bf16 arithmetic; fp16 keeps three more bits.
static void check_halves(struct golden *g, struct model *m, const struct inputs *in, const struct safetensors *f)
{
    const bool bf16 = m->dtype == DTYPE_BF16;
    const char *type = bf16 ? "bf16" : "fp16";
    struct tracer tracer = {.g = g};
    struct vision_batch vision = {0};
    char text[64];
    size_t n;
    if (!forward(g, m, in, m->activations, &tracer, &vision))
        return;
    const float *want = golden_floats(g, f, "logits", &n);
    const struct kept *mine = find(&tracer, "logits"), *logprobs = find(&tracer, "logprobs");
    const uint32_t V = m->config.text.vocab_size;
    if (want && mine) {
        size_t skip = n == (size_t)in->count * V ? 0 : (size_t)(in->prompt->count - 1) * V;
        snprintf(text, sizeof text, "logits in %s", type);
        golden_compare(g, text, mine->values + skip, want, n, bf16 ? 0.03 : 0.004, 0);
    }
    want = golden_floats(g, f, "completion_logprobs", &n);
    if (!want || !logprobs || logprobs->count != n)
        return;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)logprobs->values[i] - want[i]);
    snprintf(text, sizeof text, "completion_logprobs in %s", type);
    golden_compare(g, text, logprobs->values, want, n, 0, bf16 ? 0.6 : 0.08);
    snprintf(text, sizeof text, "completion_logprobs in %s (mean)", type);
    golden_report(g, text, sum / (double)n, bf16 ? 0.1 : 0.025);
}

void golden_forward(struct golden *g, const char *name, const json_t *c)
{
    struct vireo_error err;
    struct safetensors *f = NULL, *in = NULL;
    const char *inputs = json_string_value(json_object_get(c, "inputs_as")),
               *folder = json_string_value(json_object_get(c, "model"));
    if (!safetensors_open(golden_path(g, "cases/%s.safetensors", name), &f, &err) ||
        !safetensors_open(golden_path(g, "cases/%s.safetensors", inputs ? inputs : name), &in, &err)) {
        golden_fail(g, "%s", err.message);
        safetensors_close(&f);
        return;
    }
    size_t count, one, n;
    const int32_t *ids = golden_integers(g, f, "input_ids", &count),
                  *length = golden_integers(g, f, "prompt_length", &one);
    struct model *m = golden_model(g, folder ? folder : "tiny-qwen2_5_vl", DTYPE_U32);
    uint32_t images = 0, P = length ? (uint32_t)length[0] : 0;
    struct patches *patches = golden_patches(g, in, &images);
    if (!m || !ids)
        goto done;
    uint32_t unit = m->config.vision.spatial_merge_size * m->config.vision.spatial_merge_size;
    struct image_grid *grids = arena_array(&g->host, struct image_grid, images + 1);
    const struct patches **list = (const struct patches **)arena_array(&g->host, struct patches *, images + 1);
    uint32_t *index = arena_array(&g->host, uint32_t, images + 1);
    for (uint32_t i = 0; i < images; i++) {
        grids[i] = (struct image_grid){patches[i].t, patches[i].h, patches[i].w, (uint32_t)(patches[i].rows / unit)};
        list[i] = &patches[i];
        index[i] = i;
    }
    check_prompt(g, m, c, grids, images, ids, P);
    struct prompt prompt, whole;
    if (!prompt_from_ids(m, (const uint32_t *)ids, (uint32_t)count, grids, images, &g->host, &whole, &err) ||
        !prompt_from_ids(m, (const uint32_t *)ids, P, grids, images, &g->host, &prompt, &err)) {
        golden_fail(g, "%s", err.message);
        goto done;
    }
    const int32_t *positions = golden_integers(g, f, "position_ids", &n);
    if (positions && n == 3 * count) {
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < count; i++)
            for (int axis = 0; axis < 3; axis++)
                wrong += positions[axis * (int)count + (int)i] != (int32_t)whole.positions[i][axis];
        golden_report(g, "position ids that differ", wrong, 0);
    }

    struct tracer tracer = {.g = g};
    struct vision_batch vision = {0};
    const struct inputs forms = {&prompt, list, index, (const uint32_t *)ids, images, (uint32_t)count};
    if (!forward(g, m, &forms, DTYPE_F32, &tracer, &vision))
        goto done;

    compare_kept(g, &tracer, f, "decoder.embeds", "decoder.embeds", 2e-5, 5e-4);
    compare_kept(g, &tracer, f, "decoder.norm", "decoder.norm", 2e-5, 5e-4);
    char text[48];
    for (uint32_t l = 0; l < m->config.text.num_hidden_layers; l++) {
        snprintf(text, sizeof text, "decoder.layer.%u", l);
        compare_kept(g, &tracer, f, text, text, 2e-5, 5e-4);
    }
    for (uint32_t j = 0; j < m->config.vision.depth; j++) {
        snprintf(text, sizeof text, "vit.block.%u", j);
        compare_kept(g, &tracer, f, text, text, 2e-5, 5e-4);
    }
    // Ours is in window order throughout; the fixtures have patch_embed and the output in image order.
    struct kept *embed = (struct kept *)find(&tracer, "vit.patch_embed"),
                *out = (struct kept *)find(&tracer, "vit_merged");
    struct kept *moved[2] = {embed, out};
    for (int k = 0; k < 2; k++)
        if (moved[k] && vision.merged) {
            size_t group = moved[k]->count / vision.merged;
            float *values = arena_array(&g->host, float, moved[k]->count);
            for (uint32_t i = 0; i < vision.merged; i++)
                memcpy(values + i * group, moved[k]->values + vision.row[i] * group, group * sizeof(float));
            moved[k]->values = values;
        }
    compare_kept(g, &tracer, f, "vit.patch_embed", "vit.patch_embed", 1e-5, 1e-4);
    compare_kept(g, &tracer, f, "vit_merged", "vit_output", 1e-5, 1e-4);
    const float *want = golden_floats(g, f, "logits", &n);
    const struct kept *mine = find(&tracer, "logits");
    uint32_t V = m->config.text.vocab_size;
    if (want && mine) {
        // All positions, or those from P - 1 on.
        size_t skip = n == count * V ? 0 : (size_t)(P - 1) * V;
        golden_compare(g, "logits", mine->values + skip, want, n, 2e-5, inputs ? 0 : 5e-4);
    }
    compare_kept(g, &tracer, f, "logprobs", "completion_logprobs", 0, 2e-4);
    compare_kept(g, &tracer, f, "logprobs_0.7", "completion_logprobs_temperature_0.7", 0, 2e-4);
    compare_kept(g, &tracer, f, "entropies", "completion_entropies", 0, 2e-4);
    if (m->dtype == DTYPE_BF16)
        check_halves(g, m, &forms, f);
    if (g->fp16 && m->dtype == DTYPE_F32) {
        struct model *half = golden_model(g, folder ? folder : "tiny-qwen2_5_vl", DTYPE_F16);
        if (half)
            check_halves(g, half, &forms, f);
        model_destroy(&half);
    }
    check_greedy(g, m, f, &prompt, patches);
done:
    model_destroy(&m);
    safetensors_close(&f);
    safetensors_close(&in);
}
