// What other threads ask for: new jobs; cancel, pause and resume; the place in the queue.
#include "server/jobs/internal.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "server/store/events.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

struct creating {
    struct store_job *row;
    struct vireo_error *err;
    bool done;
};

static void look(struct jobs *j, void *context)
{
    supervisor_look(j);
}

bool jobs_create(struct jobs *j, struct store_job *row, const struct store_idempotency *once, struct arena *a,
                 struct vireo_error *err)
{
    struct store_job *rows;
    size_t count;
    if (!store_job_unfinished(j->p.store, a, &rows, &count, err))
        return false;
    if (count >= (size_t)j->p.job_limit)
        return vireo_fail_kind(err, VIREO_RATE_LIMITED, "queue_full", NULL, "%zu jobs are unfinished; the limit is %d.", count,
                               j->p.job_limit);
    struct store_event e = {.level = "info", .type = "message", .step = -1, .data = "{\"status\":\"validating_files\"}"};
    e.message = arena_format(a, "Created fine-tuning job: %s", row->id);
    row->status = job_state_name(JOB_VALIDATING);
    row->eta_seconds = -1;
    if (!store_job_add(j->p.store, row, &e, 1, once, a, err))
        return false;
    vireo_fault("job.created");
    supervisor_post(j, look, NULL);
    return true;
}

struct controlling {
    const char *id;
    enum job_action action;
    struct vireo_error *err;
    bool done;
};

static bool refuse_action(const struct store_job *job, enum job_action action, struct vireo_error *err)
{
    static const char *const verbs[] = {"cancelled", "paused", "resumed"};
    return vireo_fail_kind(err, VIREO_INVALID, "invalid_state", NULL, "A job that is '%s' cannot be %s.", job->status,
                           verbs[action]);
}

static bool cancel_job(struct jobs *j, struct store_job *job, struct vireo_error *err)
{
    if (job_state_from_name(job->status) == JOB_CANCELLED)
        return true;
    if (!job_move(j, job, 0, JOB_ASKED_CANCEL, "info", "The job was cancelled."))
        return vireo_fail(err, VIREO_IO, "The job could not be cancelled: the store refused.");
    for (int kind = 0; kind < 2; kind++) {
        struct run *r = j->runs[kind];
        if (!r || strcmp(r->id, job->id) != 0)
            continue;
        r->cancelled = true;
        if (kind == RUN_TRAIN) {
            run_order(r, "cancel");
            child_kill(r->child, 60);
        } else {
            process_kill(&r->child->p);
        }
    }
    return true;
}

static bool pause_job(struct jobs *j, struct store_job *job, struct vireo_error *err)
{
    enum job_state state = job_state_from_name(job->status);
    struct run *r = j->runs[RUN_TRAIN];
    if (state == JOB_PAUSED)
        return true;
    if (state == JOB_QUEUED) {
        job->paused_at = clock_unix();
        return job_move(j, job, STORE_JOB_PAUSED, JOB_ASKED_PAUSE, "info", "The job was paused.") ||
               vireo_fail(err, VIREO_IO, "The job could not be paused: the store refused.");
    }
    // Durable before it is answered: a server that dies now finds the wish and pauses the job.
    json_t *progress = job->progress ? vireo_json_parse(job->progress, strlen(job->progress), NULL) : NULL;
    if (!progress)
        progress = json_object();
    json_object_set_new(progress, "pause_requested", json_true());
    char *text = json_dumps(progress, JSON_COMPACT);
    json_decref(progress);
    job->progress = text;
    bool done = text && store_job_update(j->p.store, job, STORE_JOB_PROGRESS, job->status, NULL, 0, err);
    free(text);
    if (done && r && strcmp(r->id, job->id) == 0) {
        r->pause_asked = true;
        run_order(r, "pause");
    }
    return done;
}

static bool resume_job(struct jobs *j, struct store_job *job, struct vireo_error *err)
{
    json_t *progress = job->progress ? vireo_json_parse(job->progress, strlen(job->progress), NULL) : NULL;
    if (!progress)
        progress = json_object();
    json_object_del(progress, "pause_requested");
    char *text = json_dumps(progress, JSON_COMPACT);
    json_decref(progress);
    job->progress = text;
    job->paused_at = 0;
    job->attempts = 0;
    bool done = text && job_move(j, job, STORE_JOB_PROGRESS | STORE_JOB_PAUSED | STORE_JOB_ATTEMPTS, JOB_ASKED_RESUME, "info",
                                 "The job was resumed.");
    free(text);
    return done || vireo_fail(err, VIREO_IO, "The job could not be resumed: the store refused.");
}

static void control(struct jobs *j, void *context)
{
    static const enum job_event events[] = {JOB_ASKED_CANCEL, JOB_ASKED_PAUSE, JOB_ASKED_RESUME};
    struct controlling *c = context;
    struct arena arena;
    struct store_job job;
    arena_init(&arena, 0);
    c->done = store_job_find(j->p.store, c->id, &arena, &job, c->err);
    if (c->done && job_next_state(job_state_from_name(job.status), events[c->action]) == JOB_STATES)
        c->done = refuse_action(&job, c->action, c->err);
    if (c->done)
        c->done = c->action == JOB_CANCEL  ? cancel_job(j, &job, c->err)
                  : c->action == JOB_PAUSE ? pause_job(j, &job, c->err)
                                           : resume_job(j, &job, c->err);
    arena_finish(&arena);
}

bool jobs_control(struct jobs *j, const char *id, enum job_action action, struct vireo_error *err)
{
    struct controlling c = {.id = id, .action = action, .err = err};
    return supervisor_call(j, control, &c, err) && c.done;
}

int jobs_queue_position(struct jobs *j, const char *id)
{
    struct arena arena;
    struct store_job *rows;
    size_t count;
    int place = 0, found = 0;
    arena_init(&arena, 0);
    if (store_job_unfinished(j->p.store, &arena, &rows, &count, NULL))
        for (size_t i = 0; i < count && !found; i++) {
            place += job_state_from_name(rows[i].status) == JOB_QUEUED;
            if (strcmp(rows[i].id, id) == 0 && job_state_from_name(rows[i].status) == JOB_QUEUED)
                found = place;
        }
    arena_finish(&arena);
    return found;
}
