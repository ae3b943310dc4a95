// A row of the store as the API's job object, with every resolved value (api.md 6).
#include "server/api/job_json.h"

#include "compute/base/clock.h"
#include "server/api/object_json.h"

#include <math.h>
#include <string.h>

static json_t *resolved_values(const struct job_spec *s, const json_t *facts)
{
    json_t *o = job_json_values(s);
    json_object_set_new(o, "adapter", json_string("full"));
    if (!s->max_steps)
        json_object_set_new(o, "max_steps", json_null());
    // What the worker decided replaces "auto".
    json_t *micro = json_object_get(facts, "micro_batch_size"), *dtype = json_object_get(facts, "dtype");
    if (s->micro_batch_size == 0)
        json_object_set_new(o, "micro_batch_size", micro ? json_incref(micro) : json_string("auto"));
    if (dtype)
        json_object_set(o, "dtype_used", dtype);
    return o;
}

json_t *job_json_show(const struct store_job *job, int queue_position)
{
    struct arena a;
    struct job_spec s;
    arena_init(&a, 0);
    json_t *resolved = api_parse(job->resolved), *progress = api_parse(job->progress), *vireo = json_object();
    json_t *facts = json_object_get(progress, "facts"), *h = json_object(), *method;
    if (!job_spec_parse(json_object_get(resolved, "spec"), &a, &s, NULL))
        job_spec_defaults(&s, JOB_SFT);
    json_object_set_new(h, "n_epochs", json_integer(s.n_epochs));
    json_object_set_new(h, "batch_size", json_integer(s.batch_size));
    json_object_set_new(h, "learning_rate_multiplier", json_real(s.learning_rate / (s.method == JOB_SFT ? 2e-5 : 1e-6)));
    if (s.method == JOB_GRPO) {
        json_object_set_new(h, "compute_multiplier", json_real(s.num_generations / 8.0));
        json_object_set_new(h, "eval_interval", s.eval_interval ? json_integer(s.eval_interval) : json_string("auto"));
        json_object_set_new(h, "eval_samples", s.eval_samples ? json_integer(s.eval_samples) : json_string("auto"));
        json_object_set_new(h, "reasoning_effort", json_string("default"));
        method = json_pack("{s:s,s:{s:O?,s:n,s:O}}", "type", "reinforcement", "reinforcement", "grader", s.grader,
                           "response_format", "hyperparameters", h);
    } else {
        method = json_pack("{s:s,s:{s:O}}", "type", "supervised", "supervised", "hyperparameters", h);
    }
    json_object_update(vireo, progress);
    json_object_del(vireo, "pause_requested");
    json_object_del(vireo, "facts");
    json_t *shown = resolved_values(&s, facts), *preset = json_object_get(resolved, "preset");
    json_object_update_missing(vireo, shown);
    json_decref(shown);
    bool running = strcmp(job->status, "running") == 0;
    const json_t *per_epoch = json_object_get(facts, "rows");
    double epoch = per_epoch && json_integer_value(per_epoch) > 0
                       ? (double)job->step * s.batch_size / (double)json_integer_value(per_epoch)
                       : 0;
    if (preset)
        json_object_set(vireo, "preset", preset);
    json_object_set_new(vireo, "step", json_integer(job->step));
    json_object_set_new(vireo, "total_steps", job->total_steps ? json_integer(job->total_steps) : json_null());
    json_object_set_new(vireo, "epoch", json_real(epoch));
    json_object_set_new(vireo, "queue_position", queue_position ? json_integer(queue_position) : json_null());
    json_t *device = json_object_get(facts, "device");
    json_object_set(vireo, "device", device ? device : json_null());
    json_object_set_new(vireo, "eta_s", running && job->eta_seconds >= 0 ? json_real(job->eta_seconds) : json_null());
    json_object_set_new(vireo, "started_at", api_time(job->started_at));
    json_object_set_new(vireo, "paused_at", api_time(job->paused_at));
    json_object_set_new(vireo, "pausing", json_boolean(running && json_is_true(json_object_get(progress, "pause_requested"))));
    json_object_set_new(vireo, "checkpoint_step", json_integer(job->checkpoint_step));
    json_object_set_new(vireo, "attempts", json_integer(job->attempts));
    json_object_set_new(vireo, "alerts", json_array());
    if (facts)
        json_object_set(vireo, "facts", facts);
    json_t *files = json_array();
    if (job->result_file)
        json_array_append_new(files, json_string(job->result_file));
    int64_t finish = clock_unix() + (int64_t)ceil(job->eta_seconds);
    json_t *estimate = running && job->eta_seconds >= 0 ? json_integer(finish) : json_null();
    json_t *o = json_pack("{s:s,s:s,s:I,s:o,s:o,s:s,s:s?,s:s,s:s,s:s,s:s?,s:o,s:o,s:o,s:o}", "id", job->id, "object",
                          "fine_tuning.job", "created_at", (json_int_t)job->created_at, "finished_at",
                          api_time(job->finished_at), "estimated_finish", estimate, "model", job->model, "fine_tuned_model",
                          job->fine_tuned_model, "organization_id", "org-vireo", "status", job->status, "training_file",
                          job->training_file, "validation_file", job->validation_file, "result_files", files,
                          "trained_tokens", job->trained_tokens ? json_integer(job->trained_tokens) : json_null(),
                          "hyperparameters", h, "method", method);
    if (o) {
        json_object_set_new(o, "seed", json_integer((json_int_t)s.seed));
        json_object_set_new(o, "integrations", json_array());
        json_object_set_new(o, "metadata", api_parse(job->metadata));
        json_object_set_new(o, "error", job->error ? api_parse(job->error) : json_null());
        json_object_set_new(o, "eval_id", json_null());
        json_object_set_new(o, "vireo", vireo);
    }
    job_spec_finish(&s);
    json_decref(resolved);
    json_decref(progress);
    arena_finish(&a);
    return o;
}
