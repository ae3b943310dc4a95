// Running a compiled grader. Nothing here writes to the grader: any number of threads may be in it.
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/rewards/grader.h"
#include "compute/rewards/grader_parts.h"

#include <utf8proc.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATCH = 14 }; // pixels a side of a cell of image_grid_thw, in all families that have one

// The numbers of item[key], or of its first element where it lists one entry per image. Their count, at most `most`.
static size_t read_numbers(const json_t *item, const char *key, double *out, size_t most)
{
    const json_t *list = json_object_get(item, key);
    if (json_is_array(json_array_get(list, 0)))
        list = json_array_get(list, 0);
    size_t count = json_array_size(list);
    if (count > most)
        return 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_number(v) || !(json_number_value(v) > 0))
            return 0;
        out[i] = json_number_value(v);
    }
    return count;
}

static void read_sizes(const struct grader_sample *s, const json_t *item, struct reward_input *in)
{
    double found[3];
    memcpy(in->image_size, s->image_size, sizeof in->image_size);
    memcpy(in->model_size, s->model_size, sizeof in->model_size);
    if (!(in->image_size[0] > 0 && in->image_size[1] > 0) && read_numbers(item, "image_size", found, 2) == 2)
        memcpy(in->image_size, found, sizeof in->image_size);
    if (!(in->model_size[0] > 0 && in->model_size[1] > 0) && read_numbers(item, "image_grid_thw", found, 3) == 3) {
        in->model_size[0] = found[2] * PATCH;
        in->model_size[1] = found[1] * PATCH;
    }
}

static void give_error(struct grade_part *part, enum template_outcome outcome, const char *missing)
{
    part->value = 0;
    if (outcome == TEMPLATE_NOT_JSON) {
        part->errors.sample_parse_error = true;
        snprintf(part->reason, sizeof part->reason, "'%s' is asked for, but the text is not JSON", missing);
        return;
    }
    part->errors.invalid_variable_error = true;
    snprintf(part->reason, sizeof part->reason, "'%s' is not in %s", missing,
             outcome == TEMPLATE_NO_VARIABLE ? "this item" : "the text's JSON");
    reward_mend_utf8(part->reason);
}

// Character-wise simple lower case, for ilike; new memory.
static char *lower(const char *text, size_t size, size_t *out_size)
{
    char *out = vireo_alloc(2 * size + 8);
    size_t n = 0;
    for (size_t i = 0; out && i < size;) {
        utf8proc_int32_t c = -1;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(size - i),
                                                   &c);
        if (length < 1) {
            out[n++] = text[i++];
            continue;
        }
        n += (size_t)utf8proc_encode_char(utf8proc_tolower(c), (utf8proc_uint8_t *)out + n);
        i += (size_t)length;
    }
    *out_size = n;
    return out;
}

static bool contains(const char *text, size_t size, const char *word, size_t length)
{
    for (size_t i = 0; i + length <= size; i++) {
        const char *hit = length ? memchr(text + i, word[0], size - length - i + 1) : text;
        if (!hit)
            return false;
        i = (size_t)(hit - text);
        if (memcmp(hit, word, length) == 0)
            return true;
    }
    return false;
}

static bool check_string(enum string_operation op, const struct reward_input *in, struct reward_result *out,
                         struct vireo_error *err)
{
    const char *a = in->completion, *b = in->reference;
    size_t m = in->completion_bytes, n = in->reference_bytes;
    bool hit, same = m == n && memcmp(a, b, n) == 0;
    switch (op) {
    case STRING_EQ: return reward_give(out, REWARD_OK, same, "input %s the reference", same ? "equals" : "is not");
    case STRING_NE: return reward_give(out, REWARD_OK, !same, "input %s the reference", same ? "equals" : "is not");
    case STRING_LIKE: hit = contains(a, m, b, n); break;
    default: {
        char *la = lower(a, m, &m), *lb = lower(b, n, &n);
        if (!la || !lb) {
            free(la);
            free(lb);
            return vireo_fail_memory(err, 2 * (m + n));
        }
        hit = contains(la, m, lb, n);
        free(la);
        free(lb);
        break;
    }
    }
    return reward_give(out, REWARD_OK, hit, "input %s the reference", hit ? "contains" : "does not contain");
}

