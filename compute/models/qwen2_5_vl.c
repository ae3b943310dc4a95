// Qwen2.5-VL. Reference: transformers, modeling_qwen2_5_vl.py; configuration keys of both layouts in the wild (flat,
// and nested text_config). Everything that is not understood exactly is refused.
#include "compute/models/decoder.h"
#include "compute/models/internal.h"
#include "compute/models/qwen_vision.h"

#include "compute/base/json.h"

#include <stdio.h>
#include <string.h>

// A required count in [1, most].
static bool count_of(const json_t *o, const char *path, const char *key, int64_t most, uint32_t *out,
                     struct vireo_error *err)
{
    int64_t value = 0;
    if (!json_get_integer(o, path, key, 1, most, &value, err))
        return false;
    if (value == 0 && *out == 0) {
        char where[128];
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter",
                               json_path(where, sizeof where, path, key), "config.json lacks '%s'.", where);
    }
    if (value)
        *out = (uint32_t)value;
    return true;
}

static bool must_be(const json_t *o, const char *path, const char *key, const char *wanted, struct vireo_error *err)
{
    const char *text = NULL;
    if (!json_get_string(o, path, key, &text, err))
        return false;
    if (text && strcmp(text, wanted) != 0)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", key,
                               "config.json: %s '%.60s' is not built; built: %s.", key, text, wanted);
    return true;
}

static bool read_rope(struct model_text_config *t, const json_t *o, struct vireo_error *err)
{
    double theta = 1e6;
    json_t *rope = NULL, *section = NULL;
    if (!json_get_number(o, "", "rope_theta", 1, 1e12, &theta, err) ||
        !json_get_object(o, "", "rope_scaling", &rope, err) || !json_get_object(o, "", "rope_parameters", &rope, err))
        return false;
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "type" : "rope_type", *type = NULL;
        if (!json_get_string(rope, "rope_parameters", key, &type, err))
            return false;
        if (type && strcmp(type, "mrope") != 0 && strcmp(type, "default") != 0)
            return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "rope_parameters.rope_type",
                                   "config.json: rope type '%.40s' is not built; built: default, mrope.", type);
    }
    if (!json_get_number(rope, "rope_parameters", "rope_theta", 1, 1e12, &theta, err) ||
        !json_get_array(rope, "rope_parameters", "mrope_section", &section, err))
        return false;
    t->rope_theta = (float)theta;
    uint32_t sum = 0;
    for (size_t i = 0; i < 3; i++) {
        static const uint32_t published[3] = {16, 24, 24};
        t->mrope_section[i] = section ? (uint32_t)json_integer_value(json_array_get(section, i)) : published[i];
        sum += t->mrope_section[i];
    }
    if ((section && json_array_size(section) != 3) || sum != t->head_dim / 2)
        return vireo_fail_param(err, "rope_parameters.mrope_section",
                                "config.json: mrope_section must hold three counts with sum head_dim / 2 = %u, got %u.",
                                t->head_dim / 2, sum);
    return true;
}

static bool read_text(struct model_config *c, const json_t *config, const json_t *o, struct vireo_error *err)
{
    struct model_text_config *t = &c->text;
    const char *at = "text_config";
    double eps = 1e-5, dropout = 0;
    bool sliding = false, tied = false, tied_text = false;
    if (!count_of(o, at, "hidden_size", 1 << 16, &t->hidden_size, err) ||
        !count_of(o, at, "intermediate_size", 1 << 20, &t->intermediate_size, err) ||
        !count_of(o, at, "num_hidden_layers", MODEL_MAX_LAYERS, &t->num_hidden_layers, err) ||
        !count_of(o, at, "num_attention_heads", 1024, &t->num_attention_heads, err) ||
        !count_of(o, at, "vocab_size", 1 << 22, &t->vocab_size, err))
        return false;
    t->num_key_value_heads = t->num_attention_heads;
    t->head_dim = t->hidden_size / t->num_attention_heads;
    t->max_position_embeddings = 32768;
    if (!count_of(o, at, "num_key_value_heads", 1024, &t->num_key_value_heads, err) ||
        !count_of(o, at, "head_dim", 1024, &t->head_dim, err) ||
        !count_of(o, at, "max_position_embeddings", 1 << 24, &t->max_position_embeddings, err) ||
        !json_get_number(o, at, "rms_norm_eps", 0, 1, &eps, err) ||
        !json_get_number(o, at, "attention_dropout", 0, 1, &dropout, err) ||
        !json_get_bool(o, at, "use_sliding_window", &sliding, err) || !must_be(o, at, "hidden_act", "silu", err) ||
        !json_get_bool(config, "", "tie_word_embeddings", &tied, err) ||
        !json_get_bool(o, at, "tie_word_embeddings", &tied_text, err))
        return false;
    t->rms_norm_eps = (float)eps;
    t->tie_word_embeddings = tied || tied_text;
    if (dropout != 0)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "attention_dropout",
                               "config.json: attention_dropout %g is not built; built: 0.", dropout);
    if (sliding)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "use_sliding_window",
                               "config.json: sliding-window layers are not built.");
    if (t->num_attention_heads % t->num_key_value_heads != 0)
        return vireo_fail_param(err, "num_key_value_heads",
                                "config.json: %u heads do not divide by %u key/value heads.", t->num_attention_heads,
                                t->num_key_value_heads);
    if (t->head_dim % 2 != 0)
        return vireo_fail_param(err, "head_dim", "config.json: head size %u is odd.", t->head_dim);
    return read_rope(t, o, err);
}

