#include "server/api/evaluation_json.h"

#include "compute/base/json.h"
#include "compute/dataset/jsonl.h"
#include "compute/rewards/grader.h"
#include "server/api/object_json.h"

#include <string.h>

bool evaluation_json_read(json_t *body, struct arena *a, struct evaluation_request *out, struct vireo_error *err)
{
    static const char *const known[] = {"model", "file", "grader", "temperature", "top_p", "top_k", "min_p", "n", "seed",
                                        "max_completion_tokens", "limit", "system_prompt", "question_template", "min_pixels",
                                        "max_pixels", "metadata", NULL};
    struct evaluation_request r = {0};
    const char *unknown;
    if (json_find_unknown(body, known, &unknown))
        return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", unknown, "Unknown parameter: '%.80s'.", unknown);
    struct job_spec *s = &r.spec;
    job_spec_defaults(s, JOB_EVALUATE);
    int64_t n = 1, tokens = 256, limit = 0, top_k = 0, least = 0, most = 0;
    json_t *grader = NULL;
    if (!json_get_string_required(body, "", "model", &r.model, err) ||
        !json_get_string_required(body, "", "file", &r.file, err) || !json_get_object(body, "", "grader", &grader, err) ||
        !json_get_number(body, "", "temperature", 0, 2, &s->eval_temperature, err) ||
        !json_get_number(body, "", "top_p", 0, 1, &s->top_p, err) ||
        !json_get_number(body, "", "min_p", 0, 1, &s->min_p, err) ||
        !json_get_integer(body, "", "top_k", 0, 1 << 24, &top_k, err) ||
        !json_get_integer(body, "", "n", 1, 128, &n, err) ||
        !json_get_integer(body, "", "max_completion_tokens", 1, 1 << 20, &tokens, err) ||
        !json_get_integer(body, "", "limit", 0, 100000000, &limit, err) ||
        !json_get_integer(body, "", "min_pixels", 784, 1000000000, &least, err) ||
        !json_get_integer(body, "", "max_pixels", 784, 1000000000, &most, err) ||
        !json_get_string(body, "", "system_prompt", &s->system_prompt, err) ||
        !json_get_string(body, "", "question_template", &s->question_template, err))
        return false;
    int64_t seed = 0; // evaluations repeat unless another seed is asked for
    if (!json_get_integer(body, "", "seed", 0, INT64_MAX, &seed, err))
        return false;
    s->seed = (uint64_t)seed;
    if (!grader)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "grader",
                               "Missing required parameter: 'grader'.");
    if (s->question_template && strcmp(s->question_template, "none") != 0 && !question_template(s->question_template))
        return vireo_fail_param(err, "question_template", "Invalid value for 'question_template': expected none, default, rec, "
                                                          "ic or odLength, got '%.60s'.", s->question_template);
    struct grader *g = grader_create(grader, "grader", err);
    if (!g)
        return false;
    s->grader = grader_to_json(g, err);
    grader_destroy(&g);
    s->eval_generations = s->num_generations = (uint32_t)n;
    s->max_completion_length = (uint32_t)tokens;
    s->eval_samples = (uint32_t)limit;
    s->top_k = (uint32_t)top_k;
    s->min_pixels = (uint64_t)least;
    s->max_pixels = (uint64_t)most;
    *out = r;
    return s->grader != NULL;
}

json_t *evaluation_json_show(const struct store_evaluation *e, double progress)
{
    json_t *spec = api_parse(e->spec), *s = json_object_get(spec, "spec");
    json_t *o = json_pack("{s:s,s:s,s:I,s:o,s:o,s:s,s:s,s:s,s:O?,s:O?,s:O?,s:O?,s:O?,s:f,s:o,s:o}", "id", e->id, "object",
                          "vireo.evaluation", "created_at", (json_int_t)e->created_at, "started_at", api_time(e->started_at),
                          "finished_at", api_time(e->finished_at), "status", e->status, "model", e->model, "file", e->file_id,
                          "grader", json_object_get(s, "grader"), "temperature", json_object_get(s, "eval_temperature"), "n",
                          json_object_get(s, "eval_generations"), "max_completion_tokens",
                          json_object_get(s, "max_completion_length"), "seed", json_object_get(s, "seed"), "progress",
                          strcmp(e->status, "succeeded") == 0 ? 1.0 : progress, "result",
                          e->result ? api_parse(e->result) : json_null(), "error", e->error ? api_parse(e->error) : json_null());
    json_decref(spec);
    return o;
}
