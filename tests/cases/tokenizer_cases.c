// Runs the tokenizer's golden data: tokenizer_cases [DIR]
//
// DIR holds cases.json, chat_cases.json, qwen3_differences.json and the folder qwen2_5 (default: the test data's). The
// expected values come from the reference library, so everything must be equal. One line a group; exit 1 on any
// difference or when nothing ran.
#include "compute/base/file.h"
#include "compute/chat/template.h"
#include "compute/tokenizer/stream.h"
#include "compute/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct vireo_error err;
static size_t groups, groups_equal;

static void die(const char *what)
{
    fprintf(stderr, "tokenizer_cases: %s: %s\n", what, err.message);
    exit(1);
}

static json_t *load(const char *folder, const char *name)
{
    char path[2048];
    json_error_t where;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    json_t *value = json_load_file(path, JSON_ALLOW_NUL, &where);
    if (!value) {
        vireo_fail(&err, VIREO_INVALID, "%s", where.text);
        die(path);
    }
    return value;
}

static void report(const char *group, size_t equal, size_t count)
{
    printf("%-28s %zu/%zu %s\n", group, equal, count, equal == count && count ? "equal" : "DIFFERENT");
    groups++;
    groups_equal += equal == count && count;
}

static const json_t *get(const json_t *o, const char *key)
{
    return json_object_get(o, key);
}

static bool same_ids(const struct token_ids *got, const json_t *wanted, const char *what, size_t row)
{
    bool same = got->count == json_array_size(wanted);
    size_t at = 0;
    for (; same && at < got->count; at++)
        same = got->ids[at] == (uint32_t)json_integer_value(json_array_get(wanted, at));
    if (!same)
        fprintf(stderr, "%s %zu: %zu ids instead of %zu, or another one at %zu\n", what, row, got->count,
                json_array_size(wanted), at ? at - 1 : 0);
    return same;
}

static bool same_text(const struct token_text *got, const json_t *wanted, const char *what, size_t row)
{
    bool same = got->length == json_string_length(wanted) &&
                (got->length == 0 || memcmp(got->data, json_string_value(wanted), got->length) == 0);
    if (!same)
        fprintf(stderr, "%s %zu: \"%s\" instead of \"%s\"\n", what, row, got->data ? got->data : "",
                json_string_value(wanted));
    return same;
}

static bool encodes_to(const struct tokenizer *t, const char *text, size_t length, const json_t *wanted,
                       const char *what, size_t row)
{
    struct token_ids ids = {0};
    if (!tokenizer_encode(t, text, length, TOKENIZER_MATCH_ALL, &ids, &err))
        die(what);
    bool same = same_ids(&ids, wanted, what, row);
    token_ids_free(&ids);
    return same;
}

static void run_encodings(const struct tokenizer *t, const json_t *rows)
{
    size_t i, equal = 0;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        const json_t *text = get(row, "text");
        equal += encodes_to(t, json_string_value(text), json_string_length(text), get(row, "ids"), "encode", i);
    }
    report("encode", equal, json_array_size(rows));
}

static size_t read_base64(const char *text, char *out, size_t room)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned bits = 0, held = 0;
    size_t count = 0;
    for (; *text && *text != '='; text++) {
        const char *digit = strchr(digits, *text);
        if (!digit || count == room)
            die("bytes_base64");
        held = held << 6 | (unsigned)(digit - digits);
        if ((bits += 6) >= 8) {
            bits -= 8;
            out[count++] = (char)(held >> bits & 0xff);
        }
    }
    return count;
}

static void run_invalid_utf8(const struct tokenizer *t, const json_t *rows)
{
    size_t i, equal = 0;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        char bytes[4096];
        size_t count = read_base64(json_string_value(get(row, "bytes_base64")), bytes, sizeof bytes);
        const json_t *replaced = get(row, "text_after_replacement");
        struct token_ids ids = {0}, again = {0};
        if (!tokenizer_encode(t, bytes, count, TOKENIZER_MATCH_ALL, &ids, &err) ||
            !tokenizer_encode(t, json_string_value(replaced), json_string_length(replaced), TOKENIZER_MATCH_ALL, &again,
                              &err))
            die("invalid UTF-8");
        equal += same_ids(&ids, get(row, "ids"), "invalid UTF-8", i) &&
                 same_ids(&again, get(row, "ids"), "replaced text", i);
        token_ids_free(&ids);
        token_ids_free(&again);
    }
    report("invalid UTF-8", equal, json_array_size(rows));
}

