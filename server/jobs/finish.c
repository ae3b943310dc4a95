// What a training worker leaves: checkpoints that can be served while the job runs, the finished model, the result file.
#include "server/jobs/internal.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "server/store/blob.h"
#include "server/store/checkpoints.h"
#include "server/store/events.h"
#include "server/store/files.h"
#include "server/store/metrics.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

enum { MAX_CHECKPOINTS = 1000 };

// A row of store_model that has what its base has.
static bool model_row(struct jobs *j, struct run *r, const char *name, const char *folder, int64_t step, struct arena *a,
                      struct store_model *out, struct vireo_error *err)
{
    struct store_job job;
    struct store_model base;
    if (!store_job_find(j->p.store, r->id, a, &job, err) || !store_model_find(j->p.store, job.model, a, &base, err))
        return false;
    *out = base;
    out->id = name;
    out->folder = folder;
    out->parent = job.model;
    out->job_id = arena_copy_string(a, r->id);
    out->adapter = "full";
    out->owned_by = "org-vireo";
    out->step = step;
    out->created_at = clock_unix();
    return true;
}

// ---- checkpoints

// Folders that the trainer has pruned (save_total_limit) are no models any more.
static void drop_pruned(struct jobs *j, struct run *r, struct arena *a)
{
    struct store_checkpoint *rows;
    struct store_page page = {.limit = MAX_CHECKPOINTS};
    size_t count;
    bool more;
    struct vireo_error err;
    if (!store_checkpoint_list(j->p.store, r->id, &page, a, &rows, &count, &more, &err)) {
        log_error("%s job=%s", err.message, r->id);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (file_exists(arena_format(a, "%s/%s", store_folder(j->p.store), rows[i].folder)))
            continue;
        if (rows[i].model[0] && !store_model_delete(j->p.store, rows[i].model, true, &err) && err.code != VIREO_NOT_FOUND)
            log_warn("%s job=%s", err.message, r->id);
        if (!store_checkpoint_delete(j->p.store, rows[i].id, &err))
            log_warn("%s job=%s", err.message, r->id);
    }
}

static json_t *number_or_null(const json_t *o, const char *key)
{
    json_t *value = json_object_get(o, key);
    return value ? json_incref(value) : json_null();
}

static char *checkpoint_metrics(const json_t *m, int64_t step)
{
    json_t *o = json_pack("{s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:{s:o,s:o,s:o}}", "step", (json_int_t)step, "train_loss",
                          number_or_null(m, "loss"), "train_mean_token_accuracy", number_or_null(m, "mean_token_accuracy"),
                          "valid_loss", number_or_null(m, "eval_loss"), "valid_mean_token_accuracy",
                          number_or_null(m, "eval_mean_token_accuracy"), "full_valid_loss", number_or_null(m, "eval_loss"),
                          "full_valid_mean_token_accuracy", number_or_null(m, "eval_mean_token_accuracy"), "vireo",
                          "train_mean_reward", number_or_null(m, "reward"), "full_valid_mean_reward",
                          number_or_null(m, "eval_reward"), "kl", number_or_null(m, "kl"));
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return text;
}

static void add_checkpoint(struct jobs *j, struct run *r, int64_t step, const json_t *metrics, int64_t bytes,
                           const char *sha256)
{
    struct arena arena;
    struct vireo_error err;
    arena_init(&arena, 0);
    const char *folder = arena_format(&arena, "jobs/%s/checkpoints/step-%lld", r->id, (long long)step);
    const char *name = arena_format(&arena, "%s:ckpt-step-%lld", r->model_name, (long long)step);
    char *text = checkpoint_metrics(metrics, step);
    struct store_model model;
    struct store_checkpoint c = {.job_id = r->id,
                                 .model = name,
                                 .folder = folder,
                                 .metrics = text ? text : "{}",
                                 .sha256 = sha256 ? sha256 : "",
                                 .step = step,
                                 .bytes = bytes};
    struct store_event e = {.level = "info", .type = "message", .step = step};
    e.message = arena_format(&arena, "Checkpoint created at step %lld: %s", (long long)step, name);
    e.data = arena_format(&arena, "{\"checkpoint\":\"%s\",\"step\":%lld}", name, (long long)step);
    bool done = store_checkpoint_add(j->p.store, &c, &e, &arena, &err) &&
                model_row(j, r, name, folder, step, &arena, &model, &err);
    if (done) {
        model.sha256 = c.sha256;
        model.bytes = bytes;
        done = store_model_add(j->p.store, &model, &err) || err.code == VIREO_CONFLICT;
    }
    if (!done)
        log_error("%s job=%s", err.message, r->id);
    free(text);
    drop_pruned(j, r, &arena);
    arena_finish(&arena);
    if (j->p.changed)
        j->p.changed(j->p.context, r->id);
}

