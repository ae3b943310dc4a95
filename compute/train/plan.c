// The memory a job will need, from the model's config and the data's sizes alone.
#include "compute/train/internal.h"
#include "compute/train/plan.h"

#include "compute/base/check.h"
#include "compute/base/json.h"

#include <stdio.h>

enum dtype job_weight_type(const struct job_spec *s)
{
    static const enum dtype types[] = {
        [JOB_AUTO] = DTYPE_U32, [JOB_FP32] = DTYPE_F32, [JOB_BF16] = DTYPE_BF16, [JOB_FP16] = DTYPE_F16};
    return types[s->dtype];
}

uint32_t plan_micro_batch(const struct job_spec *s, uint32_t row_tokens)
{
    enum { TOKENS = 8192 };
    uint32_t per_leaf = s->batch_size / s->leaves;
    if (s->micro_batch_size)
        return VIREO_MIN(s->micro_batch_size, per_leaf);
    uint32_t fit = TOKENS / VIREO_MAX(1, row_tokens);
    return VIREO_MAX(1, VIREO_MIN(fit, per_leaf));
}

// Activations of one packed batch, as the tape of decoder.c and qwen_vision.c takes and gives them back (tape.h):
// without gradients one layer at a time; with gradients everything the backward pass reads, or with checkpointing the
// inputs of layers, and then the layer or head that is worked on with its gradients. The residual stream, statistics and
// logits are f32, everything else and its gradients of the batch's type.
uint64_t plan_activation_bytes(const struct model_config *c, const struct plan_batch *b)
{
    enum { CHUNK_BYTES = 64 << 20, CHUNK_LEAST = 16, CHUNK_MOST = 1024, F = 4 }; // of nn_logprob; bytes of f32
    const struct model_text_config *t = &c->text;
    const struct model_vision_config *v = &c->vision;
    const uint64_t T = dtype_bytes(b->type);
    const uint64_t H = t->hidden_size, I = t->intermediate_size, C = v->hidden_size, VI = v->intermediate_size;
    const uint64_t q = (uint64_t)t->num_attention_heads * t->head_dim, kv = (uint64_t)t->num_key_value_heads * t->head_dim;
    const uint64_t unit = (uint64_t)v->spatial_merge_size * v->spatial_merge_size;
    // Bytes a token: of a layer, and of the gradients beside it when its feed-forward part is walked.
    const uint64_t layer = (2 * H + 2 * q + 2 * kv + 3 * I) * T + (2 * H + t->num_attention_heads + 2) * F;
    const uint64_t layer_grad = H * F + 3 * I * T;
    const uint64_t block = (6 * C + 3 * VI) * T + (2 * C + v->num_heads + 2) * F, block_grad = C * F + 3 * VI * T;
    const uint64_t merger = (3 * C + t->hidden_size / unit) * T + F;
    const uint64_t chunk = CHUNK_BYTES / (4ull * t->vocab_size) / CHUNK_LEAST * CHUNK_LEAST;
    const uint64_t rows = VIREO_MIN(VIREO_MIN(VIREO_MAX(chunk, CHUNK_LEAST), CHUNK_MOST), b->targets);
    const uint64_t head = rows * t->vocab_size * F + b->targets * (H * T + 16 * F);
    const uint64_t text_work = b->tokens * layer, vision_work = b->patches * block;
    if (!b->gradients)
        return VIREO_MAX(VIREO_MAX(b->tokens * (layer + H * F), head + b->tokens * H * (T + F)),
                         vision_work + b->patches * C * F);
    if (b->checkpoint) {
        const uint64_t kept = b->tokens * ((t->num_hidden_layers + 1) * H * F + H * T) +
                              b->patches * ((v->depth + 1) * C * F + merger);
        const uint64_t walk = VIREO_MAX(text_work + b->tokens * layer_grad, vision_work + b->patches * block_grad);
        return kept + VIREO_MAX(head + b->targets * H * T, walk);
    }
    const uint64_t kept = b->tokens * (t->num_hidden_layers * layer + H * (T + F) + F) +
                          b->patches * (v->depth * block + C * F + merger) + b->targets * (H * T + 8 * F);
    return kept + VIREO_MAX(head - b->targets * 16 * F, b->tokens * layer_grad);
}

uint64_t plan_kept_bytes(const struct model_config *c, const struct plan_batch *b)
{
    const struct model_text_config *t = &c->text;
    struct plan_batch kept = {.tokens = b->tokens, .patches = b->patches, .type = b->type, .gradients = true};
    const uint64_t layer_grad = t->hidden_size * 4ull + 3ull * t->intermediate_size * dtype_bytes(b->type);
    return plan_activation_bytes(c, &kept) - b->tokens * layer_grad; // of what is kept alone, no head and no gradients
}

