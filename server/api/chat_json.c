#include "server/api/chat_json.h"

#include "compute/base/check.h"
#include "compute/base/hash.h"
#include "compute/base/json.h"
#include "compute/chat/chat.h"
#include "compute/dataset/data_uri.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGE_BYTES_MAX = 20 << 20, STOPS = 4, STOP_BYTES = 64, BIASES = 300 };

const char *const chat_json_known[] = {
    "model", "messages", "temperature", "top_p", "n", "seed", "stop", "max_tokens", "max_completion_tokens",
    "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format", "stream",
    "stream_options", "metadata", "user", "safety_identifier", "store", "service_tier", "verbosity", "prompt_cache_key",
    "prompt_cache_retention", "prediction", "reasoning_effort", "top_k", "min_p", "repetition_penalty", "ignore_eos",
    "min_pixels", "max_pixels", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "audio",
    "modalities", "web_search_options", "moderation", "return_token_ids", "prompt_logprobs", "vireo", NULL};

static bool refuse(const char *param, const char *why, struct vireo_error *err)
{
    return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_parameter", param, "Unsupported parameter: '%s' %s.", param, why);
}

static bool check_refused(const json_t *body, struct vireo_error *err)
{
    static const char *const not_built[] = {"functions", "function_call", "audio", "web_search_options", "moderation", NULL};
    const json_t *tools = json_object_get(body, "tools"), *choice = json_object_get(body, "tool_choice");
    const json_t *modalities = json_object_get(body, "modalities"), *format = json_object_get(body, "response_format");
    for (size_t i = 0; not_built[i]; i++) {
        const json_t *value = json_object_get(body, not_built[i]);
        if (value && !json_is_null(value))
            return refuse(not_built[i], "is not built", err);
    }
    if (tools && !json_is_null(tools) && json_array_size(tools) > 0)
        return refuse("tools", "is not built", err);
    if (choice && !json_is_null(choice) && !(json_is_string(choice) && strcmp(json_string_value(choice), "none") == 0))
        return refuse("tool_choice", "is not built; 'none' is allowed", err);
    if (modalities && !json_is_null(modalities)) {
        const char *only = json_string_value(json_array_get(modalities, 0));
        if (json_array_size(modalities) != 1 || !only || strcmp(only, "text") != 0)
            return refuse("modalities", "may be [\"text\"] only", err);
    }
    if (format && !json_is_null(format)) {
        const char *type = json_string_value(json_object_get(format, "type"));
        if (!type)
            return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "response_format.type",
                                   "Missing required parameter: 'response_format.type'.");
        if (strcmp(type, "text") != 0)
            return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "response_format.type",
                                   "Unsupported value for 'response_format.type': '%.40s' is not built. Built: 'text'.", type);
    }
    if (json_is_true(json_object_get(body, "store")))
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "store",
                               "Unsupported value for 'store': completions are not stored.");
    if (json_is_true(json_object_get(body, "return_token_ids")))
        return refuse("return_token_ids", "is not built", err);
    if (json_object_get(body, "prompt_logprobs") && !json_is_null(json_object_get(body, "prompt_logprobs")))
        return refuse("prompt_logprobs", "is not built", err);
    return true;
}

// ---- messages

struct reader {
    struct arena *a;
    struct chat_request_json *out;
    struct vireo_error *err;
};

static bool add_image(struct reader *r, const char *param, const char *reference, json_t *parts)
{
    struct chat_request_json *q = r->out;
    if (q->image_count == CHAT_MAX_IMAGES)
        return vireo_fail_kind(r->err, VIREO_INVALID, "invalid_value", param, "A request may have %d images.", CHAT_MAX_IMAGES);
    struct chat_image *image = &q->images[q->image_count];
    *image = (struct chat_image){.param = arena_copy_string(r->a, param)};
    if (strncmp(reference, "data:", 5) == 0) {
        if (!data_uri_decode(reference, strlen(reference), IMAGE_BYTES_MAX, param, r->a, &image->bytes, &image->count, r->err))
            return false;
    } else if (strncmp(reference, "img_", 4) == 0 || strncmp(reference, "file-", 5) == 0) {
        image->id = reference;
    } else if (strncmp(reference, "http://", 7) == 0 || strncmp(reference, "https://", 8) == 0) {
        return vireo_fail_kind(r->err, VIREO_UNSUPPORTED, "unsupported_value", param,
                               "Unsupported value for '%s': pictures are not fetched from the web. Send a data: URI, or upload the "
                               "picture and send its id.", param);
    } else {
        return vireo_fail_kind(r->err, VIREO_INVALID, "invalid_value", param,
                               "Invalid value for '%s': expected a data: URI, or the id of an uploaded image (img_… or file-…), "
                               "got '%.40s'.", param, reference);
    }
    q->image_count++;
    return json_array_append_new(parts, json_pack("{s:i}", "image", (int)q->image_count - 1)) == 0 ||
           vireo_fail_memory(r->err, 64);
}

