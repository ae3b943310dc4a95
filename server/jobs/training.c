// Fine-tuning jobs: from the queue to a worker and back. The store's status is the truth; what is here is about the worker that
// runs now.
#include "server/jobs/internal.h"

#include "compute/base/clock.h"
#include "compute/base/json.h"
#include "compute/wire/spec.h"
#include "server/store/blob.h"
#include "server/store/checkpoints.h"
#include "server/store/events.h"
#include "server/store/metrics.h"
#include "server/store/rollouts.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

static void started(struct jobs *j, struct run *r, const json_t *facts)
{
    struct vireo_error err;
    struct store_job job;
    int64_t from = json_integer_value(json_object_get(facts, "resumed_from"));
    r->total_steps = json_integer_value(json_object_get(facts, "total_steps"));
    if (r->cancelled || !store_job_find(j->p.store, r->id, &r->arena, &job, &err))
        return;
    // Steps behind the checkpoint are computed again: their rows go, so that none appears twice.
    if (!store_job_rewind(j->p.store, r->id, from, NULL, 0, &err))
        log_error("%s job=%s", err.message, r->id);
    if (from > 0)
        checkpoint_restore(j, r, from);
    json_t *progress = job.progress ? vireo_json_parse(job.progress, strlen(job.progress), NULL) : json_object();
    if (!progress)
        progress = json_object();
    json_object_set(progress, "facts", (json_t *)facts);
    if (from > 0)
        json_object_set_new(progress, "resumed", json_integer(json_integer_value(json_object_get(progress, "resumed")) + 1));
    char *text = json_dumps(progress, JSON_COMPACT);
    json_decref(progress);
    job.progress = text;
    job.step = from;
    job.total_steps = r->total_steps;
    job.eta_seconds = -1;
    struct store_event e = {.level = "info", .type = "message", .step = -1};
    char message[JOB_TEXT];
    const char *device = json_string_value(json_object_get(facts, "device"));
    if (from > 0)
        snprintf(message, sizeof message, "Resumed from the checkpoint of step %d.", (int)from);
    else
        snprintf(message, sizeof message, "Fine-tuning job started: %d steps on %.120s.", (int)r->total_steps,
                 device ? device : "the device");
    e.message = message;
    if (!store_job_update(j->p.store, &job, STORE_JOB_PROGRESS, NULL, &e, 1, &err))
        log_error("%s job=%s", err.message, r->id);
    free(text);
    job_changed(j, r->id);
}

static void acknowledge(struct run *r, int64_t step)
{
    json_t *m = message_new(MESSAGE_ACK);
    if (m)
        json_object_set_new(m, "step", json_integer(step));
    process_send(&r->child->p, m);
}

static void metrics(struct jobs *j, struct run *r, const json_t *message)
{
    struct vireo_error err;
    const json_t *values = json_object_get(message, "metrics"), *timing = json_object_get(values, "timing");
    int64_t step = json_integer_value(json_object_get(message, "step"));
    if (r->cancelled) {
        acknowledge(r, step);
        return;
    }
    json_t *data = metrics_event(r, values);
    char *text = json_dumps(values, JSON_COMPACT), *data_text = json_dumps(data, JSON_COMPACT), line[256];
    struct store_event e = {.job_id = r->id,
                            .level = "info",
                            .type = "metrics",
                            .message = metrics_message(values, line, sizeof line),
                            .data = data_text,
                            .step = step};
    struct store_metric row = {.step = step, .values = text, .created_at = clock_unix()};
    struct store_progress progress = {.step = step,
                                      .total_steps = r->total_steps,
                                      .trained_tokens = json_integer_value(json_object_get(values, "num_tokens")),
                                      .eta_seconds = json_number_value(json_object_get(timing, "eta_seconds"))};
    bool done = text && data_text && store_metric_add(j->p.store, r->id, &row, &progress, &e, &err);
    free(text);
    free(data_text);
    json_decref(data);
    if (!done) { // nothing can be recorded any more: going on would train what nobody sees
        log_error("the metrics of step %lld could not be stored job=%s", (long long)step, r->id);
        process_kill(&r->child->p);
        return;
    }
    acknowledge(r, step);
    job_changed(j, r->id);
}

