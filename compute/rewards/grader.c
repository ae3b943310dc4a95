#include "compute/rewards/grader.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/rewards/grader_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const operations[] = {"eq", "ne", "like", "ilike", NULL};
static const char default_input[] = "{{ sample.output_text }}", default_reference[] = "{{ item.solution }}";

// Members each type may have; anything else is refused, for a misspelt `refrence` would silently fall back to a
// default.
static const char *const rule_members[] = {"type", "name", "rule", "params", "input", "reference", NULL};
static const char *const string_members[] = {"type", "name", "input", "reference", "operation", NULL};
static const char *const multi_members[] = {"type", "name", "graders", "calculate_output", NULL};

static bool is_identifier(const char *name)
{
    for (size_t i = 0; name[i]; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && !(i && c >= '0' && c <= '9'))
            return false;
    }
    return name[0] != 0;
}

static bool refuse_unknown(const json_t *d, const char *const *known, const char *path, struct vireo_error *err)
{
    const char *unknown;
    char full[128];
    if (!json_find_unknown((json_t *)d, known, &unknown))
        return true;
    return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", json_path(full, sizeof full, path, unknown),
                           "Unknown parameter '%.60s' of a grader of type '%s'.", unknown,
                           json_string_value(json_object_get(d, "type")));
}

static bool set_name(char out[GRADER_NAME_BYTES], const char *name, const char *path, struct vireo_error *err)
{
    char full[128];
    size_t length = strlen(name);
    if (length == 0 || length >= GRADER_NAME_BYTES)
        return vireo_fail_param(err, json_path(full, sizeof full, path, "name"),
                                "Invalid value for '%s': expected 1 to %d bytes, got %zu.", full, GRADER_NAME_BYTES - 1,
                                length);
    memcpy(out, name, length + 1);
    return true;
}

// The template in member `key`, or `fallback` (NULL: the member must be there).
static bool read_template(const json_t *d, const char *path, const char *key, const char *fallback, char field[128],
                          struct reward_template **out, struct vireo_error *err)
{
    const char *text = fallback;
    json_path(field, 128, path, key);
    if (fallback ? !json_get_string(d, path, key, &text, err) : !json_get_string_required(d, path, key, &text, err))
        return false;
    *out = reward_template_create(text, field, err);
    return *out != NULL;
}

static bool read_rule(struct grader_leaf *leaf, const json_t *d, const char *path, struct vireo_error *err)
{
    const char *rule = NULL;
    char full[128], names[256];
    json_t *params = NULL;
    leaf->kind = GRADER_RULE;
    if (!refuse_unknown(d, rule_members, path, err) || !json_get_string_required(d, path, "rule", &rule, err) ||
        !json_get_object(d, path, "params", &params, err))
        return false;
    leaf->rule = reward_find(rule);
    if (!leaf->rule)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", json_path(full, sizeof full, path, "rule"),
                               "Rule '%.60s' is not built; built are %s.", rule, reward_names(names, sizeof names));
    if (!leaf->rule->check(params, json_path(full, sizeof full, path, "params"), err))
        return false;
    leaf->params = json_incref(params);
    if (!read_template(d, path, "input", default_input, leaf->input_path, &leaf->input, err))
        return false;
    if (leaf->rule->needs_reference)
        return read_template(d, path, "reference", default_reference, leaf->reference_path, &leaf->reference, err);
    const json_t *reference = json_object_get(d, "reference");
    if (reference && !json_is_null(reference))
        return vireo_fail_param(err, json_path(full, sizeof full, path, "reference"),
                                "Invalid parameter '%s': rule '%s' does not compare with a reference.", full, rule);
    return true;
}

static bool read_string_check(struct grader_leaf *leaf, const json_t *d, const char *path, struct vireo_error *err)
{
    const char *operation = NULL;
    int choice = STRING_EQ;
    leaf->kind = GRADER_STRING_CHECK;
    if (!refuse_unknown(d, string_members, path, err) ||
        !json_get_string_required(d, path, "operation", &operation, err) ||
        !json_get_choice(d, path, "operation", operations, &choice, err))
        return false;
    leaf->operation = (enum string_operation)choice;
    return read_template(d, path, "input", NULL, leaf->input_path, &leaf->input, err) &&
           read_template(d, path, "reference", NULL, leaf->reference_path, &leaf->reference, err);
}

