#include "server/api/job_json.h"

#include "compute/base/check.h"
#include "compute/base/hash.h"
#include "compute/base/json.h"
#include "compute/dataset/jsonl.h"
#include "compute/rewards/grader.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define METHOD_PATH "method.reinforcement"

// ---- the keys of "vireo"

enum kind { WHOLE, LONG, REAL, FLAG, CHOICE, TEXT };
struct key {
    const char *name, *alias; // alias: another tool's name for it; NULL: none
    enum kind kind;
    size_t offset;
    double min, max;
    const char *const *choices;
    bool reinforcement; // only for that method
};
#define AT(member) offsetof(struct job_spec, member)
static const struct key keys[] = {
    {"group_size", "num_generations", WHOLE, AT(num_generations), 2, 1024, NULL, true},
    {"learning_rate", NULL, REAL, AT(learning_rate), 0, 10, NULL, false},
    {"beta", NULL, REAL, AT(beta), 0, 1e6, NULL, true},
    {"epsilon", NULL, REAL, AT(epsilon), 0, 1e6, NULL, true},
    {"epsilon_high", NULL, REAL, AT(epsilon_high), 0, 1e6, NULL, true},
    {"num_iterations", NULL, WHOLE, AT(num_iterations), 1, 1000, NULL, true},
    {"loss_type", NULL, CHOICE, AT(loss_type), 0, 0, loss_type_names, true},
    {"scale_rewards", NULL, CHOICE, AT(scale_rewards), 0, 0, scale_rewards_names, true},
    {"advantage_epsilon", NULL, REAL, AT(advantage_epsilon), 0, 1e6, NULL, true},
    {"temperature", NULL, REAL, AT(temperature), 0.01, 100, NULL, true},
    {"top_p", NULL, REAL, AT(top_p), 0, 1, NULL, true},
    {"top_k", NULL, WHOLE, AT(top_k), 0, 1 << 24, NULL, true},
    {"min_p", NULL, REAL, AT(min_p), 0, 1, NULL, true},
    {"max_prompt_length", NULL, WHOLE, AT(max_prompt_length), 0, 1 << 20, NULL, false},
    {"max_completion_length", NULL, WHOLE, AT(max_completion_length), 1, 1 << 20, NULL, true},
    {"mask_truncated_completions", NULL, FLAG, AT(mask_truncated_completions), 0, 0, NULL, true},
    {"drop_zero_std_groups", NULL, FLAG, AT(drop_zero_std_groups), 0, 0, NULL, true},
    {"log_completions", NULL, FLAG, AT(log_completions), 0, 0, NULL, true},
    {"max_steps", NULL, WHOLE, AT(max_steps), 0, 100000000, NULL, false},
    {"max_pixels", NULL, LONG, AT(max_pixels), 784, 1e9, NULL, false},
    {"min_pixels", NULL, LONG, AT(min_pixels), 784, 1e9, NULL, false},
    {"shuffle", NULL, FLAG, AT(shuffle), 0, 0, NULL, false},
    {"freeze_vision", "freeze_vision_modules", FLAG, AT(freeze_vision), 0, 0, NULL, false},
    {"gradient_checkpointing", NULL, FLAG, AT(gradient_checkpointing), 0, 0, NULL, false},
    {"offload", NULL, CHOICE, AT(offload), 0, 0, job_offload_names, false},
    {"warmup_ratio", NULL, REAL, AT(warmup_ratio), 0, 1, NULL, false},
    {"warmup_steps", NULL, WHOLE, AT(warmup_steps), 0, 100000000, NULL, false},
    {"lr_scheduler_type", NULL, CHOICE, AT(lr_scheduler_type), 0, 0, lr_scheduler_names, false},
    {"num_stable_steps", NULL, WHOLE, AT(num_stable_steps), 0, 100000000, NULL, false},
    {"num_decay_steps", NULL, WHOLE, AT(num_decay_steps), 0, 100000000, NULL, false},
    {"min_lr_ratio", NULL, REAL, AT(min_lr_ratio), 0, 1, NULL, false},
    {"adam_beta1", NULL, REAL, AT(adam_beta1), 0, 0.999999, NULL, false},
    {"adam_beta2", NULL, REAL, AT(adam_beta2), 0, 0.999999999, NULL, false},
    {"adam_epsilon", NULL, REAL, AT(adam_epsilon), 0, 1, NULL, false},
    {"weight_decay", NULL, REAL, AT(weight_decay), 0, 10, NULL, false},
    {"max_grad_norm", NULL, REAL, AT(max_grad_norm), 0, 1e9, NULL, false},
    {"dtype", NULL, CHOICE, AT(dtype), 0, 0, job_dtype_names, false},
    {"micro_batch_size", NULL, WHOLE, AT(micro_batch_size), 1, 65536, NULL, false},
    {"leaves", NULL, WHOLE, AT(leaves), 1, 1024, NULL, false},
    {"max_skipped_steps", NULL, WHOLE, AT(max_skipped_steps), 1, 1000000, NULL, false},
    {"initial_scale_power", NULL, WHOLE, AT(initial_scale_power), 0, 32, NULL, false},
    {"loss_scale_window", NULL, WHOLE, AT(loss_scale_window), 1, 1000000, NULL, false},
    {"save_steps", NULL, WHOLE, AT(save_steps), 0, 100000000, NULL, false},
    {"save_total_limit", NULL, WHOLE, AT(save_total_limit), 2, 1000, NULL, false},
    {"eval_interval", NULL, WHOLE, AT(eval_interval), 0, 100000000, NULL, false},
    {"eval_samples", NULL, WHOLE, AT(eval_samples), 0, 100000000, NULL, false},
    {"eval_generations", NULL, WHOLE, AT(eval_generations), 1, 128, NULL, true},
    {"eval_temperature", NULL, REAL, AT(eval_temperature), 0, 100, NULL, true},
    {"system_prompt", NULL, TEXT, AT(system_prompt), 0, 0, NULL, false},
    {"question_template", NULL, TEXT, AT(question_template), 0, 0, NULL, false},
};

