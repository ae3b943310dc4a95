// Fine-tuning jobs: from the queue to a worker and back. The store's status is the truth; what is here is about the worker that
// runs now.
#include "server/jobs/internal.h"

#include "compute/base/clock.h"
#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/wire/spec.h"
#include "server/store/blob.h"
#include "server/store/checkpoints.h"
#include "server/store/events.h"
#include "server/store/files.h"
#include "server/store/metrics.h"
#include "server/store/rollouts.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

enum { TEXT = 640 };

static void changed(struct jobs *j, const char *id)
{
    if (j->p.changed)
        j->p.changed(j->p.context, id);
}

const char *job_cache_folder(struct jobs *j, struct arena *a)
{
    return arena_format(a, "%s/cache", store_folder(j->p.store));
}

void job_log(struct jobs *j, const char *id, const char *level, const char *fmt, ...)
{
    char text[TEXT];
    struct vireo_error err;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    struct store_event e = {.job_id = id, .level = level, .type = "message", .message = text, .step = -1};
    if (!store_event_add(j->p.store, &e, 1, &err))
        log_error("%s job=%s", err.message, id);
    changed(j, id);
}

// One transition with its event, atomically. False: the store refused (for instance because the job was cancelled meanwhile).
static bool move(struct jobs *j, struct store_job *job, unsigned mask, enum job_event event, const char *level,
                 const char *message)
{
    struct vireo_error err;
    enum job_state from = job_state_from_name(job->status), to = job_next_state(from, event);
    vireo_assert(to < JOB_STATES);
    char data[64];
    snprintf(data, sizeof data, "{\"status\":\"%s\"}", job_state_name(to));
    struct store_event e = {.level = level, .type = "message", .message = message, .data = data, .step = -1};
    const char *expected = job->status;
    job->status = job_state_name(to);
    if (job_state_is_final(to)) {
        job->finished_at = clock_unix();
        mask |= STORE_JOB_FINISHED;
    }
    bool done = store_job_update(j->p.store, job, mask | STORE_JOB_STATUS, expected, &e, 1, &err);
    if (!done)
        log_error("%s job=%s", err.message, job->id);
    changed(j, job->id);
    supervisor_look(j);
    return done;
}

static const char *error_json(const struct vireo_error *err, struct arena *a)
{
    const char *code = err->kind[0] ? err->kind : vireo_code_name(err->code);
    json_t *full = message_error(err), *o = json_object();
    json_object_set_new(o, "code", json_string(code));
    json_object_set(o, "message", json_object_get(full, "message"));
    json_object_set_new(o, "param", err->param[0] ? json_incref(json_object_get(full, "param")) : json_null());
    char *text = json_dumps(o, JSON_COMPACT);
    const char *copy = arena_copy_string(a, text ? text : "{}");
    free(text);
    json_decref(full);
    json_decref(o);
    return copy;
}

static void fail_job(struct jobs *j, struct store_job *job, const struct vireo_error *err, struct arena *a)
{
    char message[TEXT];
    snprintf(message, sizeof message, "The job failed: %s", err->message);
    job->error = error_json(err, a);
    move(j, job, STORE_JOB_ERROR, JOB_BROKEN, "error", message);
    log_warn("job failed job=%s: %s", job->id, err->message);
}

// ---- back-off

static double waiting_until(const struct jobs *j, const char *id)
{
    for (const struct back_off *b = j->back_offs; b; b = b->next)
        if (strcmp(b->id, id) == 0)
            return b->until;
    return 0;
}

static void wait_for(struct jobs *j, const char *id, double seconds)
{
    struct back_off *b = j->back_offs;
    while (b && strcmp(b->id, id) != 0)
        b = b->next;
    if (!b && (b = vireo_calloc(1, sizeof *b))) {
        snprintf(b->id, sizeof b->id, "%s", id);
        b->next = j->back_offs;
        j->back_offs = b;
    }
    if (b)
        b->until = clock_seconds() + seconds;
    if (!j->look_at || j->look_at > clock_seconds() + seconds)
        j->look_at = clock_seconds() + seconds;
}

// ---- runs

static struct run *run_create(struct jobs *j, enum run_kind kind, const char *id)
{
    struct run *r = vireo_calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->kind = kind;
    snprintf(r->id, sizeof r->id, "%s", id);
    arena_init(&r->arena, 0);
    j->runs[kind] = r;
    return r;
}

