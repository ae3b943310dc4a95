// Evaluations: a model answers the rows of a file, a grader scores the answers. One at a time, in their own worker.
#include "server/jobs/evaluation.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "server/jobs/internal.h"
#include "server/store/blob.h"
#include "server/store/files.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

enum { ATTEMPTS = 3 };

static bool set_status(struct jobs *j, struct store_evaluation *e, const char *status, const char *expected,
                       const char *const *rows, size_t count)
{
    struct vireo_error err;
    e->status = status;
    bool done = store_evaluation_update(j->p.store, e, expected, rows, count, &err);
    if (!done)
        log_error("%s evaluation=%s", err.message, e->id);
    if (j->p.changed)
        j->p.changed(j->p.context, e->id);
    return done;
}

static void fail(struct jobs *j, struct store_evaluation *e, const struct vireo_error *err)
{
    json_t *full = message_error(err), *o = json_object();
    json_object_set_new(o, "code", json_string(err->kind[0] ? err->kind : vireo_code_name(err->code)));
    json_object_set(o, "message", json_object_get(full, "message"));
    json_object_set_new(o, "param", err->param[0] ? json_incref(json_object_get(full, "param")) : json_null());
    char *text = json_dumps(o, JSON_COMPACT);
    e->error = text;
    e->finished_at = clock_unix();
    set_status(j, e, "failed", e->status, NULL, 0);
    free(text);
    json_decref(full);
    json_decref(o);
}

static json_t *spec_of(struct jobs *j, struct run *r, const struct store_evaluation *e, struct vireo_error *err)
{
    struct arena *a = &r->arena;
    struct store_model model;
    struct store_file file;
    char path[BLOB_PATH];
    json_decref(r->resolved); // the check before has its own
    r->resolved = vireo_json_parse(e->spec, strlen(e->spec), err);
    json_t *spec = json_deep_copy(json_object_get(r->resolved, "spec"));
    if (!spec || !store_model_find(j->p.store, e->model, a, &model, err) ||
        !store_file_find(j->p.store, e->file_id, a, &file, err)) {
        json_decref(spec);
        return NULL;
    }
    blob_path(j->p.store, file.sha256, path);
    json_object_set_new(spec, "id", json_string(e->id));
    json_object_set_new(spec, "model_folder", json_string(store_model_path(j->p.store, &model, a)));
    json_object_set_new(spec, "training_file", json_string(path));
    if (j->p.device)
        json_object_set_new(spec, "device", json_string(j->p.device));
    return spec;
}

static void evaluate_frame(struct jobs *j, struct child *c, json_t *message)
{
    struct run *r = c->owner;
    switch (message_kind_of(message)) {
    case MESSAGE_DONE:
        r->end = END_DONE;
        r->result = json_incref(json_object_get(message, "result"));
        break;
    case MESSAGE_FAILED:
        r->end = END_FAILED;
        message_read_error(json_object_get(message, "error"), &r->error);
        break;
    case MESSAGE_PROGRESS:
        pthread_mutex_lock(&j->lock);
        snprintf(j->evaluation_id, sizeof j->evaluation_id, "%s", r->id);
        j->evaluation_share = json_number_value(json_object_get(message, "share"));
        pthread_mutex_unlock(&j->lock);
        if (j->p.changed)
            j->p.changed(j->p.context, r->id);
        break;
    default: break;
    }
}

static void succeed(struct jobs *j, struct run *r, struct store_evaluation *e)
{
    json_t *rows = json_incref(json_object_get(r->result, "rows"));
    json_object_del(r->result, "rows");
    size_t count = json_array_size(rows), n = 0;
    const char **texts = arena_array(&r->arena, const char *, count + 1);
    for (size_t i = 0; texts && i < count; i++) {
        char *text = json_dumps(json_array_get(rows, i), JSON_COMPACT);
        texts[n] = arena_copy_string(&r->arena, text ? text : "{}");
        n += texts[n] != NULL;
        free(text);
    }
    json_decref(rows);
    char *result = json_dumps(r->result, JSON_COMPACT);
    e->result = result;
    e->finished_at = clock_unix();
    set_status(j, e, "succeeded", "running", texts, n);
    free(result);
}

