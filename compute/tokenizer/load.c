// tokenizer.json and tokenizer_config.json -> struct tokenizer. Every member that changes ids is read or refused.
#include "compute/tokenizer/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/tokenizer/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool corrupt(struct vireo_error *err, const char *where, const char *wanted, const json_t *got)
{
    return vireo_fail(err, VIREO_CORRUPT, "%s must be %s, it is %s", where, wanted, json_type_name(got));
}

static const char *type_of(const json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    return type ? type : "(none)";
}

static bool read_normalizer(struct tokenizer *t, const json_t *n, struct vireo_error *err)
{
    if (!n || json_is_null(n))
        return true;
    if (strcmp(type_of(n), "Sequence") == 0) {
        size_t i;
        json_t *each, *list = json_object_get(n, "normalizers");
        if (!json_is_array(list))
            return corrupt(err, "normalizer.normalizers", "an array", list);
        json_array_foreach(list, i, each)
        {
            if (strcmp(type_of(each), "Sequence") == 0)
                return vireo_fail(err, VIREO_UNSUPPORTED, "normalizer: nested sequences are not supported");
            if (!read_normalizer(t, each, err))
                return false;
        }
        return true;
    }
    if (strcmp(type_of(n), "NFC") != 0)
        return vireo_fail(err, VIREO_UNSUPPORTED, "normalizer type \"%.40s\" is not supported; known are none and NFC",
                          type_of(n));
    t->compose = true;
    return true;
}

static bool read_split(struct tokenizer *t, const json_t *p, struct vireo_error *err)
{
    const json_t *pattern = json_object_get(p, "pattern"), *regex = json_object_get(pattern, "Regex");
    const char *behavior = json_string_value(json_object_get(p, "behavior"));
    if (!json_is_string(regex))
        return vireo_fail(err, VIREO_UNSUPPORTED, "pre_tokenizer Split needs a pattern of kind Regex");
    if (!behavior || strcmp(behavior, "Isolated") != 0)
        return vireo_fail(err, VIREO_UNSUPPORTED,
                          "pre_tokenizer Split behaviour \"%.40s\" is not supported; known is Isolated",
                          behavior ? behavior : "(none)");
    return splitter_add(&t->splitter, json_string_value(regex), json_string_length(regex), err);
}

static bool read_pre_tokenizer(struct tokenizer *t, const json_t *p, bool *byte_level, int depth,
                               struct vireo_error *err)
{
    const char *type = type_of(p);
    if (*byte_level)
        return vireo_fail(err, VIREO_UNSUPPORTED, "pre_tokenizer: nothing may follow ByteLevel");
    if (strcmp(type, "Sequence") == 0 && depth == 0) {
        size_t i;
        json_t *each, *list = json_object_get(p, "pretokenizers");
        if (!json_is_array(list))
            return corrupt(err, "pre_tokenizer.pretokenizers", "an array", list);
        json_array_foreach(list, i, each)
            if (!read_pre_tokenizer(t, each, byte_level, depth + 1, err))
                return false;
        return true;
    }
    if (strcmp(type, "Split") == 0)
        return read_split(t, p, err);
    if (strcmp(type, "ByteLevel") != 0)
        return vireo_fail(err, VIREO_UNSUPPORTED,
                          "pre_tokenizer type \"%.40s\" is not supported; known are Split and ByteLevel", type);
    if (!json_is_false(json_object_get(p, "add_prefix_space")))
        return vireo_fail(err, VIREO_UNSUPPORTED, "pre_tokenizer ByteLevel with add_prefix_space is not supported");
    *byte_level = true;
    // By default ByteLevel splits by GPT-2's pattern.
    return json_is_false(json_object_get(p, "use_regex")) ||
           splitter_add(&t->splitter, split_pattern_gpt2, strlen(split_pattern_gpt2), err);
}

static bool check_model(const json_t *model, struct vireo_error *err)
{
    const json_t *type = json_object_get(model, "type"), *dropout = json_object_get(model, "dropout");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return vireo_fail(err, VIREO_UNSUPPORTED, "model.type \"%.40s\" is not supported; known is BPE",
                          type_of(model));
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return vireo_fail(err, VIREO_UNSUPPORTED, "model.dropout is not supported");
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return vireo_fail(err, VIREO_UNSUPPORTED, "model.byte_fallback is not supported");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < VIREO_COUNT(affixes); i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (affix && !json_is_null(affix) && json_string_length(affix) != 0)
            return vireo_fail(err, VIREO_UNSUPPORTED, "model.%s is not supported", affixes[i]);
    }
    return true;
}

