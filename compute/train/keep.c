// Forward once: a rollout computes every activation of the training forward, bit for bit. Where they fit into memory they
// are kept, and the update begins with the backward pass. Same bits either way; only time and memory differ.
#include "compute/train/internal.h"
#include "compute/train/plan.h"

#include "compute/base/check.h"

#include <stdlib.h>
#include <string.h>

static struct plan_batch batch_of(const struct trainer *t, uint32_t rows, uint32_t longest_prompt)
{
    const struct job_spec *s = t->spec;
    const struct model_vision_config *v = &t->model->config.vision;
    const uint64_t unit = (uint64_t)v->spatial_merge_size * v->spatial_merge_size;
    const uint64_t drawn = s->method == JOB_GRPO ? (uint64_t)s->num_generations * s->max_completion_length : 0;
    return (struct plan_batch){.tokens = rows * (longest_prompt + drawn),
                               .patches = rows * longest_prompt * unit,
                               .type = t->model->activations,
                               .targets = rows * (drawn ? drawn : longest_prompt)};
}

// Kept are the activations of the whole step.
static uint64_t kept_most(const struct trainer *t, uint32_t longest_prompt)
{
    struct plan_batch step = batch_of(t, t->spec->batch_size, longest_prompt);
    if (t->spec->freeze_vision)
        step.patches = 0;
    return plan_kept_bytes(&t->model->config, &step);
}

// Of a micro-batch of what is kept one layer at a time is put together beside its gradients.
static uint64_t micro_most(const struct trainer *t, uint32_t longest_prompt, bool keeps)
{
    struct plan_batch micro = batch_of(t, t->micro_batch, longest_prompt);
    micro.gradients = true;
    micro.checkpoint = t->spec->gradient_checkpointing;
    micro.adopt = keeps;
    return plan_activation_bytes(&t->model->config, &micro);
}

uint64_t keep_reserved(const struct trainer *t, uint32_t longest_prompt)
{
    return micro_most(t, longest_prompt, t->kept_text) + (t->kept_text ? kept_most(t, longest_prompt) : 0);
}

bool keep_open(struct trainer *t, uint32_t longest_prompt, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    if (!s->keep_activations || s->gradient_checkpointing)
        return true;
    const uint64_t kept = kept_most(t, longest_prompt), held = gpu_device_counters(t->dev).bytes_held;
    uint64_t there = gpu_device_caps(t->dev)->budget_bytes;
    if (s->memory_limit)
        there = VIREO_MIN(there, s->memory_limit);
    if (held + micro_most(t, longest_prompt, true) + kept + PLAN_KEEP_SLACK > there)
        return true;
    struct gpu_arena_params p = {.name = "kept activations", .bytes = VIREO_MIN(kept, (uint64_t)64 << 20), .grows = true};
    t->kept_memory = gpu_arena_create(t->dev, &p, err);
    t->kept_text = t->kept_memory ? kept_create(t->kept_memory, kept, err) : NULL;
    if (t->kept_text && !s->freeze_vision)
        t->kept_vision = kept_create(t->kept_memory, kept, err);
    return t->kept_text && (s->freeze_vision || t->kept_vision);
}

void keep_close(struct trainer *t)
{
    kept_destroy(&t->kept_text);
    kept_destroy(&t->kept_vision);
    gpu_arena_destroy(&t->kept_memory);
}

bool keep_is_complete(const struct trainer *t)
{
    return t->kept_text && kept_complete(t->kept_text) && (!t->kept_vision || kept_complete(t->kept_vision));
}
