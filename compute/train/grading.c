// A few threads take completions from a queue as they end, make their texts and run the grader. What a completion gets is
// written to itself alone, so that no result depends on which thread took it or when.
#include "compute/train/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/thread.h"

#include <stdlib.h>

enum { MOST_THREADS = 4, WORKERS }; // the last worker is the thread that waits

struct worker {
    struct grading *g;
    struct task *task;
    struct arena texts;   // arenas are not thread-safe: each thread has one
    size_t first_failed;  // completion; SIZE_MAX: none
    struct vireo_error why;
};

struct grading {
    const struct trainer *t;
    const struct step_data *d;
    struct completion *completions;
    size_t count, n;
    struct queue *ended;
    struct worker workers[WORKERS];
};

static bool decode_text(const struct model *m, struct completion *c, struct arena *a, struct vireo_error *err)
{
    struct token_text text = {0};
    if (!tokenizer_decode(m->tokenizer, c->ids, c->count, true, &text, err))
        return false;
    c->text = arena_copy_bytes(a, text.data ? text.data : "", text.length);
    c->text_bytes = text.length;
    token_text_free(&text);
    return c->text || vireo_fail_memory(err, c->text_bytes);
}

static bool grade(const struct grading *g, size_t i, struct arena *a, struct vireo_error *err)
{
    const struct example *e = &g->d->examples[i / g->n];
    struct completion *c = &g->completions[i];
    if (!decode_text(g->t->model, c, a, err))
        return false;
    struct grader_sample sample = {.text = c->text, .text_bytes = c->text_bytes, .tokens = c->count};
    if (e->prompt.image_count > 0) {
        const struct picture *p = &g->d->pictures[e->pictures[0]];
        uint32_t patch = g->t->model->config.vision.patch_size;
        sample.image_size[0] = p->width;
        sample.image_size[1] = p->height;
        sample.model_size[0] = p->patches.w * patch;
        sample.model_size[1] = p->patches.h * patch;
    }
    return grader_run(g->t->grader, &sample, e->sample->item, &c->grade, err);
}

static void work(void *context)
{
    struct worker *w = context;
    struct grading *g = w->g;
    for (struct completion *c; (c = queue_pop(g->ended, -1));) {
        const size_t i = (size_t)(c - g->completions);
        struct vireo_error why;
        if (!grade(g, i, &w->texts, &why) && i < w->first_failed) {
            w->first_failed = i;
            w->why = why;
        }
    }
}

struct grading *grading_begin(const struct trainer *t, const struct step_data *d, const struct rollout *r,
                              struct vireo_error *err)
{
    struct grading *g = vireo_calloc(1, sizeof *g);
    const size_t count = (size_t)r->examples * r->n;
    if (!g || !(g->ended = queue_create(count + 1))) {
        free(g);
        vireo_fail_memory(err, count * sizeof(void *));
        return NULL;
    }
    g->t = t;
    g->d = d;
    g->completions = r->completions;
    g->count = count;
    g->n = r->n;
    for (int i = 0; i < WORKERS; i++) {
        struct worker *w = &g->workers[i];
        *w = (struct worker){.g = g, .first_failed = SIZE_MAX};
        arena_init(&w->texts, 0);
        if (i < MOST_THREADS && i < thread_cores())
            w->task = task_start(work, w); // NULL: the others do its work
    }
    return g;
}

void grading_add(struct grading *g, struct completion *c)
{
    vireo_assert(queue_push(g->ended, c)); // it has room for all
}

bool grading_end(struct grading **grading, struct arena *a, struct vireo_error *err)
{
    struct grading *g = *grading;
    if (!g)
        return true;
    *grading = NULL;
    queue_close(g->ended);
    work(&g->workers[MOST_THREADS]);
    const struct worker *failed = NULL;
    for (int i = 0; i < WORKERS; i++) {
        struct worker *w = &g->workers[i];
        task_wait(&w->task);
        if (w->first_failed != SIZE_MAX && (!failed || w->first_failed < failed->first_failed))
            failed = w;
    }
    bool done = !failed;
    if (failed && err)
        *err = failed->why;
    for (size_t i = 0; done && a && i < g->count; i++) {
        struct completion *c = &g->completions[i];
        if (c->text && !(c->text = arena_copy_bytes(a, c->text, c->text_bytes)))
            done = vireo_fail_memory(err, c->text_bytes);
    }
    for (int i = 0; i < WORKERS; i++)
        arena_finish(&g->workers[i].texts);
    queue_destroy(&g->ended);
    free(g);
    return done;
}
