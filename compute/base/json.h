// Typed, range-checked getters on Jansson. Each names the offending field by its full path in the error, in the
// client's notation: `path` is the object's own path ("" for the body, "method.reinforcement" for a member).
//
// All getters: an absent (or null) key leaves *out untouched and succeeds, unless the name ends in _required.
#ifndef VIREO_BASE_JSON_H
#define VIREO_BASE_JSON_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stdint.h>

// Parses `bytes` (need not end in NUL): UTF-8, no duplicate keys, depth <= 64, one value. NUL characters inside
// strings are refused. NULL + err (kind "invalid_json") on failure. The caller owns the result (json_decref).
json_t *vireo_json_parse(const char *bytes, size_t length, struct vireo_error *err);
// As vireo_json_parse on a file, at most `limit` bytes.
json_t *vireo_json_load(const char *file, size_t limit, struct vireo_error *err);

// *out borrows from `o`.
bool json_get_string(const json_t *o, const char *path, const char *key, const char **out, struct vireo_error *err);
// As json_get_string; an absent key is the error missing_required_parameter.
bool json_get_string_required(const json_t *o, const char *path, const char *key, const char **out,
                              struct vireo_error *err);
// JSON true or false, nothing else.
bool json_get_bool(const json_t *o, const char *path, const char *key, bool *out, struct vireo_error *err);
// An integer within [min, max]; 3.0 is none.
bool json_get_integer(const json_t *o, const char *path, const char *key, int64_t min, int64_t max, int64_t *out,
                      struct vireo_error *err);
// Accepts integers and reals; refuses NaN, infinity and values outside [min, max].
bool json_get_number(const json_t *o, const char *path, const char *key, double min, double max, double *out,
                     struct vireo_error *err);
bool json_get_object(const json_t *o, const char *path, const char *key, json_t **out, struct vireo_error *err);
bool json_get_array(const json_t *o, const char *path, const char *key, json_t **out, struct vireo_error *err);
// One of `choices` (NULL-terminated); *out its index.
bool json_get_choice(const json_t *o, const char *path, const char *key, const char *const *choices, int *out,
                     struct vireo_error *err);

// "path.key", or "key" when path is "". Writes into buffer, returns it.
const char *json_path(char *buffer, size_t size, const char *path, const char *key);
const char *json_type_name(const json_t *value); // "string", "integer", "number", "boolean", "null", "array", "object"

// True if o has a key outside `known` (NULL-terminated); *unknown points to it.
bool json_find_unknown(json_t *o, const char *const *known, const char **unknown);

#endif
