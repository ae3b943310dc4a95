// Requests of jobs, evaluations and chats: what is read, what is refused and how it is named, what is shown.
#include "compute/base/json.h"
#include "server/api/chat_json.h"
#include "server/api/chunk_json.h"
#include "server/api/job_json.h"
#include "tests/check.h"

static struct arena arena;

static json_t *parse(const char *text)
{
    struct vireo_error err;
    json_t *o = vireo_json_parse(text, strlen(text), &err);
    if (!o)
        fail_msg("%s: %s", text, err.message);
    return o;
}

#define GRADER "{\"type\":\"rule\",\"name\":\"f\",\"rule\":\"format\"}"
#define RL(hyper, vireo)                                                                                              \
    "{\"model\":\"m\",\"training_file\":\"file-1\",\"seed\":3,\"method\":{\"type\":\"reinforcement\","                           \
    "\"reinforcement\":{\"grader\":"                                                                                 \
    GRADER ",\"hyperparameters\":{" hyper "}}},\"vireo\":{" vireo "}}"

static void a_job_has_trls_defaults(void **state)
{
    struct vireo_error err;
    struct job_request r;
    json_t *body = parse(RL("", ""));
    REQUIRE_OK(job_json_read(body, &arena, &r, &err));
    REQUIRE_INT(r.spec.loss_type, LOSS_DAPO);
    REQUIRE_INT(r.spec.num_generations, 8);
    REQUIRE(r.spec.beta == 0 && r.spec.epsilon == 0.2 && r.spec.epsilon_high == 0.2 && r.spec.learning_rate == 1e-6);
    REQUIRE_INT(r.spec.seed, 3);
    REQUIRE_STRING(r.preset, "trl");
    job_spec_finish(&r.spec);
    json_decref(body);
    body = parse(RL("", "\"preset\":\"vlm-r1\""));
    REQUIRE_OK(job_json_read(body, &arena, &r, &err));
    REQUIRE_INT(r.spec.loss_type, LOSS_GRPO);
    REQUIRE(r.spec.beta == 0.04);
    job_spec_finish(&r.spec);
    json_decref(body);
}

static void hyperparameters_and_own_keys_meet(void **state)
{
    struct vireo_error err;
    struct job_request r;
    json_t *body = parse(RL("\"n_epochs\":2,\"batch_size\":\"auto\",\"learning_rate_multiplier\":3,\"compute_multiplier\":0.5",
                            "\"epsilon\":0.1,\"lr_scheduler_type\":\"cosine\",\"freeze_vision_modules\":true,"
                            "\"gradient_checkpointing\":true,\"offload\":\"reference\""));
    REQUIRE_OK(job_json_read(body, &arena, &r, &err));
    REQUIRE_INT(r.spec.n_epochs, 2);
    REQUIRE_INT(r.spec.batch_size, 8);
    REQUIRE_INT(r.spec.num_generations, 4);
    REQUIRE_NEAR(r.spec.learning_rate, 3e-6, 1e-18);
    REQUIRE(r.spec.epsilon_high == 0.1); // follows epsilon
    REQUIRE_INT(r.spec.lr_scheduler_type, LR_COSINE);
    REQUIRE(r.spec.freeze_vision && r.spec.gradient_checkpointing);
    REQUIRE_INT(r.spec.offload, OFFLOAD_REFERENCE);
    job_spec_finish(&r.spec);
    json_decref(body);
    body = parse(RL("", ""));
    REQUIRE_OK(job_json_read(body, &arena, &r, &err));
    REQUIRE_INT(r.spec.offload, OFFLOAD_AUTO);
    job_spec_finish(&r.spec);
    json_decref(body);
    static const char *const offloads[] = {"none", "reference", "optimizer", "all", "auto"};
    for (int i = 0; i < 5; i++) {
        char own[64];
        snprintf(own, sizeof own, "{\"offload\":\"%s\"}", offloads[i]);
        body = parse(RL("", ""));
        json_object_set_new(body, "vireo", parse(own));
        REQUIRE_OK(job_json_read(body, &arena, &r, &err));
        REQUIRE_INT(r.spec.offload, i);
        json_t *shown = job_json_values(&r.spec);
        REQUIRE(strcmp(json_string_value(json_object_get(shown, "offload")), offloads[i]) == 0);
        json_decref(shown);
        job_spec_finish(&r.spec);
        json_decref(body);
    }
}

