// From a Hugging Face folder to a model on a device.
#include "compute/models/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const model_side_files[] = {"config.json",
                                        "generation_config.json",
                                        "preprocessor_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "chat_template.json",
                                        "chat_template.jinja",
                                        "vocab.json",
                                        "merges.txt",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "video_preprocessor_config.json",
                                        NULL};

// Converts in pieces, so that a 7B model needs no second copy of itself in host memory. Refuses NaN and infinity: such
// weights would only show as garbage much later. So would those beyond fp16's range in a model kept in fp16.
static bool load_param(struct model *m, const struct model_param *p, const struct safetensor *s,
                       struct vireo_error *err)
{
    enum { PIECE = 1 << 20 };
    struct tensor x = p->weight->value;
    uint64_t total = (uint64_t)p->rows * p->columns, start = (uint64_t)p->first * p->columns;
    float *values = vireo_alloc(VIREO_MIN(total, PIECE) * sizeof *values);
    if (!values)
        return vireo_fail_memory(err, VIREO_MIN(total, PIECE) * sizeof *values);
    bool done = true;
    for (uint64_t at = 0; done && at < total; at += PIECE) {
        uint64_t count = VIREO_MIN(total - at, PIECE);
        done = safetensors_floats(s, at, count, values, err);
        for (uint64_t i = 0; done && x.dtype == DTYPE_F16 && i < count; i++)
            if (fabsf(values[i]) >= 65520 && isfinite(values[i]))
                done = vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "dtype",
                                       "%s: element %llu is %g, fp16 ends at 65504; use bf16 or fp32", p->name,
                                       (unsigned long long)(at + i), (double)values[i]);
        for (uint64_t i = 0; done && i < count; i++)
            if (!isfinite(values[i]))
                done = vireo_fail(err, VIREO_CORRUPT, "%s: element %llu is not finite", p->name,
                                  (unsigned long long)(at + i));
        uint32_t n = (uint32_t)count;
        struct tensor part = {.dtype = x.dtype, .rank = 1, .shape = {n}, .stride = 1};
        part.span = gpu_span_part(x.span, (start + at) * dtype_bytes(x.dtype), count * dtype_bytes(x.dtype));
        done = done && tensor_write_floats(m->dev, part, values, err);
        safetensors_forget(s, at, count); // the file passes through, it is not held
    }
    free(values);
    return done;
}

static bool load_weights(struct model *m, const char *folder, struct vireo_error *err)
{
    struct shards *shards = NULL;
    if (!shards_open(folder, &shards, err))
        return false;
    m->layout = shards_layout(shards);
    bool done = true;
    size_t found = 0;
    for (size_t i = 0; done && i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        const struct safetensor *s = shards_get(shards, p->name, p->rank, p->shape, err);
        done = s && ((m->streams && stream_holds(m, p->weight)) || load_param(m, p, s, err));
        found += done;
    }
    // A tensor we do not know means a model we do not compute. A tied model may store its head all the same.
    for (size_t i = 0; done && found < shards_count(shards) && i < shards_count(shards); i++) {
        const char *name = shards_at(shards, i)->name;
        bool tied_head = m->config.text.tie_word_embeddings && strcmp(name, "lm_head.weight") == 0;
        bool table = strstr(name, "rotary_emb.inv_freq") != NULL;
        if (!model_param_find(m, name) && !tied_head && !table)
            done = vireo_fail(err, VIREO_CORRUPT, "tensor %s is not part of a %s model", name, m->family->name);
    }
    if (done && m->streams)
        return stream_open(m, shards, err);
    shards_close(&shards);
    return done;
}

static bool load_sides(struct model *m, const char *folder, const json_t *config, struct vireo_error *err)
{
    if (!config_read_generation(&m->generation, folder, config, err) ||
        !config_read_processor(&m->processor, folder, &m->config, err))
        return false;
    m->tokenizer = tokenizer_load(folder, err);
    if (!m->tokenizer)
        return false;
    if (tokenizer_size(m->tokenizer) > m->config.text.vocab_size)
        return vireo_fail(err, VIREO_CORRUPT, "the tokenizer has %u tokens, the model's vocab_size is %u",
                          tokenizer_size(m->tokenizer), m->config.text.vocab_size);
    struct vireo_error why;
    m->chat_template = template_load(folder, &why);
    if (!m->chat_template && why.code != VIREO_NOT_FOUND) {
        if (err)
            *err = why;
        return false;
    }
    return true;
}

struct model *model_load(struct gpu_device *dev, const char *folder, const struct model_load_params *p,
                         struct vireo_error *err)
{
    char path[700];
    if (strlen(folder) >= sizeof((struct model *)0)->folder) {
        vireo_fail(err, VIREO_IO, "path too long: %.80s...", folder);
        return NULL;
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    json_t *config = vireo_json_load(path, 4 << 20, err);
    if (!config)
        return NULL;
    struct model *m = model_create(dev, config, p, err);
    if (m)
        snprintf(m->folder, sizeof m->folder, "%s", folder);
    if (m && !((p->weights_only || load_sides(m, folder, config, err)) && load_weights(m, folder, err))) {
        vireo_explain(err, "model: ");
        model_destroy(&m);
    }
    json_decref(config);
    return m;
}
