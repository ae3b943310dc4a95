#include "compute/engine/engine.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/engine/internal.h"

#include <stdlib.h>

static uint64_t page_count(const struct engine_params *p)
{
    // One more than the tokens fill: a sample's own tail page may be a copy of the prompt's.
    return ((uint64_t)p->kv_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS + 1;
}

// No picture of more tokens than the pool has rows can be computed. 16384 is what max_pixels allows as published.
static uint32_t feature_rows(const struct engine_params *p)
{
    return VIREO_MIN(p->kv_tokens, 16384);
}

uint64_t engine_tokens(uint32_t prompt_tokens, uint32_t n, uint32_t max_tokens)
{
    const uint64_t most_tail = PAGE_TOKENS - 1; // of the prompt, in a sample's first own page
    uint64_t pages = ((uint64_t)prompt_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    uint64_t own = (most_tail + max_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    return (pages + n * own) * PAGE_TOKENS;
}

uint64_t engine_kv_bytes(const struct model_config *c, enum dtype type, const struct engine_params *p)
{
    uint64_t row = (uint64_t)c->text.num_key_value_heads * c->text.head_dim * dtype_bytes(type);
    return 2 * c->text.num_hidden_layers * vireo_round_up(page_count(p) * PAGE_TOKENS * row, 256) +
           vireo_round_up((uint64_t)feature_rows(p) * c->text.hidden_size * dtype_bytes(type), 256);
}

static bool make_pools(struct engine *e, struct vireo_error *err)
{
    const struct model_text_config *c = &e->m->config.text;
    const uint32_t slots = e->page_total * PAGE_TOKENS, width = c->num_key_value_heads * c->head_dim;
    for (uint32_t l = 0; l < c->num_hidden_layers; l++) {
        e->kv[l].k = tensor_matrix(e->kv_memory, e->m->activations, slots, width, err);
        e->kv[l].v = tensor_matrix(e->kv_memory, e->m->activations, slots, width, err);
        if (!e->kv[l].k.span.address || !e->kv[l].v.span.address)
            return false;
    }
    e->features = features_create(e->kv_memory, e->m->activations, e->feature_rows, c->hidden_size, err);
    return e->features != NULL;
}

struct engine *engine_create(struct model *m, const struct engine_params *p, struct vireo_error *err)
{
    struct engine *e = vireo_calloc(1, sizeof *e);
    struct nn_kv *kv = vireo_calloc(m->config.text.num_hidden_layers, sizeof *kv);
    if (!e || !kv) {
        free(e);
        free(kv);
        vireo_fail_memory(err, sizeof *e);
        return NULL;
    }
    *e = (struct engine){
        .m = m, .p = *p, .kv = kv, .page_total = (uint32_t)page_count(p), .feature_rows = feature_rows(p)};
    arena_init(&e->step, 1 << 16);
    uint64_t bytes = engine_kv_bytes(&m->config, m->activations, p);
    struct gpu_arena_params memory = {.name = "kv", .bytes = bytes, .grows = true};
    e->pages = pages_create(e->page_total);
    e->kv_memory = gpu_arena_create(m->dev, &memory, err);
    e->activations =
        gpu_arena_create(m->dev,
                         &(struct gpu_arena_params){
                             .name = "engine activations", .bytes = ENGINE_BLOCK_BYTES, .grows = true},
                         err);
    e->upload =
        gpu_arena_create(m->dev,
                         &(struct gpu_arena_params){
                             .name = "engine upload", .memory = GPU_MEMORY_UPLOAD, .bytes = ENGINE_BLOCK_BYTES, .grows = true},
                         err);
    if (!e->pages)
        vireo_fail_memory(err, 64);
    if (!e->pages || !e->kv_memory || !e->activations || !e->upload || !make_pools(e, err))
        engine_destroy(&e);
    return e;
}

static void end_list(struct engine *e, struct job **list, enum engine_end reason, const struct vireo_error *why)
{
    while (*list) {
        struct job *j = *list;
        *list = j->next;
        job_end_all(j, reason, why);
        schedule_release(e, j);
        job_free(&j);
    }
}

void engine_destroy(struct engine **engine)
{
    struct engine *e = *engine;
    if (!e)
        return;
    end_list(e, &e->running, ENGINE_CANCELLED, NULL);
    end_list(e, &e->waiting, ENGINE_CANCELLED, NULL);
    features_destroy(&e->features);
    gpu_arena_destroy(&e->kv_memory);
    gpu_arena_destroy(&e->activations);
    gpu_arena_destroy(&e->upload);
    pages_destroy(&e->pages);
    arena_finish(&e->step);
    free(e->kv);
    free(e->place);
    free(e);
    *engine = NULL;
}

void engine_forget(struct engine *e)
{
    vireo_assert(!e->running);
    pages_forget(e->pages);
    features_forget(e->features);
}

bool engine_keep_activations(struct engine *e, const struct engine_keep *k, struct vireo_error *err)
{
    const size_t slots = (size_t)e->page_total * PAGE_TOKENS;
    vireo_assert(!e->running);
    free(e->place);
    e->place = NULL;
    e->keep = k ? *k : (struct engine_keep){0};
    if (!k)
        return true;
    e->place = vireo_alloc(slots * sizeof *e->place);
    if (!e->place) {
        e->keep = (struct engine_keep){0};
        return vireo_fail_memory(err, slots * sizeof *e->place);
    }
    for (size_t i = 0; i < slots; i++)
        e->place[i] = (struct kept_place){KEPT_NOWHERE, 0};
    return true;
}

// Whether the generation can run at all, alone if need be.
static bool can_ever_run(const struct engine *e, const struct generation *g, struct vireo_error *err)
{
    const struct prompt *p = g->prompt;
    const struct sampling *s = &g->sampling;
    const uint32_t unit = e->m->config.vision.spatial_merge_size * e->m->config.vision.spatial_merge_size;
    if ((uint64_t)p->count + s->max_tokens > e->p.kv_tokens)
        return vireo_fail_kind(
            err, VIREO_INVALID, "context_length_exceeded", "messages",
            "The prompt has %u tokens and %u may be generated; this server holds %u tokens.", p->count, s->max_tokens,
            e->p.kv_tokens);
    if ((uint64_t)p->next_position + s->max_tokens > e->m->text_rope_positions)
        return vireo_fail_kind(
            err, VIREO_INVALID, "context_length_exceeded", "messages",
            "The prompt ends at position %u and %u tokens may follow; the model is loaded for %u positions.",
            p->next_position, s->max_tokens, e->m->text_rope_positions);
    if (g->n > e->p.max_sequences)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", "n",
                               "Invalid value for 'n': expected at most %u, got %u.", e->p.max_sequences, g->n);
    for (uint32_t i = 0; i < p->image_count; i++)
        if (g->images[i]->rows / unit > e->feature_rows)
            return vireo_fail_kind(err, VIREO_TOO_LARGE, "image_too_large", "messages",
                                   "An image has %zu tokens; this server takes at most %u in one.",
                                   g->images[i]->rows / unit, e->feature_rows);
    return true;
}

bool engine_submit(struct engine *e, const struct generation *g, struct vireo_error *err)
{
    vireo_assert(g->n > 0 && g->sampling.max_tokens > 0 && g->prompt->count > 0);
    struct job *j = can_ever_run(e, g, err) ? job_new(g, err) : NULL;
    if (!j)
        return false;
    struct job **end = &e->waiting;
    while (*end)
        end = &(*end)->next;
    *end = j;
    e->stats.waiting++;
    return true;
}

void engine_cancel(struct engine *e, uint64_t id)
{
    for (struct job *j = e->waiting; j; j = j->next)
        j->cancelled = j->cancelled || j->g.id == id;
    for (struct job *j = e->running; j; j = j->next)
        j->cancelled = j->cancelled || j->g.id == id;
}

// Takes ended and cancelled generations out of a list and gives their pages back.
static void sweep(struct engine *e, struct job **list)
{
    while (*list) {
        struct job *j = *list;
        if (j->cancelled)
            job_end_all(j, ENGINE_CANCELLED, NULL);
        schedule_release_ended(e, j);
        if (j->open > 0) {
            list = &j->next;
            continue;
        }
        *list = j->next;
        if (j->running)
            e->stats.running -= j->g.n;
        else
            e->stats.waiting--;
        schedule_release(e, j);
        job_free(&j);
    }
}

// Computes what was scheduled, up to the tokens on the host.
static bool compute(struct engine *e, struct batch *b, struct drawn *d, struct vireo_error *err)
{
    struct tensor hidden;
    const struct tape_params params = {
        .arena = e->activations, .upload = e->upload, .reuse = true, .activations = e->m->activations};
    b->t = tape_create(e->m->dev, &params, err);
    bool done = b->t && batch_run(e, b, &hidden, err);
    if (done && b->row_count > 0)
        done = draw(e, b, hidden, d, err);
    done = tape_finish(&b->t, done ? err : NULL) && done;
    done = gpu_finish(e->m->dev, done ? err : NULL) && done;
    gpu_arena_rewind(e->activations, 0);
    gpu_arena_rewind(e->upload, 0);
    return done;
}

static bool emit(struct engine *e, const struct batch *b, const struct drawn *d, struct vireo_error *err)
{
    for (uint32_t i = 0; i < b->row_count; i++) {
        struct engine_token token = drawn_token(e, b, d, i);
        e->stats.generated_tokens++;
        if (!job_token(b->rows[i].job, b->rows[i].sequence, &token, &e->m->generation))
            return vireo_fail_memory(err, 64);
        if (e->keep.text && b->rows[i].sequence->ended && !batch_tell_places(e, b->rows[i].job, b->rows[i].sequence))
            return vireo_fail_memory(err, 64);
    }
    return true;
}

bool engine_step(struct engine *e, bool *busy, struct vireo_error *err)
{
    struct batch b = {0};
    struct drawn d = {0};
    struct vireo_error why = {.code = VIREO_INTERNAL, .message = "the engine failed"};
    sweep(e, &e->running);
    sweep(e, &e->waiting);
    *busy = e->running || e->waiting;
    if (!*busy)
        return true;
    // What waits while nothing runs fits alone: engine_submit saw to that.
    bool done = schedule(e, &why) && compute(e, &b, &d, &why);
    if (done) {
        schedule_keep_prefixes(e);
        done = emit(e, &b, &d, &why);
        sweep(e, &e->running);
    }
    if (!done) {
        end_list(e, &e->running, ENGINE_FAILED, &why);
        end_list(e, &e->waiting, ENGINE_FAILED, &why);
        engine_forget(e); // whatever was to fill them
        e->stats.running = e->stats.waiting = 0;
        if (err)
            *err = why;
    }
    arena_rewind(&e->step, (struct arena_mark){0});
    e->stats.steps++;
    *busy = e->running || e->waiting;
    return done;
}

struct engine_stats engine_stats(const struct engine *e)
{
    struct engine_stats s = e->stats;
    s.pages = e->page_total;
    s.pages_held = pages_held(e->pages);
    s.pages_kept = pages_kept(e->pages);
    s.kv_used = (double)s.pages_held / e->page_total;
    return s;
}