static bool is_auto(const json_t *value)
{
    return !value || json_is_null(value) || (json_is_string(value) && strcmp(json_string_value(value), "auto") == 0);
}

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < VIREO_COUNT(keys); i++)
        if (strcmp(keys[i].name, name) == 0 || (keys[i].alias && strcmp(keys[i].alias, name) == 0))
            return &keys[i];
    return NULL;
}

static bool unsupported(const char *param, const char *what, const char *built, struct vireo_error *err)
{
    return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", param, "Unsupported value for '%s': %s is not built. %s",
                           param, what, built);
}

// Known names of features that are not built yet: said, never ignored. True: fine.
static bool check_unbuilt(const json_t *vireo, struct vireo_error *err)
{
    static const struct unbuilt {
        const char *name, *only, *built;
    } list[] = {
        {"adapter", "full", "Built: 'full'."},
        {"lora_r", NULL, "All weights are trained (adapter 'full')."},
        {"lora_alpha", NULL, "All weights are trained (adapter 'full')."},
        {"lora_dropout", NULL, "All weights are trained (adapter 'full')."},
        {"target_modules", NULL, "All weights are trained (adapter 'full')."},
        {"lora_target_modules", NULL, "All weights are trained (adapter 'full')."},
        {"ref_sync", NULL, "The reference model stays fixed."},
        {"reward_weights", NULL, "Use a 'multi' grader: its formula weighs the rewards."},
        {"init_from", NULL, "Name the model or checkpoint in 'model'."},
    };
    char path[96];
    for (size_t i = 0; i < VIREO_COUNT(list); i++) {
        const json_t *value = json_object_get(vireo, list[i].name);
        const char *text = json_string_value(value);
        if (!value || json_is_null(value) || (list[i].only && text && strcmp(text, list[i].only) == 0))
            continue;
        json_path(path, sizeof path, "vireo", list[i].name);
        return unsupported(path, text ? text : list[i].name, list[i].built, err);
    }
    const char *loss = json_string_value(json_object_get(vireo, "loss_type"));
    if (loss && (strcmp(loss, "gspo") == 0 || strcmp(loss, "cispo") == 0))
        return unsupported("vireo.loss_type", loss, "Built: grpo, bnpo, dr_grpo, dapo.", err);
    return true;
}