static bool add_text(struct reader *r, const json_t *text, json_t *parts)
{
    return json_array_append_new(parts, json_pack("{s:O}", "text", text)) == 0 || vireo_fail_memory(r->err, 64);
}

static bool read_part(struct reader *r, const char *role, const char *path, const json_t *part, json_t *parts)
{
    char param[160];
    const char *type = NULL, *reference = NULL;
    if (!json_is_object(part))
        return vireo_fail_kind(r->err, VIREO_INVALID, "invalid_type", path, "Invalid type for '%s': expected an object, got %s.",
                               path, json_type_name(part));
    if (!json_get_string_required(part, path, "type", &type, r->err))
        return false;
    if (strcmp(type, "text") == 0) {
        const char *text;
        return json_get_string_required(part, path, "text", &text, r->err) && add_text(r, json_object_get(part, "text"), parts);
    }
    bool user = strcmp(role, "user") == 0;
    if (strcmp(type, "refusal") == 0 && strcmp(role, "assistant") == 0) {
        const char *text;
        return json_get_string_required(part, path, "refusal", &text, r->err) &&
               add_text(r, json_object_get(part, "refusal"), parts);
    }
    if (strcmp(type, "image_url") == 0 || strcmp(type, "file") == 0) {
        bool url = type[0] == 'i';
        json_t *o = NULL;
        if (!user)
            return vireo_fail_kind(r->err, VIREO_INVALID, "invalid_value", path,
                                   "Invalid value for '%s': images belong into messages of the role 'user'.", path);
        if (!json_get_object(part, path, url ? "image_url" : "file", &o, r->err))
            return false;
        snprintf(param, sizeof param, "%s.%s", path, url ? "image_url" : "file");
        if (!o)
            return vireo_fail_kind(r->err, VIREO_INVALID, "missing_required_parameter", param,
                                   "Missing required parameter: '%s'.", param);
        static const char *const details[] = {"auto", "low", "high", "original", NULL};
        int detail;
        if (url && !json_get_choice(o, param, "detail", details, &detail, r->err))
            return false;
        const char *member = url ? "url" : json_object_get(o, "file_id") ? "file_id" : "file_data";
        if (!json_get_string_required(o, param, member, &reference, r->err))
            return false;
        size_t n = strlen(param);
        snprintf(param + n, sizeof param - n, ".%s", member);
        return add_image(r, param, reference, parts);
    }
    snprintf(param, sizeof param, "%s.type", path);
    return vireo_fail_kind(r->err, VIREO_UNSUPPORTED, "unsupported_value", param,
                           "Unsupported value for '%s': expected text, image_url or file, got '%.40s'.", param, type);
}