static void dtypes_are_read_and_shown(void **state)
{
    static const char *const dtypes[] = {"auto", "fp32", "bf16", "fp16"};
    struct job_request r;
    struct vireo_error err = {0};
    for (int i = 0; i < 4; i++) {
        char own[128];
        snprintf(own, sizeof own, "{\"dtype\":\"%s\",\"initial_scale_power\":%d,\"loss_scale_window\":7}", dtypes[i], 9 + i);
        json_t *body = parse(RL("", ""));
        json_object_set_new(body, "vireo", parse(own));
        REQUIRE_OK(job_json_read(body, &arena, &r, &err));
        REQUIRE_INT(r.spec.dtype, i);
        REQUIRE_INT(r.spec.initial_scale_power, 9 + i);
        json_t *shown = job_json_values(&r.spec);
        REQUIRE(strcmp(json_string_value(json_object_get(shown, "dtype")), dtypes[i]) == 0);
        REQUIRE_INT(json_integer_value(json_object_get(shown, "loss_scale_window")), 7);
        json_decref(shown);
        job_spec_finish(&r.spec);
        json_decref(body);
    }
    // A wrong one is refused with those there are.
    json_t *body = parse(RL("", "\"dtype\":\"float16\""));
    REQUIRE(!job_json_read(body, &arena, &r, &err));
    REQUIRE(strcmp(err.param, "vireo.dtype") == 0);
    for (int i = 0; i < 4; i++)
        if (!strstr(err.message, dtypes[i]))
            fail_msg("'%s' does not name %s", err.message, dtypes[i]);
    json_decref(body);
}