uint64_t plan_features_bytes(const struct model_config *c, enum dtype type, uint64_t pictures, uint64_t tokens)
{
    return VIREO_MIN(pictures * tokens * c->text.hidden_size * dtype_bytes(type), PLAN_FEATURES_MOST);
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
        s->method == JOB_GRPO ? "micro_batch_size, group_size or max_completion_length, set gradient_checkpointing or offload"
                              : "micro_batch_size or max_pixels, set gradient_checkpointing or offload");
}

json_t *train_plan_config(const struct job_spec *s, struct vireo_error *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/config.json", s->model_folder);
    return vireo_json_load(path, 4 << 20, err);
}

bool train_plan(const struct job_spec *s, const json_t *config, uint64_t pictures, uint64_t available, json_t **out,
                struct vireo_error *err)
{
    struct model *m = model_describe(config, err);
    if (!m)
        return false;
    const enum dtype weight_type = job_weight_type(s) == DTYPE_U32 ? m->config.stored : job_weight_type(s);
    const bool halves = dtype_bytes(weight_type) == 2;
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
    uint64_t weights = parameters * (halves ? 2 : 4), gradients = train ? trained * 4 : 0;
    uint64_t optimizer = train ? optimizer_bytes(trained, s->leaves, halves, s->offload & OFFLOAD_OPTIMIZER) : 0;
    uint64_t reference = train && sample && s->beta > 0 ? weights : 0;
    if (reference && s->offload & OFFLOAD_REFERENCE)
        reference = model_streamed_bytes(m, halves);
    struct engine_params e = {
        .kv_tokens = (uint32_t)VIREO_MIN(s->batch_size * engine_tokens((uint32_t)prompt, (uint32_t)s->num_generations,
                                                                       (uint32_t)s->max_completion_length),
                                         1u << 20)};
    const enum dtype type = model_activations(&m->config, weight_type);
    uint64_t kv = sample ? engine_kv_bytes(&m->config, type, &e) : 0;
    const struct plan_batch batch = {.tokens = micro * row,
                                     .patches = patches,
                                     .type = type,
                                     .targets = micro * (s->method == JOB_GRPO ? row - prompt : row),
                                     .gradients = train,
                                     .checkpoint = s->gradient_checkpointing};
    uint64_t activations = plan_activation_bytes(&m->config, &batch);
    if (train)
        activations = VIREO_MAX(activations, PLAN_ACTIVATIONS_LEAST);
    struct plan_batch step = batch; // the rollout of the whole step, where it is kept for the update (keep.c)
    step.tokens = s->batch_size * row;
    step.patches = s->freeze_vision ? 0 : s->batch_size * (patches / micro);
    uint64_t kept = s->method == JOB_GRPO && s->keep_activations && !s->gradient_checkpointing
                        ? plan_kept_bytes(&m->config, &step)
                        : 0;
    // Rings for uploads (gpu/staging.c), host-written arrays of trainer and engine, a block of the engine's activations.
    uint64_t staging = (uint64_t)(16 + 16 + (sample ? 4 + 16 : 0)) << 20;
    uint32_t positions = m->config.text.max_position_embeddings; // of the rope table (model_allocate)
    uint64_t tables = (uint64_t)VIREO_MIN(positions ? positions : 8192, 8192) * m->config.text.head_dim * 4;
    weights += tables;
    reference += reference ? tables : 0;
    uint64_t total = weights + gradients + optimizer + reference + kv + activations + staging;
    if (total + kept + PLAN_KEEP_SLACK > available)
        kept = 0;
    total += kept;
    // Nor may what frozen vision towers make be more than is left; less than a prompt of it is none (pictures.c).
    uint64_t features =
        s->keep_features && (reference || (train && s->freeze_vision)) && total + PLAN_KEEP_SLACK < available
            ? VIREO_MIN(plan_features_bytes(&m->config, type, pictures, prompt), available - total - PLAN_KEEP_SLACK)
            : 0;
    if (features < prompt * m->config.text.hidden_size * dtype_bytes(type))
        features = 0;
    total += features;
    model_destroy(&m);
    json_t *plan =
        json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:i}", "weights", (json_int_t)weights, "gradients",
                  (json_int_t)gradients, "optimizer", (json_int_t)optimizer, "reference", (json_int_t)reference, "kv",
                  (json_int_t)kv, "activations", (json_int_t)activations, "kept_activations", (json_int_t)kept,
                  "vision_features", (json_int_t)features, "staging", (json_int_t)staging, "total", (json_int_t)total, "available", (json_int_t)available,
                  "micro_batch_size", (int)micro);
    if (!plan)
        return vireo_fail_memory(err, 512);
    if (!fits(plan, total, available, s, err)) {
        json_decref(plan);
        return false;
    }
    *out = plan;
    return true;
}