static bool read_key(const json_t *vireo, const char *name, const struct key *k, struct job_spec *s, struct vireo_error *err)
{
    char *at = (char *)s + k->offset;
    switch (k->kind) {
    case WHOLE: {
        int64_t n = *(uint32_t *)at;
        bool done = json_get_integer(vireo, "vireo", name, (int64_t)k->min, (int64_t)k->max, &n, err);
        *(uint32_t *)at = (uint32_t)n;
        return done;
    }
    case LONG: {
        int64_t n = (int64_t)*(uint64_t *)at;
        bool done = json_get_integer(vireo, "vireo", name, (int64_t)k->min, (int64_t)k->max, &n, err);
        *(uint64_t *)at = (uint64_t)n;
        return done;
    }
    case REAL: return json_get_number(vireo, "vireo", name, k->min, k->max, (double *)at, err);
    case FLAG: return json_get_bool(vireo, "vireo", name, (bool *)at, err);
    case CHOICE: {
        int choice = *(int *)at;
        bool done = json_get_choice(vireo, "vireo", name, k->choices, &choice, err);
        *(int *)at = choice;
        return done;
    }
    case TEXT: return json_get_string(vireo, "vireo", name, (const char **)at, err);
    }
    return false;
}

// Keys of "vireo" that are no member of struct job_spec, or are checked elsewhere.
static const char *const other_keys[] = {"preset", "adapter", "lora_r", "lora_alpha", "lora_dropout", "target_modules",
                                         "lora_target_modules", "ref_sync", "reward_weights", "init_from", "priority", "device",
                                         "strict", NULL};

static bool read_vireo(json_t *vireo, struct job_spec *s, struct vireo_error *err)
{
    const char *name;
    json_t *value;
    char path[160];
    if (!check_unbuilt(vireo, err))
        return false;
    json_object_foreach (vireo, name, value) {
        const struct key *k = find_key(name);
        bool other = false;
        for (size_t i = 0; other_keys[i] && !other; i++)
            other = strcmp(other_keys[i], name) == 0;
        json_path(path, sizeof path, "vireo", name);
        if (other)
            continue;
        if (!k)
            return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", path, "Unknown parameter: '%.100s'.", path);
        if (strcmp(k->name, name) == 0 && k->alias && json_object_get(vireo, k->alias))
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", path,
                                   "'vireo.%s' and 'vireo.%s' are two names of one value: give one.", k->name, k->alias);
        if (k->reinforcement && s->method == JOB_SFT && !json_is_null(value))
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", path,
                                   "'%.100s' belongs to the method 'reinforcement'; this job is 'supervised'.", path);
        if (!is_auto(value) && !read_key(vireo, name, k, s, err))
            return false;
        // TRL: epsilon_high follows epsilon unless given.
        if (strcmp(name, "epsilon") == 0 && is_auto(json_object_get(vireo, "epsilon_high")))
            s->epsilon_high = s->epsilon;
    }
    const char *device = json_string_value(json_object_get(vireo, "device"));
    if (device && strcmp(device, "auto") != 0)
        return unsupported("vireo.device", "choosing a device for one job", "Start the server with --device.", err);
    if (s->question_template && strcmp(s->question_template, "none") != 0 && !question_template(s->question_template))
        return vireo_fail_param(err, "vireo.question_template",
                                "Invalid value for 'vireo.question_template': expected none, default, rec, ic or odLength, got "
                                "'%.60s'.", s->question_template);
    return true;
}

// ---- method and hyperparameters

