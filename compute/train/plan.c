// The memory a job will need, from the model's config and the data's sizes alone.
#include "compute/train/internal.h"
#include "compute/train/plan.h"

#include "compute/base/check.h"
#include "compute/base/json.h"

#include <stdio.h>

uint32_t plan_micro_batch(const struct job_spec *s, uint32_t row_tokens)
{
    enum { TOKENS = 8192 };
    uint32_t per_leaf = s->batch_size / s->leaves;
    if (s->micro_batch_size)
        return VIREO_MIN(s->micro_batch_size, per_leaf);
    uint32_t fit = TOKENS / VIREO_MAX(1, row_tokens);
    return VIREO_MAX(1, VIREO_MIN(fit, per_leaf));
}

// Activations kept for the backward pass of one packed batch: per token and layer the inputs of norms and products and
// the attention output; per patch the same of the vision tower. Counted from decoder.c and qwen_vision.c: `text` and
// `patch` in the activations' type, `text_f32` and `patch_f32` what is f32 always (residual stream, statistics, pixels).
uint64_t plan_activation_bytes(const struct model_config *c, enum dtype type, uint64_t tokens, uint64_t patches,
                               bool gradients)
{
    const struct model_text_config *t = &c->text;
    const struct model_vision_config *v = &c->vision;
    uint64_t q = (uint64_t)t->num_attention_heads * t->head_dim, kv = (uint64_t)t->num_key_value_heads * t->head_dim;
    uint64_t layer = 2ull * t->hidden_size + (q + 2 * kv) + q + 3ull * t->intermediate_size;
    uint64_t block = 6ull * v->hidden_size + 3ull * v->intermediate_size;
    uint64_t text = t->num_hidden_layers * layer + 2ull * t->hidden_size;
    uint64_t text_f32 = t->num_hidden_layers * (2ull * t->hidden_size + t->num_attention_heads + 2) +
                        2ull * t->hidden_size;
    uint64_t patch = v->depth * block + 7ull * v->hidden_size;
    uint64_t patch_f32 = v->depth * (2ull * v->hidden_size + v->num_heads + 2) + v->hidden_size +
                         3ull * v->temporal_patch_size * v->patch_size * v->patch_size;
    uint64_t head = VIREO_MIN((uint64_t)32 << 20, tokens * (uint64_t)t->vocab_size * 4);
    uint64_t forward = (tokens * text + patches * patch) * dtype_bytes(type) + (tokens * text_f32 + patches * patch_f32) * 4;
    return (gradients ? 2 * forward : forward) + head;
}

static bool fits(const json_t *plan, uint64_t total, uint64_t available, const struct job_spec *s,
                 struct vireo_error *err)
{
    if (total <= available)
        return true;
    double wanted = (double)total / (1 << 30), there = (double)available / (1 << 30);
    return vireo_fail_kind(
        err, VIREO_DEVICE_MEMORY, "insufficient_memory", NULL,
        "The job needs %.2f GiB, the device grants %.2f GiB (weights %.2f, optimizer and gradients %.2f, "
        "activations %.2f): lower %s, or use a smaller model.",
        wanted, there, json_number_value(json_object_get(plan, "weights")) / (1 << 30),
        (json_number_value(json_object_get(plan, "optimizer")) +
         json_number_value(json_object_get(plan, "gradients"))) /
            (1 << 30),
        json_number_value(json_object_get(plan, "activations")) / (1 << 30),
        s->method == JOB_GRPO ? "micro_batch_size, group_size or max_completion_length"
                              : "micro_batch_size or max_pixels");
}

bool train_plan(const struct job_spec *s, uint64_t available, json_t **out, struct vireo_error *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/config.json", s->model_folder);
    json_t *config = vireo_json_load(path, 4 << 20, err);
    struct model *m = config ? model_describe(config, err) : NULL;
    json_decref(config);
    if (!m)
        return false;
    bool bf16 = s->dtype == JOB_BF16 || (s->dtype == JOB_AUTO && m->config.stored == DTYPE_BF16);
    uint64_t parameters = model_parameters(m), trained = 0;
    for (size_t i = 0; i < m->weight_count; i++) {
        enum weight_role role = m->weights[i]->role;
        if (!(s->freeze_vision && (role == WEIGHT_VISION || role == WEIGHT_MERGER)))
            trained += tensor_count(m->weights[i]->value);
    }
    // The data's sizes: the longest prompt allowed and the largest picture; unknown ones by what the model takes at
    // most.
    uint32_t unit = m->config.vision.spatial_merge_size * m->config.vision.spatial_merge_size;
    uint64_t pixels = s->max_pixels ? s->max_pixels : 1003520,
             area = (uint64_t)m->config.vision.patch_size * m->config.vision.patch_size;
    uint64_t prompt = s->max_prompt_length ? s->max_prompt_length : 64 + pixels / area / unit;
    uint64_t row = prompt + (s->method == JOB_GRPO ? (uint64_t)s->num_generations * s->max_completion_length : 0);
    uint32_t micro = plan_micro_batch(s, (uint32_t)VIREO_MIN(row, UINT32_MAX));
    uint64_t patches = micro * VIREO_MIN(pixels / area, prompt * unit);
    bool train = s->method != JOB_EVALUATE, sample = s->method != JOB_SFT;
    uint64_t weights = parameters * (bf16 ? 2 : 4), gradients = train ? trained * 4 : 0;
    uint64_t optimizer = train ? optimizer_bytes(trained, s->leaves, bf16) : 0;
    uint64_t reference = train && sample && s->beta > 0 ? weights : 0;
    struct engine_params e = {
        .kv_tokens = (uint32_t)VIREO_MIN(s->batch_size * engine_tokens((uint32_t)prompt, (uint32_t)s->num_generations,
                                                                       (uint32_t)s->max_completion_length),
                                         1u << 20)};
    const enum dtype type = model_activations(&m->config, bf16 ? DTYPE_BF16 : DTYPE_F32);
    uint64_t kv = sample ? engine_kv_bytes(&m->config, type, &e) : 0;
    uint64_t activations = plan_activation_bytes(&m->config, type, micro * row, patches, train);
    uint64_t staging = (uint64_t)32 << 20;
    uint64_t total = weights + gradients + optimizer + reference + kv + activations + staging;
    model_destroy(&m);
    json_t *plan =
        json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:i}", "weights", (json_int_t)weights, "gradients",
                  (json_int_t)gradients, "optimizer", (json_int_t)optimizer, "reference", (json_int_t)reference, "kv",
                  (json_int_t)kv, "activations", (json_int_t)activations, "staging", (json_int_t)staging, "total",
                  (json_int_t)total, "available", (json_int_t)available, "micro_batch_size", (int)micro);
    if (!plan)
        return vireo_fail_memory(err, 512);
    if (!fits(plan, total, available, s, err)) {
        json_decref(plan);
        return false;
    }
    *out = plan;
    return true;
}
