#include "compute/models/decoder.h"

#include "compute/models/internal.h"

#include <math.h>
#include <stdio.h>

static struct weight *declare_one(struct model *m, enum weight_role role, const char *name, uint32_t rows,
                                  uint32_t columns, float init, struct vireo_error *err)
{
    return model_declare(m, role, columns, init, &(struct model_part){.name = name, .rows = rows}, 1, err);
}

enum { ONES = -2, ZEROS = -1 }; // model_param.init

static bool declare_layer(struct model *m, uint32_t l, struct vireo_error *err)
{
    const struct model_text_config *c = &m->config.text;
    struct text_block *b = &m->layers[l];
    uint32_t q = c->num_attention_heads * c->head_dim, kv = c->num_key_value_heads * c->head_dim;
    char names[12][96];
    static const char *const suffix[12] = {"input_layernorm.weight",  "post_attention_layernorm.weight",
                                           "self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                           "self_attn.v_proj.weight", "self_attn.q_proj.bias",
                                           "self_attn.k_proj.bias",   "self_attn.v_proj.bias",
                                           "self_attn.o_proj.weight", "mlp.gate_proj.weight",
                                           "mlp.up_proj.weight",      "mlp.down_proj.weight"};
    for (int i = 0; i < 12; i++)
        snprintf(names[i], sizeof names[i], "model.layers.%u.%s", l, suffix[i]);
    float init = m->config.init_weight;
    struct model_part qkv[3] = {{names[2], q, 0, {0}}, {names[3], kv, 0, {0}}, {names[4], kv, 0, {0}}};
    struct model_part bias[3] = {{names[5], q, 0, {0}}, {names[6], kv, 0, {0}}, {names[7], kv, 0, {0}}};
    struct model_part mlp[2] = {{names[9], c->intermediate_size, 0, {0}}, {names[10], c->intermediate_size, 0, {0}}};
    b->input_norm = declare_one(m, WEIGHT_TEXT, names[0], c->hidden_size, 1, ONES, err);
    b->qkv = model_declare(m, WEIGHT_TEXT, c->hidden_size, init, qkv, 3, err);
    struct weight *qkv_bias = model_declare(m, WEIGHT_TEXT, 1, ZEROS, bias, 3, err);
    b->o = declare_one(m, WEIGHT_TEXT, names[8], c->hidden_size, q, init, err);
    b->post_norm = declare_one(m, WEIGHT_TEXT, names[1], c->hidden_size, 1, ONES, err);
    b->gate_up = model_declare(m, WEIGHT_TEXT, c->hidden_size, init, mlp, 2, err);
    b->down = declare_one(m, WEIGHT_TEXT, names[11], c->hidden_size, c->intermediate_size, init, err);
    if (!b->input_norm || !b->qkv || !qkv_bias || !b->o || !b->post_norm || !b->gate_up || !b->down)
        return false;
    b->qkv->bias = qkv_bias;
    return true;
}

bool decoder_declare(struct model *m, struct vireo_error *err)
{
    const struct model_text_config *c = &m->config.text;
    m->embed = declare_one(m, WEIGHT_EMBEDDING, "model.embed_tokens.weight", c->vocab_size, c->hidden_size,
                           m->config.init_embed, err);
    bool done = m->embed != NULL;
    for (uint32_t l = 0; done && l < c->num_hidden_layers; l++)
        done = declare_layer(m, l, err);
    if (!done)
        return false;
    m->final_norm = declare_one(m, WEIGHT_TEXT, "model.norm.weight", c->hidden_size, 1, ONES, err);
    m->head = c->tie_word_embeddings ? m->embed
                                     : declare_one(m, WEIGHT_HEAD, "lm_head.weight", c->vocab_size, c->hidden_size,
                                                   m->config.init_weight, err);
    return m->final_norm && m->head;
}

// One layer, as the tape runs it: once, or again in the backward walk.
struct layer_step {
    const struct model *m;
    const struct text_batch *b;
    uint32_t l;
};

static struct tensor layer_forward(struct tape *t, const void *data, struct tensor h)
{
    const struct layer_step *s = data;
    const struct model_text_config *c = &s->m->config.text;
    const struct text_block *w = &s->m->layers[s->l];
    const struct nn_kv *kv = s->b->kv ? &s->b->kv[s->l] : NULL;
    const struct nn_heads heads = {.heads = c->num_attention_heads,
                                   .kv_heads = c->num_key_value_heads,
                                   .head_dim = c->head_dim,
                                   .scale = (float)(1 / sqrt(c->head_dim))};
    struct tensor x = nn_rms_norm(t, h, w->input_norm, c->rms_norm_eps);
    struct tensor qkv = nn_linear(t, x, w->qkv);
    qkv = nn_rope_store(t, qkv, &heads, &s->b->rope, kv);
    h = nn_linear_add(t, nn_attention(t, qkv, &heads, &s->b->spans, kv), w->o, h);
    x = nn_rms_norm(t, h, w->post_norm, c->rms_norm_eps);
    return nn_linear_add(t, nn_linear_swiglu(t, x, w->gate_up), w->down, h);
}

struct tensor decoder_forward(struct tape *t, const struct model *m, const struct text_batch *b, struct tensor images)
{
    const struct model_text_config *c = &m->config.text;
    struct tensor h = nn_embed(t, m->embed, images, &b->embedding);
    model_trace(m, "decoder.embeds", -1, h);
    b = tape_copy(t, b, sizeof *b); // the caller's ends with the forward, layers may run again in the backward walk
    for (uint32_t l = 0; l < c->num_hidden_layers; l++) {
        struct layer_step s = {m, b, l};
        model_enter(t, m, false, l);
        h = tape_part(t, layer_forward, &s, sizeof s, h);
        model_trace(m, "decoder.layer", (int)l, h);
    }
    h = nn_rms_norm(t, h, m->final_norm, c->rms_norm_eps);
    model_trace(m, "decoder.norm", -1, h);
    return h;
}
