#include "compute/models/qwen_vision.h"

#include "compute/models/internal.h"

#include <math.h>
#include <stdio.h>

enum { ONES = -2, ZEROS = -1 };
static const float vision_eps = 1e-6f; // fixed in the reference, not configured

// weight [rows, columns] and, unless bias is NULL, its bias.
static struct weight *declare_linear(struct model *m, enum weight_role role, const char *prefix, const char *name,
                                     uint32_t rows, uint32_t columns, struct vireo_error *err)
{
    char full[96], bias[96];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    snprintf(bias, sizeof bias, "%s%s.bias", prefix, name);
    struct weight *w = model_declare(m, role, columns, m->config.init_weight,
                                     &(struct model_part){.name = full, .rows = rows}, 1, err);
    struct weight *b =
        w ? model_declare(m, role, 1, ZEROS, &(struct model_part){.name = bias, .rows = rows}, 1, err) : NULL;
    if (!b)
        return NULL;
    w->bias = b;
    return w;
}

static struct weight *declare_norm(struct model *m, enum weight_role role, const char *prefix, const char *name,
                                   uint32_t rows, struct vireo_error *err)
{
    char full[96];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    return model_declare(m, role, 1, ONES, &(struct model_part){.name = full, .rows = rows}, 1, err);
}

// gate and up share one product: their rows stand one after the other.
static struct weight *declare_gate_up(struct model *m, const char *prefix, uint32_t rows, uint32_t columns,
                                      struct vireo_error *err)
{
    char names[4][96];
    snprintf(names[0], sizeof names[0], "%smlp.gate_proj.weight", prefix);
    snprintf(names[1], sizeof names[1], "%smlp.up_proj.weight", prefix);
    snprintf(names[2], sizeof names[2], "%smlp.gate_proj.bias", prefix);
    snprintf(names[3], sizeof names[3], "%smlp.up_proj.bias", prefix);
    struct model_part w[2] = {{names[0], rows, 0, {0}}, {names[1], rows, 0, {0}}};
    struct model_part b[2] = {{names[2], rows, 0, {0}}, {names[3], rows, 0, {0}}};
    struct weight *weight = model_declare(m, WEIGHT_VISION, columns, m->config.init_weight, w, 2, err);
    struct weight *bias = weight ? model_declare(m, WEIGHT_VISION, 1, ZEROS, b, 2, err) : NULL;
    if (!bias)
        return NULL;
    weight->bias = bias;
    return weight;
}

bool qwen_vision_declare(struct model *m, struct vireo_error *err)
{
    const struct model_vision_config *c = &m->config.vision;
    uint32_t C = c->hidden_size, unit = c->spatial_merge_size * c->spatial_merge_size;
    uint32_t patch = c->in_channels * c->temporal_patch_size * c->patch_size * c->patch_size;
    struct model_part conv = {"visual.patch_embed.proj.weight",
                              C,
                              5,
                              {C, c->in_channels, c->temporal_patch_size, c->patch_size, c->patch_size}};
    m->patch_embed = model_declare(m, WEIGHT_VISION, patch, m->config.init_patch_embed, &conv, 1, err);
    if (!m->patch_embed)
        return false;
    for (uint32_t j = 0; j < c->depth; j++) {
        struct vision_block *b = &m->vision[j];
        char prefix[48];
        snprintf(prefix, sizeof prefix, "visual.blocks.%u.", j);
        b->norm1 = declare_norm(m, WEIGHT_VISION, prefix, "norm1", C, err);
        b->qkv = declare_linear(m, WEIGHT_VISION, prefix, "attn.qkv", 3 * C, C, err);
        b->proj = declare_linear(m, WEIGHT_VISION, prefix, "attn.proj", C, C, err);
        b->norm2 = declare_norm(m, WEIGHT_VISION, prefix, "norm2", C, err);
        b->gate_up = declare_gate_up(m, prefix, c->intermediate_size, C, err);
        b->down = declare_linear(m, WEIGHT_VISION, prefix, "mlp.down_proj", C, c->intermediate_size, err);
        if (!b->norm1 || !b->qkv || !b->proj || !b->norm2 || !b->gate_up || !b->down)
            return false;
    }
    m->merger_norm = declare_norm(m, WEIGHT_MERGER, "visual.merger.", "ln_q", C, err);
    m->merger_fc1 = declare_linear(m, WEIGHT_MERGER, "visual.merger.", "mlp.0", unit * C, unit * C, err);
    m->merger_fc2 = declare_linear(m, WEIGHT_MERGER, "visual.merger.", "mlp.2", c->out_hidden_size, unit * C, err);
    return m->merger_norm && m->merger_fc1 && m->merger_fc2;
}

// One block, as the tape runs it: once, or again in the backward walk.
struct block_step {
    const struct model *m;
    const struct vision_batch *b;
    uint32_t j;
};

static struct tensor block_forward(struct tape *t, const void *data, struct tensor x)
{
    const struct block_step *s = data;
    const struct model_vision_config *c = &s->m->config.vision;
    const struct vision_block *w = &s->m->vision[s->j];
    const uint32_t D = c->hidden_size / c->num_heads;
    const struct nn_heads heads = {
        .heads = c->num_heads, .kv_heads = c->num_heads, .head_dim = D, .scale = (float)(1 / sqrt(D))};
    struct tensor qkv = nn_linear(t, nn_rms_norm(t, x, w->norm1, vision_eps), w->qkv);
    qkv = nn_rope_store(t, qkv, &heads, &s->b->rope, NULL);
    const struct nn_spans *spans = c->full_attention[s->j] ? &s->b->full : &s->b->window;
    x = nn_linear_add(t, nn_attention(t, qkv, &heads, spans, NULL), w->proj, x);
    struct tensor y = nn_linear_swiglu(t, nn_rms_norm(t, x, w->norm2, vision_eps), w->gate_up);
    return nn_linear_add(t, y, w->down, x);
}

struct tensor qwen_vision_forward(struct tape *t, const struct model *m, const struct vision_batch *b)
{
    const struct model_vision_config *c = &m->config.vision;
    uint32_t unit = c->spatial_merge_size * c->spatial_merge_size;
    struct tensor x = nn_linear_f32(t, b->pixels, m->patch_embed);
    model_trace(m, "vit.patch_embed", -1, x);
    b = tape_copy(t, b, sizeof *b); // the caller's may end before layers run again in the backward walk
    for (uint32_t j = 0; j < c->depth; j++) {
        struct block_step s = {m, b, j};
        model_enter(t, m, true, j);
        x = tape_part(t, block_forward, &s, sizeof s, x);
        model_trace(m, "vit.block", (int)j, x);
    }
    x = nn_rms_norm(t, x, m->merger_norm, vision_eps);
    // The merge^2 rows of a group stand one after the other: as one row they are the merger's input.
    if (tape_failed(t))
        return x; // without memory it cannot be seen as such
    x = tensor_reshape(x, 2, (uint32_t[]){b->merged, unit * c->hidden_size});
    x = nn_linear(t, nn_gelu(t, nn_linear(t, x, m->merger_fc1)), m->merger_fc2);
    model_trace(m, "vit_merged", -1, x);
    return x;
}
