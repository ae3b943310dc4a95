#include "compute/engine/engine.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/engine/sequence.h"
#include "compute/engine/slots.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct engine {
    struct model *m;
    struct engine_params p;
    struct gpu_arena *kv_memory, *activations, *upload;
    struct nn_kv *kv; // [num_hidden_layers]
    struct slots *slots;
    struct job *waiting, *running; // lists in order of arrival
    struct engine_stats stats;
    struct arena step; // host arrays of one step
};

uint64_t engine_kv_bytes(const struct model_config *c, const struct engine_params *p)
{
    uint64_t row = (uint64_t)c->text.num_key_value_heads * c->text.head_dim * 4;
    return 2 * c->text.num_hidden_layers * vireo_round_up(p->kv_tokens * row, 256);
}

struct engine *engine_create(struct model *m, const struct engine_params *p, struct vireo_error *err)
{
    struct engine *e = vireo_calloc(1, sizeof *e);
    const struct model_text_config *c = &m->config.text;
    struct nn_kv *kv = vireo_calloc(c->num_hidden_layers, sizeof *kv);
    if (!e || !kv) {
        free(e);
        free(kv);
        vireo_fail_memory(err, sizeof *e);
        return NULL;
    }
    *e = (struct engine){.m = m, .p = *p, .kv = kv};
    arena_init(&e->step, 1 << 16);
    uint64_t bytes = engine_kv_bytes(&m->config, p);
    struct gpu_arena_params memory = {.name = "kv", .bytes = bytes, .grows = true};
    e->slots = slots_create(p->kv_tokens);
    e->kv_memory = gpu_arena_create(m->dev, &memory, err);
    e->activations =
        gpu_arena_create(m->dev, &(struct gpu_arena_params){.name = "engine activations", .grows = true}, err);
    e->upload =
        gpu_arena_create(m->dev,
                         &(struct gpu_arena_params){
                             .name = "engine upload", .memory = GPU_MEMORY_UPLOAD, .bytes = 4 << 20, .grows = true},
                         err);
    if (!e->slots)
        vireo_fail_memory(err, 64);
    bool done = e->slots && e->kv_memory && e->activations && e->upload;
    for (uint32_t l = 0; done && l < c->num_hidden_layers; l++) {
        kv[l].k = tensor_matrix(e->kv_memory, DTYPE_F32, p->kv_tokens, c->num_key_value_heads * c->head_dim, err);
        kv[l].v = tensor_matrix(e->kv_memory, DTYPE_F32, p->kv_tokens, c->num_key_value_heads * c->head_dim, err);
        done = kv[l].k.span.address && kv[l].v.span.address;
    }
    if (!done)
        engine_destroy(&e);
    return e;
}

static void end_list(struct job **list, enum engine_end reason, const struct vireo_error *why)
{
    while (*list) {
        struct job *j = *list;
        *list = j->next;
        job_end_all(j, reason, why);
        job_free(&j);
    }
}

void engine_destroy(struct engine **engine)
{
    struct engine *e = *engine;
    if (!e)
        return;
    end_list(&e->running, ENGINE_CANCELLED, NULL);
    end_list(&e->waiting, ENGINE_CANCELLED, NULL);
    gpu_arena_destroy(&e->kv_memory);
    gpu_arena_destroy(&e->activations);
    gpu_arena_destroy(&e->upload);
    slots_destroy(&e->slots);
    arena_finish(&e->step);
    free(e->kv);
    free(e);
    *engine = NULL;
}