static bool read_hyperparameters(const json_t *h, const char *path, const json_t *vireo, struct job_spec *s,
                                 struct vireo_error *err)
{
    static const char *const sft[] = {"n_epochs", "batch_size", "learning_rate_multiplier", NULL};
    static const char *const rft[] = {"n_epochs", "batch_size", "learning_rate_multiplier", "compute_multiplier",
                                      "eval_interval", "eval_samples", "reasoning_effort", NULL};
    const char *unknown;
    char full[160];
    if (!h)
        return true;
    if (json_find_unknown((json_t *)h, s->method == JOB_SFT ? sft : rft, &unknown)) {
        json_path(full, sizeof full, path, unknown);
        return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", full, "Unknown parameter: '%.100s'.", full);
    }
    struct whole {
        const char *name;
        uint32_t *to;
        int64_t min, max;
    } wholes[] = {{"n_epochs", &s->n_epochs, 1, 1000000},
                  {"batch_size", &s->batch_size, 1, 65536},
                  {"eval_interval", &s->eval_interval, 1, 100000000},
                  {"eval_samples", &s->eval_samples, 1, 100000000}};
    for (size_t i = 0; i < VIREO_COUNT(wholes); i++) {
        int64_t n = *wholes[i].to;
        if (!is_auto(json_object_get(h, wholes[i].name)) &&
            !json_get_integer(h, path, wholes[i].name, wholes[i].min, wholes[i].max, &n, err))
            return false;
        *wholes[i].to = (uint32_t)n;
    }
    double multiplier = 1, compute = 1;
    const json_t *lr = json_object_get(h, "learning_rate_multiplier");
    if (!is_auto(lr)) {
        if (!json_get_number(h, path, "learning_rate_multiplier", 1e-6, 1e6, &multiplier, err))
            return false;
        if (!is_auto(json_object_get(vireo, "learning_rate")))
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", "vireo.learning_rate",
                                   "'vireo.learning_rate' replaces 'learning_rate_multiplier': give one.");
        s->learning_rate *= multiplier;
    }
    if (!is_auto(json_object_get(h, "compute_multiplier"))) {
        if (!json_get_number(h, path, "compute_multiplier", 0.01, 100, &compute, err))
            return false;
        if (!is_auto(json_object_get(vireo, "group_size")) || !is_auto(json_object_get(vireo, "num_generations")))
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", "vireo.group_size",
                                   "'vireo.group_size' replaces 'compute_multiplier': give one.");
        s->num_generations = (uint32_t)fmax(2, round(s->num_generations * compute));
    }
    return true;
}

static bool read_grader(const json_t *reinforcement, struct arena *a, struct job_spec *s, struct vireo_error *err)
{
    json_t *grader = json_object_get(reinforcement, "grader");
    if (!grader)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", METHOD_PATH ".grader",
                               "Missing required parameter: '" METHOD_PATH ".grader'.");
    if (!json_is_null(json_object_get(reinforcement, "response_format")) && json_object_get(reinforcement, "response_format"))
        return unsupported(METHOD_PATH ".response_format", "response_format", "Leave it out.", err);
    struct grader *g = grader_create(grader, METHOD_PATH ".grader", err);
    if (!g)
        return false;
    s->grader = grader_to_json(g, err);
    grader_destroy(&g);
    return s->grader != NULL;
}

