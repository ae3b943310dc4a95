// generation_config.json and preprocessor_config.json: what families share.
#include "compute/models/internal.h"

#include "compute/base/file.h"
#include "compute/base/json.h"

#include <stdio.h>
#include <string.h>

enum { CONFIG_LIMIT = 4 << 20 };

static bool add_eos(struct generation_config *g, const json_t *value, struct vireo_error *err)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id > UINT32_MAX)
        return vireo_fail_param(err, "eos_token_id", "generation_config.json: eos_token_id holds no token id.");
    if (g->eos_count == MODEL_MAX_EOS)
        return vireo_fail_param(err, "eos_token_id", "generation_config.json: more than %d eos_token_id.",
                                MODEL_MAX_EOS);
    g->eos_token_id[g->eos_count++] = (uint32_t)id;
    return true;
}

static bool read_eos(struct generation_config *g, const json_t *value, struct vireo_error *err)
{
    g->eos_count = 0;
    if (!json_is_array(value))
        return add_eos(g, value, err);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!add_eos(g, json_array_get(value, i), err))
            return false;
    return true;
}

// Specs section 9: absent top_k means 50 to the library, top_p 1, temperature 1.
bool config_read_generation(struct generation_config *out, const char *folder, const json_t *config,
                            struct vireo_error *err)
{
    struct generation_config g = {.temperature = 1, .top_p = 1, .top_k = 50, .repetition_penalty = 1};
    char path[700];
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    json_t *file = NULL;
    if (file_exists(path) && !(file = vireo_json_load(path, CONFIG_LIMIT, err)))
        return false;
    const json_t *text = json_object_get(config, "text_config");
    const json_t *eos = json_object_get(file, "eos_token_id"), *pad = json_object_get(file, "pad_token_id");
    if (!eos || json_is_null(eos))
        eos = json_object_get(config, "eos_token_id");
    if (!eos || json_is_null(eos))
        eos = json_object_get(text, "eos_token_id");
    double temperature = 1, top_p = 1, penalty = 1;
    int64_t top_k = 50;
    bool done = !eos || json_is_null(eos) || read_eos(&g, eos, err);
    done = done && json_get_bool(file, "generation_config", "do_sample", &g.do_sample, err) &&
           json_get_number(file, "generation_config", "temperature", 0, 1e6, &temperature, err) &&
           json_get_number(file, "generation_config", "top_p", 0, 1, &top_p, err) &&
           json_get_number(file, "generation_config", "repetition_penalty", 1e-3, 1e3, &penalty, err) &&
           json_get_integer(file, "generation_config", "top_k", 0, INT32_MAX, &top_k, err);
    g.temperature = (float)temperature;
    g.top_p = (float)top_p;
    g.repetition_penalty = (float)penalty;
    g.top_k = (uint32_t)top_k;
    g.pad_token_id = json_is_integer(pad) ? (uint32_t)json_integer_value(pad) : g.eos_count ? g.eos_token_id[0] : 0;
    json_decref(file);
    if (done)
        *out = g;
    return done;
}

static bool read_three(const json_t *o, const char *key, float out[3], struct vireo_error *err)
{
    json_t *list = NULL;
    if (!json_get_array(o, "preprocessor_config", key, &list, err))
        return false;
    if (!list)
        return true;
    if (json_array_size(list) != 3)
        return vireo_fail_param(err, key, "preprocessor_config.json: %s must hold three numbers.", key);
    for (size_t i = 0; i < 3; i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_number(value))
            return vireo_fail_param(err, key, "preprocessor_config.json: %s must hold three numbers.", key);
        out[i] = (float)json_number_value(value);
    }
    return true;
}

bool config_read_processor(struct image_processor *out, const char *folder, const struct model_config *c,
                           struct vireo_error *err)
{
    struct image_processor p = image_processor_qwen2_5_vl();
    p.patch_size = c->vision.patch_size;
    p.merge_size = c->vision.spatial_merge_size;
    p.temporal_patch_size = c->vision.temporal_patch_size;
    char path[700];
    snprintf(path, sizeof path, "%s/preprocessor_config.json", folder);
    if (!file_exists(path)) {
        *out = p;
        return true;
    }
    json_t *file = vireo_json_load(path, CONFIG_LIMIT, err);
    if (!file)
        return false;
    const char *at = "preprocessor_config";
    int64_t min = (int64_t)p.min_pixels, max = (int64_t)p.max_pixels, patch = p.patch_size, merge = p.merge_size;
    int64_t temporal = p.temporal_patch_size, most = (int64_t)1 << 32;
    json_t *size = NULL;
    // Newer files write the areas as size.shortest_edge and size.longest_edge, in spite of the names.
    bool done = json_get_object(file, at, "size", &size, err) &&
                json_get_integer(size, "preprocessor_config.size", "shortest_edge", 1, most, &min, err) &&
                json_get_integer(size, "preprocessor_config.size", "longest_edge", 1, most, &max, err) &&
                json_get_integer(file, at, "min_pixels", 1, most, &min, err) &&
                json_get_integer(file, at, "max_pixels", 1, most, &max, err) &&
                json_get_integer(file, at, "patch_size", 1, 256, &patch, err) &&
                json_get_integer(file, at, "merge_size", 1, 16, &merge, err) &&
                json_get_integer(file, at, "temporal_patch_size", 1, 16, &temporal, err) &&
                json_get_number(file, at, "rescale_factor", 1e-9, 1e3, &p.rescale_factor, err) &&
                read_three(file, "image_mean", p.mean, err) && read_three(file, "image_std", p.std, err);
    if (done && ((uint32_t)patch != p.patch_size || (uint32_t)merge != p.merge_size ||
                 (uint32_t)temporal != p.temporal_patch_size))
        done = vireo_fail_param(err, "patch_size", "preprocessor_config.json and config.json disagree on patch sizes.");
    if (done && min > max)
        done = vireo_fail_param(err, "min_pixels", "preprocessor_config.json: min_pixels %lld above max_pixels %lld.",
                                (long long)min, (long long)max);
    json_decref(file);
    if (!done)
        return false;
    p.min_pixels = (uint64_t)min;
    p.max_pixels = (uint64_t)max;
    *out = p;
    return true;
}