static void take_result(const struct reward_result *r, struct grade_part *part, bool *failed)
{
    part->value = r->value;
    memcpy(part->reason, r->reason, sizeof part->reason);
    if (r->status == REWARD_UNREADABLE || r->status == REWARD_NO_ANSWER) {
        part->errors.sample_parse_error = true;
    } else if (r->status == REWARD_BAD_DATA || !isfinite(r->value)) {
        part->errors.other_error = true;
        part->value = 0;
        *failed = true;
    }
}

static bool run_leaf(const struct grader_leaf *leaf, const struct template_values *v, const struct reward_input *base,
                     struct grade_part *part, bool *failed, struct vireo_error *err)
{
    struct reward_input in = *base;
    struct reward_result result = {0};
    enum template_outcome outcome = TEMPLATE_OK;
    char *input = NULL, *reference = NULL, missing[96] = "";
    bool ok = true;
    in.params = leaf->params;
    if (!leaf->input_is_output) {
        ok = reward_template_expand(leaf->input, v, &input, &in.completion_bytes, &outcome, missing, err);
        in.completion = input;
    }
    if (ok && outcome == TEMPLATE_OK && leaf->reference) {
        ok = reward_template_expand(leaf->reference, v, &reference, &in.reference_bytes, &outcome, missing, err);
        in.reference = reference;
    }
    if (ok && outcome != TEMPLATE_OK) {
        give_error(part, outcome, missing);
        *failed |= outcome == TEMPLATE_NO_VARIABLE;
    } else if (ok) {
        ok = leaf->kind == GRADER_RULE ? leaf->rule->score(&in, &result, err)
                                       : check_string(leaf->operation, &in, &result, err);
        if (ok)
            take_result(&result, part, failed);
    }
    free(input);
    free(reference);
    return ok;
}

static void gather(const struct grader *g, struct grade *out)
{
    double values[GRADER_MAX_PARTS];
    for (size_t i = 0; i < out->count; i++) {
        const struct grade_errors *e = &out->parts[i].errors;
        values[i] = out->parts[i].value;
        out->errors.invalid_variable_error |= e->invalid_variable_error;
        out->errors.sample_parse_error |= e->sample_parse_error;
        out->errors.other_error |= e->other_error;
    }
    if (!g->multi) {
        out->reward = values[0];
        memcpy(out->reason, out->parts[0].reason, sizeof out->reason);
        return;
    }
    double reward = formula_value(g->formula, values);
    if (isfinite(reward)) {
        out->reward = reward;
        snprintf(out->reason, sizeof out->reason, "%.100s = %.6g", g->calculate_output, reward);
        return;
    }
    out->errors.other_error = true;
    out->failed = true;
    snprintf(out->reason, sizeof out->reason, "%.100s is not a finite number here", g->calculate_output);
}

bool grader_run(const struct grader *g, const struct grader_sample *sample, const json_t *item, struct grade *out,
                struct vireo_error *err)
{
    struct grade grade = {.count = g->count};
    struct template_values v = {.output_text = sample->text, .output_bytes = sample->text_bytes, .item = item};
    struct reward_input in = {.completion = sample->text, .completion_bytes = sample->text_bytes, .item = item,
                              .tokens = sample->tokens > 0 ? sample->tokens : -1};
    json_t *parsed = g->uses_json ? vireo_json_parse(sample->text, sample->text_bytes, NULL) : NULL;
    bool ok = true;
    v.output_json = parsed;
    read_sizes(sample, item, &in);
    for (size_t i = 0; i < g->count && ok; i++)
        ok = run_leaf(&g->leaves[i], &v, &in, &grade.parts[i], &grade.failed, err);
    json_decref(parsed);
    if (!ok)
        return false;
    gather(g, &grade);
    *out = grade;
    return true;
}