static bool read_method(const json_t *body, json_t *vireo, struct arena *a, struct job_request *r, struct vireo_error *err)
{
    static const char *const names[] = {"supervised", "reinforcement", NULL};
    static const char *const members[] = {"type", "supervised", "reinforcement", "dpo", NULL};
    json_t *method = NULL, *own = NULL, *h = NULL;
    int type = 0;
    const char *unknown;
    if (!json_get_object(body, "", "method", &method, err))
        return false;
    if (method) {
        const char *name = json_string_value(json_object_get(method, "type"));
        if (name && strcmp(name, "dpo") == 0)
            return unsupported("method.type", "dpo", "Built: supervised, reinforcement.", err);
        if (!name)
            return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "method.type",
                                   "Missing required parameter: 'method.type'.");
        if (json_find_unknown(method, members, &unknown)) {
            char full[160];
            json_path(full, sizeof full, "method", unknown);
            return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", full, "Unknown parameter: '%.100s'.", full);
        }
        if (!json_get_choice(method, "method", "type", names, &type, err) ||
            !json_get_object(method, "method", names[type], &own, err))
            return false;
    }
    job_spec_defaults(&r->spec, type ? JOB_GRPO : JOB_SFT);
    // TRL's default for SFT (SFTConfig.learning_rate).
    if (!type)
        r->spec.learning_rate = 2e-5;
    static const char *const presets[] = {"trl", "vlm-r1", NULL};
    int preset = 0;
    if (!json_get_choice(vireo, "vireo", "preset", presets, &preset, err))
        return false;
    r->preset = presets[preset];
    if (preset == 1 && type) { // VLM-R1's grpo_rec.py and its scripts
        r->spec.loss_type = LOSS_GRPO;
        r->spec.beta = 0.04;
        r->spec.max_completion_length = 2048;
        r->spec.question_template = "rec";
    }
    if (type && !read_grader(own, a, &r->spec, err))
        return false;
    const char *path = type ? METHOD_PATH ".hyperparameters" : "method.supervised.hyperparameters";
    if (!json_get_object(own, type ? METHOD_PATH : "method.supervised", "hyperparameters", &h, err))
        return false;
    json_t *old = NULL;
    if (!json_get_object(body, "", "hyperparameters", &old, err))
        return false;
    if (old && method)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", "hyperparameters",
                               "'hyperparameters' is the old place: put them into '%s'.", path);
    return read_hyperparameters(h ? h : old, h ? path : "hyperparameters", vireo, &r->spec, err);
}

static bool read_metadata(const json_t *body, json_t **out, struct vireo_error *err)
{
    const char *key;
    json_t *value;
    char path[128];
    if (!json_get_object(body, "", "metadata", out, err))
        return false;
    if (json_object_size(*out) > 16)
        return vireo_fail_param(err, "metadata", "'metadata' may have 16 pairs, not %zu.", json_object_size(*out));
    json_object_foreach (*out, key, value) {
        snprintf(path, sizeof path, "metadata.%.64s", key);
        if (strlen(key) > 64)
            return vireo_fail_param(err, path, "A key of 'metadata' may have 64 characters.");
        if (!json_is_string(value) || json_string_length(value) > 512)
            return vireo_fail_param(err, path, "'%s' must be a string of at most 512 characters.", path);
    }
    return true;
}

static bool read_suffix(const json_t *body, const char **suffix, struct vireo_error *err)
{
    *suffix = "";
    if (!json_get_string(body, "", "suffix", suffix, err))
        return false;
    size_t n = strlen(*suffix);
    bool fine = n <= 64;
    for (size_t i = 0; fine && i < n; i++) {
        char c = (*suffix)[i];
        fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    }
    return fine || vireo_fail_param(err, "suffix", "Invalid value for 'suffix': expected at most 64 of A-Z a-z 0-9 . _ -, got "
                                                   "'%.80s'.", *suffix);
}

static bool read_seed(const json_t *body, uint64_t *seed, struct vireo_error *err)
{
    int64_t n = -1;
    if (!json_get_integer(body, "", "seed", 0, INT64_MAX, &n, err))
        return false;
    if (n < 0) {
        uint32_t drawn;
        random_bytes(&drawn, sizeof drawn);
        n = drawn & 0x7fffffff;
    }
    *seed = (uint64_t)n;
    return true;
}

static bool check_integrations(const json_t *body, struct vireo_error *err)
{
    json_t *list = NULL;
    if (!json_get_array(body, "", "integrations", &list, err))
        return false;
    if (json_array_size(list) == 0)
        return true;
    const char *type = json_string_value(json_object_get(json_array_get(list, 0), "type"));
    return unsupported("integrations[0].type", type ? type : "an integration", "Leave 'integrations' out.", err);
}

