// The memory a job will need, from the model's config and the data's sizes alone.
#include "compute/train/internal.h"
#include "compute/train/plan.h"

#include "compute/base/check.h"
#include "compute/base/file.h"
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

bool plan_streams_reference(const struct job_spec *s, bool cpu)
{
    return s->offload == OFFLOAD_AUTO ? cpu : (s->offload & OFFLOAD_REFERENCE) != 0;
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
    // Gate and up of a layer are stored for the backward pass alone (nn_linear_swiglu).
    const uint64_t layer_alone = layer - 2 * I * T, block_alone = block - 2 * VI * T;
    if (!b->gradients)
        return VIREO_MAX(VIREO_MAX(b->tokens * (layer_alone + H * F), head + b->tokens * H * (T + F)),
                         b->patches * (block_alone + C * F));
    if (b->checkpoint || b->adopt) {
        const uint64_t kept = b->tokens * ((t->num_hidden_layers + 1) * H * F + H * T) +
                              b->patches * ((v->depth + 1) * C * F + merger);
        const uint64_t walk = VIREO_MAX(text_work + b->tokens * layer_grad, vision_work + b->patches * block_grad);
        // A layer that was computed leaves a hole below its result, which the head does not fit in, nor all of the walk's layer,
        // which has gate and up as well.
        const uint64_t hole = b->adopt ? 0 : text_work;
        return kept + VIREO_MAX(head + b->targets * H * T + hole, walk);
    }
    const uint64_t kept = b->tokens * (t->num_hidden_layers * layer + H * (T + F) + F) +
                          b->patches * (v->depth * block + C * F + merger) + b->targets * (H * T + 8 * F);
    return kept + VIREO_MAX(head - b->targets * 16 * F, b->tokens * layer_grad);
}

static uint64_t pixel_bytes(const struct model_vision_config *v) // of a patch
{
    return 4ull * v->in_channels * v->temporal_patch_size * v->patch_size * v->patch_size;
}

uint64_t plan_upload_bytes(const struct model_config *c, const struct plan_batch *b)
{
    enum { WORDS = 64 };
    return VIREO_MAX(b->patches * pixel_bytes(&c->vision) + b->tokens * WORDS * 4, PLAN_UPLOAD_LEAST);
}

