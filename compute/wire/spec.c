#include "compute/wire/spec.h"

#include "compute/base/check.h"
#include "compute/base/json.h"

#include <stddef.h>
#include <string.h>

const char *const job_method_names[] = {"supervised", "reinforcement", "evaluate", NULL};
const char *const loss_type_names[] = {"grpo", "bnpo", "dr_grpo", "dapo", NULL};
const char *const scale_rewards_names[] = {"group", "batch", "none", NULL};
const char *const lr_scheduler_names[] = {"constant", "linear", "cosine", "warmup_stable_decay", NULL};
const char *const job_dtype_names[] = {"auto", "fp32", "bf16", "fp16", NULL};

const char *const job_offload_names[] = {"none", "reference", "optimizer", "all", "auto", NULL};

enum kind { STRING, COUNT, LONG, NUMBER, BOOLEAN, CHOICE, OBJECT };

// One member of the struct: its name on the wire is its name here.
struct field {
    const char *name;
    enum kind kind;
    size_t offset;
    double min, max;
    const char *const *choices;
};

#define TEXT(member) {#member, STRING, offsetof(struct job_spec, member), 0, 0, NULL}
#define WHOLE(member, low, high) {#member, COUNT, offsetof(struct job_spec, member), low, high, NULL}
#define WIDE(member) {#member, LONG, offsetof(struct job_spec, member), 0, 9.2e18, NULL}
#define REAL(member, low, high) {#member, NUMBER, offsetof(struct job_spec, member), low, high, NULL}
#define FLAG(member) {#member, BOOLEAN, offsetof(struct job_spec, member), 0, 0, NULL}
#define ONE_OF(member, names) {#member, CHOICE, offsetof(struct job_spec, member), 0, 0, names}
#define JSON(member) {#member, OBJECT, offsetof(struct job_spec, member), 0, 0, NULL}

static const struct field fields[] = {
    TEXT(id),
    ONE_OF(method, job_method_names),
    TEXT(model_folder),
    TEXT(training_file),
    TEXT(validation_file),
    JSON(images),
    TEXT(work_folder),
    TEXT(output_folder),
    WIDE(seed),
    TEXT(device),
    WIDE(memory_limit),
    WHOLE(n_epochs, 1, 1000000),
    WHOLE(batch_size, 1, 65536),
    WHOLE(max_steps, 0, 100000000),
    FLAG(shuffle),
    WHOLE(max_prompt_length, 0, 1 << 24),
    WIDE(min_pixels),
    WIDE(max_pixels),
    TEXT(system_prompt),
    TEXT(question_template),
    REAL(learning_rate, 0, 10),
    REAL(warmup_ratio, 0, 1),
    REAL(adam_beta1, 0, 1),
    REAL(adam_beta2, 0, 1),
    REAL(adam_epsilon, 0, 1),
    REAL(weight_decay, 0, 10),
    REAL(max_grad_norm, 0, 1e9),
    WHOLE(warmup_steps, 0, 100000000),
    ONE_OF(lr_scheduler_type, lr_scheduler_names),
    WHOLE(num_stable_steps, 0, 100000000),
    WHOLE(num_decay_steps, 0, 100000000),
    REAL(min_lr_ratio, 0, 1),
    ONE_OF(dtype, job_dtype_names),
    FLAG(freeze_vision),
    FLAG(keep_activations),
    FLAG(keep_features),
    FLAG(gradient_checkpointing),
    ONE_OF(offload, job_offload_names),
    WHOLE(micro_batch_size, 0, 65536),
    WHOLE(leaves, 1, 1024),
    WHOLE(max_skipped_steps, 1, 1000000),
    WHOLE(initial_scale_power, 0, 32),
    WHOLE(loss_scale_window, 1, 1000000),
    JSON(grader),
    WHOLE(num_generations, 1, 1024),
    WHOLE(max_completion_length, 1, 1 << 20),
    WHOLE(num_iterations, 1, 1000),
    REAL(beta, 0, 1e6),
    REAL(epsilon, 0, 1e6),
    REAL(epsilon_high, 0, 1e6),
    REAL(temperature, 0, 100),
    REAL(top_p, 0, 1),
    REAL(min_p, 0, 1),
    WHOLE(top_k, 0, 1 << 24),
    ONE_OF(loss_type, loss_type_names),
    ONE_OF(scale_rewards, scale_rewards_names),
    REAL(advantage_epsilon, 0, 1e6),
    FLAG(mask_truncated_completions),
    FLAG(drop_zero_std_groups),
    FLAG(log_completions),
    FLAG(ignore_eos),
    WHOLE(eval_interval, 0, 100000000),
    WHOLE(eval_samples, 0, 100000000),
    WHOLE(eval_generations, 1, 1024),
    REAL(eval_temperature, 0, 100),
    WHOLE(save_steps, 0, 100000000),
    WHOLE(save_total_limit, 1, 100000),
};

