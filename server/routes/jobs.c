// /v1/fine_tuning/jobs
#include "compute/base/hash.h"
#include "server/api/job_json.h"
#include "server/jobs/jobs.h"
#include "server/routes/common.h"
#include "server/routes/training.h"
#include "server/store/datasets.h"
#include "server/store/files.h"
#include "server/store/models.h"

#include <stdlib.h>
#include <string.h>

static json_t *show(struct app *app, const struct store_job *job)
{
    return job_json_show(job, app->jobs ? jobs_queue_position(app->jobs, job->id) : 0);
}

// A file by its id, or the file of a dataset by the dataset's id.
bool routes_training_file(struct request *req, const char *param, const char **id, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct store_dataset d;
    struct store_file f;
    if (strncmp(*id, "ds_", 3) == 0) {
        if (!store_dataset_find(app->store, *id, request_arena(req), &d, err))
            return vireo_fail_kind(err, VIREO_NOT_FOUND, "file_not_found", param, "No such dataset: '%.80s'.", *id);
        if (!d.file_id)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_state", param, "The dataset '%.80s' has errors.", *id);
        *id = d.file_id;
    }
    if (!store_file_find(app->store, *id, request_arena(req), &f, err)) {
        if (err->code == VIREO_NOT_FOUND)
            vireo_fail_kind(err, VIREO_NOT_FOUND, "file_not_found", param, "No such file: '%.80s'.", *id);
        return false;
    }
    if (strcmp(f.purpose, "fine-tune") != 0 && strcmp(f.purpose, "evals") != 0)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", param,
                               "The file '%.80s' has the purpose '%.40s'; 'fine-tune' is needed here.", *id, f.purpose);
    return true;
}

bool routes_model(struct request *req, const char *id, struct store_model *out, struct vireo_error *err)
{
    if (store_model_find(app_of(req)->store, id, request_arena(req), out, err))
        return true;
    if (err->code == VIREO_NOT_FOUND)
        vireo_fail_kind(err, VIREO_NOT_FOUND, "model_not_found", "model", "The model '%.120s' does not exist.", id);
    return false;
}

static bool answer_job(struct request *req, struct response *res, const char *id, struct vireo_error *err)
{
    struct store_job job;
    return store_job_find(app_of(req)->store, id, request_arena(req), &job, err) &&
           response_json(res, show(app_of(req), &job), err);
}

static bool add(struct request *req, struct response *res, const struct job_request *r, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct arena *a = request_arena(req);
    struct store_model model;
    struct store_idempotency once = {.key_id = request_caller(req)->key_id, .route = "POST /v1/fine_tuning/jobs",
                                     .key = request_header(req, "Idempotency-Key"), .body_sha256 = request_body_sha256(req)};
    const char *known = NULL, *training = r->training_file, *validation = r->validation_file;
    if (once.key) {
        if (!store_idempotency_find(app->store, &once, a, &known, err))
            return false;
        if (known)
            return answer_job(req, res, known, err);
    }
    if (!routes_model(req, r->model, &model, err) || !routes_training_file(req, "training_file", &training, err) ||
        (validation && !routes_training_file(req, "validation_file", &validation, err)))
        return false;
    char *id = arena_take(a, 48);
    if (!id)
        return vireo_fail_memory(err, 48);
    random_id(id, 48, "ftjob-", 24);
    const char *name = job_json_model_name(r->model, r->suffix, id, a);
    json_t *resolved = job_json_resolved(r, name);
    char *resolved_text = json_dumps(resolved, JSON_COMPACT), *spec = json_dumps(request_json(req), JSON_COMPACT);
    char *metadata = r->metadata ? json_dumps(r->metadata, JSON_COMPACT) : NULL;
    struct store_job job = {.id = id,
                            .model = r->model,
                            .training_file = training,
                            .validation_file = validation,
                            .spec = spec ? spec : "{}",
                            .resolved = resolved_text,
                            .metadata = metadata,
                            .key_id = request_caller(req)->key_id,
                            .priority = r->priority};
    bool done = (resolved_text && spec) || vireo_fail_memory(err, 4096);
    done = done && jobs_create(app->jobs, &job, once.key ? &once : NULL, a, err);
    json_decref(resolved);
    free(resolved_text);
    free(spec);
    free(metadata);
    return done && answer_job(req, res, id, err);
}

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    static const char *const known[] = {"model", "training_file", "validation_file", "suffix", "metadata", "seed", "method",
                                        "hyperparameters", "integrations", "vireo", NULL};
    json_t *body;
    struct job_request r;
    if (!request_json_object(req, &body, err) || !request_ignore_unknown(req, known, err) ||
        !job_json_read(body, request_arena(req), &r, err))
        return false;
    bool done = app_of(req)->jobs ? add(req, res, &r, err) : vireo_fail(err, VIREO_UNAVAILABLE, "This server runs no workers.");
    job_spec_finish(&r.spec);
    return done;
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct store_page page;
    struct store_job *rows;
    struct store_job_filter filter = {.status = request_query(req, "status")};
    size_t count;
    bool more;
    for (const struct url_pair *p = request_query_pairs(req); p; p = p->next) {
        size_t n = strlen(p->name);
        if (strcmp(p->name, "metadata") == 0 && strcmp(p->value, "null") == 0)
            filter.metadata_null = true;
        else if (strncmp(p->name, "metadata[", 9) == 0 && p->name[n - 1] == ']') {
            char *key = arena_copy_bytes(request_arena(req), p->name + 9, n - 10);
            filter.metadata_key = key;
            filter.metadata_value = p->value;
        }
    }
    if (!routes_page(req, 20, 100, &page, err) ||
        !store_job_list(app->store, &page, &filter, request_arena(req), &rows, &count, &more, err))
        return false;
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(data, show(app, &rows[i]));
    return response_json(res, api_list(data, more), err);
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    return answer_job(req, res, request_path_value(req, "id"), err);
}

static bool control(struct request *req, struct response *res, enum job_action action, struct vireo_error *err)
{
    const char *id = request_path_value(req, "id");
    if (!app_of(req)->jobs)
        return vireo_fail(err, VIREO_UNAVAILABLE, "This server runs no workers.");
    return jobs_control(app_of(req)->jobs, id, action, err) && answer_job(req, res, id, err);
}

static bool cancel(struct request *req, struct response *res, struct vireo_error *err)
{
    return control(req, res, JOB_CANCEL, err);
}

static bool pause_job(struct request *req, struct response *res, struct vireo_error *err)
{
    return control(req, res, JOB_PAUSE, err);
}

static bool resume(struct request *req, struct response *res, struct vireo_error *err)
{
    return control(req, res, JOB_RESUME, err);
}

const struct route route_jobs[] = {
    {"POST", "/v1/fine_tuning/jobs", HTTP_TRAIN, HTTP_BODY_JSON, 0, create},
    {"GET", "/v1/fine_tuning/jobs", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/fine_tuning/jobs/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {"POST", "/v1/fine_tuning/jobs/{id}/cancel", HTTP_TRAIN, HTTP_BODY_JSON, 0, cancel},
    {"POST", "/v1/fine_tuning/jobs/{id}/pause", HTTP_TRAIN, HTTP_BODY_JSON, 0, pause_job},
    {"POST", "/v1/fine_tuning/jobs/{id}/resume", HTTP_TRAIN, HTTP_BODY_JSON, 0, resume},
    {0},
};
