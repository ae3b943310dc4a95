#include "compute/train/feed.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/thread.h"

#include <stdlib.h>

// One step's data. While `task` runs only its thread touches what stands below it.
struct slot {
    struct feed *feed;
    uint32_t step;
    bool started; // for that step; else empty
    struct task *task;
    struct arena arena;
    uint32_t *rows;
    double epoch;
    struct step_data data;
    bool done;
    struct vireo_error why;
};

struct feed {
    struct feed_params p;
    struct slot slots[2]; // of even and odd steps
};

static void build(void *context)
{
    struct slot *s = context;
    const struct feed_params *p = &s->feed->p;
    s->done = step_data_build(p->model, p->spec, p->data, s->rows, p->spec->batch_size, p->with_target, &s->arena, &s->data,
                              &s->why);
}

static void empty(struct slot *s)
{
    task_wait(&s->task);
    if (s->done)
        step_data_finish(&s->data);
    arena_rewind(&s->arena, (struct arena_mark){0});
    s->started = s->done = false;
}

static void start(struct feed *f, struct slot *s, uint32_t step)
{
    empty(s);
    s->step = step;
    s->started = true;
    s->rows = arena_array(&s->arena, uint32_t, f->p.spec->batch_size);
    if (!s->rows) {
        vireo_fail_memory(&s->why, f->p.spec->batch_size * sizeof *s->rows);
        return;
    }
    order_batch(f->p.order, step, s->rows, &s->epoch);
    s->task = task_start(build, s);
    if (!s->task) // no thread: now, then
        build(s);
}

struct feed *feed_create(const struct feed_params *p, struct vireo_error *err)
{
    struct feed *f = vireo_calloc(1, sizeof *f);
    if (!f) {
        vireo_fail_memory(err, sizeof *f);
        return NULL;
    }
    f->p = *p;
    for (int i = 0; i < 2; i++) {
        f->slots[i].feed = f;
        arena_init(&f->slots[i].arena, 1 << 18);
    }
    return f;
}

void feed_destroy(struct feed **feed)
{
    struct feed *f = *feed;
    if (!f)
        return;
    for (int i = 0; i < 2; i++) {
        empty(&f->slots[i]);
        arena_finish(&f->slots[i].arena);
    }
    free(f);
    *feed = NULL;
}

bool feed_take(struct feed *f, uint32_t step, const struct step_data **out, double *epoch, struct vireo_error *err)
{
    struct slot *s = &f->slots[step % 2], *next = &f->slots[(step + 1) % 2];
    if (!s->started || s->step != step)
        start(f, s, step);
    task_wait(&s->task);
    empty(next); // of the step before
    if (!s->done) {
        if (err)
            *err = s->why;
        return false;
    }
    if (step + 1 < f->p.total_steps)
        start(f, next, step + 1);
    *out = &s->data;
    if (epoch)
        *epoch = s->epoch;
    return true;
}