static void groups(struct jobs *j, struct run *r, const json_t *message)
{
    struct vireo_error err;
    const json_t *list = json_object_get(message, "groups");
    size_t count = json_array_size(list), total = 0;
    if (r->cancelled || !count)
        return;
    struct arena arena;
    arena_init(&arena, 0);
    struct store_group *rows = arena_array(&arena, struct store_group, count);
    for (size_t i = 0; rows && i < count; i++) {
        json_t *g = json_array_get(list, i), *samples = json_incref(json_object_get(g, "samples"));
        const char *row_id = json_string_value(json_object_get(g, "row_id"));
        size_t n = json_array_size(samples);
        rows[i] = (struct store_group){.job_id = r->id,
                                       .row_id = arena_copy_string(&arena, row_id ? row_id : ""),
                                       .step = json_integer_value(json_object_get(message, "step")),
                                       .index = (int64_t)i,
                                       .reward_mean = json_number_value(json_object_get(g, "mean_reward")),
                                       .reward_std = json_number_value(json_object_get(g, "reward_std")),
                                       .samples = arena_array(&arena, struct store_sample, n + 1),
                                       .sample_count = n};
        json_object_del(g, "samples");
        char *text = json_dumps(g, JSON_COMPACT);
        rows[i].data = arena_copy_string(&arena, text ? text : "{}");
        free(text);
        for (size_t k = 0; rows[i].samples && k < n; k++) {
            text = json_dumps(json_array_get(samples, k), JSON_COMPACT);
            rows[i].samples[k].data = arena_copy_string(&arena, text ? text : "{}");
            free(text);
        }
        total += n;
        json_decref(samples);
    }
    if (arena_failed(&arena) || !store_group_add(j->p.store, rows, count, &arena, &err))
        log_error("%zu completions of job=%s were not stored", total, r->id);
    arena_finish(&arena);
}

static void train_frame(struct jobs *j, struct child *c, json_t *message)
{
    struct run *r = c->owner;
    switch (message_kind_of(message)) {
    case MESSAGE_STARTED: started(j, r, json_object_get(message, "facts")); break;
    case MESSAGE_METRICS: metrics(j, r, message); break;
    case MESSAGE_GROUPS: groups(j, r, message); break;
    case MESSAGE_CHECKPOINT:
        if (!r->cancelled)
            checkpoint_reported(j, r, message);
        break;
    case MESSAGE_EVENT:
        job_log(j, r->id, json_string_value(json_object_get(message, "level")), "%s",
                json_string_value(json_object_get(message, "message")));
        break;
    case MESSAGE_DONE:
        r->end = END_DONE;
        r->result = json_incref(json_object_get(message, "result"));
        break;
    case MESSAGE_CANCELLED: r->end = END_CANCELLED; break;
    case MESSAGE_PAUSED: r->end = END_PAUSED; break;
    case MESSAGE_FAILED:
        r->end = END_FAILED;
        message_read_error(json_object_get(message, "error"), &r->error);
        break;
    default: break;
    }
}

// Whether another attempt may help: signals, lost devices and I/O yes; bad data, bad values and what does not fit, no.
static bool worth_retrying(const struct run *r)
{
    if (r->end != END_FAILED)
        return true;
    switch (r->error.code) {
    case VIREO_DEVICE_LOST:
    case VIREO_IO:
    case VIREO_UNAVAILABLE:
    case VIREO_NO_MEMORY: return true;
    default: return false;
    }
}

