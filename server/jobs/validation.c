// The files of a new job, checked row by row in a sandboxed data worker, and the plan of its memory.
#include "server/jobs/internal.h"

#include "compute/base/file.h"
#include "server/store/blob.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

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
    const char *path = run_images_file(j, r->id, &r->arena);
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
        job_fail(j, job, &err, &r->arena);
        return;
    }
    json_t *progress = json_object();
    json_object_set(progress, "plan", json_object_get(r->result, "plan"));
    json_object_set(progress, "rows", json_object_get(r->result, "rows"));
    json_object_set(progress, "validation_rows", json_object_get(r->result, "validation_rows"));
    char *text = json_dumps(progress, JSON_COMPACT), message[JOB_TEXT];
    json_decref(progress);
    const json_t *plan = json_object_get(r->result, "plan");
    double total = json_number_value(json_object_get(plan, "total")) / (1 << 20);
    job->progress = text;
    job->eta_seconds = -1;
    snprintf(message, sizeof message,
             "Files validated (%d rows), moving job to queued state. Memory plan: %.1f MiB (weights %.1f, gradients %.1f, "
             "optimizer %.1f, reference %.1f, kv %.1f, activations %.1f); the worker's process will hold %.1f MiB.",
             (int)json_integer_value(json_object_get(r->result, "rows")), total,
             json_number_value(json_object_get(plan, "weights")) / (1 << 20),
             json_number_value(json_object_get(plan, "gradients")) / (1 << 20),
             json_number_value(json_object_get(plan, "optimizer")) / (1 << 20),
             json_number_value(json_object_get(plan, "reference")) / (1 << 20),
             json_number_value(json_object_get(plan, "kv")) / (1 << 20),
             (json_number_value(json_object_get(plan, "activations")) +
              json_number_value(json_object_get(plan, "kept_activations"))) /
                 (1 << 20),
             json_number_value(json_object_get(plan, "resident")) / (1 << 20));
    job_move(j, job, STORE_JOB_PROGRESS, JOB_VALIDATED, "info", message);
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
        job_fail(j, &job, &r->error, &r->arena);
    } else {
        // What these bytes did to the sandboxed reader they would do again.
        vireo_fail_kind(&err, VIREO_INVALID, "invalid_file_format", "training_file",
                        "The files could not be validated. %s", reason);
        job_fail(j, &job, &err, &r->arena);
    }
    run_free(j, r);
}

void validation_start(struct jobs *j, struct store_job *job)
{
    struct vireo_error err = {0};
    struct run *r = run_create(j, RUN_CHECK, job->id);
    if (!r)
        return;
    json_t *spec = run_open(j, r, job, &err) ? run_spec(j, r, job, &err) : NULL;
    r->child = spec ? child_start(j, "data", true, &err) : NULL;
    if (!r->child) {
        json_decref(spec);
        if (err.code == VIREO_NOT_FOUND || err.code == VIREO_INVALID)
            job_fail(j, job, &err, &r->arena);
        else
            job_wait(j, job->id, 10);
        log_error("%s job=%s", err.message, job->id);
        run_free(j, r);
        return;
    }
    job_log(j, job->id, "info", "Validating training file: %s%s%s", job->training_file,
            job->validation_file ? " and validation file: " : "", job->validation_file ? job->validation_file : "");
    r->child->on_frame = check_frame;
    r->child->on_exit = check_exit;
    run_check(j, r, spec);
}
