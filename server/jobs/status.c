// What other threads see of the supervisor's state (a snapshot renewed at every turn of its loop), and data work that blocks
// its caller.
#include "server/jobs/internal.h"

#include "compute/base/base64.h"
#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/base/json.h"
#include "server/store/metrics.h"

#include <stdlib.h>
#include <string.h>

void jobs_publish(struct jobs *j)
{
    json_t *models = json_object(), *workers = json_array(), *served, *all;
    for (struct model_worker *w = j->models; w; w = w->next)
        json_object_set_new(models, w->name,
                            json_pack("{s:b,s:I,s:i,s:i,s:O?}", "loaded", w->loaded, "bytes", (json_int_t)w->bytes, "open", w->open,
                                      "pid", (int)w->child->p.pid, "stats", w->stats));
    static const char *const kinds[] = {"check", "train", "evaluate"};
    for (int kind = 0; kind < 3; kind++)
        if (j->runs[kind])
            json_array_append_new(workers, json_pack("{s:s,s:s,s:I,s:i}", "kind", kinds[kind], "id", j->runs[kind]->id,
                                                     "granted_bytes", (json_int_t)j->runs[kind]->granted, "pid",
                                                     j->runs[kind]->child ? (int)j->runs[kind]->child->p.pid : 0));
    served = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:I,s:f,s:I}", "stop", (json_int_t)j->served.success[0], "length",
                       (json_int_t)j->served.success[1], "cancelled", (json_int_t)j->served.success[2], "errors",
                       (json_int_t)j->served.errors, "prompt_tokens", (json_int_t)j->served.prompt_tokens, "generated_tokens",
                       (json_int_t)j->served.generated_tokens, "image_tokens", (json_int_t)j->served.image_tokens,
                       "first_token_sum", j->served.first_token_sum, "first_token_count",
                       (json_int_t)j->served.first_token_count, "latency_sum", j->served.latency_sum, "latency_count",
                       (json_int_t)j->served.latency_count);
    all = json_pack("{s:o,s:o,s:o,s:O?,s:I}", "models", models, "workers", workers, "served", served, "devices", j->devices,
                    "budget_bytes", (json_int_t)j->budget);
    pthread_mutex_lock(&j->lock);
    json_decref(j->snapshot);
    j->snapshot = all;
    snprintf(j->snapshot_ready, sizeof j->snapshot_ready, "%s",
             j->draining         ? "The server is shutting down."
             : j->devices_failed ? "No Vulkan device can be used."
             : !j->devices       ? "The Vulkan devices are being looked for."
                                 : "");
    pthread_mutex_unlock(&j->lock);
}

static json_t *snapshot(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    // Jansson counts references without locks here: a copy keeps the threads apart.
    json_t *copy = json_deep_copy(j->snapshot);
    pthread_mutex_unlock(&j->lock);
    return copy;
}

bool jobs_model_loaded(struct jobs *j, const char *model)
{
    pthread_mutex_lock(&j->lock);
    json_t *one = json_object_get(json_object_get(j->snapshot, "models"), model);
    bool loaded = json_is_true(json_object_get(one, "loaded"));
    pthread_mutex_unlock(&j->lock);
    return loaded;
}

bool jobs_ready(struct jobs *j, struct vireo_error *err)
{
    char text[256];
    pthread_mutex_lock(&j->lock);
    memcpy(text, j->snapshot_ready, sizeof text);
    bool known = j->snapshot != NULL;
    pthread_mutex_unlock(&j->lock);
    return (known && !text[0]) || vireo_fail(err, VIREO_UNAVAILABLE, "%s", text[0] ? text : "The supervisor is starting.");
}

void jobs_system(struct jobs *j, json_t *object)
{
    json_t *all = snapshot(j);
    static const char *const keys[] = {"devices", "workers", "models", "budget_bytes"};
    for (size_t i = 0; i < VIREO_COUNT(keys); i++) {
        json_t *value = json_object_get(all, keys[i]);
        json_object_set(object, i == 2 ? "loaded_models" : i == 3 ? "device_budget_bytes" : keys[i],
                        value ? value : json_null());
    }
    json_decref(all);
}

// A label's value: quotes, backslashes and line breaks are escaped.
static void label(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        if (*text == '\n')
            fputs("\\n", out);
        else
            fputc(*text, out);
    }
}