static struct token_ids read_ids(const json_t *list)
{
    struct token_ids ids = {0};
    size_t i;
    json_t *id;
    json_array_foreach(list, i, id)
        if (!token_ids_add(&ids, (uint32_t)json_integer_value(id), &err))
            die("ids");
    return ids;
}

static void run_decodings(const struct tokenizer *t, const json_t *rows)
{
    size_t i, equal = 0;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        struct token_ids ids = read_ids(get(row, "ids"));
        struct token_text all = {0}, plain = {0};
        if (!tokenizer_decode(t, ids.ids, ids.count, false, &all, &err) ||
            !tokenizer_decode(t, ids.ids, ids.count, true, &plain, &err))
            die("decode");
        equal += same_text(&all, get(row, "text"), "decode", i) &&
                 same_text(&plain, get(row, "text_without_special"), "decode without special", i);
        token_text_free(&all);
        token_text_free(&plain);
        token_ids_free(&ids);
    }
    report("decode", equal, json_array_size(rows));
}

// After each id: what was shown, and U+FFFD for what is held back, is the decoding of the ids so far.
static void run_streams(const struct tokenizer *t, const json_t *rows)
{
    size_t i, equal = 0;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        struct token_ids ids = read_ids(get(row, "ids"));
        struct token_text shown = {0};
        struct token_stream s;
        token_stream_init(&s, t, false);
        bool same = ids.count > 0;
        for (size_t k = 0; k < ids.count; k++) {
            struct token_text now = {0};
            struct token_stream cut;
            if (!token_stream_add(&s, ids.ids[k], &shown, &err) ||
                !token_text_add(&now, shown.data, shown.length, &err))
                die("stream");
            cut = s;
            if (!token_stream_end(&cut, &now, &err))
                die("stream");
            same = same_text(&now, json_array_get(get(row, "prefixes"), k), "stream prefix", k) && same;
            token_text_free(&now);
        }
        same = token_stream_end(&s, &shown, &err) && same_text(&shown, get(row, "text"), "stream", i) && same;
        equal += same;
        token_text_free(&shown);
        token_ids_free(&ids);
    }
    report("stream", equal, json_array_size(rows));
}

static struct chat_template *parse_template(const json_t *source)
{
    struct chat_template *t = template_parse(json_string_value(source), json_string_length(source), &err);
    if (!t)
        die("template");
    return t;
}

// The spans of a rendered chat must give the ids of its whole text when everything may match.
static bool spans_encode_to(const struct tokenizer *t, const struct template_output *out, const json_t *wanted,
                            size_t row)
{
    struct token_ids ids = {0};
    struct tokenizer_span *spans = calloc(out->segment_count + 1, sizeof *spans);
    if (!spans)
        die("memory");
    for (size_t i = 0; i < out->segment_count; i++)
        spans[i] = (struct tokenizer_span){out->segments[i].text, out->segments[i].length, TOKENIZER_MATCH_ALL};
    if (!tokenizer_encode_spans(t, spans, out->segment_count, &ids, NULL, &err))
        die("spans");
    bool same = same_ids(&ids, wanted, "chat spans", row);
    token_ids_free(&ids);
    free(spans);
    return same;
}

static void run_chats(const struct tokenizer *t, const json_t *cases)
{
    struct chat_template *text = parse_template(get(cases, "text_template")),
                         *vision = parse_template(get(cases, "vl_template"));
    const json_t *rows = get(cases, "rows");
    size_t i, rendered = 0, encoded = 0;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        const json_t *tools = get(row, "tools");
        struct template_input in = {.messages = get(row, "messages"),
                                    .tools = json_is_array(tools) ? tools : NULL,
                                    .variables = get(row, "arguments"),
                                    .add_generation_prompt = json_is_true(get(row, "add_generation_prompt"))};
        struct template_output out;
        struct arena a;
        arena_init(&a, 0);
        if (!template_render(get(row, "template") ? vision : text, &in, &a, &out, &err))
            die(json_string_value(get(row, "name")));
        struct token_text whole = {.data = out.text, .length = out.length};
        rendered += same_text(&whole, get(row, "expected"), "chat", i);
        encoded += encodes_to(t, out.text, out.length, get(row, "ids"), "chat", i) &&
                   spans_encode_to(t, &out, get(row, "ids"), i);
        arena_finish(&a);
    }
    report("chat templates", rendered, json_array_size(rows));
    report("chat ids", encoded, json_array_size(rows));
    template_destroy(&text);
    template_destroy(&vision);
}

