// Forward once: a rollout computes every activation of the training forward, bit for bit. Where they fit into memory they
// are kept, and the update begins with the backward pass. Same bits either way; only time and memory differ.
#include "compute/train/internal.h"
#include "compute/train/plan.h"

#include "compute/base/check.h"

#include <stdlib.h>
#include <string.h>

bool keep_open(struct trainer *t, uint32_t longest_prompt, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    const struct model_config *c = &t->model->config;
    const uint64_t unit = (uint64_t)c->vision.spatial_merge_size * c->vision.spatial_merge_size;
    const uint64_t row = longest_prompt + (uint64_t)s->num_generations * s->max_completion_length;
    const uint64_t vision = s->freeze_vision ? 0 : longest_prompt * unit;
    if (!s->keep_activations || s->gradient_checkpointing)
        return true;
    // Kept are the activations of the whole step; of a micro-batch of them one layer at a time is put together.
    struct plan_batch step = {.tokens = s->batch_size * row,
                              .patches = s->batch_size * vision,
                              .type = t->model->activations,
                              .targets = (uint64_t)s->batch_size * s->num_generations * s->max_completion_length};
    struct plan_batch micro = {.tokens = t->micro_batch * row,
                               .patches = t->micro_batch * longest_prompt * unit,
                               .type = step.type,
                               .targets = (uint64_t)t->micro_batch * s->num_generations * s->max_completion_length,
                               .gradients = true,
                               .checkpoint = true};
    const uint64_t kept = plan_kept_bytes(c, &step), other = plan_activation_bytes(c, &micro);
    const uint64_t held = gpu_device_counters(t->dev).bytes_held;
    uint64_t there = gpu_device_caps(t->dev)->budget_bytes;
    if (s->memory_limit)
        there = VIREO_MIN(there, s->memory_limit);
    if (held + other + kept + PLAN_KEEP_SLACK > there)
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