static bool read_vision(struct model_config *c, const json_t *config, struct vireo_error *err)
{
    struct model_vision_config *v = &c->vision;
    const char *at = "vision_config";
    json_t *o = NULL, *full = NULL;
    if (!json_get_object(config, "", "vision_config", &o, err))
        return false;
    if (!o)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", at,
                               "config.json lacks 'vision_config'.");
    *v = (struct model_vision_config){.in_channels = 3, .temporal_patch_size = 2, .spatial_merge_size = 2};
    v->out_hidden_size = c->text.hidden_size;
    if (!count_of(o, at, "depth", MODEL_MAX_LAYERS, &v->depth, err) ||
        !count_of(o, at, "hidden_size", 1 << 16, &v->hidden_size, err) ||
        !count_of(o, at, "num_heads", 1024, &v->num_heads, err) ||
        !count_of(o, at, "intermediate_size", 1 << 20, &v->intermediate_size, err) ||
        !count_of(o, at, "in_chans", 3, &v->in_channels, err) ||
        !count_of(o, at, "in_channels", 3, &v->in_channels, err) ||
        // Old configs hold both spellings, newer ones patch_size alone.
        (json_object_get(o, "spatial_patch_size") &&
         !count_of(o, at, "spatial_patch_size", 256, &v->patch_size, err)) ||
        !count_of(o, at, "patch_size", 256, &v->patch_size, err) ||
        !count_of(o, at, "temporal_patch_size", 16, &v->temporal_patch_size, err) ||
        !count_of(o, at, "spatial_merge_size", 16, &v->spatial_merge_size, err) ||
        !count_of(o, at, "window_size", 1 << 16, &v->window_size, err) ||
        !count_of(o, at, "out_hidden_size", 1 << 16, &v->out_hidden_size, err) ||
        !json_get_array(o, at, "fullatt_block_indexes", &full, err) || !must_be(o, at, "hidden_act", "silu", err))
        return false;
    if (v->hidden_size % v->num_heads != 0 || v->hidden_size / v->num_heads % 4 != 0)
        return vireo_fail_param(err, "vision_config.num_heads",
                                "config.json: vision hidden_size %u over %u heads must give a multiple of 4.",
                                v->hidden_size, v->num_heads);
    if (v->in_channels != 3 || v->out_hidden_size != c->text.hidden_size)
        return vireo_fail_param(err, "vision_config.out_hidden_size",
                                "config.json: vision output of %u channels does not fit hidden_size %u.",
                                v->out_hidden_size, c->text.hidden_size);
    if (v->window_size / v->spatial_merge_size / v->patch_size == 0)
        return vireo_fail_param(err, "vision_config.window_size",
                                "config.json: window_size %u is below one merged patch.", v->window_size);
    for (size_t i = 0; i < json_array_size(full); i++) {
        json_int_t block = json_integer_value(json_array_get(full, i));
        if (!json_is_integer(json_array_get(full, i)) || block < 0 || block >= v->depth)
            return vireo_fail_param(err, "vision_config.fullatt_block_indexes",
                                    "config.json: fullatt_block_indexes names block %lld of %u.", (long long)block,
                                    v->depth);
        v->full_attention[block] = true;
    }
    return true;
}

static bool read_init(struct model_config *c, const json_t *config, const json_t *text, struct vireo_error *err)
{
    double range = 0.02, weight, patch, embed;
    json_t *init = NULL;
    if (!json_get_number(text, "", "initializer_range", 0, 10, &range, err) ||
        !json_get_object(config, "", "vireo_init", &init, err))
        return false;
    weight = patch = embed = range;
    if (!json_get_number(init, "vireo_init", "weight", 0, 10, &weight, err) ||
        !json_get_number(init, "vireo_init", "patch_embed", 0, 10, &patch, err) ||
        !json_get_number(init, "vireo_init", "embed_tokens", 0, 10, &embed, err))
        return false;
    c->init_weight = (float)weight;
    c->init_patch_embed = (float)patch;
    c->init_embed = (float)embed;
    return true;
}

static bool read_token(const json_t *config, const char *key, int64_t fallback, uint32_t *out, struct vireo_error *err)
{
    int64_t id = fallback;
    if (!json_get_integer(config, "", key, 0, 1 << 22, &id, err))
        return false;
    *out = (uint32_t)id;
    return true;
}

static bool configure(struct model_config *out, const json_t *config, struct vireo_error *err)
{
    struct model_config c = {0};
    const json_t *text = json_object_get(config, "text_config");
    if (!json_is_object(text))
        text = config;
    if (json_is_object(json_object_get(config, "quantization_config")))
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "quantization_config",
                               "config.json: quantised weights are not built; use the unquantised model.");
    static const char *const types[] = {"float32", "bfloat16", "float16", NULL};
    int type = 0;
    if (!json_get_choice(config, "", "torch_dtype", types, &type, err) ||
        !json_get_choice(config, "", "dtype", types, &type, err) || !read_text(&c, config, text, err) ||
        !read_vision(&c, config, err) || !read_init(&c, config, text, err) ||
        !read_token(config, "image_token_id", 151655, &c.image_token_id, err) ||
        !read_token(config, "video_token_id", 151656, &c.video_token_id, err) ||
        !read_token(config, "vision_start_token_id", 151652, &c.vision_start_token_id, err) ||
        !read_token(config, "vision_end_token_id", 151653, &c.vision_end_token_id, err))
        return false;
    c.stored = type == 1 ? DTYPE_BF16 : type == 2 ? DTYPE_F16 : DTYPE_F32;
    *out = c;
    return true;
}

static bool declare(struct model *m, struct vireo_error *err)
{
    return qwen_vision_declare(m, err) && decoder_declare(m, err);
}

const struct model_family model_qwen2_5_vl = {
    .name = "qwen2_5_vl",
    .configure = configure,
    .declare = declare,
    .vision = qwen_vision_forward,
    .text = decoder_forward,
};
