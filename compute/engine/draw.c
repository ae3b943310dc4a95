// From hidden states to tokens on the host: head, edits, bans, the draw and its log-prob on the device; what comes back is
// three words a row (and the logits of a step in which somebody asked for the most likely tokens).
#include "compute/engine/internal.h"

#include "compute/base/check.h"

#include <string.h>

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
    const bool drawn = s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
    for (uint32_t i = 0; done && drawn && i < r->sequence->count; i++) {
        uint32_t id = r->sequence->ids[i];
        bool seen = false;
        for (uint32_t k = 0; k < i && !seen; k++)
            seen = r->sequence->ids[k] == id;
        done =
            add_edit(e, l, first, id, s->repetition_penalty, -s->frequency_penalty - (seen ? 0 : s->presence_penalty));
    }
    for (uint32_t i = 0; done && i < s->bias_count; i++)
        done = add_edit(e, l, first, s->bias_ids[i], 1, s->bias_values[i]);
    return done;
}

// The hidden states of the rows that draw. In a step that only decodes those are all of them.
static struct tensor drawing_rows(struct tape *t, const struct batch *b, struct tensor hidden)
{
    bool all = !tape_failed(t) && b->row_count == tensor_rows(hidden);
    for (uint32_t i = 0; all && i < b->row_count; i++)
        all = b->hidden_row[i] == i;
    return all ? hidden : nn_gather(t, hidden, b->hidden_row, b->row_count);
}

bool draw(struct engine *e, struct batch *b, struct tensor hidden, struct drawn *out, struct vireo_error *err)
{
    const struct model *m = e->m;
    struct tape *t = b->t;
    uint32_t V = m->config.text.vocab_size, count = b->row_count;
    struct sample_row *how = arena_array(&e->step, struct sample_row, count);
    uint32_t *starts = arena_array(&e->step, uint32_t, count + 1), *words = arena_array(&e->step, uint32_t, 3 * count);
    bool edits = false, top = false;
    if (!how || !starts || !words)
        return vireo_fail_memory(err, count * sizeof *how);
    struct edit_list list = {0};
    for (uint32_t i = 0; i < count; i++) {
        const struct sampling *s = &b->rows[i].job->g.sampling;
        how[i] = sample_row_of(&b->rows[i]);
        starts[i] = list.count;
        if (needs_edits(s)) {
            edits = true;
            if (!edits_of_row(e, &list, &b->rows[i]))
                return vireo_fail_memory(err, list.count * sizeof *list.edits);
        }
        top = top || s->top_logprobs > 0;
    }
    starts[count] = list.count;
    struct tensor logits = nn_linear_f32(t, drawing_rows(t, b, hidden), m->head);
    struct tensor how_tensor = tape_upload_matrix(t, DTYPE_U32, count, sizeof *how / 4, how);
    struct tensor banned =
        tape_upload(t, DTYPE_U32, 2, (uint32_t[]){m->config.image_token_id, m->config.video_token_id});
    struct nn_edits changes = {0};
    if (edits)
        changes = nn_edits_build(t, starts, count, list.edits, list.count);
    struct nn_sampled s = nn_sample(t, logits, how_tensor, banned, edits ? &changes : NULL);
    if (tape_failed(t))
        return true; // reported by tape_finish
    *out = (struct drawn){
        .token = words, .logprob = (const float *)(words + count), .entropy = (const float *)(words + 2 * count)};
    if (!gpu_read(m->dev, s.all.span, words, 12 * (uint64_t)count, err))
        return false;
    if (!top)
        return true;
    float *values = arena_take_array(&e->step, (size_t)count * V, sizeof *values);
    out->logits = values;
    return values ? gpu_read(m->dev, logits.span, values, (uint64_t)count * V * 4, err)
                  : vireo_fail_memory(err, (size_t)count * V * 4);
}

struct engine_token drawn_token(const struct engine *e, const struct batch *b, const struct drawn *d, uint32_t i)
{
    uint32_t V = e->m->config.text.vocab_size;
    struct engine_token token = {.id = d->token[i],
                                 .cached_tokens = b->rows[i].job->cached,
                                 .logprob = d->logprob[i],
                                 .entropy = d->entropy[i]};
    const struct sampling *s = &b->rows[i].job->g.sampling;
    if (s->top_logprobs)
        find_top(d->logits + (size_t)i * V, V, s->logprob_temperature, &token, s->top_logprobs);
    return token;
}