static bool read_message(struct reader *r, size_t index, const json_t *message, json_t *messages)
{
    char path[64], param[96];
    const char *role, *name = NULL;
    snprintf(path, sizeof path, "messages[%zu]", index);
    if (!json_is_object(message))
        return vireo_fail_kind(r->err, VIREO_INVALID, "invalid_type", path, "Invalid type for '%s': expected an object, got %s.",
                               path, json_type_name(message));
    if (!json_get_string_required(message, path, "role", &role, r->err) ||
        !json_get_string(message, path, "name", &name, r->err))
        return false;
    snprintf(param, sizeof param, "%s.role", path);
    if (!chat_role_is_known(role))
        return vireo_fail_param(r->err, param, "Invalid value for '%s': expected system, developer, user, assistant or tool, got "
                                               "'%.40s'.", param, role);
    const json_t *calls = json_object_get(message, "tool_calls");
    if (strcmp(role, "tool") == 0 || (calls && json_array_size(calls) > 0))
        return refuse(strcmp(role, "tool") == 0 ? param : "tools", "is not built", r->err);
    const json_t *content = json_object_get(message, "content"), *part;
    json_t *parts = json_array();
    snprintf(param, sizeof param, "%s.content", path);
    bool done = parts != NULL || vireo_fail_memory(r->err, 64);
    size_t i;
    if (done && json_is_string(content))
        done = add_text(r, content, parts);
    else if (done && json_is_array(content) && json_array_size(content) > 0)
        json_array_foreach (content, i, part) {
            char at[144];
            snprintf(at, sizeof at, "%s[%zu]", param, i);
            if (!(done = read_part(r, role, at, part, parts)))
                break;
        }
    else if (done)
        done = vireo_fail_kind(r->err, VIREO_INVALID, content ? "invalid_type" : "missing_required_parameter", param,
                               "Invalid value for '%s': expected a string or an array of parts.", param);
    json_t *o = done ? json_pack("{s:s,s:O,s:s?}", "role", role, "parts", parts, "name", name) : NULL;
    json_decref(parts);
    if (done && (!o || json_array_append_new(messages, o) != 0))
        return vireo_fail_memory(r->err, 256);
    return done;
}

static bool read_messages(struct reader *r, const json_t *body, json_t **out)
{
    json_t *list = NULL, *message, *messages;
    size_t i;
    if (!json_get_array(body, "", "messages", &list, r->err))
        return false;
    if (!list || json_array_size(list) == 0)
        return vireo_fail_kind(r->err, VIREO_INVALID, list ? "invalid_value" : "missing_required_parameter", "messages",
                               list ? "Invalid value for 'messages': it is empty." : "Missing required parameter: 'messages'.");
    messages = json_array();
    json_array_foreach (list, i, message)
        if (!messages || !read_message(r, i, message, messages)) {
            json_decref(messages);
            return messages ? false : vireo_fail_memory(r->err, 64);
        }
    *out = messages;
    return true;
}

// ---- sampling

static bool copy_number(const json_t *body, const char *key, double min, double max, json_t *to, struct vireo_error *err)
{
    double value;
    const json_t *given = json_object_get(body, key);
    if (!given || json_is_null(given))
        return true;
    if (!json_get_number(body, "", key, min, max, &value, err))
        return false;
    return json_object_set_new(to, key, json_real(value)) == 0 || vireo_fail_memory(err, 64);
}

static bool read_bias(const json_t *body, json_t *sampling, struct vireo_error *err)
{
    json_t *bias = NULL, *value;
    const char *key;
    char param[64], *end;
    if (!json_get_object(body, "", "logit_bias", &bias, err))
        return false;
    if (json_object_size(bias) > BIASES)
        return vireo_fail_param(err, "logit_bias", "'logit_bias' may name %d tokens.", BIASES);
    json_object_foreach (bias, key, value) {
        snprintf(param, sizeof param, "logit_bias.%.24s", key);
        long id = strtol(key, &end, 10);
        if (!*key || *end || id < 0 || id > (1 << 22))
            return vireo_fail_param(err, param, "Invalid key in 'logit_bias': expected a token's number, got '%.24s'.", key);
        if (!json_is_number(value) || json_number_value(value) < -100 || json_number_value(value) > 100)
            return vireo_fail_param(err, param, "Invalid value for '%s': expected a number from -100 to 100.", param);
    }
    if (json_object_size(bias))
        json_object_set(sampling, "logit_bias", bias);
    return true;
}

static bool read_stop(const json_t *body, json_t *message, struct vireo_error *err)
{
    const json_t *stop = json_object_get(body, "stop"), *one;
    size_t i;
    if (!stop || json_is_null(stop))
        return true;
    json_t *list = json_is_string(stop) ? json_pack("[O]", stop) : json_is_array(stop) ? json_copy((json_t *)stop) : NULL;
    if (!list)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", "stop",
                               "Invalid type for 'stop': expected a string or an array of strings.");
    bool done = json_array_size(list) <= STOPS ||
                vireo_fail_param(err, "stop", "Invalid value for 'stop': at most %d strings, got %zu.", STOPS,
                                 json_array_size(list));
    json_array_foreach (list, i, one) {
        if (done && (!json_is_string(one) || json_string_length(one) == 0 || json_string_length(one) > STOP_BYTES))
            done = vireo_fail_param(err, "stop", "Invalid value for 'stop': each must be a string of 1 to %d bytes.", STOP_BYTES);
    }
    if (done)
        json_object_set(message, "stop", list);
    json_decref(list);
    return done;
}