static void model_gauges(FILE *out, const json_t *models, const char *name, const char *type, const char *key)
{
    const char *model;
    json_t *w;
    fprintf(out, "# TYPE vireo_%s %s\n", name, type);
    json_object_foreach ((json_t *)models, model, w) {
        fprintf(out, "vireo_%s{model_name=\"", name);
        label(out, model);
        fprintf(out, "\"} %g\n", json_number_value(json_object_get(json_object_get(w, "stats"), key)));
    }
}


// The newest row of the job that runs; its series end with the job.
static void train_gauges(struct jobs *j, FILE *out, const json_t *workers)
{
    static const char *const names[][2] = {
        {"step", "step"}, {"reward_mean", "reward"}, {"reward_std", "reward_std"},
        {"frac_reward_zero_std", "frac_reward_zero_std"}, {"kl", "kl"}, {"entropy", "entropy"}, {"loss", "loss"},
        {"grad_norm", "grad_norm"}, {"learning_rate", "learning_rate"}, {"clip_ratio", "clip_ratio/region_mean"},
        {"completion_length_mean", "completions/mean_length"},
        {"logp_mismatch_max", "sampling/sampling_logp_difference/max"}, {"tokens", "num_tokens"}};
    size_t i;
    json_t *w;
    json_array_foreach (workers, i, w) {
        const char *kind = json_string_value(json_object_get(w, "kind")), *id = json_string_value(json_object_get(w, "id"));
        struct arena arena;
        struct store_metric row;
        arena_init(&arena, 0);
        json_t *values = NULL;
        if (kind && id && strcmp(kind, "train") == 0 && store_metric_last(j->p.store, id, &arena, &row, NULL))
            values = vireo_json_parse(row.values, strlen(row.values), NULL);
        for (size_t k = 0; k < VIREO_COUNT(names); k++) {
            const json_t *value = json_object_get(values, names[k][1]);
            if (json_is_number(value))
                fprintf(out, "# TYPE vireo_train_%s gauge\nvireo_train_%s{job_id=\"%s\"} %.9g\n", names[k][0], names[k][0], id,
                        json_number_value(value));
        }
        json_decref(values);
        arena_finish(&arena);
    }
}

void jobs_metrics(struct jobs *j, FILE *out)
{
    json_t *all = snapshot(j), *served = json_object_get(all, "served"), *models = json_object_get(all, "models");
    static const char *const reasons[] = {"stop", "length", "cancelled"};
    model_gauges(out, models, "num_requests_running", "gauge", "running");
    model_gauges(out, models, "num_requests_waiting", "gauge", "waiting");
    model_gauges(out, models, "kv_cache_usage_perc", "gauge", "kv_used");
    model_gauges(out, models, "kv_pages", "gauge", "kv_pages");
    model_gauges(out, models, "kv_pages_held", "gauge", "kv_pages_held");
    model_gauges(out, models, "kv_pages_kept", "gauge", "kv_pages_kept");
    model_gauges(out, models, "prompt_tokens_cached_total", "counter", "cached_tokens");
    model_gauges(out, models, "images_cached_total", "counter", "image_hits");
    model_gauges(out, models, "preemptions_total", "counter", "preemptions");
    static const char *const counters[][2] = {{"prompt_tokens_total", "prompt_tokens"},
                                              {"generation_tokens_total", "generated_tokens"},
                                              {"image_tokens_total", "image_tokens"},
                                              {"request_errors_total", "errors"}};
    for (size_t i = 0; i < VIREO_COUNT(counters); i++)
        fprintf(out, "# TYPE vireo_%s counter\nvireo_%s %lld\n", counters[i][0], counters[i][0],
                (long long)json_integer_value(json_object_get(served, counters[i][1])));
    fputs("# TYPE vireo_request_success_total counter\n", out);
    for (size_t i = 0; i < VIREO_COUNT(reasons); i++)
        fprintf(out, "vireo_request_success_total{finished_reason=\"%s\"} %lld\n", reasons[i],
                (long long)json_integer_value(json_object_get(served, reasons[i])));
    static const char *const times[][3] = {
        {"time_to_first_token_seconds", "first_token_sum", "first_token_count"},
        {"e2e_request_latency_seconds", "latency_sum", "latency_count"}};
    for (size_t i = 0; i < VIREO_COUNT(times); i++)
        fprintf(out, "# TYPE vireo_%s summary\nvireo_%s_sum %g\nvireo_%s_count %lld\n", times[i][0], times[i][0],
                json_number_value(json_object_get(served, times[i][1])), times[i][0],
                (long long)json_integer_value(json_object_get(served, times[i][2])));
    fprintf(out, "# TYPE vireo_device_memory_bytes gauge\nvireo_device_memory_bytes{kind=\"budget\"} %lld\n",
            (long long)json_integer_value(json_object_get(all, "budget_bytes")));
    train_gauges(j, out, json_object_get(all, "workers"));
    json_decref(all);
}