static bool refuse_type(const char *type, const char *path, bool inside, struct vireo_error *err)
{
    static const char *const later[] = {"text_similarity", "score_model", "label_model", "python", "http", "endpoint"};
    char full[128];
    json_path(full, sizeof full, path, "type");
    if (inside && strcmp(type, "multi") == 0)
        return vireo_fail_param(err, full, "Invalid value for '%s': a multi grader cannot hold another one.", full);
    for (size_t i = 0; i < VIREO_COUNT(later); i++)
        if (strcmp(type, later[i]) == 0)
            return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", full,
                                   "Graders of type '%s' are not built; built are rule, string_check and multi.", type);
    return vireo_fail_param(err, full, "Invalid value for '%s': expected one of 'rule', 'string_check'%s, got '%.80s'.",
                            full, inside ? "" : ", 'multi'", type);
}

// One grader that is not a multi. `key` is its name where a map gives it one.
static bool read_leaf(struct grader_leaf *leaf, const json_t *d, const char *key, const char *path, bool inside,
                      struct vireo_error *err)
{
    const char *type = NULL, *name = key;
    if (!json_get_string_required(d, path, "type", &type, err))
        return false;
    bool ok = strcmp(type, "rule") == 0           ? read_rule(leaf, d, path, err)
              : strcmp(type, "string_check") == 0 ? read_string_check(leaf, d, path, err)
                                                  : refuse_type(type, path, inside, err);
    if (!ok)
        return false;
    if (!name && !json_get_string(d, path, "name", &name, err))
        return false;
    if (!name)
        name = leaf->rule ? leaf->rule->name : type;
    leaf->input_is_output = strcmp(reward_template_text(leaf->input), default_input) == 0;
    return set_name(leaf->name, name, path, err);
}

static bool add_leaf(struct grader *g, const json_t *d, const char *key, const char *path, struct vireo_error *err)
{
    if (!json_is_object(d))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", path,
                               "Invalid type for '%s': expected object, got %s.",
                               path, json_type_name(d));
    struct grader_leaf *leaf = &g->leaves[g->count++];
    if (!read_leaf(leaf, d, key, path, true, err))
        return false;
    if (!is_identifier(leaf->name))
        return vireo_fail_param(err, path,
                                "Invalid name '%.64s' in '%s': a formula needs letters, digits and '_', not first a "
                                "digit.",
                                leaf->name, path);
    for (size_t i = 0; i + 1 < g->count; i++)
        if (strcmp(g->leaves[i].name, leaf->name) == 0)
            return vireo_fail_param(err, path, "Name '%s' is used by two graders.", leaf->name);
    return true;
}

static bool add_leaves(struct grader *g, json_t *graders, const char *path, struct vireo_error *err)
{
    char full[128];
    size_t count = json_is_array(graders) ? json_array_size(graders) : json_object_size(graders);
    if (json_is_string(json_object_get(graders, "type")))
        return add_leaf(g, graders, NULL, path, err);
    if (count == 0 || count > GRADER_MAX_PARTS)
        return vireo_fail_param(err, path, "Invalid value for '%s': expected 1 to %d graders, got %zu.", path,
                                GRADER_MAX_PARTS, count);
    const char *key;
    json_t *value;
    for (size_t i = 0; i < json_array_size(graders); i++) {
        snprintf(full, sizeof full, "%.100s[%u]", path, (unsigned)i);
        if (!add_leaf(g, json_array_get(graders, i), NULL, full, err))
            return false;
    }
    json_object_foreach(graders, key, value)
        if (!add_leaf(g, value, key, json_path(full, sizeof full, path, key), err))
            return false;
    return true;
}

static bool read_multi(struct grader *g, const json_t *d, const char *path, struct vireo_error *err)
{
    char full[128];
    const char *formula = NULL, *name = "multi";
    const char *names[GRADER_MAX_PARTS];
    json_t *graders = json_object_get(d, "graders");
    g->multi = true;
    if (!refuse_unknown(d, multi_members, path, err) || !json_get_string(d, path, "name", &name, err) ||
        !set_name(g->name, name, path, err))
        return false;
    json_path(full, sizeof full, path, "graders");
    if (!graders)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", full,
                               "Missing required parameter '%s'.",
                               full);
    if (!json_is_object(graders) && !json_is_array(graders))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", full,
                               "Invalid type for '%s': expected object or array, got "
                               "%s.", full, json_type_name(graders));
    if (!add_leaves(g, graders, full, err) || !json_get_string_required(d, path, "calculate_output", &formula, err))
        return false;
    for (size_t i = 0; i < g->count; i++)
        names[i] = g->leaves[i].name;
    g->formula = formula_create(formula, names, g->count, json_path(full, sizeof full, path, "calculate_output"), err);
    if (!g->formula)
        return false;
    g->calculate_output = vireo_strdup(formula);
    return g->calculate_output ? true : vireo_fail_memory(err, strlen(formula));
}