static bool read_sampling(const json_t *body, struct chat_request_json *out, json_t *m, struct vireo_error *err)
{
    json_t *s = json_object();
    int64_t n = 1, top_logprobs = 0, tokens = 0, seed = -1, least = 0, most = 0;
    bool ignore_eos = false;
    if (!s)
        return vireo_fail_memory(err, 64);
    json_object_set_new(m, "sampling", s);
    if (json_is_integer(json_object_get(body, "max_tokens")) &&
        json_is_integer(json_object_get(body, "max_completion_tokens")))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", "max_tokens",
                               "'max_tokens' is the old name of 'max_completion_tokens': give one.");
    if (!copy_number(body, "temperature", 0, 2, s, err) || !copy_number(body, "top_p", 1e-9, 1, s, err) ||
        !copy_number(body, "min_p", 0, 1, s, err) || !copy_number(body, "top_k", 0, 1 << 24, s, err) ||
        !copy_number(body, "repetition_penalty", 0.01, 100, s, err) ||
        !copy_number(body, "frequency_penalty", -2, 2, s, err) || !copy_number(body, "presence_penalty", -2, 2, s, err) ||
        !json_get_integer(body, "", "n", 1, CHAT_MAX_CHOICES, &n, err) ||
        !json_get_integer(body, "", "max_tokens", 1, 1 << 20, &tokens, err) ||
        !json_get_integer(body, "", "max_completion_tokens", 1, 1 << 20, &tokens, err) ||
        !json_get_integer(body, "", "seed", INT64_MIN, INT64_MAX, &seed, err) ||
        !json_get_integer(body, "", "min_pixels", 784, 1000000000, &least, err) ||
        !json_get_integer(body, "", "max_pixels", 784, 1000000000, &most, err) ||
        !json_get_bool(body, "", "ignore_eos", &ignore_eos, err) || !json_get_bool(body, "", "logprobs", &out->logprobs, err) ||
        !json_get_integer(body, "", "top_logprobs", 0, 20, &top_logprobs, err) || !read_bias(body, s, err) ||
        !read_stop(body, m, err))
        return false;
    if (top_logprobs && !out->logprobs)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", "top_logprobs",
                               "'top_logprobs' needs 'logprobs': true.");
    if (!json_is_integer(json_object_get(body, "seed"))) {
        uint32_t drawn;
        random_bytes(&drawn, sizeof drawn);
        seed = drawn;
    }
    out->n = (int)n;
    json_object_set_new(s, "seed", json_integer(seed & INT64_MAX));
    if (tokens)
        json_object_set_new(s, "max_tokens", json_integer(tokens));
    if (ignore_eos)
        json_object_set_new(s, "ignore_eos", json_true());
    json_object_set_new(m, "n", json_integer(n));
    json_object_set_new(m, "logprobs", json_boolean(out->logprobs));
    json_object_set_new(m, "top_logprobs", json_integer(top_logprobs));
    json_object_set_new(m, "min_pixels", json_integer(least));
    json_object_set_new(m, "max_pixels", json_integer(most));
    return true;
}

bool chat_json_read(json_t *body, struct arena *a, struct chat_request_json *out, struct vireo_error *err)
{
    struct chat_request_json q = {0};
    struct reader r = {a, &q, err};
    json_t *messages = NULL, *options = NULL;
    q.message = json_object();
    bool done = q.message || vireo_fail_memory(err, 64);
    done = done && json_get_string_required(body, "", "model", &q.model, err) && check_refused(body, err) &&
           json_get_bool(body, "", "stream", &q.stream, err) &&
           json_get_object(body, "", "stream_options", &options, err) &&
           json_get_bool(options, "stream_options", "include_usage", &q.include_usage, err);
    if (done && options && !q.stream)
        done = vireo_fail_kind(err, VIREO_INVALID, "invalid_parameter_combination", "stream_options",
                               "'stream_options' needs 'stream': true.");
    done = done && read_messages(&r, body, &messages) && read_sampling(body, &q, q.message, err);
    if (messages)
        json_object_set_new(q.message, "messages", messages);
    if (!done) {
        json_decref(q.message);
        return false;
    }
    *out = q;
    return true;
}