bool engine_submit(struct engine *e, const struct generation *g, struct vireo_error *err)
{
    const struct prompt *p = g->prompt;
    const struct sampling *s = &g->sampling;
    vireo_assert(g->n > 0 && s->max_tokens > 0 && p->count > 0);
    uint64_t slots = p->count + (uint64_t)g->n * s->max_tokens;
    if (slots > e->p.kv_tokens || p->count > e->p.max_batch_tokens)
        return vireo_fail_kind(
            err, VIREO_INVALID, "context_length_exceeded", "messages",
            "The prompt has %u tokens and %u x %u may be generated; this server holds %u tokens, %u of "
            "them in one prompt.",
            p->count, g->n, s->max_tokens, e->p.kv_tokens, e->p.max_batch_tokens);
    if ((uint64_t)p->next_position + s->max_tokens > e->m->text_rope_positions)
        return vireo_fail_kind(
            err, VIREO_INVALID, "context_length_exceeded", "messages",
            "The prompt ends at position %u and %u tokens may follow; the model is loaded for %u positions.",
            p->next_position, s->max_tokens, e->m->text_rope_positions);
    if (g->n > e->p.max_sequences)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", "n",
                               "Invalid value for 'n': expected at most %u, got %u.", e->p.max_sequences, g->n);
    struct job *j = job_new(g, err);
    if (!j)
        return false;
    j->slot_count = (uint32_t)slots;
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

// Takes ended and cancelled generations out of a list and gives their slots back.
static void sweep(struct engine *e, struct job **list)
{
    while (*list) {
        struct job *j = *list;
        if (j->cancelled)
            job_end_all(j, ENGINE_CANCELLED, NULL);
        if (j->open > 0) {
            list = &j->next;
            continue;
        }
        *list = j->next;
        if (j->running) {
            slots_release(e->slots, j->slot_first, j->slot_count);
            e->stats.running -= j->g.n;
        } else {
            e->stats.waiting--;
        }
        job_free(&j);
    }
}

// One row of the sampled batch.
struct row {
    struct job *job;
    struct sequence *sequence;
};

static struct sample_row sample_row_of(const struct row *r)
{
    const struct sampling *s = &r->job->g.sampling;
    return (struct sample_row){.temperature = s->temperature,
                               .top_p = s->top_p,
                               .min_p = s->min_p,
                               .top_k = s->top_k,
                               .logprob_temperature = s->logprob_temperature,
                               .seed_low = (uint32_t)s->seed,
                               .seed_high = (uint32_t)(s->seed >> 32),
                               .counter = {s->step, r->job->g.first_sample + r->sequence->sample, r->sequence->count}};
}

// The k most likely tokens by logits; ties by lower id. Only asked for by chat requests.
static void find_top(const float *logits, uint32_t vocabulary, float temperature, struct engine_token *token,
                     uint32_t k)
{
    token->top_count = VIREO_MIN(k, vocabulary);
    for (uint32_t n = 0; n < token->top_count; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t v = 0; v < vocabulary; v++) {
            bool taken = false;
            for (uint32_t i = 0; i < n && !taken; i++)
                taken = token->top_ids[i] == v;
            if (!taken && (best == UINT32_MAX || logits[v] > logits[best]))
                best = v;
        }
        token->top_ids[n] = best;
        float d = (logits[best] - logits[token->id]) / temperature;
        token->top_logprobs[n] = best == token->id ? token->logprob : token->logprob + d;
    }
}

