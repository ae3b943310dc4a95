// Groups of completions with their exact log-probs, and their rewards.
#include "compute/train/internal.h"

#include "compute/base/check.h"

#include <string.h>

bool trainer_open_engine(struct trainer *t, uint32_t rows, uint32_t n, uint32_t max_tokens, struct vireo_error *err)
{
    // Room for the rows of a step with the longest prompts there are; an engine too small would only take them in
    // turns.
    uint32_t longest = 0;
    const struct dataset *sets[2] = {&t->data, &t->validation};
    uint32_t probe[1];
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < sets[k]->count; i += VIREO_MAX(1, sets[k]->count / 8)) {
            struct step_data d;
            struct arena_mark mark = arena_mark(&t->step_arena);
            probe[0] = i;
            if (!step_data_build(t->model, t->spec, sets[k], probe, 1, false, &t->step_arena, &d, err))
                return false;
            longest = VIREO_MAX(longest, d.examples[0].prompt.count);
            step_data_finish(&d);
            arena_rewind(&t->step_arena, mark);
        }
    // A few rows were looked at; others may be longer by some words.
    uint32_t prompt = t->spec->max_prompt_length ? t->spec->max_prompt_length : longest * 2 + 64;
    prompt = VIREO_MIN(prompt, t->model->text_rope_positions);
    uint64_t tokens = (uint64_t)rows * engine_tokens(prompt, n, max_tokens);
    struct engine_params p = {.kv_tokens = (uint32_t)VIREO_MIN(tokens, 1u << 20),
                              .max_sequences = rows * n,
                              .max_batch_tokens = (uint32_t)VIREO_MIN((uint64_t)rows * prompt, 16384)};
    p.kv_tokens = VIREO_MAX(p.kv_tokens, prompt + max_tokens);
    t->engine = engine_create(t->model, &p, err);
    return t->engine &&
           (t->spec->method != JOB_GRPO || (keep_open(t, longest, err) && pictures_open(t, longest, err)));
}

// Where the callbacks of one example put what they hear.
struct listener {
    struct grading *grading;
    struct arena *a;
    struct completion *completions; // [n]
    bool failed;
    struct vireo_error *why;
};

static bool on_token(void *user, uint32_t sample, const struct engine_token *token)
{
    struct listener *l = user;
    struct completion *c = &l->completions[sample];
    vireo_assert(c->count < c->room);
    c->ids[c->count] = token->id;
    c->logprobs[c->count] = token->logprob;
    c->entropies[c->count] = token->entropy;
    c->count++;
    return true;
}

static void on_end(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why)
{
    struct listener *l = user;
    l->completions[sample].end = reason;
    if (reason == ENGINE_FAILED && !l->failed) {
        l->failed = true;
        *l->why = *why;
    }
    if (reason == ENGINE_STOP || reason == ENGINE_LENGTH)
        grading_add(l->grading, &l->completions[sample]);
}

static void on_sample(void *user, uint32_t sample, const struct kept_place *places, uint32_t count)
{
    struct listener *l = user;
    struct completion *c = &l->completions[sample];
    c->places = (struct kept_place *)arena_copy_bytes(l->a, places, count * sizeof *places); // NULL: as if not kept
    c->places_count = c->places ? count : 0;
}

// Where the pictures of a step are kept.
struct picture_places {
    const struct step_data *d;
    struct kept_place *places;
};

static void on_image(void *user, const struct patches *image, struct kept_place first)
{
    struct picture_places *p = user;
    for (uint32_t i = 0; i < p->d->picture_count; i++)
        if (p->d->patches[i] == image)
            p->places[i] = first;
}

void rollout_forget(struct trainer *t)
{
    if (!t->kept_memory)
        return;
    kept_clear(t->kept_text);
    if (t->kept_vision)
        kept_clear(t->kept_vision);
    gpu_arena_rewind(t->kept_memory, 0);
}

static bool generate(struct trainer *t, const struct step_data *d, const struct rollout_params *p, struct arena *a,
                     struct rollout *out, struct vireo_error *err);

