// Evaluations in the API's shape <-> struct job_spec of method JOB_EVALUATE.
#ifndef VIREO_API_EVALUATION_JSON_H
#define VIREO_API_EVALUATION_JSON_H

#include "compute/wire/spec.h"
#include "server/store/evaluations.h"

// {"model", "file", "grader", "temperature", "n", "max_completion_tokens", "seed", "limit", ...}.
struct evaluation_request {
    const char *model, *file;
    struct job_spec spec;
};
// Strings live in `a` or in `body`; job_spec_finish releases the grader. Errors name the field.
bool evaluation_json_read(json_t *body, struct arena *a, struct evaluation_request *out, struct vireo_error *err);
// The evaluation object; progress 0..1 of a running one. A new reference.
json_t *evaluation_json_show(const struct store_evaluation *e, double progress);

#endif
