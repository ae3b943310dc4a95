// What validation, training and control of a job share: its transitions with their events, back-off, and the run that stands for
// its worker.
#include "server/jobs/internal.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "server/store/blob.h"
#include "server/store/events.h"
#include "server/store/files.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

void job_changed(struct jobs *j, const char *id)
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
    char text[JOB_TEXT];
    struct vireo_error err;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    struct store_event e = {.job_id = id, .level = level, .type = "message", .message = text, .step = -1};
    if (!store_event_add(j->p.store, &e, 1, &err))
        log_error("%s job=%s", err.message, id);
    job_changed(j, id);
}

// One transition with its event, atomically. False: the store refused (for instance because the job was cancelled meanwhile).
bool job_move(struct jobs *j, struct store_job *job, unsigned mask, enum job_event event, const char *level,
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
    job_changed(j, job->id);
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

void job_fail(struct jobs *j, struct store_job *job, const struct vireo_error *err, struct arena *a)
{
    char message[JOB_TEXT];
    snprintf(message, sizeof message, "The job failed: %s", err->message);
    job->error = error_json(err, a);
    job_move(j, job, STORE_JOB_ERROR, JOB_BROKEN, "error", message);
    log_warn("job failed job=%s: %s", job->id, err->message);
}

// ---- back-off

double job_waits_until(const struct jobs *j, const char *id)
{
    for (const struct back_off *b = j->back_offs; b; b = b->next)
        if (strcmp(b->id, id) == 0)
            return b->until;
    return 0;
}

void job_wait(struct jobs *j, const char *id, double seconds)
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

struct run *run_create(struct jobs *j, enum run_kind kind, const char *id)
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

void run_free(struct jobs *j, struct run *r)
{
    j->runs[r->kind] = NULL;
    json_decref(r->resolved);
    json_decref(r->issues);
    json_decref(r->result);
    arena_finish(&r->arena);
    free(r);
}

void run_check(struct jobs *j, struct run *r, json_t *spec)
{
    r->child->owner = r;
    child_kill(r->child, 600);
    json_t *m = message_new(MESSAGE_CHECK);
    json_object_set_new(m, "spec", spec);
    json_object_set_new(m, "available", json_integer((json_int_t)j->budget));
    json_object_set_new(m, "cpu_lanes", json_integer((json_int_t)j->cpu_lanes));
    process_send(&r->child->p, m);
}

// The job's struct job_spec as JSON with ids turned into paths; a new reference.
json_t *run_spec(struct jobs *j, struct run *r, const struct store_job *job, struct vireo_error *err)
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

bool run_open(struct jobs *j, struct run *r, const struct store_job *job, struct vireo_error *err)
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

const char *run_images_file(struct jobs *j, const char *id, struct arena *a)
{
    return arena_format(a, "%s/jobs/%s/images.json", store_folder(j->p.store), id);
}

void run_order(struct run *r, const char *what)
{
    json_t *m = message_new(MESSAGE_ORDER);
    if (m)
        json_object_set_new(m, "order", json_string(what));
    process_send(&r->child->p, m);
}