static bool read_single(struct grader *g, const json_t *d, const char *path, struct vireo_error *err)
{
    g->count = 1;
    return read_leaf(&g->leaves[0], d, NULL, path, false, err) && set_name(g->name, g->leaves[0].name, path, err);
}

struct grader *grader_create(const json_t *definition, const char *path, struct vireo_error *err)
{
    if (!json_is_object(definition)) {
        vireo_fail_kind(err, VIREO_INVALID, definition ? "invalid_type" : "missing_required_parameter", path,
                        "Invalid type for '%s': expected object, got %s.", path, json_type_name(definition));
        return NULL;
    }
    const char *type = json_string_value(json_object_get(definition, "type"));
    struct grader *g = vireo_calloc(1, sizeof *g);
    if (!g) {
        vireo_fail_memory(err, sizeof *g);
        return NULL;
    }
    bool ok = type && strcmp(type, "multi") == 0 ? read_multi(g, definition, path, err)
                                                 : read_single(g, definition, path, err);
    if (!ok) {
        grader_destroy(&g);
        return NULL;
    }
    for (size_t i = 0; i < g->count; i++)
        g->uses_json |= reward_template_uses_json(g->leaves[i].input) ||
                        (g->leaves[i].reference && reward_template_uses_json(g->leaves[i].reference));
    return g;
}

void grader_destroy(struct grader **g)
{
    if (!g || !*g)
        return;
    for (size_t i = 0; i < GRADER_MAX_PARTS; i++) {
        struct grader_leaf *leaf = &(*g)->leaves[i];
        reward_template_destroy(&leaf->input);
        reward_template_destroy(&leaf->reference);
        json_decref(leaf->params);
    }
    formula_destroy(&(*g)->formula);
    free((*g)->calculate_output);
    free(*g);
    *g = NULL;
}

static json_t *leaf_to_json(const struct grader_leaf *leaf)
{
    json_t *o = json_pack("{s:s, s:s}", "type", leaf->rule ? "rule" : "string_check", "name", leaf->name);
    if (!o)
        return NULL;
    bool failed = json_object_set_new(o, "input", json_string(reward_template_text(leaf->input))) != 0;
    if (leaf->reference)
        failed |= json_object_set_new(o, "reference", json_string(reward_template_text(leaf->reference))) != 0;
    if (leaf->rule) {
        failed |= json_object_set_new(o, "rule", json_string(leaf->rule->name)) != 0;
        failed |= json_object_set_new(o, "params", leaf->params ? json_deep_copy(leaf->params) : json_object()) != 0;
    } else {
        failed |= json_object_set_new(o, "operation", json_string(operations[leaf->operation])) != 0;
    }
    if (failed) {
        json_decref(o);
        return NULL;
    }
    return o;
}

json_t *grader_to_json(const struct grader *g, struct vireo_error *err)
{
    json_t *out = NULL, *graders = NULL;
    if (!g->multi) {
        out = leaf_to_json(&g->leaves[0]);
    } else {
        bool failed = (graders = json_object()) == NULL;
        for (size_t i = 0; i < g->count && !failed; i++)
            failed = json_object_set_new(graders, g->leaves[i].name, leaf_to_json(&g->leaves[i])) != 0;
        if (!failed)
            out = json_pack("{s:s, s:s, s:O, s:s}", "type", "multi", "name", g->name, "graders", graders,
                            "calculate_output", g->calculate_output);
    }
    json_decref(graders);
    if (!out)
        vireo_fail_memory(err, 0);
    return out;
}

const char *grader_name(const struct grader *g)
{
    return g->name;
}

const char *grader_type(const struct grader *g)
{
    return g->multi ? "multi" : grader_part_type(g, 0);
}

size_t grader_part_count(const struct grader *g)
{
    return g->count;
}

const char *grader_part_name(const struct grader *g, size_t part)
{
    vireo_assert(part < g->count);
    return g->leaves[part].name;
}

const char *grader_part_type(const struct grader *g, size_t part)
{
    vireo_assert(part < g->count);
    return g->leaves[part].rule ? "rule" : "string_check";
}

const char *grader_item_key(const struct grader *g, size_t index, const char **path)
{
    for (size_t i = 0; i < 2 * g->count; i++) {
        const struct grader_leaf *leaf = &g->leaves[i / 2];
        const struct reward_template *t = i % 2 ? leaf->reference : leaf->input;
        const char *key;
        for (size_t k = 0; t && (key = reward_template_item_key(t, k)) != NULL; k++) {
            if (index-- > 0)
                continue;
            if (path)
                *path = i % 2 ? leaf->reference_path : leaf->input_path;
            return key;
        }
    }
    return NULL;
}
