#include "compute/base/json.h"

#include "compute/base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

// Jansson's own nesting limit is 2048, deeper than our recursive readers should go.
static bool depth_is_fine(const char *bytes, size_t length)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        char c = bytes[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH)
                return false;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

json_t *vireo_json_parse(const char *bytes, size_t length, struct vireo_error *err)
{
    if (!depth_is_fine(bytes, length)) {
        vireo_fail_kind(err, VIREO_INVALID, "invalid_json", NULL, "JSON is nested deeper than %d levels.", MAX_DEPTH);
        return NULL;
    }
    json_error_t where;
    json_t *value = json_loadb(bytes, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
    if (!value)
        vireo_fail_kind(err, VIREO_INVALID, "invalid_json", NULL, "Not valid JSON at line %d, column %d: %.120s.",
                        where.line, where.column, where.text);
    return value;
}

json_t *vireo_json_load(const char *file, size_t limit, struct vireo_error *err)
{
    struct file_bytes bytes;
    if (!file_read(file, limit, &bytes, err))
        return NULL;
    json_t *value = vireo_json_parse(bytes.data, bytes.size, err);
    file_bytes_free(&bytes);
    if (!value)
        vireo_explain(err, "%s: ", file);
    return value;
}

const char *json_path(char *buffer, size_t size, const char *path, const char *key)
{
    snprintf(buffer, size, "%s%s%s", path ? path : "", path && path[0] ? "." : "", key);
    return buffer;
}

const char *json_type_name(const json_t *value)
{
    if (!value)
        return "absent";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "object";
    case JSON_ARRAY: return "array";
    case JSON_STRING: return "string";
    case JSON_INTEGER: return "integer";
    case JSON_REAL: return "number";
    case JSON_NULL: return "null";
    default: return "boolean";
    }
}

static bool wrong_type(struct vireo_error *err, const char *path, const char *key, const char *wanted,
                       const json_t *seen)
{
    char where[128];
    json_path(where, sizeof where, path, key);
    return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", where, "Invalid type for '%s': expected %s, got %s.",
                           where, wanted, json_type_name(seen));
}

static const json_t *find(const json_t *o, const char *key)
{
    const json_t *value = json_object_get(o, key);
    return json_is_null(value) ? NULL : value;
}

bool json_get_string(const json_t *o, const char *path, const char *key, const char **out, struct vireo_error *err)
{
    const json_t *value = find(o, key);
    if (!value)
        return true;
    if (!json_is_string(value))
        return wrong_type(err, path, key, "a string", value);
    *out = json_string_value(value);
    return true;
}

bool json_get_string_required(const json_t *o, const char *path, const char *key, const char **out,
                              struct vireo_error *err)
{
    if (!find(o, key)) {
        char where[128];
        json_path(where, sizeof where, path, key);
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", where,
                               "Missing required parameter: '%s'.", where);
    }
    return json_get_string(o, path, key, out, err);
}

bool json_get_bool(const json_t *o, const char *path, const char *key, bool *out, struct vireo_error *err)
{
    const json_t *value = find(o, key);
    if (!value)
        return true;
    if (!json_is_boolean(value))
        return wrong_type(err, path, key, "a boolean", value);
    *out = json_is_true(value);
    return true;
}

bool json_get_integer(const json_t *o, const char *path, const char *key, int64_t min, int64_t max, int64_t *out,
                      struct vireo_error *err)
{
    const json_t *value = find(o, key);
    if (!value)
        return true;
    if (!json_is_integer(value))
        return wrong_type(err, path, key, "an integer", value);
    json_int_t n = json_integer_value(value);
    if (n < min || n > max) {
        char where[128];
        json_path(where, sizeof where, path, key);
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", where,
                               "Invalid value for '%s': expected an integer from %lld to %lld, got %lld.", where,
                               (long long)min, (long long)max, (long long)n);
    }
    *out = n;
    return true;
}

bool json_get_number(const json_t *o, const char *path, const char *key, double min, double max, double *out,
                     struct vireo_error *err)
{
    const json_t *value = find(o, key);
    if (!value)
        return true;
    if (!json_is_number(value))
        return wrong_type(err, path, key, "a number", value);
    double x = json_number_value(value);
    if (!isfinite(x) || x < min || x > max) {
        char where[128];
        json_path(where, sizeof where, path, key);
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", where,
                               "Invalid value for '%s': expected a number from %g to %g, got %g.", where, min, max, x);
    }
    *out = x;
    return true;
}

bool json_get_object(const json_t *o, const char *path, const char *key, json_t **out, struct vireo_error *err)
{
    const json_t *value = find(o, key);
    if (!value)
        return true;
    if (!json_is_object(value))
        return wrong_type(err, path, key, "an object", value);
    *out = (json_t *)value;
    return true;
}

bool json_get_array(const json_t *o, const char *path, const char *key, json_t **out, struct vireo_error *err)
{
    const json_t *value = find(o, key);
    if (!value)
        return true;
    if (!json_is_array(value))
        return wrong_type(err, path, key, "an array", value);
    *out = (json_t *)value;
    return true;
}

bool json_get_choice(const json_t *o, const char *path, const char *key, const char *const *choices, int *out,
                     struct vireo_error *err)
{
    const char *text = NULL;
    if (!json_get_string(o, path, key, &text, err))
        return false;
    if (!text)
        return true;
    char list[256] = "";
    for (int i = 0; choices[i]; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *out = i;
            return true;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s'%s'", i ? ", " : "", choices[i]);
    }
    char where[128];
    json_path(where, sizeof where, path, key);
    return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", where,
                           "Invalid value for '%s': expected one of %s, got '%.80s'.", where, list, text);
}

bool json_find_unknown(json_t *o, const char *const *known, const char **unknown)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        bool found = false;
        for (int i = 0; known[i] && !found; i++)
            found = strcmp(known[i], key) == 0;
        if (!found) {
            *unknown = key;
            return true;
        }
    }
    return false;
}