static void evaluate_exit(struct jobs *j, struct child *c, int status, const char *reason)
{
    struct run *r = c->owner;
    struct store_evaluation e;
    struct vireo_error err;
    if (r->cancelled || !store_evaluation_find(j->p.store, r->id, &r->arena, &e, &err) || strcmp(e.status, "running") != 0) {
        run_free(j, r);
        return;
    }
    bool retry = r->draining || r->end == END_NONE || r->error.code == VIREO_DEVICE_LOST;
    if (r->end == END_DONE) {
        succeed(j, r, &e);
    } else if (retry && (r->draining || e.attempts < ATTEMPTS)) {
        set_status(j, &e, "queued", "running", NULL, 0);
    } else if (r->end == END_FAILED) {
        fail(j, &e, &r->error);
    } else {
        vireo_fail_kind(&err, VIREO_INTERNAL, "worker_failed", NULL, "%s", reason);
        fail(j, &e, &err);
    }
    run_free(j, r);
}

// ---- what kind of rows are there: the same check as for jobs, before the worker that has the device

static void check_frame(struct jobs *j, struct child *c, json_t *message)
{
    struct run *r = c->owner;
    if (message_kind_of(message) == MESSAGE_CHECKED) {
        r->issues = json_incref(message); // kept until the worker has started
        r->end = END_DONE;
    } else if (message_kind_of(message) == MESSAGE_FAILED) {
        r->end = END_FAILED;
        message_read_error(json_object_get(message, "error"), &r->error);
    }
}

static void start_worker(struct jobs *j, struct run *r, struct store_evaluation *e)
{
    struct vireo_error err = {0};
    json_t *digests = NULL, *spec = NULL;
    r->granted = (uint64_t)json_integer_value(json_object_get(json_object_get(r->issues, "plan"), "total"));
    while (j->budget && r->granted + inference_bytes(j) + (j->runs[RUN_TRAIN] ? j->runs[RUN_TRAIN]->granted : 0) > j->budget &&
           inference_evict_idle(j)) {
    }
    bool done = references_resolve(j, json_object_get(r->issues, "references"), &digests, &err) &&
                (spec = spec_of(j, r, e, &err)) != NULL;
    if (done) {
        json_object_set_new(spec, "images", references_paths(j, digests));
        r->child = child_start(j, "train", e->attempts == 1, &err);
        done = r->child != NULL;
    }
    json_decref(digests);
    if (!done) {
        json_decref(spec);
        fail(j, e, &err);
        run_free(j, r);
        return;
    }
    r->end = END_NONE;
    r->child->owner = r;
    r->child->on_frame = evaluate_frame;
    r->child->on_exit = evaluate_exit;
    json_t *m = message_new(MESSAGE_EVALUATE);
    json_object_set_new(m, "spec", spec);
    json_object_set_new(m, "cache_folder", json_string(job_cache_folder(j, &r->arena)));
    process_send(&r->child->p, m);
}

static void check_exit(struct jobs *j, struct child *c, int status, const char *reason)
{
    struct run *r = c->owner;
    struct store_evaluation e;
    struct vireo_error err;
    r->child = NULL;
    if (r->cancelled || !store_evaluation_find(j->p.store, r->id, &r->arena, &e, &err) || strcmp(e.status, "running") != 0) {
        run_free(j, r);
        return;
    }
    if (r->end == END_DONE && !r->draining) {
        start_worker(j, r, &e);
        return;
    }
    if (r->draining) {
        set_status(j, &e, "queued", "running", NULL, 0);
    } else {
        if (r->end != END_FAILED)
            vireo_fail_kind(&r->error, VIREO_INVALID, "invalid_file_format", "file", "The file could not be read. %s", reason);
        fail(j, &e, &r->error);
    }
    run_free(j, r);
}