static void run_free(struct jobs *j, struct run *r)
{
    j->runs[r->kind] = NULL;
    json_decref(r->resolved);
    json_decref(r->issues);
    json_decref(r->result);
    arena_finish(&r->arena);
    free(r);
}

// The job's struct job_spec as JSON with ids turned into paths; a new reference.
static json_t *spec_of(struct jobs *j, struct run *r, const struct store_job *job, struct vireo_error *err)
{
    struct arena *a = &r->arena;
    struct store_model model;
    struct store_file training, validation;
    char path[BLOB_PATH];
    const char *folder = store_folder(j->p.store);
    json_t *spec = json_deep_copy(json_object_get(r->resolved, "spec"));
    bool done = spec || vireo_fail_memory(err, 1024);
    done = done && store_model_find(j->p.store, job->model, a, &model, err);
    done = done && store_file_find(j->p.store, job->training_file, a, &training, err);
    done = done && (!job->validation_file || store_file_find(j->p.store, job->validation_file, a, &validation, err));
    if (done) {
        json_object_set_new(spec, "id", json_string(job->id));
        json_object_set_new(spec, "model_folder", json_string(store_model_path(j->p.store, &model, a)));
        blob_path(j->p.store, training.sha256, path);
        json_object_set_new(spec, "training_file", json_string(path));
        if (job->validation_file && blob_path(j->p.store, validation.sha256, path))
            json_object_set_new(spec, "validation_file", json_string(path));
        json_object_set_new(spec, "work_folder", json_string(arena_format(a, "%s/jobs/%s", folder, job->id)));
        json_object_set_new(spec, "output_folder", json_string(arena_format(a, "%s/models/ft-%s", folder, job->id)));
        if (j->p.device)
            json_object_set_new(spec, "device", json_string(j->p.device));
    } else {
        json_decref(spec);
        spec = NULL;
    }
    return spec;
}

static bool open_run(struct jobs *j, struct run *r, const struct store_job *job, struct vireo_error *err)
{
    r->resolved = job->resolved ? vireo_json_parse(job->resolved, strlen(job->resolved), err) : NULL;
    if (!r->resolved && !job->resolved)
        vireo_fail(err, VIREO_INTERNAL, "the job has no resolved values");
    const char *name = json_string_value(json_object_get(r->resolved, "fine_tuned_model"));
    r->model_name = name ? arena_copy_string(&r->arena, name) : job->id;
    r->attempts = job->attempts;
    r->total_steps = job->total_steps;
    return r->resolved != NULL;
}

static const char *images_file(struct jobs *j, const char *id, struct arena *a)
{
    return arena_format(a, "%s/jobs/%s/images.json", store_folder(j->p.store), id);
}

// ---- validation of files

static void check_frame(struct jobs *j, struct child *c, json_t *message)
{
    struct run *r = c->owner;
    switch (message_kind_of(message)) {
    case MESSAGE_CHECKED:
        r->end = END_DONE;
        r->result = json_incref(message);
        break;
    case MESSAGE_FAILED:
        r->end = END_FAILED;
        message_read_error(json_object_get(message, "error"), &r->error);
        r->issues = json_incref(json_object_get(message, "issues"));
        break;
    default: break;
    }
}

static bool keep_images(struct jobs *j, struct run *r, struct vireo_error *err)
{
    json_t *digests = NULL;
    if (!references_resolve(j, json_object_get(r->result, "references"), &digests, err))
        return false;
    const char *path = images_file(j, r->id, &r->arena);
    char *text = json_dumps(digests, JSON_COMPACT), *folder = arena_copy_string(&r->arena, path);
    bool done = text && folder;
    if (done) {
        *strrchr(folder, '/') = 0;
        done = file_make_folders(folder, err) && file_write_atomic(path, text, strlen(text), err);
    } else {
        vireo_fail_memory(err, 1024);
    }
    free(text);
    json_decref(digests);
    return done;
}