// What the ops keep (kept.h): all of a layer but the results of norms and SwiGLU.
uint64_t plan_kept_bytes(const struct model_config *c, const struct plan_batch *b)
{
    enum { F = 4 };
    const struct model_text_config *t = &c->text;
    const struct model_vision_config *v = &c->vision;
    const uint64_t T = dtype_bytes(b->type), H = t->hidden_size, C = v->hidden_size;
    const uint64_t q = (uint64_t)t->num_attention_heads * t->head_dim, kv = (uint64_t)t->num_key_value_heads * t->head_dim;
    const uint64_t unit = (uint64_t)v->spatial_merge_size * v->spatial_merge_size;
    const uint64_t layer = (2 * q + 2 * kv + 2ull * t->intermediate_size) * T + (2 * H + t->num_attention_heads) * F;
    const uint64_t block = (4 * C + 2ull * v->intermediate_size) * T + (2 * C + v->num_heads) * F;
    return b->tokens * (t->num_hidden_layers * layer + H * F) +
           b->patches * (v->depth * block + C * F + (2 * C + H / unit) * T);
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

// What the process has beside the device's bytes. By measurement (Mesa 25's lavapipe, kernels in its cache; compiling
// them takes up to 150 MiB more): the pages of program, driver and LLVM that are used; kernels as the driver keeps them,
// with recorded work, which are more where products load texels (compute/nn/gemm.c); tokenizer and data.
static uint64_t host_bytes(const struct plan_facts *f, uint64_t pixels, enum dtype type)
{
    enum { PROGRAM = 75 << 20, KERNELS = 130 << 20, KERNELS_OF_HALVES = 225 << 20, OF_TEXELS = 50 << 20 };
    enum { TOKENIZER_TIMES = 8, DATA_TIMES = 4 };
    // Patches of this step and the next as floats, with the pictures they were cut from; rows as text and as JSON.
    return PROGRAM + (type == DTYPE_F32 ? KERNELS : KERNELS_OF_HALVES) + (f->cpu_lanes == NN_TEXEL_LANES ? OF_TEXELS : 0) +
           TOKENIZER_TIMES * f->tokenizer_bytes + DATA_TIMES * f->training_bytes +
           pixels * 5 / 2;
}

// The data's sizes: the longest prompt allowed and the largest picture; unknown ones by what the model takes at most.
struct sizes {
    uint64_t prompt, row, patches; // tokens of a prompt and of a row or group with all of its answers; patches of it
    uint32_t micro;                // rows or groups computed at once
};

static struct sizes sizes_of(const struct job_spec *s, const struct model_config *c)
{
    const uint64_t unit = (uint64_t)c->vision.spatial_merge_size * c->vision.spatial_merge_size;
    const uint64_t pixels = s->max_pixels ? s->max_pixels : 1003520;
    const uint64_t area = (uint64_t)c->vision.patch_size * c->vision.patch_size;
    struct sizes z = {.prompt = s->max_prompt_length ? s->max_prompt_length : 64 + pixels / area / unit};
    z.row = z.prompt + (s->method == JOB_GRPO ? (uint64_t)s->num_generations * s->max_completion_length : 0);
    z.micro = plan_micro_batch(s, (uint32_t)VIREO_MIN(z.row, UINT32_MAX));
    z.patches = VIREO_MIN(pixels / area, z.prompt * unit);
    return z;
}

// Bytes by purpose.
struct plan {
    uint64_t weights, gradients, optimizer, reference, kv, activations, kept, features, staging, host;
    uint64_t unused; // of the device's bytes, which are never touched: on a CPU they take no memory
};

static uint64_t plan_total(const struct plan *p)
{
    return p->weights + p->gradients + p->optimizer + p->reference + p->kv + p->activations + p->kept + p->features +
           p->staging;
}

static void plan_model(struct plan *p, const struct job_spec *s, const struct model *m, bool halves, bool cpu)
{
    const bool train = s->method != JOB_EVALUATE, sample = s->method != JOB_SFT;
    const uint64_t parameters = model_parameters(m);
    uint64_t trained = 0;
    for (size_t i = 0; i < m->weight_count; i++) {
        enum weight_role role = m->weights[i]->role;
        if (!(s->freeze_vision && (role == WEIGHT_VISION || role == WEIGHT_MERGER)))
            trained += tensor_count(m->weights[i]->value);
    }
    const uint32_t positions = m->config.text.max_position_embeddings; // of the rope table (model_allocate)
    const uint64_t tables = (uint64_t)VIREO_MIN(positions ? positions : 8192, 8192) * m->config.text.head_dim * 4;
    p->weights = parameters * (halves ? 2 : 4);
    if (train) {
        p->gradients = trained * 4;
        p->optimizer = optimizer_bytes(trained, s->leaves, halves, s->offload & OFFLOAD_OPTIMIZER);
    }
    if (train && sample && s->beta > 0)
        p->reference = tables + (plan_streams_reference(s, cpu) ? model_streamed_bytes(m, halves, cpu) : p->weights);
    p->weights += tables;
}

static void plan_step(struct plan *p, const struct job_spec *s, const struct model_config *c, const struct sizes *z,
                      enum dtype type, const struct plan_facts *f)
{
    const bool train = s->method != JOB_EVALUATE, sample = s->method != JOB_SFT;
    const uint64_t kv_tokens = s->batch_size * engine_tokens((uint32_t)z->prompt, (uint32_t)s->num_generations,
                                                             (uint32_t)s->max_completion_length);
    const struct engine_params e = {.kv_tokens = (uint32_t)VIREO_MIN(kv_tokens, 1u << 20)};
    p->kv = sample ? engine_kv_bytes(c, type, &e) : 0;
    struct plan_batch batch = {.tokens = z->micro * z->row,
                               .patches = z->micro * z->patches,
                               .type = type,
                               .targets = z->micro * (s->method == JOB_GRPO ? z->row - z->prompt : z->row),
                               .gradients = train,
                               .checkpoint = s->gradient_checkpointing};
    // The rollout of the whole step, where it is kept for the update (keep.c).
    struct plan_batch step = batch;
    step.tokens = s->batch_size * z->row;
    step.patches = s->freeze_vision ? 0 : s->batch_size * z->patches;
    if (s->method == JOB_GRPO && s->keep_activations && !s->gradient_checkpointing)
        p->kept = plan_kept_bytes(c, &step);
    batch.adopt = p->kept > 0;
    const uint64_t used = plan_activation_bytes(c, &batch);
    p->activations = train ? VIREO_MAX(used, PLAN_ACTIVATIONS_LEAST) : used;
    // Host-written arrays of trainer and engine, pixels above all, and a block of the engine's activations; where the
    // host does not see the device's memory, a ring for uploads (gpu/staging.c).
    const uint64_t pixels = batch.patches * pixel_bytes(&c->vision), upload = plan_upload_bytes(c, &batch);
    p->staging = upload + (f->cpu_lanes ? 0 : 16 << 20);
    if (sample)
        p->staging += ENGINE_BLOCK_BYTES + VIREO_MAX(pixels, ENGINE_BLOCK_BYTES);
    p->unused = p->activations - used + upload - pixels;
    p->host = host_bytes(f, s->batch_size * z->patches * pixel_bytes(&c->vision), type);
}

static json_t *plan_json(const struct plan *p, uint64_t available, bool cpu, uint32_t micro)
{
    const uint64_t total = plan_total(p);
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:i}", "weights", (json_int_t)p->weights,
                     "gradients", (json_int_t)p->gradients, "optimizer", (json_int_t)p->optimizer, "reference",
                     (json_int_t)p->reference, "kv", (json_int_t)p->kv, "activations", (json_int_t)p->activations,
                     "kept_activations", (json_int_t)p->kept, "vision_features", (json_int_t)p->features, "staging",
                     (json_int_t)p->staging, "total", (json_int_t)total, "available", (json_int_t)available, "host",
                     (json_int_t)p->host, "resident",
                     (json_int_t)(p->host + (cpu ? total - p->unused : 0)), "micro_batch_size", (int)micro);
}

