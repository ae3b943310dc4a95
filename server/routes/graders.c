// /v1/fine_tuning/alpha/graders: the same code as in jobs, byte for byte.
#include "compute/base/clock.h"
#include "compute/base/json.h"
#include "compute/rewards/grader.h"
#include "server/routes/common.h"

#include <string.h>

enum { GRADER_BODY = 64 << 20 };

static bool read_grader(json_t *body, struct grader **out, struct vireo_error *err)
{
    json_t *definition = NULL;
    if (!json_get_object(body, "", "grader", &definition, err))
        return false;
    if (!definition)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "grader",
                               "Missing parameter 'grader'.");
    *out = grader_create(definition, "grader", err);
    return *out != NULL;
}

static bool validate(struct request *req, struct response *res, struct vireo_error *err)
{
    static const char *const known[] = {"grader", "vireo", NULL};
    json_t *body;
    struct grader *grader = NULL;
    if (!request_json_object(req, &body, err) || !request_ignore_unknown(req, known, err) ||
        !read_grader(body, &grader, err))
        return false;
    json_t *normal = grader_to_json(grader, err);
    grader_destroy(&grader);
    return normal && response_json(res, json_pack("{s:o}", "grader", normal), err);
}

static json_t *errors_json(const struct grade_errors *e)
{
    return json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:n, s:b, s:n, s:b, s:n}", "formula_parse_error",
                     e->formula_parse_error, "invalid_variable_error", e->invalid_variable_error, "sample_parse_error",
                     e->sample_parse_error, "truncated_observation_error", 0, "unresponsive_reward_error", 0,
                     "other_error", e->other_error, "model_grader_parse_error", 0, "model_grader_refusal_error", 0,
                     "model_grader_server_error", 0, "model_grader_server_error_details", "python_grader_runtime_error",
                     0, "python_grader_runtime_error_details", "python_grader_server_error", 0,
                     "python_grader_server_error_type");
}

static json_t *grade_json(const struct grader *g, const struct grade *grade, double seconds)
{
    json_t *scores = json_object(), *reasons = json_object();
    for (size_t i = 0; i < grade->count; i++) {
        json_object_set_new(scores, grader_part_name(g, i), json_real(grade->parts[i].value));
        json_object_set_new(reasons, grader_part_name(g, i), json_string(grade->parts[i].reason));
    }
    json_t *metadata = json_pack("{s:s, s:s, s:f, s:O, s:n, s:n, s:o, s:{s:s, s:o, s:b}}", "name", grader_name(g),
                                 "type", grader_type(g), "execution_time", seconds, "scores", scores, "token_usage",
                                 "sampled_model_name", "errors", errors_json(&grade->errors), "vireo", "reason",
                                 grade->reason, "reasons", reasons, "failed", grade->failed);
    return json_pack("{s:f, s:o, s:{}, s:o}", "reward", grade->reward, "sub_rewards", scores,
                     "model_grader_token_usage_per_model", "metadata", metadata);
}

static bool run(struct request *req, struct response *res, struct vireo_error *err)
{
    static const char *const known[] = {"grader", "model_sample", "item", "vireo", NULL};
    json_t *body, *item = NULL;
    const char *text = NULL;
    struct grader *grader = NULL;
    struct grade grade;
    if (!request_json_object(req, &body, err) || !request_ignore_unknown(req, known, err) ||
        !json_get_string_required(body, "", "model_sample", &text, err) ||
        !json_get_object(body, "", "item", &item, err) || !read_grader(body, &grader, err))
        return false;
    struct grader_sample sample = {.text = text, .text_bytes = strlen(text)};
    double start = clock_seconds();
    bool ok = grader_run(grader, &sample, item, &grade, err);
    ok = ok && response_json(res, grade_json(grader, &grade, clock_seconds() - start), err);
    grader_destroy(&grader);
    return ok;
}

const struct route route_graders[] = {
    {"POST", "/v1/fine_tuning/alpha/graders/run", HTTP_TRAIN, HTTP_BODY_JSON, GRADER_BODY, run},
    {"POST", "/v1/fine_tuning/alpha/graders/validate", HTTP_TRAIN, HTTP_BODY_JSON, GRADER_BODY, validate},
    {0},
};