static void validated(struct jobs *j, struct run *r, struct store_job *job)
{
    struct vireo_error err;
    if (!keep_images(j, r, &err)) {
        fail_job(j, job, &err, &r->arena);
        return;
    }
    json_t *progress = json_object();
    json_object_set(progress, "plan", json_object_get(r->result, "plan"));
    json_object_set(progress, "rows", json_object_get(r->result, "rows"));
    json_object_set(progress, "validation_rows", json_object_get(r->result, "validation_rows"));
    char *text = json_dumps(progress, JSON_COMPACT), message[TEXT];
    json_decref(progress);
    const json_t *plan = json_object_get(r->result, "plan");
    double total = json_number_value(json_object_get(plan, "total")) / (1 << 20);
    job->progress = text;
    job->eta_seconds = -1;
    snprintf(message, sizeof message,
             "Files validated (%d rows), moving job to queued state. Memory plan: %.1f MiB (weights %.1f, gradients %.1f, "
             "optimizer %.1f, reference %.1f, kv %.1f, activations %.1f).",
             (int)json_integer_value(json_object_get(r->result, "rows")), total,
             json_number_value(json_object_get(plan, "weights")) / (1 << 20),
             json_number_value(json_object_get(plan, "gradients")) / (1 << 20),
             json_number_value(json_object_get(plan, "optimizer")) / (1 << 20),
             json_number_value(json_object_get(plan, "reference")) / (1 << 20),
             json_number_value(json_object_get(plan, "kv")) / (1 << 20),
             json_number_value(json_object_get(plan, "activations")) / (1 << 20));
    move(j, job, STORE_JOB_PROGRESS, JOB_VALIDATED, "info", message);
    free(text);
}

static void check_exit(struct jobs *j, struct child *c, int status, const char *reason)
{
    struct run *r = c->owner;
    struct store_job job;
    struct vireo_error err;
    if (r->draining || !store_job_find(j->p.store, r->id, &r->arena, &job, &err) ||
        job_state_from_name(job.status) != JOB_VALIDATING) {
        run_free(j, r);
        return;
    }
    if (r->end == END_DONE) {
        validated(j, r, &job);
    } else if (r->end == END_FAILED) {
        size_t i;
        json_t *issue;
        json_array_foreach (r->issues, i, issue)
            job_log(j, r->id, "error", "%.600s", json_string_value(issue));
        fail_job(j, &job, &r->error, &r->arena);
    } else {
        // What these bytes did to the sandboxed reader they would do again.
        vireo_fail_kind(&err, VIREO_INVALID, "invalid_file_format", "training_file",
                        "The files could not be validated. %s", reason);
        fail_job(j, &job, &err, &r->arena);
    }
    run_free(j, r);
}

static void start_check(struct jobs *j, struct store_job *job)
{
    struct vireo_error err = {0};
    struct run *r = run_create(j, RUN_CHECK, job->id);
    if (!r)
        return;
    json_t *spec = open_run(j, r, job, &err) ? spec_of(j, r, job, &err) : NULL;
    r->child = spec ? child_start(j, "data", true, &err) : NULL;
    if (!r->child) {
        json_decref(spec);
        if (err.code == VIREO_NOT_FOUND || err.code == VIREO_INVALID)
            fail_job(j, job, &err, &r->arena);
        else
            wait_for(j, job->id, 10);
        log_error("%s job=%s", err.message, job->id);
        run_free(j, r);
        return;
    }
    job_log(j, job->id, "info", "Validating training file: %s%s%s", job->training_file,
            job->validation_file ? " and validation file: " : "", job->validation_file ? job->validation_file : "");
    r->child->owner = r;
    r->child->on_frame = check_frame;
    r->child->on_exit = check_exit;
    child_kill(r->child, 600);
    json_t *m = message_new(MESSAGE_CHECK);
    json_object_set_new(m, "spec", spec);
    json_object_set_new(m, "available", json_integer((json_int_t)j->budget));
    process_send(&r->child->p, m);
}