static void attempt_lost(struct jobs *j, struct run *r, struct store_job *job, const char *reason)
{
    const char *why = r->end == END_FAILED ? r->error.message : reason;
    char message[JOB_TEXT];
    if (!worth_retrying(r)) {
        job_fail(j, job, &r->error, &r->arena);
        return;
    }
    if (job->attempts >= JOB_ATTEMPTS) {
        struct vireo_error err;
        vireo_fail_kind(&err, VIREO_INTERNAL, r->end == END_FAILED && r->error.kind[0] ? r->error.kind : "worker_failed", NULL,
                        "%d attempts without progress; the last one: %.400s", (int)job->attempts, why);
        job_fail(j, job, &err, &r->arena);
        return;
    }
    double wait = job_backoff_seconds((int)job->attempts + 1);
    snprintf(message, sizeof message, "The worker was lost (attempt %d of %d): %.420s The job resumes in %.0f s.",
             (int)job->attempts, JOB_ATTEMPTS, why, wait);
    job_wait(j, r->id, wait);
    job_move(j, job, 0, JOB_LOST, "warn", message);
}

static void train_exit(struct jobs *j, struct child *c, int status, const char *reason)
{
    struct run *r = c->owner;
    struct store_job job;
    struct vireo_error err;
    if (r->cancelled || !store_job_find(j->p.store, r->id, &r->arena, &job, &err) ||
        job_state_from_name(job.status) != JOB_RUNNING) {
        run_free(j, r);
        return;
    }
    if (r->end == END_DONE && status == WORKER_DONE) {
        training_succeeded(j, r);
    } else if (r->end == END_PAUSED && !r->draining) {
        job.paused_at = clock_unix();
        job_move(j, &job, STORE_JOB_PAUSED, JOB_STOPPED, "info", "The job was paused.");
    } else if (r->draining) {
        // Whether it wrote its checkpoint or was cut: it goes on from the last one. A shutdown is no failed attempt.
        job.attempts = 0;
        job_move(j, &job, STORE_JOB_ATTEMPTS, JOB_LOST, "info", "The server is shutting down; the job resumes when it is back.");
    } else if (r->end == END_FAILED && r->error.code == VIREO_NO_SPACE) {
        job.paused_at = clock_unix();
        char message[JOB_TEXT];
        snprintf(message, sizeof message, "Paused: the disk is full (%.400s). Free some space, then resume the job.",
                 r->error.message);
        job_move(j, &job, STORE_JOB_PAUSED, JOB_STOPPED, "error", message);
    } else {
        attempt_lost(j, r, &job, reason);
    }
    run_free(j, r);
}

// Device bytes the job may take: 0 means that it must wait until chat models have gone.
static bool grant(struct jobs *j, struct run *r, const struct store_job *job)
{
    json_t *progress = job->progress ? vireo_json_parse(job->progress, strlen(job->progress), NULL) : NULL;
    json_t *total = json_object_get(json_object_get(progress, "plan"), "total");
    uint64_t need = (uint64_t)json_integer_value(total), other = j->runs[RUN_EVALUATE] ? j->runs[RUN_EVALUATE]->granted : 0;
    json_decref(progress);
    while (j->budget && need + other + inference_bytes(j) > j->budget && inference_evict_idle(j)) {
    }
    r->granted = need;
    return !j->budget || need + other + inference_bytes(j) <= j->budget || inference_bytes(j) + other == 0;
}