static bool read_job(json_t *body, struct arena *a, struct job_request *r, struct vireo_error *err)
{
    json_t *vireo = NULL;
    if (!json_get_string_required(body, "", "model", &r->model, err) ||
        !json_get_string_required(body, "", "training_file", &r->training_file, err) ||
        !json_get_string(body, "", "validation_file", &r->validation_file, err) || !read_suffix(body, &r->suffix, err) ||
        !read_metadata(body, &r->metadata, err) || !check_integrations(body, err) ||
        !json_get_object(body, "", "vireo", &vireo, err) || !read_method(body, vireo, a, r, err) ||
        !read_seed(body, &r->spec.seed, err) || !read_vireo(vireo, &r->spec, err) ||
        !json_get_integer(vireo, "vireo", "priority", -100, 100, &r->priority, err))
        return false;
    struct job_spec *s = &r->spec;
    if (s->num_iterations != 1)
        return unsupported("vireo.num_iterations", "more than one update a batch", "Built: 1.", err);
    if ((s->leaves & (s->leaves - 1)) != 0 || s->batch_size % s->leaves != 0)
        return vireo_fail_param(err, "vireo.leaves",
                                "Invalid value for 'vireo.leaves': expected a power of two that divides batch_size %u, got %u.",
                                s->batch_size, s->leaves);
    if (s->min_pixels && s->max_pixels && s->min_pixels > s->max_pixels)
        return vireo_fail_param(err, "vireo.min_pixels", "'vireo.min_pixels' is above 'vireo.max_pixels'.");
    if (s->lr_scheduler_type != LR_WARMUP_STABLE_DECAY && (s->num_stable_steps || s->num_decay_steps))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", "vireo.num_stable_steps",
                               "'num_stable_steps' and 'num_decay_steps' belong to lr_scheduler_type 'warmup_stable_decay'.");
    if (s->eval_interval && !r->validation_file)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "validation_file",
                               "An evaluation interval needs a 'validation_file'.");
    return true;
}

bool job_json_read(json_t *body, struct arena *a, struct job_request *out, struct vireo_error *err)
{
    struct job_request r = {.preset = "trl"};
    if (!read_job(body, a, &r, err)) {
        job_spec_finish(&r.spec);
        return false;
    }
    *out = r;
    return true;
}

json_t *job_json_resolved(const struct job_request *r, const char *fine_tuned_model)
{
    return json_pack("{s:o,s:s,s:s,s:s}", "spec", job_spec_format(&r->spec), "preset", r->preset, "suffix", r->suffix,
                     "fine_tuned_model", fine_tuned_model);
}

const char *job_json_model_name(const char *model, const char *suffix, const char *job_id, struct arena *a)
{
    // The base of a fine-tuned model is that model's own base: "ft:base:org:...".
    const char *base = model, *end = model + strlen(model);
    if (strncmp(model, "ft:", 3) == 0) {
        base = model + 3;
        const char *colon = strchr(base, ':');
        end = colon ? colon : end;
    }
    size_t n = strlen(job_id);
    return arena_format(a, "ft:%.*s:vireo:%s:%s", (int)(end - base), base, suffix, job_id + (n > 8 ? n - 8 : 0));
}

// ---- showing

static json_t *value_of(const struct job_spec *s, const struct key *k)
{
    const char *at = (const char *)s + k->offset;
    switch (k->kind) {
    case WHOLE: return json_integer(*(const uint32_t *)at);
    case LONG: return *(const uint64_t *)at ? json_integer((json_int_t) * (const uint64_t *)at) : json_null();
    case REAL: return json_real(*(const double *)at);
    case FLAG: return json_boolean(*(const bool *)at);
    case CHOICE: return json_string(k->choices[*(const int *)at]);
    case TEXT: return *(const char *const *)at ? json_string(*(const char *const *)at) : json_null();
    }
    return NULL;
}

json_t *job_json_values(const struct job_spec *s)
{
    json_t *o = json_object();
    for (size_t i = 0; i < VIREO_COUNT(keys); i++)
        if (s->method != JOB_SFT || !keys[i].reinforcement)
            json_object_set_new(o, keys[i].name, value_of(s, &keys[i]));
    return o;
}
