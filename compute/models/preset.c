#include "compute/models/preset.h"

#include "compute/models/internal.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/dataset/shapes.h"
#include "compute/tokenizer/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "tiny": 0.33 M parameters, a tokenizer of about 370 tokens trained on the words of the shapes scenes. Vision and text
// have every part of the published model: windows, full blocks, grouped queries, M-RoPE, tied embeddings.
static const char tiny_config[] =
    "{\"architectures\":[\"Qwen2_5_VLForConditionalGeneration\"],\"model_type\":\"qwen2_5_vl\","
    "\"attention_dropout\":0.0,\"hidden_act\":\"silu\",\"hidden_size\":64,\"initializer_range\":0.08,"
    "\"intermediate_size\":192,\"max_position_embeddings\":2048,\"max_window_layers\":3,\"num_attention_heads\":4,"
    "\"num_hidden_layers\":3,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"rope_theta\":10000.0,"
    "\"rope_scaling\":{\"type\":\"mrope\",\"mrope_section\":[2,3,3]},\"tie_word_embeddings\":true,"
    "\"torch_dtype\":\"float32\",\"use_cache\":true,\"use_sliding_window\":false,"
    "\"vireo_init\":{\"weight\":0.08,\"patch_embed\":0.02,\"embed_tokens\":0.05},"
    "\"vision_config\":{\"model_type\":\"qwen2_5_vl\",\"depth\":2,\"hidden_act\":\"silu\",\"hidden_size\":48,"
    "\"intermediate_size\":128,\"num_heads\":4,\"in_chans\":3,\"out_hidden_size\":64,\"patch_size\":14,"
    "\"spatial_merge_size\":2,\"spatial_patch_size\":14,\"window_size\":56,\"fullatt_block_indexes\":[1],"
    "\"tokens_per_second\":2,\"temporal_patch_size\":2}}";

static const char tiny_processor[] =
    "{\"min_pixels\":3136,\"max_pixels\":200704,\"patch_size\":14,\"temporal_patch_size\":2,\"merge_size\":2,"
    "\"image_mean\":[0.48145466,0.4578275,0.40821073],\"image_std\":[0.26862954,0.26130258,0.27577711],"
    "\"image_processor_type\":\"Qwen2VLImageProcessor\",\"processor_class\":\"Qwen2_5_VLProcessor\"}";

// The VL template without its default system turn: at this size every token of the prompt costs.
static const char tiny_template[] =
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

const struct model_preset model_presets[] = {
    {"tiny", "0.33 M parameters, Qwen2.5-VL architecture, vocabulary of the shapes scenes; trains in minutes on a CPU"},
    {NULL, NULL}};

static bool write_json(const char *folder, const char *name, const json_t *value, struct vireo_error *err)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *text = json_dumps(value, JSON_INDENT(2));
    if (!text)
        return vireo_fail_memory(err, 1 << 16);
    bool done = file_write_atomic(path, text, strlen(text), err);
    free(text);
    return done;
}

static bool write_text(const char *folder, const char *name, const char *text, struct vireo_error *err)
{
    json_t *value = vireo_json_parse(text, strlen(text), err);
    bool done = value && write_json(folder, name, value, err);
    json_decref(value);
    return done;
}

static bool write_tokenizer(const char *folder, uint32_t *size, struct vireo_error *err)
{
    enum { LINES = 600 };
    static const char *const added[] = {"<think>", "</think>", "<answer>", "</answer>", "\"bbox_2d\""};
    char **lines = NULL;
    if (!shapes_corpus(1, LINES, &lines, err))
        return false;
    struct tokenizer_train_params p = {
        .vocabulary_size = 420, .min_frequency = 2, .added = added, .added_count = 5, .chat_template = tiny_template};
    bool done = tokenizer_train(&p, (const char *const *)lines, LINES, folder, size, err);
    free(lines);
    return done;
}