// Edits of a row's logits: bias of the request, penalties of what is in prompt and answer so far.
static bool needs_edits(const struct sampling *s)
{
    return s->bias_count > 0 || s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

struct edit_list {
    struct nn_edit *edits;
    uint32_t count, room;
};

static bool add_edit(struct engine *e, struct edit_list *l, uint32_t first, uint32_t token, float penalty, float bias)
{
    for (uint32_t i = first; i < l->count; i++)
        if (l->edits[i].token == token) {
            // A token is penalised for repetition once however often it occurs; biases add up.
            l->edits[i].bias += bias;
            return true;
        }
    if (l->count == l->room) {
        uint32_t room = l->room ? 2 * l->room : 256;
        struct nn_edit *more = arena_array(&e->step, struct nn_edit, room);
        if (!more)
            return false;
        if (l->count)
            memcpy(more, l->edits, l->count * sizeof *more);
        l->edits = more;
        l->room = room;
    }
    l->edits[l->count++] = (struct nn_edit){.token = token, .penalty = penalty, .bias = bias};
    return true;
}

static bool edits_of_row(struct engine *e, struct edit_list *l, const struct row *r)
{
    const struct sampling *s = &r->job->g.sampling;
    const struct prompt *p = &r->job->prompt;
    uint32_t first = l->count;
    bool done = true;
    if (s->repetition_penalty != 1)
        for (uint32_t i = 0; done && i < p->count; i++)
            done = add_edit(e, l, first, p->ids[i], s->repetition_penalty, 0);
    for (uint32_t i = 0; done && r->sequence->history && i < r->sequence->count; i++) {
        uint32_t id = r->sequence->history[i];
        bool seen = false;
        for (uint32_t k = 0; k < i && !seen; k++)
            seen = r->sequence->history[k] == id;
        done =
            add_edit(e, l, first, id, s->repetition_penalty, -s->frequency_penalty - (seen ? 0 : s->presence_penalty));
    }
    for (uint32_t i = 0; done && i < s->bias_count; i++)
        done = add_edit(e, l, first, s->bias_ids[i], 1, s->bias_values[i]);
    return done;
}

// Host copies of what was drawn, kept in the step's arena.
struct drawn {
    uint32_t *token;
    float *logprob, *entropy, *logits; // logits [rows, V] only where some row wants top_logprobs
};

// hidden [N, C] -> the rows' last hidden states -> logits -> tokens on the host.
static bool draw(struct engine *e, struct tape *t, struct tensor hidden, const uint32_t *hidden_row,
                 const struct row *rows, uint32_t count, struct drawn *out, struct vireo_error *err)
{
    const struct model *m = e->m;
    uint32_t V = m->config.text.vocab_size;
    struct sample_row *how = arena_array(&e->step, struct sample_row, count);
    uint32_t *starts = arena_array(&e->step, uint32_t, count + 1);
    out->token = arena_array(&e->step, uint32_t, count);
    out->logprob = arena_array(&e->step, float, count);
    out->entropy = arena_array(&e->step, float, count);
    bool edits = false, top = false;
    if (!how || !starts || !out->token || !out->logprob || !out->entropy)
        return vireo_fail_memory(err, count * sizeof *how);
    struct edit_list list = {0};
    for (uint32_t i = 0; i < count; i++) {
        how[i] = sample_row_of(&rows[i]);
        starts[i] = list.count;
        if (needs_edits(&rows[i].job->g.sampling)) {
            edits = true;
            if (!edits_of_row(e, &list, &rows[i]))
                return vireo_fail_memory(err, list.count * sizeof *list.edits);
        }
        top = top || rows[i].job->g.sampling.top_logprobs > 0;
    }
    starts[count] = list.count;
    struct tensor x = nn_gather(t, hidden, hidden_row, count);
    struct tensor logits = nn_linear(t, x, m->head);
    struct tensor how_tensor = tape_upload_matrix(t, DTYPE_U32, count, sizeof *how / 4, how);
    struct tensor banned =
        tape_upload(t, DTYPE_U32, 2, (uint32_t[]){m->config.image_token_id, m->config.video_token_id});
    struct nn_edits changes = {0};
    if (edits)
        changes = nn_edits_build(t, starts, count, list.edits, list.count);
    struct nn_sampled s = nn_sample(t, logits, how_tensor, banned, edits ? &changes : NULL);
    if (tape_failed(t))
        return true; // reported by tape_finish
    struct gpu_device *dev = m->dev;
    bool done = gpu_read(dev, s.token.span, out->token, count * 4, err) &&
                gpu_read(dev, s.logprob.span, out->logprob, count * 4, err) &&
                gpu_read(dev, s.entropy.span, out->entropy, count * 4, err);
    if (done && top) {
        out->logits = arena_take_array(&e->step, (size_t)count * V, sizeof *out->logits);
        done = out->logits ? gpu_read(dev, logits.span, out->logits, (uint64_t)count * V * 4, err)
                           : vireo_fail_memory(err, (size_t)count * V * 4);
    }
    return done;
}

static void emit(struct engine *e, const struct row *rows, uint32_t count, const struct drawn *d)
{
    uint32_t V = e->m->config.text.vocab_size;
    for (uint32_t i = 0; i < count; i++) {
        struct engine_token token = {.id = d->token[i], .logprob = d->logprob[i], .entropy = d->entropy[i]};
        const struct sampling *s = &rows[i].job->g.sampling;
        if (s->top_logprobs)
            find_top(d->logits + (size_t)i * V, V, s->logprob_temperature, &token, s->top_logprobs);
        e->stats.generated_tokens++;
        job_token(rows[i].job, rows[i].sequence, &token, &e->m->generation);
    }
}

// Takes waiting generations, in order of arrival, as long as slots, sequences and the batch allow.
static uint32_t admit(struct engine *e, struct job **list, uint32_t most)
{
    uint32_t count = 0, tokens = 0;
    while (e->waiting && count < most) {
        struct job *j = e->waiting;
        if (e->stats.running + j->g.n > e->p.max_sequences || tokens + j->prompt.count > e->p.max_batch_tokens ||
            !slots_take(e->slots, j->slot_count, &j->slot_first))
            break;
        e->waiting = j->next;
        j->next = NULL;
        j->running = true;
        for (uint32_t i = 0; i < j->g.n; i++)
            j->sequences[i].own_first = j->slot_first + j->prompt.count + i * j->g.sampling.max_tokens;
        struct job **end = &e->running;
        while (*end)
            end = &(*end)->next;
        *end = j;
        e->stats.waiting--;
        e->stats.running += j->g.n;
        tokens += j->prompt.count;
        list[count++] = j;
    }
    return count;
}

// The prompts of freshly admitted generations: vision once an image object, prompts packed, first token of each sample.
static bool prefill(struct engine *e, struct tape *t, struct job **jobs, uint32_t count, struct row **rows,
                    uint32_t *row_count, struct drawn *d, struct vireo_error *err)
{
    uint32_t images = 0, samples = 0, most_images = 0;
    for (uint32_t i = 0; i < count; i++) {
        images += jobs[i]->prompt.image_count;
        most_images = VIREO_MAX(most_images, jobs[i]->prompt.image_count);
        samples += jobs[i]->g.n;
    }
    const struct patches **distinct = (const struct patches **)arena_array(&e->step, struct patches *, images + 1);
    uint32_t *index = arena_array(&e->step, uint32_t, images + 1);
    uint32_t *hidden_row = arena_array(&e->step, uint32_t, samples);
    *rows = arena_array(&e->step, struct row, samples);
    if (!distinct || !index || !hidden_row || !*rows)
        return vireo_fail_memory(err, samples * sizeof **rows);
    // The same pixels (by address: the trainer passes one object a picture) go through the vision tower once.
    uint32_t distinct_count = 0, at = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < jobs[i]->prompt.image_count; k++) {
            uint32_t n = 0;
            while (n < distinct_count && distinct[n] != jobs[i]->g.images[k])
                n++;
            if (n == distinct_count)
                distinct[distinct_count++] = jobs[i]->g.images[k];
            index[at++] = n;
        }
    struct vision_batch vision = {0};
    struct tensor features = {0};
    if (distinct_count) {
        if (!vision_batch_build(e->m, t, distinct, distinct_count, &e->step, &vision, err))
            return false;
        features = e->m->family->vision(t, e->m, &vision);
        e->stats.image_tokens += vision.merged;
    }
    struct text_rows text;
    text_rows_init(&text, &e->step);
    at = 0;
    *row_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct job *j = jobs[i];
        uint32_t first = text_rows_prompt(&text, &j->prompt, &vision, index + at);
        at += j->prompt.image_count;
        if (text.failed)
            return vireo_fail_memory(err, 1 << 20);
        for (uint32_t k = 0; k < j->prompt.count; k++) {
            // Keys lie in the pool: the spans speak of slots.
            text.slot[first + k] = j->slot_first + k;
            text.query[first + k][0] = text.query[first + k][2] = j->slot_first;
        }
        for (uint32_t n = 0; n < j->g.n; n++) {
            hidden_row[*row_count] = first + j->prompt.count - 1;
            (*rows)[(*row_count)++] = (struct row){j, &j->sequences[n]};
        }
        e->stats.prompt_tokens += j->prompt.count;
    }
    struct text_batch batch;
    if (!text_batch_build(e->m, t, &text, e->kv, &batch, err))
        return false;
    struct tensor hidden = e->m->family->text(t, e->m, &batch, features);
    return draw(e, t, hidden, hidden_row, *rows, *row_count, d, err);
}