static void wrong_jobs_are_named(void **state)
{
    static const struct {
        const char *body, *kind, *param;
    } rows[] = {
        {"{}", "missing_required_parameter", "model"},
        {"{\"model\":\"m\"}", "missing_required_parameter", "training_file"},
        {RL("", "\"nonsense\":1"), "unknown_parameter", "vireo.nonsense"},
        {RL("\"nonsense\":1", ""), "unknown_parameter", "method.reinforcement.hyperparameters.nonsense"},
        {RL("\"n_epochs\":0", ""), "invalid_value", "method.reinforcement.hyperparameters.n_epochs"},
        {RL("\"n_epochs\":\"x\"", ""), "invalid_type", "method.reinforcement.hyperparameters.n_epochs"},
        {RL("", "\"adapter\":\"lora\""), "unsupported_value", "vireo.adapter"},
        {RL("", "\"lora_r\":8"), "unsupported_value", "vireo.lora_r"},
        {RL("", "\"loss_type\":\"cispo\""), "unsupported_value", "vireo.loss_type"},
        {RL("", "\"loss_type\":\"sgd\""), "invalid_value", "vireo.loss_type"},
        {RL("", "\"num_iterations\":2"), "unsupported_value", "vireo.num_iterations"},
        {RL("", "\"gradient_checkpointing\":1"), "invalid_type", "vireo.gradient_checkpointing"},
        {RL("", "\"offload\":\"disk\""), "invalid_value", "vireo.offload"},
        {RL("", "\"initial_scale_power\":33"), "invalid_value", "vireo.initial_scale_power"},
        {RL("", "\"loss_scale_window\":0"), "invalid_value", "vireo.loss_scale_window"},
        {RL("", "\"group_size\":4,\"num_generations\":4"), "invalid_parameter_combination", "vireo.group_size"},
        {RL("\"compute_multiplier\":2", "\"group_size\":4"), "invalid_parameter_combination", "vireo.group_size"},
        {RL("\"learning_rate_multiplier\":2", "\"learning_rate\":1"), "invalid_parameter_combination", "vireo.learning_rate"},
        {RL("", "\"leaves\":3"), "invalid_value", "vireo.leaves"},
        {RL("", "\"num_decay_steps\":3"), "invalid_parameter_combination", "vireo.num_stable_steps"},
        {RL("", "\"question_template\":\"x\""), "invalid_value", "vireo.question_template"},
        {RL("\"eval_interval\":5", ""), "missing_required_parameter", "validation_file"},
        {"{\"model\":\"m\",\"training_file\":\"f\",\"vireo\":{\"beta\":0.1}}", "invalid_parameter_combination", "vireo.beta"},
        {"{\"model\":\"m\",\"training_file\":\"f\",\"method\":{\"type\":\"dpo\"}}", "unsupported_value", "method.type"},
        {"{\"model\":\"m\",\"training_file\":\"f\",\"method\":{\"type\":\"reinforcement\",\"reinforcement\":{\"grader\":{\"type\":"
         "\"python\"}}}}", NULL, "method.reinforcement.grader.type"},
        {"{\"model\":\"m\",\"training_file\":\"f\",\"suffix\":\"a b\"}", "invalid_value", "suffix"},
        {"{\"model\":\"m\",\"training_file\":\"f\",\"metadata\":{\"a\":1}}", NULL, "metadata.a"},
        {"{\"model\":\"m\",\"training_file\":\"f\",\"integrations\":[{\"type\":\"wandb\"}]}", "unsupported_value",
         "integrations[0].type"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct vireo_error err = {0};
        struct job_request r;
        json_t *body = parse(rows[i].body);
        if (job_json_read(body, &arena, &r, &err))
            fail_msg("accepted: %s", rows[i].body);
        if (strcmp(err.param, rows[i].param) != 0)
            fail_msg("%s: param '%s' instead of '%s'", rows[i].body, err.param, rows[i].param);
        if (rows[i].kind && err.kind[0] && strcmp(err.kind, rows[i].kind) != 0)
            fail_msg("%s: '%s' instead of '%s'", rows[i].body, err.kind, rows[i].kind);
        json_decref(body);
    }
}

static void a_job_shows_every_resolved_value(void **state)
{
    struct vireo_error err;
    struct job_request r;
    json_t *body = parse(RL("", "\"beta\":0.04"));
    REQUIRE_OK(job_json_read(body, &arena, &r, &err));
    const char *name = job_json_model_name("ft:tiny:vireo:a:12345678", "rec", "ftjob-000000000000000087654321", &arena);
    REQUIRE_STRING(name, "ft:tiny:vireo:rec:87654321");
    json_t *resolved = job_json_resolved(&r, name);
    char *text = json_dumps(resolved, 0);
    struct store_job job = {.id = "ftjob-1", .status = "running", .model = "m", .training_file = "file-1", .resolved = text,
                            .metadata = "{\"a\":\"b\"}", .progress = "{\"facts\":{\"micro_batch_size\":5}}", .step = 3,
                            .total_steps = 9, .eta_seconds = 12};
    json_t *shown = job_json_show(&job, 0), *own = json_object_get(shown, "vireo");
    REQUIRE(json_is_object(json_object_get(shown, "hyperparameters")));
    REQUIRE(json_real_value(json_object_get(own, "beta")) == 0.04);
    REQUIRE_INT(json_integer_value(json_object_get(own, "micro_batch_size")), 5);
    REQUIRE_INT(json_integer_value(json_object_get(own, "step")), 3);
    REQUIRE(json_is_integer(json_object_get(shown, "estimated_finish")));
    REQUIRE(json_is_null(json_object_get(shown, "error")) && json_is_array(json_object_get(shown, "result_files")));
    REQUIRE_STRING(json_string_value(json_object_get(json_object_get(shown, "method"), "type")), "reinforcement");
    json_decref(shown);
    json_decref(resolved);
    free(text);
    job_spec_finish(&r.spec);
    json_decref(body);
}

#define CHAT(members) "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]" members "}"

static void a_chat_becomes_a_message(void **state)
{
    struct vireo_error err;
    struct chat_request_json q;
    json_t *body = parse("{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":["
                         "{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"img_1\"}},"
                         "{\"type\":\"file\",\"file\":{\"file_id\":\"file-2\"}}]}],\"n\":2,\"stop\":\"x\",\"seed\":-1,"
                         "\"max_completion_tokens\":5,\"logit_bias\":{\"7\":-100}}");
    REQUIRE_OK(chat_json_read(body, &arena, &q, &err));
    REQUIRE_INT(q.image_count, 2);
    REQUIRE_STRING(q.images[0].id, "img_1");
    REQUIRE_STRING(q.images[1].param, "messages[1].content[2].file.file_id");
    json_t *parts = json_object_get(json_array_get(json_object_get(q.message, "messages"), 1), "parts");
    REQUIRE_INT(json_array_size(parts), 3);
    REQUIRE_INT(json_integer_value(json_object_get(json_array_get(parts, 2), "image")), 1);
    const json_t *s = json_object_get(q.message, "sampling");
    REQUIRE_INT(json_integer_value(json_object_get(s, "max_tokens")), 5);
    REQUIRE(json_integer_value(json_object_get(s, "seed")) >= 0);
    REQUIRE(!json_object_get(s, "temperature")); // the model's own default decides
    json_decref(q.message);
    json_decref(body);
}

static void wrong_chats_are_named(void **state)
{
    static const struct {
        const char *body, *param;
    } rows[] = {
        {"{\"messages\":[]}", "model"},
        {"{\"model\":\"m\"}", "messages"},
        {"{\"model\":\"m\",\"messages\":[]}", "messages"},
        {"{\"model\":\"m\",\"messages\":[3]}", "messages[0]"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"x\",\"content\":\"\"}]}", "messages[0].role"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"x\"}]}]}", "messages[0].content[0].type"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":["
         "{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}}]}]}",
         "messages[0].content[0].image_url.url"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":"
         "\"img_1\"}}]}]}", "messages[0].content[0]"},
        {CHAT(",\"temperature\":2.1"), "temperature"},
        {CHAT(",\"top_p\":0"), "top_p"},
        {CHAT(",\"n\":129"), "n"},
        {CHAT(",\"n\":1.5"), "n"},
        {CHAT(",\"top_logprobs\":1"), "top_logprobs"},
        {CHAT(",\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs"},
        {CHAT(",\"max_tokens\":1,\"max_completion_tokens\":1"), "max_tokens"},
        {CHAT(",\"stop\":[\"\"]"), "stop"},
        {CHAT(",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]"), "stop"},
        {CHAT(",\"logit_bias\":{\"x\":1}"), "logit_bias.x"},
        {CHAT(",\"logit_bias\":{\"1\":101}"), "logit_bias.1"},
        {CHAT(",\"tools\":[{}]"), "tools"},
        {CHAT(",\"functions\":[]"), "functions"},
        {CHAT(",\"modalities\":[\"audio\"]"), "modalities"},
        {CHAT(",\"response_format\":{\"type\":\"json_schema\"}"), "response_format.type"},
        {CHAT(",\"stream_options\":{}"), "stream_options"},
        {CHAT(",\"store\":true"), "store"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct vireo_error err = {0};
        struct chat_request_json q;
        json_t *body = parse(rows[i].body);
        if (chat_json_read(body, &arena, &q, &err))
            fail_msg("accepted: %s", rows[i].body);
        if (strcmp(err.param, rows[i].param) != 0)
            fail_msg("%s: param '%s' instead of '%s': %s", rows[i].body, err.param, rows[i].param, err.message);
        json_decref(body);
    }
}

static void chunks_have_the_vendors_keys(void **state)
{
    struct answer_head h = {.id = "chatcmpl-1", .created = 1, .model = "m", .fingerprint = "fp_1", .include_usage = true};
    struct answer_usage u = {9, 4, 1};
    json_t *first = chunk_json(&h, 0, json_pack("{s:s}", "role", "assistant"), NULL, NULL);
    json_t *choice = json_array_get(json_object_get(first, "choices"), 0);
    REQUIRE(json_is_null(json_object_get(first, "usage")) && json_object_get(first, "usage"));
    REQUIRE(json_is_null(json_object_get(choice, "finish_reason")) && json_is_null(json_object_get(choice, "logprobs")));
    json_t *last = chunk_usage_json(&h, &u);
    REQUIRE_INT(json_array_size(json_object_get(last, "choices")), 0);
    REQUIRE_INT(json_integer_value(json_object_get(json_object_get(last, "usage"), "total_tokens")), 10);
    h.include_usage = false;
    json_t *plain = chunk_json(&h, 0, json_object(), "stop", NULL);
    REQUIRE(!json_object_get(plain, "usage"));
    json_t *whole = completion_json(&h, json_pack("[o]", choice_json(0, "a\0b", 3, "stop", NULL)), &u);
    json_t *message = json_object_get(json_array_get(json_object_get(whole, "choices"), 0), "message");
    REQUIRE_INT(json_string_length(json_object_get(message, "content")), 3);
    REQUIRE(json_is_null(json_object_get(message, "refusal")));
    json_decref(first);
    json_decref(last);
    json_decref(plain);
    json_decref(whole);
}

static int begin(void **state)
{
    arena_init(&arena, 0);
    return 0;
}

static int end(void **state)
{
    arena_finish(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_has_trls_defaults),
        cmocka_unit_test(hyperparameters_and_own_keys_meet),
        cmocka_unit_test(dtypes_are_read_and_shown),
        cmocka_unit_test(wrong_jobs_are_named),
        cmocka_unit_test(a_job_shows_every_resolved_value),
        cmocka_unit_test(a_chat_becomes_a_message),
        cmocka_unit_test(wrong_chats_are_named),
        cmocka_unit_test(chunks_have_the_vendors_keys),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