// What frozen vision towers make may be kept where it is no more than is left; less than a prompt of it is none
// (pictures.c).
static void plan_features(struct plan *p, const struct job_spec *s, const struct model_config *c, uint64_t prompt,
                          enum dtype type, uint64_t pictures, uint64_t available)
{
    const uint64_t total = plan_total(p) + PLAN_KEEP_SLACK;
    const bool frozen = p->reference || (s->method != JOB_EVALUATE && s->freeze_vision);
    if (!s->keep_features || !frozen || total >= available)
        return;
    const uint64_t bytes = VIREO_MIN(plan_features_bytes(c, type, pictures, prompt), available - total);
    p->features = bytes < prompt * c->text.hidden_size * dtype_bytes(type) ? 0 : bytes;
}

static uint64_t file_bytes_of(const char *path)
{
    struct vireo_error ignored;
    uint64_t bytes = 0;
    return path && file_size(path, &bytes, &ignored) ? bytes : 0;
}

bool plan_facts_read(const struct job_spec *s, struct plan_facts *out, struct vireo_error *err)
{
    char path[700];
    *out = (struct plan_facts){0};
    snprintf(path, sizeof path, "%s/tokenizer.json", s->model_folder);
    out->tokenizer_bytes = file_bytes_of(path);
    out->training_bytes = file_bytes_of(s->training_file);
    snprintf(path, sizeof path, "%s/config.json", s->model_folder);
    out->config = vireo_json_load(path, 4 << 20, err);
    return out->config != NULL;
}

void plan_facts_finish(struct plan_facts *f)
{
    json_decref(f->config);
    f->config = NULL;
}

bool train_plan(const struct job_spec *s, const struct plan_facts *f, uint64_t available, json_t **out,
                struct vireo_error *err)
{
    struct model *m = model_describe(f->config, err);
    if (!m)
        return false;
    const enum dtype weight_type = job_weight_type(s) == DTYPE_U32 ? m->config.stored : job_weight_type(s);
    const struct sizes z = sizes_of(s, &m->config);
    const enum dtype type = model_activations(&m->config, weight_type);
    struct plan p = {0};
    plan_model(&p, s, m, dtype_bytes(weight_type) == 2, f->cpu_lanes > 0);
    plan_step(&p, s, &m->config, &z, type, f);
    if (p.kept && plan_total(&p) + PLAN_KEEP_SLACK > available) {
        struct job_spec without = *s; // as keep.c decides
        without.keep_activations = false;
        p.kept = 0;
        plan_step(&p, &without, &m->config, &z, type, f);
    }
    plan_features(&p, s, &m->config, z.prompt, type, f->pictures, available);
    model_destroy(&m);
    json_t *plan = plan_json(&p, available, f->cpu_lanes > 0, z.micro);
    if (!plan)
        return vireo_fail_memory(err, 512);
    if (!fits(plan, plan_total(&p), available, s, err)) {
        json_decref(plan);
        return false;
    }
    *out = plan;
    return true;
}