void job_spec_defaults(struct job_spec *s, enum job_method method)
{
    *s = (struct job_spec){
        .method = method,
        .n_epochs = 1,
        .batch_size = 8,
        .shuffle = true,
        .learning_rate = 1e-6,
        .adam_beta1 = 0.9,
        .adam_beta2 = 0.999,
        .adam_epsilon = 1e-8,
        .max_grad_norm = 1,
        .lr_scheduler_type = LR_LINEAR,
        .leaves = 1,
        .keep_activations = true,
        .keep_features = true,
        .offload = OFFLOAD_AUTO,
        .max_skipped_steps = 3,
        .initial_scale_power = 16,
        .loss_scale_window = 2000,
        .num_generations = 8,
        .max_completion_length = 256,
        .num_iterations = 1,
        .epsilon = 0.2,
        .epsilon_high = 0.2,
        .temperature = 1,
        .top_p = 1,
        .loss_type = LOSS_DAPO,
        .advantage_epsilon = 1e-4,
        .log_completions = true,
        .eval_generations = 1,
        .save_steps = 50,
        .save_total_limit = 3,
    };
}

static bool read_field(const json_t *o, const struct field *f, struct arena *a, struct job_spec *s,
                       struct vireo_error *err)
{
    char *at = (char *)s + f->offset;
    switch (f->kind) {
    case STRING: {
        const char *text = NULL;
        if (!json_get_string(o, "", f->name, &text, err))
            return false;
        if (text && !(*(const char **)at = arena_copy_string(a, text)))
            return vireo_fail_memory(err, strlen(text));
        return true;
    }
    case COUNT: {
        int64_t n = *(uint32_t *)at;
        bool done = json_get_integer(o, "", f->name, (int64_t)f->min, (int64_t)f->max, &n, err);
        *(uint32_t *)at = (uint32_t)n;
        return done;
    }
    case LONG: {
        int64_t n = (int64_t)*(uint64_t *)at;
        bool done = json_get_integer(o, "", f->name, 0, INT64_MAX, &n, err);
        *(uint64_t *)at = (uint64_t)n;
        return done;
    }
    case NUMBER: return json_get_number(o, "", f->name, f->min, f->max, (double *)at, err);
    case BOOLEAN: return json_get_bool(o, "", f->name, (bool *)at, err);
    case CHOICE: {
        int choice = *(int *)at;
        bool done = json_get_choice(o, "", f->name, f->choices, &choice, err);
        *(int *)at = choice;
        return done;
    }
    case OBJECT: {
        json_t *value = NULL;
        if (!json_get_object(o, "", f->name, &value, err))
            return false;
        *(json_t **)at = json_incref(value);
        return true;
    }
    }
    return false;
}

bool job_spec_parse(const json_t *o, struct arena *a, struct job_spec *out, struct vireo_error *err)
{
    const char *known[VIREO_COUNT(fields) + 1] = {0};
    for (size_t i = 0; i < VIREO_COUNT(fields); i++)
        known[i] = fields[i].name;
    const char *unknown;
    if (json_find_unknown((json_t *)o, known, &unknown))
        return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", unknown, "Unknown parameter: '%.80s'.", unknown);
    int method = JOB_SFT;
    struct job_spec s;
    if (!json_get_choice(o, "", "method", job_method_names, &method, err))
        return false;
    job_spec_defaults(&s, (enum job_method)method);
    for (size_t i = 0; i < VIREO_COUNT(fields); i++)
        if (!read_field(o, &fields[i], a, &s, err)) {
            job_spec_finish(&s);
            return false;
        }
    if ((s.leaves & (s.leaves - 1)) != 0 || s.batch_size % s.leaves != 0) {
        job_spec_finish(&s);
        return vireo_fail_param(err, "leaves",
                                "Invalid value for 'leaves': expected a power of two that divides batch_size %u, got %u.",
                                s.batch_size, s.leaves);
    }
    *out = s;
    return true;
}

json_t *job_spec_format(const struct job_spec *s)
{
    json_t *o = json_object();
    for (size_t i = 0; o && i < VIREO_COUNT(fields); i++) {
        const struct field *f = &fields[i];
        const char *at = (const char *)s + f->offset;
        json_t *value = NULL;
        switch (f->kind) {
        case STRING: value = *(const char *const *)at ? json_string(*(const char *const *)at) : json_null(); break;
        case COUNT: value = json_integer(*(const uint32_t *)at); break;
        case LONG: value = json_integer((json_int_t) * (const uint64_t *)at); break;
        case NUMBER: value = json_real(*(const double *)at); break;
        case BOOLEAN: value = json_boolean(*(const bool *)at); break;
        case CHOICE: value = json_string(f->choices[*(const int *)at]); break;
        case OBJECT: value = *(json_t *const *)at ? json_incref(*(json_t *const *)at) : json_null(); break;
        }
        if (!value || json_object_set_new(o, f->name, value) != 0) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

void job_spec_finish(struct job_spec *s)
{
    json_decref(s->images);
    json_decref(s->grader);
    s->images = s->grader = NULL;
}
