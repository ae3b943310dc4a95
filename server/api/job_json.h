// Fine-tuning jobs in the API's shape <-> struct job_spec: defaults, presets, ranges, which field is wrong, and every resolved
// value shown back (api.md 6).
#ifndef VIREO_API_JOB_JSON_H
#define VIREO_API_JOB_JSON_H

#include "compute/wire/spec.h"
#include "server/store/jobs.h"

// What a client asked for, checked as far as that needs no store.
struct job_request {
    const char *model, *training_file, *validation_file; // validation_file NULL: none
    const char *suffix;   // "": none
    const char *preset;   // "trl" or "vlm-r1"
    json_t *metadata;     // object; borrowed from the body, or NULL
    int64_t priority;
    struct job_spec spec; // strings borrowed from the body; job_spec_finish releases the grader
};
// Strings live in `a` or in `body`. Errors name the field in the client's notation.
bool job_json_read(json_t *body, struct arena *a, struct job_request *out, struct vireo_error *err);
// A new reference: {"spec", "preset", "suffix", "fine_tuned_model"} for store_job.resolved.
json_t *job_json_resolved(const struct job_request *r, const char *fine_tuned_model);
// "ft:{base}:{org}:{suffix}:{8 chars}", the same for the same job id.
const char *job_json_model_name(const char *model, const char *suffix, const char *job_id, struct arena *a);

// What the keys of "vireo" resolve to, by their names; those of reinforcement only for that method. A new reference.
json_t *job_json_values(const struct job_spec *s);
// The job object; queue_position 0: not queued. A new reference.
json_t *job_json_show(const struct store_job *job, int queue_position);

#endif