static bool start_training(struct jobs *j, struct store_job *job)
{
    struct vireo_error err = {0};
    struct run *r = run_create(j, RUN_TRAIN, job->id);
    if (!r)
        return false;
    if (!grant(j, r, job)) { // it waits for memory that chats use; looked at again when they end
        run_free(j, r);
        job_wait(j, job->id, 5);
        return false;
    }
    json_t *spec = run_open(j, r, job, &err) ? run_spec(j, r, job, &err) : NULL;
    json_t *digests = spec ? vireo_json_load(run_images_file(j, job->id, &r->arena), (size_t)64 << 20, &err) : NULL;
    if (digests) {
        json_object_set_new(spec, "images", references_paths(j, digests));
        json_object_set_new(spec, "memory_limit",
                            json_integer((json_int_t)(j->budget > inference_bytes(j) ? j->budget - inference_bytes(j) : 0)));
    }
    if (digests)
        r->child = child_start(j, "train", job->attempts == 0, &err);
    json_decref(digests);
    if (!r->child) {
        json_decref(spec);
        if (err.code == VIREO_UNAVAILABLE)
            job_wait(j, job->id, 10);
        else
            job_fail(j, job, &err, &r->arena);
        run_free(j, r);
        return false;
    }
    r->child->owner = r;
    r->child->on_frame = train_frame;
    r->child->on_exit = train_exit;
    job->attempts++;
    unsigned mask = STORE_JOB_ATTEMPTS;
    if (!job->started_at) {
        job->started_at = clock_unix();
        mask |= STORE_JOB_STARTED;
    }
    r->attempts = job->attempts;
    if (!job_move(j, job, mask, JOB_STARTED, "info", job->attempts > 1 || job->step > 0 ? "A worker takes the job up again." :
                                                                                         "A worker takes the job up.")) {
        json_decref(spec);
        r->cancelled = true;
        process_kill(&r->child->p);
        return false;
    }
    json_t *m = message_new(MESSAGE_RUN);
    json_object_set_new(m, "spec", spec);
    json_object_set_new(m, "cache_folder", json_string(job_cache_folder(j, &r->arena)));
    process_send(&r->child->p, m);
    return true;
}

void training_tick(struct jobs *j)
{
    struct arena arena;
    struct store_job *rows = NULL;
    size_t count = 0;
    struct vireo_error err;
    if (j->draining || (j->runs[RUN_CHECK] && j->runs[RUN_TRAIN]))
        return;
    arena_init(&arena, 0);
    if (!store_job_unfinished(j->p.store, &arena, &rows, &count, &err))
        log_error("%s", err.message);
    double now = clock_seconds();
    for (size_t i = 0; i < count; i++) {
        struct store_job *job = &rows[i];
        enum job_state state = job_state_from_name(job->status);
        double until = job_waits_until(j, job->id);
        if (until > now) {
            if (!j->look_at || j->look_at > until)
                j->look_at = until;
            continue;
        }
        // Both need to know the devices: the plan is held against their memory.
        if (!j->devices)
            break;
        if (state == JOB_VALIDATING && !j->runs[RUN_CHECK])
            validation_start(j, job);
        else if (state == JOB_QUEUED && !j->runs[RUN_TRAIN])
            start_training(j, job);
    }
    arena_finish(&arena);
}

bool training_recover(struct jobs *j, struct vireo_error *err)
{
    struct arena arena;
    struct store_job *rows;
    size_t count;
    arena_init(&arena, 0);
    bool done = store_job_unfinished(j->p.store, &arena, &rows, &count, err);
    for (size_t i = 0; done && i < count; i++) {
        if (job_state_from_name(rows[i].status) != JOB_RUNNING)
            continue;
        json_t *progress = rows[i].progress ? vireo_json_parse(rows[i].progress, strlen(rows[i].progress), NULL) : NULL;
        bool pause = json_is_true(json_object_get(progress, "pause_requested"));
        json_decref(progress);
        rows[i].attempts = 0; // the server went away, not the job's worker
        rows[i].paused_at = clock_unix();
        done = pause ? job_move(j, &rows[i], STORE_JOB_ATTEMPTS | STORE_JOB_PAUSED, JOB_STOPPED, "info",
                                "The job was paused (the server had stopped meanwhile).")
                     : job_move(j, &rows[i], STORE_JOB_ATTEMPTS, JOB_LOST, "warn",
                                "The server was restarted; the job resumes from its last durable step.");
        if (!done)
            vireo_fail(err, VIREO_IO, "job %s could not be recovered", rows[i].id);
        log_info("recovered job=%s", rows[i].id);
    }
    arena_finish(&arena);
    return done;
}

void training_drain(struct jobs *j)
{
    struct run *train = j->runs[RUN_TRAIN];
    if (train) {
        train->draining = true;
        run_order(train, "pause");
    }
    for (int kind = 0; kind < 3; kind++)
        if (kind != RUN_TRAIN && j->runs[kind]) {
            j->runs[kind]->draining = true;
            process_kill(&j->runs[kind]->child->p);
        }
}