static bool read_id(const json_t *value, const char *name, uint32_t *out, struct vireo_error *err)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= TOKENIZER_MAX_ID)
        return vireo_fail(err, VIREO_CORRUPT, "the id of token \"%.60s\" must be an integer from 0 to %d", name,
                          TOKENIZER_MAX_ID - 1);
    *out = (uint32_t)json_integer_value(value);
    return true;
}

// An added token of either file: {"id"?, "content", flags}. `id` is given for the config's form, whose key it is.
struct added_token {
    const char *content;
    size_t length;
    uint32_t id, flags;
};

static bool read_added(const json_t *o, const char *where, struct added_token *out, struct vireo_error *err)
{
    const json_t *content = json_object_get(o, "content"), *normalized = json_object_get(o, "normalized");
    if (!json_is_string(content) || json_string_length(content) == 0)
        return vireo_fail(err, VIREO_CORRUPT, "%s: content must be a string that is not empty", where);
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < VIREO_COUNT(refused); i++)
        if (json_is_true(json_object_get(o, refused[i])))
            return vireo_fail(err, VIREO_UNSUPPORTED, "added token \"%.60s\": %s is not supported",
                              json_string_value(content), refused[i]);
    bool special = json_is_true(json_object_get(o, "special"));
    out->content = json_string_value(content);
    out->length = json_string_length(content);
    out->flags = special ? TOKEN_SPECIAL : 0;
    if (normalized ? json_is_true(normalized) : !special)
        out->flags |= TOKEN_NORMALIZED;
    return true;
}

// The added tokens of both files; the config's only where tokenizer.json has no such id.
static bool collect_added(const json_t *root, const json_t *config, struct added_token **out, size_t *count,
                          struct vireo_error *err)
{
    json_t *list = json_object_get(root, "added_tokens"), *each,
           *more = json_object_get(config, "added_tokens_decoder");
    if (list && !json_is_null(list) && !json_is_array(list))
        return corrupt(err, "added_tokens", "an array", list);
    size_t capacity = 0, i;
    json_array_foreach(list, i, each)
    {
        struct added_token token = {0};
        if (!read_added(each, "added_tokens", &token, err) ||
            !read_id(json_object_get(each, "id"), token.content, &token.id, err) ||
            !grow_array(out, &capacity, *count + 1, sizeof **out, err))
            return false;
        (*out)[(*count)++] = token;
    }
    size_t own = *count;
    const char *key;
    json_object_foreach(more, key, each)
    {
        struct added_token token = {0};
        char *end = NULL;
        unsigned long id = strtoul(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || id >= TOKENIZER_MAX_ID)
            return vireo_fail(err, VIREO_CORRUPT,
                              "tokenizer_config.json: added_tokens_decoder has the key \"%.40s\"; ids from "
                              "0 to %d are allowed",
                              key, TOKENIZER_MAX_ID - 1);
        token.id = (uint32_t)id;
        bool known = false;
        for (i = 0; i < own && !known; i++)
            known = (*out)[i].id == token.id;
        if (known)
            continue;
        if (!read_added(each, "tokenizer_config.json: added_tokens_decoder", &token, err) ||
            !grow_array(out, &capacity, *count + 1, sizeof **out, err))
            return false;
        (*out)[(*count)++] = token;
    }
    return true;
}