void checkpoint_reported(struct jobs *j, struct run *r, const json_t *message)
{
    json_t *stored = NULL;
    const json_t *metrics = json_object_get(message, "metrics");
    int64_t step = json_integer_value(json_object_get(message, "step"));
    if (!json_is_object(metrics)) { // one written between steps: its step's row is known
        struct arena arena;
        struct store_metric row;
        arena_init(&arena, 0);
        if (store_metric_last(j->p.store, r->id, &arena, &row, NULL))
            metrics = stored = vireo_json_parse(row.values, strlen(row.values), NULL);
        arena_finish(&arena);
    }
    add_checkpoint(j, r, step, metrics, json_integer_value(json_object_get(message, "bytes")),
                   json_string_value(json_object_get(message, "sha256")));
    json_decref(stored);
}

void checkpoint_restore(struct jobs *j, struct run *r, int64_t step)
{
    struct arena arena;
    struct store_checkpoint *rows;
    struct store_metric *metrics;
    struct store_page page = {.limit = 1};
    size_t count, metric_count;
    bool more;
    arena_init(&arena, 0);
    if (store_checkpoint_list(j->p.store, r->id, &page, &arena, &rows, &count, &more, NULL) &&
        (count == 0 || rows[0].step < step) &&
        store_metric_list(j->p.store, r->id, step, step, &arena, &metrics, &metric_count, NULL)) {
        json_t *values = metric_count ? vireo_json_parse(metrics[0].values, strlen(metrics[0].values), NULL) : NULL;
        add_checkpoint(j, r, step, values, 0, "");
        json_decref(values);
    }
    arena_finish(&arena);
}

// ---- the end