// config.json and generation_config.json with the ids the trained tokenizer gave.
static bool write_configs(const char *folder, uint32_t vocabulary, json_t **out, struct vireo_error *err)
{
    struct tokenizer *t = tokenizer_load(folder, err);
    json_t *config = t ? vireo_json_parse(tiny_config, sizeof tiny_config - 1, err) : NULL, *generation = NULL;
    bool done = false;
    if (config) {
        static const char *const ids[][2] = {{"bos_token_id", "<|endoftext|>"},
                                             {"eos_token_id", "<|im_end|>"},
                                             {"vision_start_token_id", "<|vision_start|>"},
                                             {"vision_end_token_id", "<|vision_end|>"},
                                             {"vision_token_id", "<|vision_pad|>"},
                                             {"image_token_id", "<|image_pad|>"},
                                             {"video_token_id", "<|video_pad|>"}};
        for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
            json_object_set_new(config, ids[i][0], json_integer(tokenizer_find(t, ids[i][1])));
        json_object_set_new(config, "vocab_size", json_integer(vocabulary));
        uint32_t end = tokenizer_find(t, "<|im_end|>"), pad = tokenizer_find(t, "<|endoftext|>");
        generation =
            json_pack("{s:i,s:[i,i],s:i,s:b,s:f,s:f,s:i}", "bos_token_id", (int)pad, "eos_token_id", (int)end, (int)pad,
                      "pad_token_id", (int)pad, "do_sample", 1, "temperature", 1.0, "top_p", 1.0, "top_k", 0);
        done = generation ? write_json(folder, "config.json", config, err) &&
                                write_json(folder, "generation_config.json", generation, err)
                          : vireo_fail_memory(err, 1 << 12);
    }
    json_decref(generation);
    tokenizer_destroy(&t);
    if (done)
        *out = config;
    else
        json_decref(config);
    return done;
}

static bool write_to_file(void *context, const void *bytes, size_t count, struct vireo_error *err)
{
    return file_writer_write(context, bytes, count, err);
}

static bool write_weights(const char *folder, const json_t *config, uint64_t seed, struct vireo_error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    char path[700];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    struct model *m = model_describe(config, err);
    if (!m)
        return false;
    struct file_writer w = {.fd = -1};
    struct safetensors_writer *writer = NULL;
    struct safetensors_entry *entries = vireo_calloc(m->param_count, sizeof *entries);
    bool done =
        entries != NULL ? file_writer_open(&w, path, err) : vireo_fail_memory(err, m->param_count * sizeof *entries);
    for (size_t i = 0; done && i < m->param_count; i++) {
        entries[i] =
            (struct safetensors_entry){.name = m->params[i].name, .dtype = SAFETENSORS_F32, .rank = m->params[i].rank};
        memcpy(entries[i].shape, m->params[i].shape, sizeof m->params[i].shape);
    }
    done = done && safetensors_write_begin(&writer, (struct byte_sink){.write = write_to_file, .context = &w}, entries,
                                           m->param_count, metadata, err);
    for (size_t i = 0; done && i < m->param_count; i++) {
        size_t count = (size_t)m->params[i].rows * m->params[i].columns;
        float *values = vireo_alloc(count * sizeof *values);
        done = values || vireo_fail_memory(err, count * sizeof *values);
        if (done) {
            model_random_values(m, i, seed, values);
            done = safetensors_write_floats(writer, values, count, err);
        }
        free(values);
    }
    if (writer && done)
        done = safetensors_write_end(&writer, err);
    else
        safetensors_write_abandon(&writer);
    done = done && file_writer_commit(&w, err);
    file_writer_abandon(&w);
    free(entries);
    model_destroy(&m);
    return done;
}

bool model_preset_write(const char *name, uint64_t seed, const char *folder, struct vireo_error *err)
{
    char list[256] = "";
    bool known = false;
    for (size_t i = 0; model_presets[i].name; i++) {
        known = known || strcmp(name, model_presets[i].name) == 0;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", model_presets[i].name);
    }
    if (!known)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", "preset",
                               "Invalid value for 'preset': '%.60s'; allowed: %s.", name, list);
    uint32_t vocabulary = 0;
    json_t *config = NULL;
    bool done = file_make_folders(folder, err) && write_tokenizer(folder, &vocabulary, err) &&
                write_text(folder, "preprocessor_config.json", tiny_processor, err) &&
                write_configs(folder, vocabulary, &config, err) && write_weights(folder, config, seed, err);
    json_decref(config);
    return done;
}
