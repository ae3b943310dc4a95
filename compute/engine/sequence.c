#include "compute/engine/sequence.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

// True if logits depend on what was drawn before.
static bool keeps_history(const struct sampling *s)
{
    return s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

struct job *job_new(const struct generation *g, struct vireo_error *err)
{
    struct job *j = vireo_calloc(1, sizeof *j);
    if (!j) {
        vireo_fail_memory(err, sizeof *j);
        return NULL;
    }
    j->g = *g;
    arena_init(&j->host, 1 << 14);
    const struct prompt *p = g->prompt;
    struct prompt copy = *p;
    struct arena *a = &j->host;
    copy.ids = (uint32_t *)arena_copy_bytes(a, p->ids, p->count * sizeof *p->ids);
    copy.positions = (uint32_t(*)[3])arena_copy_bytes(a, p->positions, p->count * sizeof *p->positions);
    copy.image = (int32_t *)arena_copy_bytes(a, p->image, p->count * sizeof *p->image);
    copy.image_row = (uint32_t *)arena_copy_bytes(a, p->image_row, p->count * sizeof *p->image_row);
    copy.trained_first = copy.trained_end = NULL;
    copy.trained_count = 0;
    const struct patches **images =
        (const struct patches **)arena_copy_bytes(a, g->images, p->image_count * sizeof *g->images);
    j->g.images = images;
    const struct sampling *s = &g->sampling;
    j->g.sampling.bias_ids = (uint32_t *)arena_copy_bytes(a, s->bias_ids, s->bias_count * sizeof *s->bias_ids);
    j->g.sampling.bias_values = (float *)arena_copy_bytes(a, s->bias_values, s->bias_count * sizeof *s->bias_values);
    j->sequences = arena_array(a, struct sequence, g->n);
    for (uint32_t i = 0; j->sequences && i < g->n; i++) {
        j->sequences[i].sample = i;
        if (keeps_history(s))
            j->sequences[i].history = arena_array(a, uint32_t, s->max_tokens);
    }
    j->prompt = copy;
    j->g.prompt = &j->prompt;
    j->open = g->n;
    if (arena_failed(a)) {
        vireo_fail_memory(err, (size_t)p->count * 28);
        job_free(&j);
    }
    return j;
}

void job_free(struct job **j)
{
    if (!*j)
        return;
    arena_finish(&(*j)->host);
    free(*j);
    *j = NULL;
}

void job_end(struct job *j, struct sequence *s, enum engine_end reason, const struct vireo_error *why)
{
    if (s->ended)
        return;
    s->ended = true;
    j->open--;
    j->g.on_end(j->g.user, s->sample, reason, why);
}

void job_end_all(struct job *j, enum engine_end reason, const struct vireo_error *why)
{
    for (uint32_t i = 0; i < j->g.n; i++)
        job_end(j, &j->sequences[i], reason, why);
}

void job_token(struct job *j, struct sequence *s, const struct engine_token *token, const struct generation_config *c)
{
    if (s->history)
        s->history[s->count] = token->id;
    s->last = token->id;
    s->count++;
    bool wanted = j->g.on_token(j->g.user, s->sample, token);
    bool eos = false;
    for (uint32_t i = 0; i < c->eos_count && !j->g.sampling.ignore_eos; i++)
        eos = eos || c->eos_token_id[i] == token->id;
    if (eos || !wanted)
        job_end(j, s, ENGINE_STOP, NULL);
    else if (s->count >= j->g.sampling.max_tokens)
        job_end(j, s, ENGINE_LENGTH, NULL);
}