static bool read_vocabulary(struct tokenizer *t, json_t *vocab, const struct added_token *added, size_t added_count,
                            struct vireo_error *err)
{
    uint32_t size = 0, id = 0;
    const char *name;
    json_t *value;
    json_object_foreach(vocab, name, value)
    {
        if (!read_id(value, name, &id, err))
            return false;
        size = VIREO_MAX(size, id + 1);
    }
    for (size_t i = 0; i < added_count; i++)
        size = VIREO_MAX(size, added[i].id + 1);
    struct vocabulary *v = &t->vocabulary;
    if (!vocabulary_reserve(v, &t->arena, size, json_object_size(vocab), added_count, err))
        return false;
    json_object_foreach(vocab, name, value)
        if (!vocabulary_add_model(v, &t->arena, name, strlen(name), (uint32_t)json_integer_value(value), err))
            return false;
    for (int byte = 0; byte < 256; byte++) {
        char symbol[4];
        id = vocabulary_find_model(v, symbol, utf8_encode(byte_symbol((unsigned char)byte), symbol));
        if (id == TOKENIZER_NO_ID)
            return vireo_fail(err, VIREO_CORRUPT, "model.vocab has no symbol for the byte 0x%02x", (unsigned)byte);
        t->merges.byte_ids[byte] = id;
    }
    for (size_t i = 0; i < added_count; i++) {
        struct token_text content = {0};
        bool ok = added[i].flags & TOKEN_NORMALIZED && t->compose
                      ? utf8_compose(added[i].content, added[i].length, &content, err)
                      : token_text_add(&content, added[i].content, added[i].length, err);
        ok = ok && vocabulary_add_added(v, &t->arena, content.data, content.length, added[i].id, added[i].flags, err);
        token_text_free(&content);
        if (!ok)
            return false;
    }
    return true;
}

static bool read_merge(const json_t *merge, const char **left, size_t *left_length, const char **right,
                       size_t *right_length)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' '))
            return false;
        *left = text;
        *left_length = (size_t)(space - text);
        *right = space + 1;
        *right_length = strlen(space + 1);
        return true;
    }
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(a) || !json_is_string(b))
        return false;
    *left = json_string_value(a);
    *left_length = json_string_length(a);
    *right = json_string_value(b);
    *right_length = json_string_length(b);
    return true;
}

static bool read_merges(struct tokenizer *t, json_t *list, struct vireo_error *err)
{
    if (!merges_reserve(&t->merges, &t->arena, json_array_size(list), err))
        return false;
    size_t i;
    json_t *merge;
    json_array_foreach(list, i, merge)
    {
        const char *left, *right;
        size_t left_length, right_length;
        if (!read_merge(merge, &left, &left_length, &right, &right_length))
            return vireo_fail(err, VIREO_CORRUPT, "model.merges[%zu] must be \"left right\" or [\"left\", \"right\"]",
                              i);
        char joined[TOKENIZER_MAX_TOKEN];
        if (left_length + right_length > sizeof joined)
            return vireo_fail(err, VIREO_CORRUPT, "model.merges[%zu] is longer than %d bytes", i, TOKENIZER_MAX_TOKEN);
        memcpy(joined, left, left_length);
        memcpy(joined + left_length, right, right_length);
        uint32_t l = vocabulary_find_model(&t->vocabulary, left, left_length);
        uint32_t r = vocabulary_find_model(&t->vocabulary, right, right_length);
        uint32_t id = vocabulary_find_model(&t->vocabulary, joined, left_length + right_length);
        if (l == TOKENIZER_NO_ID || r == TOKENIZER_NO_ID || id == TOKENIZER_NO_ID)
            return vireo_fail(err, VIREO_CORRUPT, "model.merges[%zu]: \"%.60s\" is not in model.vocab", i,
                              l == TOKENIZER_NO_ID    ? left
                              : r == TOKENIZER_NO_ID  ? right
                              : json_is_string(merge) ? left
                                                      : right);
        merges_add(&t->merges, l, r, (uint32_t)i, id);
    }
    return true;
}

// eos_token and its like: a string, or an added token's object; null or absent: none.
static bool read_role(const struct tokenizer *t, const json_t *config, const char *key, uint32_t *out,
                      struct vireo_error *err)
{
    const json_t *value = json_object_get(config, key);
    *out = TOKENIZER_NO_ID;
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!value || json_is_null(value))
        return true;
    if (!json_is_string(value))
        return vireo_fail(err, VIREO_CORRUPT, "tokenizer_config.json: %s must be a string or an object with content",
                          key);
    *out = tokenizer_find(t, json_string_value(value));
    if (*out == TOKENIZER_NO_ID)
        return vireo_fail(err, VIREO_CORRUPT, "tokenizer_config.json: %s \"%.60s\" is not a token", key,
                          json_string_value(value));
    return true;
}