// One token of every open sample.
static bool decode(struct engine *e, struct tape *t, struct row **rows, uint32_t *row_count, struct drawn *d,
                   struct vireo_error *err)
{
    uint32_t open = 0;
    for (struct job *j = e->running; j; j = j->next)
        open += j->open;
    *rows = arena_array(&e->step, struct row, open);
    uint32_t *hidden_row = arena_array(&e->step, uint32_t, open);
    if (!*rows || !hidden_row)
        return vireo_fail_memory(err, open * sizeof **rows);
    struct text_rows text;
    text_rows_init(&text, &e->step);
    *row_count = 0;
    for (struct job *j = e->running; j; j = j->next)
        for (uint32_t i = 0; i < j->g.n; i++) {
            struct sequence *s = &j->sequences[i];
            if (s->ended)
                continue;
            uint32_t fed = s->count - 1; // the newest token's place among the drawn ones
            uint32_t spans[4] = {j->slot_first, j->prompt.count, s->own_first, fed + 1};
            hidden_row[*row_count] =
                text_rows_decode(&text, s->last, j->prompt.next_position + fed, spans, s->own_first + fed);
            (*rows)[(*row_count)++] = (struct row){j, s};
        }
    struct text_batch batch;
    if (!text_batch_build(e->m, t, &text, e->kv, &batch, err))
        return false;
    struct tensor hidden = e->m->family->text(t, e->m, &batch, (struct tensor){0});
    return draw(e, t, hidden, hidden_row, *rows, *row_count, d, err);
}