static void start(struct jobs *j, struct store_evaluation *e)
{
    struct vireo_error err = {0};
    struct run *r = vireo_calloc(1, sizeof *r);
    if (!r)
        return;
    r->kind = RUN_EVALUATE;
    snprintf(r->id, sizeof r->id, "%s", e->id);
    arena_init(&r->arena, 0);
    j->runs[RUN_EVALUATE] = r;
    e->attempts++;
    if (!e->started_at)
        e->started_at = clock_unix();
    json_t *spec = spec_of(j, r, e, &err);
    r->child = spec ? child_start(j, "data", e->attempts == 1, &err) : NULL;
    if (!r->child || !set_status(j, e, "running", "queued", NULL, 0)) {
        json_decref(spec);
        if (r->child) {
            r->cancelled = true;
            r->child->owner = r;
            r->child->on_frame = check_frame;
            r->child->on_exit = check_exit;
            process_kill(&r->child->p);
            return;
        }
        fail(j, e, &err);
        run_free(j, r);
        return;
    }
    r->child->on_frame = check_frame;
    r->child->on_exit = check_exit;
    run_check(j, r, spec);
}

void evaluation_tick(struct jobs *j)
{
    struct arena arena;
    struct store_evaluation *rows = NULL;
    size_t count = 0;
    struct vireo_error err;
    if (j->draining || j->runs[RUN_EVALUATE] || !j->devices)
        return;
    arena_init(&arena, 0);
    if (!store_evaluation_unfinished(j->p.store, &arena, &rows, &count, &err))
        log_error("%s", err.message);
    if (count)
        start(j, &rows[0]);
    arena_finish(&arena);
}

bool evaluation_recover(struct jobs *j, struct vireo_error *err)
{
    struct arena arena;
    struct store_evaluation *rows;
    size_t count;
    arena_init(&arena, 0);
    bool done = store_evaluation_unfinished(j->p.store, &arena, &rows, &count, err);
    for (size_t i = 0; done && i < count; i++)
        if (strcmp(rows[i].status, "running") == 0) {
            rows[i].attempts = 0;
            set_status(j, &rows[i], "queued", "running", NULL, 0);
        }
    arena_finish(&arena);
    return done;
}

// ---- what other threads ask for

static void look(struct jobs *j, void *context)
{
    supervisor_look(j);
}

bool evaluation_create(struct jobs *j, struct store_evaluation *row, struct arena *a, struct vireo_error *err)
{
    row->status = "queued";
    if (!store_evaluation_add(j->p.store, row, a, err))
        return false;
    supervisor_post(j, look, NULL);
    return true;
}

struct cancelling {
    const char *id;
    struct vireo_error *err;
    bool done;
};
static void cancel(struct jobs *j, void *context)
{
    struct cancelling *c = context;
    struct arena arena;
    struct store_evaluation e;
    arena_init(&arena, 0);
    c->done = store_evaluation_find(j->p.store, c->id, &arena, &e, c->err);
    bool open = c->done && (strcmp(e.status, "queued") == 0 || strcmp(e.status, "running") == 0);
    if (c->done && !open && strcmp(e.status, "cancelled") != 0)
        c->done = vireo_fail_kind(c->err, VIREO_INVALID, "invalid_state", NULL,
                                  "An evaluation that is '%s' cannot be cancelled.", e.status);
    if (open) {
        e.finished_at = clock_unix();
        c->done = set_status(j, &e, "cancelled", e.status, NULL, 0) ||
                  vireo_fail(c->err, VIREO_IO, "The evaluation could not be cancelled: the store refused.");
        struct run *r = j->runs[RUN_EVALUATE];
        if (c->done && r && strcmp(r->id, c->id) == 0) {
            r->cancelled = true;
            process_kill(&r->child->p);
        }
    }
    arena_finish(&arena);
}

bool evaluation_cancel(struct jobs *j, const char *id, struct vireo_error *err)
{
    struct cancelling c = {.id = id, .err = err};
    return supervisor_call(j, cancel, &c, err) && c.done;
}

double evaluation_progress(struct jobs *j, const char *id)
{
    pthread_mutex_lock(&j->lock);
    double share = strcmp(j->evaluation_id, id) == 0 ? j->evaluation_share : 0;
    pthread_mutex_unlock(&j->lock);
    return share;
}