bool rollout_generate(struct trainer *t, const struct step_data *d, const struct rollout_params *p, struct arena *a,
                      struct rollout *out, struct vireo_error *err)
{
    if (!p->keep || !t->kept_memory)
        return generate(t, d, p, a, out, err);
    struct picture_places pictures = {d, arena_array(a, struct kept_place, d->picture_count + 1)};
    if (!pictures.places)
        return vireo_fail_memory(err, d->picture_count * sizeof *pictures.places);
    for (uint32_t i = 0; i < d->picture_count; i++)
        pictures.places[i].run = KEPT_NOWHERE;
    rollout_forget(t);
    const struct engine_keep keep = {.text = t->kept_text,
                                     .vision = t->kept_vision,
                                     .on_image = on_image,
                                     .on_sample = on_sample,
                                     .user = &pictures};
    bool done = engine_keep_activations(t->engine, &keep, err) && generate(t, d, p, a, out, err);
    out->pictures = pictures.places;
    struct vireo_error ignored;
    return engine_keep_activations(t->engine, NULL, done ? err : &ignored) && done;
}

static bool sample(struct trainer *t, const struct step_data *d, const struct rollout_params *p, struct arena *a,
                   const struct rollout *r, struct vireo_error *err)
{
    struct listener *listeners = arena_array(a, struct listener, d->count);
    struct vireo_error why = {0};
    engine_forget(t->engine); // the weights have changed since
    if (!listeners)
        return vireo_fail_memory(err, d->count * sizeof *listeners);
    for (uint32_t i = 0; i < d->count; i++) {
        const struct example *e = &d->examples[i];
        listeners[i] = (struct listener){
            .grading = r->grading, .a = a, .completions = r->completions + (size_t)i * p->n, .why = &why};
        for (uint32_t k = 0; k < p->n; k++) {
            struct completion *c = &listeners[i].completions[k];
            c->room = p->max_tokens;
            c->ids = arena_array(a, uint32_t, c->room);
            c->logprobs = arena_array(a, float, c->room);
            c->entropies = arena_array(a, float, c->room);
        }
        const struct patches **images =
            (const struct patches **)arena_array(a, struct patches *, e->prompt.image_count + 1);
        uint8_t(*digests)[HASH_BYTES] = arena_take_array(a, e->prompt.image_count + 1, sizeof *digests);
        if (arena_failed(a))
            return vireo_fail_memory(err, (size_t)p->n * p->max_tokens * 12);
        for (uint32_t k = 0; k < e->prompt.image_count; k++) {
            images[k] = d->patches[e->pictures[k]];
            memcpy(digests[k], d->pictures[e->pictures[k]].digest, HASH_BYTES);
        }
        struct generation g = {.id = i + 1,
                               .prompt = &e->prompt,
                               .images = images,
                               .digests = (const uint8_t(*)[HASH_BYTES])digests,
                               .n = p->n,
                               .first_sample = i * p->n,
                               .sampling = {.temperature = p->temperature,
                                            .top_p = p->top_p,
                                            .min_p = p->min_p,
                                            .top_k = p->top_k,
                                            .repetition_penalty = 1,
                                            .logprob_temperature = p->temperature > 0 ? p->temperature : 1,
                                            .seed = p->seed,
                                            .step = p->step,
                                            .ignore_eos = p->ignore_eos,
                                            .max_tokens = p->max_tokens},
                               .on_token = on_token,
                               .on_end = on_end,
                               .user = &listeners[i]};
        if (!engine_submit(t->engine, &g, err))
            return vireo_explain(err, "line %u: ", e->sample->line);
    }
    for (bool busy = true; busy;)
        if (!engine_step(t->engine, &busy, err))
            return false;
    for (uint32_t i = 0; i < d->count; i++)
        if (listeners[i].failed) {
            if (err)
                *err = why;
            return false;
        }
    return true;
}

// What was submitted before something failed: its listeners are about to go.
static void cancel(struct engine *e, uint32_t count)
{
    bool busy;
    struct vireo_error ignored;
    for (uint32_t i = 0; i < count; i++)
        engine_cancel(e, i + 1);
    engine_step(e, &busy, &ignored);
}

static bool generate(struct trainer *t, const struct step_data *d, const struct rollout_params *p, struct arena *a,
                     struct rollout *out, struct vireo_error *err)
{
    struct rollout r = {.examples = d->count, .n = p->n};
    r.completions = arena_array(a, struct completion, (size_t)d->count * p->n);
    if (!r.completions)
        return vireo_fail_memory(err, (size_t)d->count * p->n * sizeof *r.completions);
    r.grading = grading_begin(t, d, &r, err);
    if (!r.grading)
        return false;
    if (!sample(t, d, p, a, &r, err)) {
        cancel(t->engine, d->count);
        grading_end(&r.grading, NULL, NULL);
        return false;
    }
    *out = r;
    return true;
}

bool rollout_score(struct rollout *r, struct arena *a, struct vireo_error *err)
{
    return grading_end(&r->grading, a, err);
}