// ---- training

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
    char message[TEXT];
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
    changed(j, r->id);
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
    changed(j, r->id);
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
    char message[TEXT];
    if (!worth_retrying(r)) {
        fail_job(j, job, &r->error, &r->arena);
        return;
    }
    if (job->attempts >= JOB_ATTEMPTS) {
        struct vireo_error err;
        vireo_fail_kind(&err, VIREO_INTERNAL, r->end == END_FAILED && r->error.kind[0] ? r->error.kind : "worker_failed", NULL,
                        "%d attempts without progress; the last one: %.400s", (int)job->attempts, why);
        fail_job(j, job, &err, &r->arena);
        return;
    }
    double wait = job_backoff_seconds((int)job->attempts + 1);
    snprintf(message, sizeof message, "The worker was lost (attempt %d of %d): %.420s The job resumes in %.0f s.",
             (int)job->attempts, JOB_ATTEMPTS, why, wait);
    wait_for(j, r->id, wait);
    move(j, job, 0, JOB_LOST, "warn", message);
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
        move(j, &job, STORE_JOB_PAUSED, JOB_STOPPED, "info", "The job was paused.");
    } else if (r->draining) {
        // Whether it wrote its checkpoint or was cut: it goes on from the last one. A shutdown is no failed attempt.
        job.attempts = 0;
        move(j, &job, STORE_JOB_ATTEMPTS, JOB_LOST, "info", "The server is shutting down; the job resumes when it is back.");
    } else if (r->end == END_FAILED && r->error.code == VIREO_NO_SPACE) {
        job.paused_at = clock_unix();
        char message[TEXT];
        snprintf(message, sizeof message, "Paused: the disk is full (%.400s). Free some space, then resume the job.",
                 r->error.message);
        move(j, &job, STORE_JOB_PAUSED, JOB_STOPPED, "error", message);
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
        wait_for(j, job->id, 5);
        return false;
    }
    json_t *spec = open_run(j, r, job, &err) ? spec_of(j, r, job, &err) : NULL;
    json_t *digests = spec ? vireo_json_load(images_file(j, job->id, &r->arena), (size_t)64 << 20, &err) : NULL;
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
            wait_for(j, job->id, 10);
        else
            fail_job(j, job, &err, &r->arena);
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
    if (!move(j, job, mask, JOB_STARTED, "info", job->attempts > 1 || job->step > 0 ? "A worker takes the job up again." :
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
        double until = waiting_until(j, job->id);
        if (until > now) {
            if (!j->look_at || j->look_at > until)
                j->look_at = until;
            continue;
        }
        // Both need to know the devices: the plan is held against their memory.
        if (!j->devices)
            break;
        if (state == JOB_VALIDATING && !j->runs[RUN_CHECK])
            start_check(j, job);
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
        done = pause ? move(j, &rows[i], STORE_JOB_ATTEMPTS | STORE_JOB_PAUSED, JOB_STOPPED, "info",
                            "The job was paused (the server had stopped meanwhile).")
                     : move(j, &rows[i], STORE_JOB_ATTEMPTS, JOB_LOST, "warn",
                            "The server was restarted; the job resumes from its last durable step.");
        if (!done)
            vireo_fail(err, VIREO_IO, "job %s could not be recovered", rows[i].id);
        log_info("recovered job=%s", rows[i].id);
    }
    arena_finish(&arena);
    return done;
}

static void order(struct run *r, const char *what)
{
    json_t *m = message_new(MESSAGE_ORDER);
    if (m)
        json_object_set_new(m, "order", json_string(what));
    process_send(&r->child->p, m);
}

void training_drain(struct jobs *j)
{
    struct run *train = j->runs[RUN_TRAIN];
    if (train) {
        train->draining = true;
        order(train, "pause");
    }
    for (int kind = 0; kind < 3; kind++)
        if (kind != RUN_TRAIN && j->runs[kind]) {
            j->runs[kind]->draining = true;
            process_kill(&j->runs[kind]->child->p);
        }
}

// ---- what other threads ask for

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
    if (!move(j, job, 0, JOB_ASKED_CANCEL, "info", "The job was cancelled."))
        return vireo_fail(err, VIREO_IO, "The job could not be cancelled: the store refused.");
    for (int kind = 0; kind < 2; kind++) {
        struct run *r = j->runs[kind];
        if (!r || strcmp(r->id, job->id) != 0)
            continue;
        r->cancelled = true;
        if (kind == RUN_TRAIN) {
            order(r, "cancel");
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
        return move(j, job, STORE_JOB_PAUSED, JOB_ASKED_PAUSE, "info", "The job was paused.") ||
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
        order(r, "pause");
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
    bool done = text && move(j, job, STORE_JOB_PROGRESS | STORE_JOB_PAUSED | STORE_JOB_ATTEMPTS, JOB_ASKED_RESUME, "info",
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