bool engine_step(struct engine *e, bool *busy, struct vireo_error *err)
{
    enum { MOST_PROMPTS = 256 };
    struct job *fresh[MOST_PROMPTS];
    sweep(e, &e->running);
    sweep(e, &e->waiting);
    uint32_t fresh_count = admit(e, fresh, MOST_PROMPTS);
    *busy = e->running != NULL;
    if (!e->running)
        return true; // whatever still waits cannot be larger than the empty pool: engine_submit saw to that
    struct tape *t =
        tape_create(e->m->dev, &(struct tape_params){.arena = e->activations, .upload = e->upload, .reuse = true}, err);
    struct row *rows = NULL;
    uint32_t count = 0;
    struct drawn d = {0};
    bool done = t && (fresh_count ? prefill(e, t, fresh, fresh_count, &rows, &count, &d, err)
                                  : decode(e, t, &rows, &count, &d, err));
    done = tape_finish(&t, done ? err : NULL) && done;
    done = gpu_finish(e->m->dev, done ? err : NULL) && done;
    gpu_arena_rewind(e->activations, 0);
    gpu_arena_rewind(e->upload, 0);
    if (done) {
        emit(e, rows, count, &d);
        sweep(e, &e->running);
    } else {
        struct vireo_error why = {.code = VIREO_INTERNAL, .message = "the engine failed"};
        if (err)
            why = *err;
        end_list(&e->running, ENGINE_FAILED, &why);
        end_list(&e->waiting, ENGINE_FAILED, &why);
        slots_destroy(&e->slots);
        e->slots = slots_create(e->p.kv_tokens);
        e->stats.running = e->stats.waiting = 0;
        done = false;
    }
    arena_rewind(&e->step, (struct arena_mark){0});
    e->stats.steps++;
    *busy = e->running || e->waiting;
    return done;
}

struct engine_stats engine_stats(const struct engine *e)
{
    struct engine_stats s = e->stats;
    s.kv_used = e->slots ? 1 - (double)slots_free(e->slots) / e->p.kv_tokens : 0;
    return s;
}