static void csv_number(FILE *out, const json_t *value)
{
    if (json_is_integer(value))
        fprintf(out, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        fprintf(out, "%.17g", json_real_value(value));
}

struct csv_column {
    const char *title, *metric;
};
static const struct csv_column sft_columns[] = {
    {"step", "step"},
    {"train_loss", "loss"},
    {"train_accuracy", "mean_token_accuracy"},
    {"valid_loss", "eval_loss"},
    {"valid_mean_token_accuracy", "eval_mean_token_accuracy"},
    {NULL, NULL},
};
static const struct csv_column rft_columns[] = {
    {"step", "step"},
    {"train_mean_reward", "reward"},
    {"full_valid_mean_reward", "eval_reward"},
    {"completion_tokens_mean", "completions/mean_length"},
    {"reasoning_tokens_mean", "reasoning_tokens_mean"},
    {"mean_unresponsive_rewards", "grader/error_mean"},
    {NULL, NULL},
};

// The vendor's columns, then every other metric by its name in byte order.
static char *metrics_csv(const struct store_metric *rows, size_t count, bool reinforcement, size_t *size)
{
    const struct csv_column *columns = reinforcement ? rft_columns : sft_columns;
    char *text = NULL;
    FILE *out = open_memstream(&text, size);
    json_t **values = vireo_calloc(count + 1, sizeof *values), *all = json_object();
    const char *name;
    json_t *value;
    if (!out || !values || !all) {
        free(values);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        values[i] = vireo_json_parse(rows[i].values, strlen(rows[i].values), NULL);
        json_object_foreach (values[i], name, value)
            if (json_is_number(value) || json_is_null(value))
                json_object_set_new(all, name, json_null());
    }
    const char **names = vireo_calloc(json_object_size(all) + 1, sizeof *names);
    size_t n = 0;
    json_object_foreach (all, name, value)
        if (names && strcmp(name, "step") != 0)
            names[n++] = name;
    for (size_t i = 1; names && i < n; i++) // few names: insertion is enough
        for (size_t k = i; k > 0 && strcmp(names[k - 1], names[k]) > 0; k--) {
            const char *swap = names[k];
            names[k] = names[k - 1];
            names[k - 1] = swap;
        }
    for (size_t c = 0; columns[c].title; c++)
        fprintf(out, "%s%s", c ? "," : "", columns[c].title);
    for (size_t i = 0; i < n; i++)
        fprintf(out, ",%s", names[i]);
    for (size_t i = 0; i < count; i++) {
        fputc('\n', out);
        for (size_t c = 0; columns[c].title; c++) {
            if (c)
                fputc(',', out);
            csv_number(out, json_object_get(values[i], columns[c].metric));
        }
        for (size_t k = 0; k < n; k++) {
            fputc(',', out);
            csv_number(out, json_object_get(values[i], names[k]));
        }
        json_decref(values[i]);
    }
    fputc('\n', out);
    fclose(out);
    free(values);
    free(names);
    json_decref(all);
    return text;
}

static const char *add_result_file(struct jobs *j, struct run *r, struct arena *a, struct vireo_error *err)
{
    struct store_metric *rows;
    size_t count, size = 0;
    char *sha256 = arena_take(a, 65);
    const char *method = json_string_value(json_object_get(json_object_get(r->resolved, "spec"), "method"));
    if (!sha256 || !store_metric_list(j->p.store, r->id, 0, INT64_MAX, a, &rows, &count, err))
        return NULL;
    char *text = metrics_csv(rows, count, method && strcmp(method, "reinforcement") == 0, &size);
    struct store_file f = {.filename = "step_metrics.csv", .purpose = "fine-tune-results", .status = "processed",
                           .sha256 = sha256, .bytes = (int64_t)size};
    bool done = text ? blob_put(j->p.store, text, size, sha256, err) : vireo_fail_memory(err, size);
    free(text);
    return done && store_file_add(j->p.store, &f, a, err) ? f.id : NULL;
}

void training_succeeded(struct jobs *j, struct run *r)
{
    struct arena *a = &r->arena;
    struct vireo_error err = {0};
    struct store_job job;
    struct store_model model;
    const char *folder = arena_format(a, "models/ft-%s", r->id);
    bool done = store_job_find(j->p.store, r->id, a, &job, &err) &&
                model_row(j, r, r->model_name, folder, job.total_steps, a, &model, &err);
    if (done) {
        const char *sha256 = json_string_value(json_object_get(r->result, "sha256"));
        json_t *bytes = json_object_get(r->result, "bytes");
        model.sha256 = sha256 ? sha256 : "";
        model.bytes = json_integer_value(bytes);
        // A server that died between this row and the job's end comes here again.
        done = store_model_add(j->p.store, &model, &err) || err.code == VIREO_CONFLICT;
    }
    job.result_file = done ? add_result_file(j, r, a, &err) : NULL;
    done = done && job.result_file;
    job.fine_tuned_model = r->model_name;
    job.finished_at = clock_unix();
    job.status = job_state_name(JOB_SUCCEEDED);
    job.eta_seconds = 0;
    struct store_event events[] = {
        {.level = "info", .type = "message", .step = -1},
        {.level = "info", .type = "message", .step = -1, .data = "{\"status\":\"succeeded\"}",
         .message = "The job has successfully completed"},
    };
    events[0].message = arena_format(a, "New fine-tuned model created: %s", r->model_name);
    done = done && store_job_update(j->p.store, &job,
                                    STORE_JOB_STATUS | STORE_JOB_MODEL | STORE_JOB_RESULT | STORE_JOB_FINISHED |
                                        STORE_JOB_PROGRESS,
                                    job_state_name(JOB_RUNNING), events, 2, &err);
    if (!done) // the store is read-only or full: the next start finds the job running and finishes it again
        log_error("%s job=%s", err.message, r->id);
    if (j->p.changed)
        j->p.changed(j->p.context, r->id);
    supervisor_look(j);
}

// ---- events

static void put(json_t *to, const char *name, const json_t *from, const char *key)
{
    json_object_set_new(to, name, number_or_null(from, key));
}

static bool is_reinforcement(const json_t *metrics)
{
    return json_object_get(metrics, "reward") != NULL;
}

static void grader_scores(const struct run *r, const json_t *m, json_t *list)
{
    const json_t *grader = json_object_get(json_object_get(r->resolved, "spec"), "grader");
    const char *type = json_string_value(json_object_get(grader, "type")), *key;
    json_t *graders = json_object_get(grader, "graders"), *one;
    char name[160];
    bool multi = type && strcmp(type, "multi") == 0 && json_is_object(graders);
    json_t *parts = multi ? json_incref(graders) : json_object();
    const char *own = json_string_value(json_object_get(grader, "name"));
    if (!multi)
        json_object_set(parts, own ? own : type ? type : "grader", (json_t *)grader);
    json_object_foreach (parts, key, one) {
        const char *part_type = json_string_value(json_object_get(one, "type"));
        json_t *o = json_pack("{s:s,s:s}", "name", key, "type", part_type ? part_type : "rule");
        snprintf(name, sizeof name, "rewards/%s/mean", key);
        put(o, "train_reward_mean", m, name);
        snprintf(name, sizeof name, "eval_rewards/%s/mean", key);
        put(o, "valid_reward_mean", m, name);
        json_array_append_new(list, o);
    }
    json_decref(parts);
}

json_t *metrics_event(const struct run *r, const json_t *m)
{
    json_t *o = json_object(), *own = json_copy((json_t *)m);
    const json_t *timing = json_object_get(m, "timing");
    json_object_del(own, "timing");
    put(own, "step_time", timing, "step_time");
    put(o, "step", m, "step");
    put(o, "total_steps", m, "total_steps");
    if (is_reinforcement(m)) {
        put(o, "train_mean_reward", m, "reward");
        put(o, "full_valid_mean_reward", m, "eval_reward");
        put(o, "full_valid_mean_parse_error", m, "eval_parse_error");
        put(o, "completion_tokens_mean", m, "completions/mean_length");
        put(o, "reasoning_tokens_mean", m, "reasoning_tokens_mean");
        put(o, "mean_unresponsive_rewards", m, "grader/error_mean");
        json_t *scores = json_object(), *graders = json_array(), *step = json_object();
        put(scores, "train_reward_mean", m, "reward");
        put(scores, "valid_reward_mean", m, "eval_reward");
        grader_scores(r, m, graders);
        json_object_set_new(scores, "graders", graders);
        json_object_set_new(o, "scores", scores);
        put(step, "sampling", timing, "sampling");
        put(step, "training", timing, "training");
        put(step, "eval", timing, "eval");
        put(step, "full_iteration", timing, "step_time");
        json_object_set_new(o, "timing", json_pack("{s:o,s:[]}", "step", step, "graders"));
        json_object_set_new(o, "usage", json_pack("{s:{},s:[]}", "samples", "graders"));
        json_object_set_new(o, "errors", json_pack("{s:[{s:s,s:s,s:o}]}", "graders", "name", "all", "type", "multi",
                                                   "train_sample_parse_error_mean",
                                                   number_or_null(m, "grader/sample_parse_error_mean")));
    } else {
        put(o, "train_loss", m, "loss");
        put(o, "train_mean_token_accuracy", m, "mean_token_accuracy");
        put(o, "valid_loss", m, "eval_loss");
        put(o, "valid_mean_token_accuracy", m, "eval_mean_token_accuracy");
        put(o, "full_valid_loss", m, "eval_loss");
        put(o, "full_valid_mean_token_accuracy", m, "eval_mean_token_accuracy");
    }
    json_object_set_new(o, "vireo", own);
    return o;
}

char *metrics_message(const json_t *m, char *buffer, size_t size)
{
    int step = (int)json_integer_value(json_object_get(m, "step"));
    int total = (int)json_integer_value(json_object_get(m, "total_steps"));
    if (is_reinforcement(m)) {
        int n = snprintf(buffer, size, "Step %d/%d, train mean reward=%.4f", step, total,
                         json_number_value(json_object_get(m, "reward")));
        const json_t *valid = json_object_get(m, "eval_reward");
        if (json_is_number(valid) && n > 0 && (size_t)n < size)
            snprintf(buffer + n, size - (size_t)n,
                     ", full validation mean reward=%.4f, full validation mean parse error=%.4f", json_number_value(valid),
                     json_number_value(json_object_get(m, "eval_parse_error")));
    } else {
        int n = snprintf(buffer, size, "Step %d/%d: training loss=%.4f", step, total,
                         json_number_value(json_object_get(m, "loss")));
        const json_t *valid = json_object_get(m, "eval_loss");
        if (json_is_number(valid) && n > 0 && (size_t)n < size)
            snprintf(buffer + n, size - (size_t)n, ", full validation loss=%.4f", json_number_value(valid));
    }
    return buffer;
}