// Qwen3's tokenizer.json: the same with more added tokens and the merges as arrays.
static struct tokenizer *make_qwen3(const char *folder, const json_t *differences)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/qwen2_5", folder);
    json_t *root = load(path, "tokenizer.json"), *merge, *pairs = json_array();
    json_t *added = json_object_get(root, "added_tokens"), *model = json_object_get(root, "model");
    size_t i;
    json_array_foreach(json_object_get(model, "merges"), i, merge)
    {
        const char *text = json_string_value(merge), *space = text ? strchr(text, ' ') : NULL;
        if (!space)
            die("merges are not strings");
        json_array_append_new(pairs, json_pack("[s%, s]", text, (size_t)(space - text), space + 1));
    }
    json_object_set_new(model, "merges", pairs);
    json_array_extend(added, (json_t *)get(differences, "extra_added_tokens_in_qwen3"));
    char *text = json_dumps(root, JSON_COMPACT);
    struct tokenizer *t = text ? tokenizer_parse(text, strlen(text), NULL, 0, &err) : NULL;
    if (!t)
        die("Qwen3's tokenizer.json");
    free(text);
    json_decref(root);
    return t;
}

static bool is_among(const json_t *list, const json_t *text)
{
    size_t i;
    json_t *each;
    json_array_foreach(list, i, each)
        if (json_equal(each, text))
            return true;
    return false;
}

static void run_qwen3(const char *folder, const struct tokenizer *old, const json_t *cases, const json_t *differences)
{
    struct tokenizer *t = make_qwen3(folder, differences);
    const json_t *different = get(differences, "case_texts_with_different_ids"), *rows = get(cases, "encode");
    const json_t *extra = get(differences, "extra_added_tokens_in_qwen3");
    size_t i, equal = 0, same_count = 0;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        const json_t *text = get(row, "text");
        if (is_among(different, text))
            continue;
        same_count++;
        equal += encodes_to(t, json_string_value(text), json_string_length(text), get(row, "ids"), "Qwen3 encode", i);
    }
    report("Qwen3: same ids", equal, same_count);
    equal = 0;
    json_array_foreach(different, i, row)
    {
        // Other ids than before, one of the extra tokens among them, and the same text again.
        struct token_ids now = {0}, before = {0};
        struct token_text text = {0};
        if (!tokenizer_encode(t, json_string_value(row), json_string_length(row), TOKENIZER_MATCH_ALL, &now, &err) ||
            !tokenizer_encode(old, json_string_value(row), json_string_length(row), TOKENIZER_MATCH_ALL, &before,
                              &err) ||
            !tokenizer_decode(t, now.ids, now.count, true, &text, &err))
            die("Qwen3");
        bool found = false, shorter = now.count < before.count;
        for (size_t k = 0; k < now.count; k++)
            found = found || (now.ids[k] >= tokenizer_size(old) && tokenizer_is_added(t, now.ids[k]));
        equal += shorter && found && same_text(&text, row, "Qwen3 text", i);
        token_ids_free(&now);
        token_ids_free(&before);
        token_text_free(&text);
    }
    report("Qwen3: different ids", equal, json_array_size(different));
    equal = 0;
    json_array_foreach(extra, i, row)
    {
        json_t *id = json_pack("[O]", get(row, "id"));
        const json_t *content = get(row, "content");
        equal += encodes_to(t, json_string_value(content), json_string_length(content), id, "Qwen3 token", i);
        json_decref(id);
    }
    report("Qwen3: added tokens", equal, json_array_size(extra));
    tokenizer_destroy(&t);
}

int main(int argc, char **argv)
{
    char path[2048], standard[1024];
    const char *data = getenv("VIREO_TEST_DATA");
    snprintf(standard, sizeof standard, "%s/fixtures/tokenizer", data ? data : "tests/data");
    const char *folder = argc > 1 ? argv[1] : standard;
    json_t *cases = load(folder, "cases.json"), *chats = load(folder, "chat_cases.json");
    json_t *differences = load(folder, "qwen3_differences.json");
    const char *name = json_string_value(get(cases, "tokenizer"));
    snprintf(path, sizeof path, "%s/%s", folder, name ? name : "qwen2_5");
    struct tokenizer *t = tokenizer_load(path, &err);
    if (!t)
        die(path);
    run_encodings(t, get(cases, "encode"));
    run_invalid_utf8(t, get(cases, "invalid_utf8"));
    run_decodings(t, get(cases, "decode"));
    run_streams(t, get(cases, "streaming"));
    run_chats(t, chats);
    run_qwen3(folder, t, cases, differences);
    tokenizer_destroy(&t);
    json_decref(cases);
    json_decref(chats);
    json_decref(differences);
    bool all = groups > 0 && groups_equal == groups;
    printf("%s\n", all ? "all equal" : "NOT all equal");
    return all ? 0 : 1;
}