// ---- data work

bool jobs_thumbnail(struct jobs *j, const char *path, int side, uint8_t **out, size_t *count, struct vireo_error *err)
{
    struct file_bytes bytes;
    if (!file_read(path, 20 << 20, &bytes, err))
        return false;
    char *text = base64_encode((const uint8_t *)bytes.data, bytes.size);
    file_bytes_free(&bytes);
    json_t *m = text ? message_new(MESSAGE_THUMBNAIL) : NULL;
    if (m) {
        json_object_set_new(m, "image", json_string(text));
        json_object_set_new(m, "side", json_integer(side));
    }
    free(text);
    json_t *answer = process_ask("data", m, err), *png = json_object_get(answer, "png");
    *out = png ? base64_decode(json_string_value(png), json_string_length(png), count) : NULL;
    if (answer && !*out)
        vireo_fail_memory(err, 1 << 16);
    json_decref(answer);
    return *out != NULL;
}

static bool name_is_fine(const char *name, struct vireo_error *err)
{
    size_t length = strlen(name);
    bool fine = length > 0 && length <= 128 && name[0] != '.';
    for (size_t i = 0; fine && i < length; i++)
        fine = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') || (name[i] >= '0' && name[i] <= '9') ||
               strchr("._-/", name[i]);
    return fine || vireo_fail_param(err, "name", "Invalid value for 'name': expected 1 to 128 of A-Z a-z 0-9 . _ - / that begin "
                                                 "with none of '.', got '%.80s'.", name);
}

bool jobs_model_add(struct store *store, const char *name, const json_t *source, struct arena *a, struct store_model *out,
                    struct vireo_error *err)
{
    struct store_model known;
    const char *preset = json_string_value(json_object_get(source, "preset"));
    const char *folder = json_string_value(json_object_get(source, "folder"));
    if (!name_is_fine(name, err))
        return false;
    if (store_model_find(store, name, a, &known, NULL))
        return vireo_fail_kind(err, VIREO_CONFLICT, "resource_in_use", "name", "There is a model '%.80s' already.", name);
    char unique[32];
    random_id(unique, sizeof unique, "base-", 16); // a client's name never becomes a path
    const char *relative = arena_format(a, "models/%s", unique);
    json_t *m = message_new(MESSAGE_INIT);
    json_object_set_new(m, "folder", json_string(arena_format(a, "%s/%s", store_folder(store), relative)));
    if (preset)
        json_object_set_new(m, "preset", json_string(preset));
    if (folder)
        json_object_set_new(m, "source", json_string(folder));
    json_object_set_new(m, "seed", json_integer(json_integer_value(json_object_get(source, "seed"))));
    json_t *answer = process_ask("data", m, err), *facts = json_object_get(answer, "facts");
    if (!facts) {
        if (answer)
            vireo_fail(err, VIREO_INTERNAL, "the worker answered without facts");
        json_decref(answer);
        return false;
    }
    char *info = json_dumps(facts, JSON_COMPACT);
    struct store_model row = {.id = arena_copy_string(a, name),
                              .folder = relative,
                              .family = arena_copy_string(a, json_string_value(json_object_get(facts, "family"))),
                              .owned_by = "vireo",
                              .sha256 = arena_copy_string(a, json_string_value(json_object_get(facts, "sha256"))),
                              .info = arena_copy_string(a, info ? info : "{}"),
                              .bytes = json_integer_value(json_object_get(facts, "bytes")),
                              .context_length = json_integer_value(json_object_get(facts, "context_length")),
                              .created_at = clock_unix()};
    free(info);
    json_decref(answer);
    if (!store_model_add(store, &row, err)) {
        file_remove_tree(arena_format(a, "%s/%s", store_folder(store), relative), NULL);
        return false;
    }
    *out = row;
    return true;
}