static bool read_all(struct tokenizer *t, const json_t *root, const json_t *config, struct vireo_error *err)
{
    if (!json_is_object(root))
        return corrupt(err, "tokenizer.json", "an object", root);
    if (config && !json_is_object(config))
        return corrupt(err, "tokenizer_config.json", "an object", config);
    const json_t *model = json_object_get(root, "model"), *pre = json_object_get(root, "pre_tokenizer");
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    if (!json_is_object(model))
        return corrupt(err, "model", "an object", model);
    if (!check_model(model, err))
        return false;
    if (!json_is_object(vocab))
        return corrupt(err, "model.vocab", "an object", vocab);
    if (!json_is_array(merges))
        return corrupt(err, "model.merges", "an array", merges);
    if (strcmp(type_of(json_object_get(root, "decoder")), "ByteLevel") != 0)
        return vireo_fail(err, VIREO_UNSUPPORTED, "decoder type \"%.40s\" is not supported; known is ByteLevel",
                          type_of(json_object_get(root, "decoder")));
    bool byte_level = false;
    t->merges.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (!read_normalizer(t, json_object_get(root, "normalizer"), err) ||
        !read_pre_tokenizer(t, pre, &byte_level, 0, err))
        return false;
    if (!byte_level)
        return vireo_fail(err, VIREO_UNSUPPORTED, "pre_tokenizer without ByteLevel is not supported");
    struct added_token *added = NULL;
    size_t added_count = 0;
    bool ok = collect_added(root, config, &added, &added_count, err) &&
              read_vocabulary(t, vocab, added, added_count, err) && read_merges(t, merges, err);
    free(added);
    return ok && read_role(t, config, "eos_token", &t->eos, err) && read_role(t, config, "pad_token", &t->pad, err) &&
           read_role(t, config, "bos_token", &t->bos, err);
}

struct tokenizer *tokenizer_parse(const char *json, size_t json_length, const char *config, size_t config_length,
                                  struct vireo_error *err)
{
    if (json_length > TOKENIZER_MAX_FILE) {
        vireo_fail(err, VIREO_TOO_LARGE, "tokenizer.json is larger than %d MiB", TOKENIZER_MAX_FILE >> 20);
        return NULL;
    }
    json_t *root = vireo_json_parse(json, json_length, err), *settings = NULL;
    if (!root) {
        vireo_explain(err, "tokenizer.json: ");
        return NULL;
    }
    bool ok = true;
    if (config) {
        settings = vireo_json_parse(config, config_length, err);
        ok = settings || vireo_explain(err, "tokenizer_config.json: ");
    }
    struct tokenizer *t = ok ? vireo_calloc(1, sizeof *t) : NULL;
    if (t) {
        arena_init(&t->arena, 1 << 20);
        ok = read_all(t, root, settings, err);
    } else if (ok) {
        ok = vireo_fail_memory(err, sizeof *t);
    }
    if (!ok)
        tokenizer_destroy(&t);
    json_decref(root);
    json_decref(settings);
    return t;
}

struct tokenizer *tokenizer_load(const char *path, struct vireo_error *err)
{
    char file[1024], config_file[1024];
    static const char leaf[] = "tokenizer.json";
    const char *slash = strrchr(path, '/');
    size_t length = strlen(path);
    bool is_file = length >= 5 && strcmp(path + length - 5, ".json") == 0;
    int folder = is_file ? (slash ? (int)(slash - path) : 1) : (int)length;
    const char *base = is_file && !slash ? "." : path;
    if (length + sizeof "/tokenizer_config.json" > sizeof file) {
        vireo_fail(err, VIREO_TOO_LARGE, "the path of the tokenizer is longer than %zu bytes", sizeof file);
        return NULL;
    }
    if (is_file)
        snprintf(file, sizeof file, "%s", path);
    else
        snprintf(file, sizeof file, "%s/%s", path, leaf);
    snprintf(config_file, sizeof config_file, "%.*s/tokenizer_config.json", folder, base);
    struct file_bytes json = {0}, config = {0};
    struct tokenizer *t = NULL;
    if (!file_read(file, TOKENIZER_MAX_FILE, &json, err))
        return NULL;
    bool has_config = file_exists(config_file);
    if (!has_config || file_read(config_file, 16 << 20, &config, err)) {
        t = tokenizer_parse(json.data, json.size, has_config ? config.data : NULL, config.size, err);
        if (!t)
            vireo_explain(err, "%s: ", file);
    }
    file_bytes_free(&json);
    file_bytes_free(&config);
    return t;
}

void tokenizer_destroy(struct tokenizer **t)
{
    if (!t || !*t)
        return;
    vocabulary_finish(&(*t)->vocabulary);
    splitter_finish(&(*t)->splitter);
    arena_finish(&(*t)->arena);
    free(*t);
    *t = NULL;
}
