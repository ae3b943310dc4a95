#include "compute/engine/sequence.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

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
    j->g.scope = arena_copy_string(a, g->scope ? g->scope : "");
    j->page_count = (p->count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    j->pages = arena_array(a, uint32_t, j->page_count);
    j->digests = arena_take_array(a, p->image_count + 1, sizeof *j->digests);
    j->keys = arena_take_array(a, j->page_count, sizeof *j->keys);
    j->prompt = copy;
    j->g.prompt = &j->prompt;
    j->open = g->n;
    bool done = !arena_failed(a);
    for (uint32_t i = 0; done && i < g->n; i++)
        j->sequences[i].sample = i;
    for (uint32_t i = 0; done && i < p->image_count; i++)
        if (g->digests)
            memcpy(j->digests[i], g->digests[i], HASH_BYTES);
        else
            done = prefix_image_digest(g->images[i], j->digests[i]);
    for (uint32_t i = 0; done && i < p->image_count; i++)
        done = prefix_scoped(g->scope, j->digests[i]);
    done = done && prefix_keys(p, g->scope, j->digests, j->keys);
    if (!done) {
        vireo_fail_memory(err, (size_t)p->count * 28);
        job_free(&j);
    }
    return j;
}

void job_free(struct job **j)
{
    if (!*j)
        return;
    for (uint32_t i = 0; (*j)->sequences && i < (*j)->g.n; i++) {
        free((*j)->sequences[i].own);
        free((*j)->sequences[i].ids);
    }
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

bool job_token(struct job *j, struct sequence *s, const struct engine_token *token, const struct generation_config *c)
{
    if (s->count == s->room) {
        uint32_t room = s->room ? 2 * s->room : 64;
        uint32_t *ids = vireo_realloc(s->ids, room * sizeof *ids);
        if (!ids)
            return false;
        s->ids = ids;
        s->room = room;
    }
    s->ids[s->count++] = token->id;
    bool wanted = j->g.on_token(j->g.user, s->sample, token);
    bool eos = false;
    for (uint32_t i = 0; i < c->eos_count && !j->g.sampling.ignore_eos; i++)
        eos = eos || c->eos_token_id[i] == token->id;
    if (eos || !wanted)
        job_end(j, s, ENGINE_STOP, NULL);
    else if (s->count >= j->g.sampling.max_tokens)
        job_end(j, s, ENGINE_LENGTH, NULL);
    return true;
}

uint32_t sequence_pages(const struct job *j, uint32_t tokens)
{
    return tokens ? (j->prompt.count % PAGE_TOKENS + tokens + PAGE_TOKENS - 1) / PAGE_TOKENS : 0;
}

bool sequence_add_page(struct sequence *s, uint32_t page)
{
    if (s->own_count == s->own_room) {
        uint32_t room = s->own_room ? 2 * s->own_room : 8;
        uint32_t *own = vireo_realloc(s->own, room * sizeof *own);
        if (!own)
            return false;
        s->own = own;
        s->own_room = room;
    }
    s->own[s->own_count++] = page;
    return true;
}

bool job_is_active(const struct job *j)
{
    for (uint32_t i = 0; i < j->g.n; i++)
        if (!j->sequences[i].ended && j->sequences[i].active)
            return true;
    return false;
}
