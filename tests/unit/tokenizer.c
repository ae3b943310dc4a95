// The tokenizer: added tokens and trust, spans, decoding and streams, hostile files, long texts, training. The golden
// encodings are run by tests/cases/tokenizer_cases.c.
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/tokenizer/stream.h"
#include "compute/tokenizer/tokenizer.h"
#include "compute/tokenizer/train.h"
#include "compute/tokenizer/utf8.h"
#include "tests/check.h"

#include <unistd.h>

static struct vireo_error err;
static struct tokenizer *tiny;

static int load_tiny(void **state)
{
    (void)state;
    tiny = tokenizer_load(test_data("fixtures/tiny-qwen2_5_vl"), &err);
    if (!tiny)
        fprintf(stderr, "%s\n", err.message);
    return tiny ? 0 : -1;
}

static int free_tiny(void **state)
{
    (void)state;
    tokenizer_destroy(&tiny);
    return 0;
}

static struct token_ids encode(const struct tokenizer *t, const char *text, enum tokenizer_match match)
{
    struct token_ids ids = {0};
    REQUIRE_OK(tokenizer_encode(t, text, strlen(text), match, &ids, &err));
    return ids;
}

static void require_same(struct token_ids a, struct token_ids b)
{
    REQUIRE_INT(a.count, b.count);
    for (size_t i = 0; i < a.count; i++)
        REQUIRE_INT(a.ids[i], b.ids[i]);
    token_ids_free(&a);
    token_ids_free(&b);
}

static bool has(const struct token_ids *ids, uint32_t id)
{
    for (size_t i = 0; i < ids->count; i++)
        if (ids->ids[i] == id)
            return true;
    return false;
}

static void names_ids_and_roles_of_tokens(void **state)
{
    (void)state;
    size_t length;
    uint32_t end = tokenizer_find(tiny, "<|im_end|>"), call = tokenizer_find(tiny, "<tool_call>");
    REQUIRE_INT(tokenizer_size(tiny), 978);
    REQUIRE_INT(end, 958);
    REQUIRE_INT(tokenizer_eos(tiny), 958);
    REQUIRE_INT(tokenizer_pad(tiny), 956);
    REQUIRE_INT(tokenizer_bos(tiny), TOKENIZER_NO_ID);
    REQUIRE(tokenizer_is_special(tiny, end) && tokenizer_is_added(tiny, end));
    REQUIRE(!tokenizer_is_special(tiny, call) && tokenizer_is_added(tiny, call));
    REQUIRE(!tokenizer_is_added(tiny, 10));
    REQUIRE_STRING(tokenizer_name(tiny, 220), "\xc4\xa0");
    REQUIRE_STRING(tokenizer_bytes(tiny, 220, &length), " ");
    REQUIRE_INT(length, 1);
    REQUIRE_INT(tokenizer_find(tiny, "no such token"), TOKENIZER_NO_ID);
    REQUIRE(!tokenizer_name(tiny, 5000) && !tokenizer_bytes(tiny, UINT32_MAX, &length));
    REQUIRE(!tokenizer_is_special(tiny, UINT32_MAX));
}

static void special_tokens_match_only_in_trusted_text(void **state)
{
    (void)state;
    const char *text = "a<|im_end|><tool_call>b";
    uint32_t end = tokenizer_find(tiny, "<|im_end|>"), call = tokenizer_find(tiny, "<tool_call>");
    struct token_ids all = encode(tiny, text, TOKENIZER_MATCH_ALL), plain = encode(tiny, text, TOKENIZER_MATCH_PLAIN),
                     none = encode(tiny, text, TOKENIZER_MATCH_NONE);
    REQUIRE(has(&all, end) && has(&all, call));
    REQUIRE(!has(&plain, end) && has(&plain, call));
    REQUIRE(!has(&none, end) && !has(&none, call));
    struct token_ids *each[] = {&all, &plain, &none};
    for (size_t i = 0; i < 3; i++) {
        struct token_text back = {0};
        REQUIRE_OK(tokenizer_decode(tiny, each[i]->ids, each[i]->count, false, &back, &err));
        REQUIRE_STRING(back.data, text);
        token_text_free(&back);
        token_ids_free(each[i]);
    }
}

static void spans_merge_across_borders_and_guard_untrusted_text(void **state)
{
    (void)state;
    uint32_t start = tokenizer_find(tiny, "<|im_start|>"), end = tokenizer_find(tiny, "<|im_end|>");
    struct tokenizer_span good[] = {{"<|im_start|>user\n", 17, TOKENIZER_MATCH_ALL},
                                    {"\nhello in the", 13, TOKENIZER_MATCH_PLAIN},
                                    {"re<|im_end|>", 12, TOKENIZER_MATCH_ALL}};
    struct token_ids spans = {0};
    size_t ends[3];
    REQUIRE_OK(tokenizer_encode_spans(tiny, good, 3, &spans, ends, &err));
    REQUIRE(has(&spans, start) && has(&spans, end));
    REQUIRE_INT(ends[2], spans.count);
    // "\n" + "\n" is one token, which straddles the border: it belongs to the second span.
    struct token_ids first = encode(tiny, "<|im_start|>user", TOKENIZER_MATCH_ALL);
    REQUIRE_INT(ends[0], first.count);
    token_ids_free(&first);
    require_same(spans, encode(tiny, "<|im_start|>user\n\nhello in there<|im_end|>", TOKENIZER_MATCH_ALL));
    // Neither a special token inside the user's text nor one half of which the user wrote is recognised.
    struct tokenizer_span bad[] = {{"<|im_start|>user\n", 17, TOKENIZER_MATCH_ALL},
                                   {"x<|im_end|><|im_", 16, TOKENIZER_MATCH_PLAIN},
                                   {"end|>", 5, TOKENIZER_MATCH_ALL}};
    struct token_ids guarded = {0};
    REQUIRE_OK(tokenizer_encode_spans(tiny, bad, 3, &guarded, NULL, &err));
    REQUIRE(has(&guarded, start) && !has(&guarded, end));
    token_ids_free(&guarded);
    // Nor a plain added token where nothing may match.
    struct tokenizer_span none[] = {{"<tool_", 6, TOKENIZER_MATCH_ALL}, {"call><tool_call>", 16, TOKENIZER_MATCH_NONE}};
    REQUIRE_OK(tokenizer_encode_spans(tiny, none, 2, &guarded, NULL, &err));
    REQUIRE(!has(&guarded, tokenizer_find(tiny, "<tool_call>")));
    token_ids_free(&guarded);
}

static void ends_of_spans_count_the_tokens_before_them(void **state)
{
    (void)state;
    // e + U+0301 composes to one character, so positions move; the border lies behind it.
    struct tokenizer_span spans[] = {{"caf", 3, TOKENIZER_MATCH_ALL}, {"", 0, TOKENIZER_MATCH_ALL},
                                     {"e\xcc\x81 ", 4, TOKENIZER_MATCH_ALL}, {"<|im_end|>", 10, TOKENIZER_MATCH_ALL},
                                     {" 12", 3, TOKENIZER_MATCH_ALL}};
    struct token_ids ids = {0};
    size_t ends[5];
    REQUIRE_OK(tokenizer_encode_spans(tiny, spans, 5, &ids, ends, &err));
    for (size_t i = 0; i < 5; i++) {
        struct token_text text = {0};
        REQUIRE_OK(tokenizer_decode(tiny, ids.ids, ends[i], false, &text, &err));
        static const char *const wanted[] = {"caf", "caf", "caf\xc3\xa9 ", "caf\xc3\xa9 <|im_end|>",
                                             "caf\xc3\xa9 <|im_end|> 12"};
        REQUIRE_STRING(text.data, wanted[i]);
        token_text_free(&text);
    }
    token_ids_free(&ids);
    // A border inside a text that composition shortens.
    struct tokenizer_span inner[] = {{"e\xcc\x81" "e\xcc\x81", 6, TOKENIZER_MATCH_ALL}, {"x!", 2, TOKENIZER_MATCH_ALL}};
    REQUIRE_OK(tokenizer_encode_spans(tiny, inner, 2, &ids, ends, &err));
    struct token_ids head = encode(tiny, "\xc3\xa9\xc3\xa9", TOKENIZER_MATCH_ALL);
    REQUIRE_INT(ends[0], head.count);
    REQUIRE(ends[1] == ids.count && ids.count > head.count);
    token_ids_free(&head);
    token_ids_free(&ids);
    // Nothing at all.
    REQUIRE_OK(tokenizer_encode_spans(tiny, spans + 1, 1, &ids, ends, &err));
    REQUIRE_INT(ends[0], 0);
    REQUIRE_INT(ids.count, 0);
}

static void text_is_composed_before_it_is_split(void **state)
{
    (void)state;
    require_same(encode(tiny, "e\xcc\x81 a\xcc\xa3\xcc\x82", TOKENIZER_MATCH_ALL),
                 encode(tiny, "\xc3\xa9 \xe1\xba\xad", TOKENIZER_MATCH_ALL));
    struct token_text out = {0};
    // Marks in the wrong order (U+0301 before U+0323), a Hangul syllable in parts, an excluded composition (U+0958).
    static const char in[] = "q\xcc\x81\xcc\xa3 \xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab \xe0\xa5\x98";
    REQUIRE_OK(utf8_compose(in, sizeof in - 1, &out, &err));
    REQUIRE_STRING(out.data, "q\xcc\xa3\xcc\x81 \xed\x95\x9c \xe0\xa4\x95\xe0\xa4\xbc");
    token_text_free(&out);
}

static void both_forms_of_merges_give_the_same_ids(void **state)
{
    (void)state;
    struct file_bytes bytes;
    REQUIRE_OK(file_read(test_data("fixtures/tiny-qwen2_5_vl/tokenizer.json"), 1 << 24, &bytes, &err));
    json_t *root = vireo_json_parse(bytes.data, bytes.size, &err), *model = json_object_get(root, "model"), *each;
    json_t *strings = json_array(), *pairs = json_array();
    size_t i;
    json_array_foreach(json_object_get(model, "merges"), i, each)
    {
        char left[256], right[256];
        if (json_is_string(each)) {
            REQUIRE(sscanf(json_string_value(each), "%255s %255s", left, right) == 2);
        } else {
            snprintf(left, sizeof left, "%s", json_string_value(json_array_get(each, 0)));
            snprintf(right, sizeof right, "%s", json_string_value(json_array_get(each, 1)));
        }
        json_array_append_new(pairs, json_pack("[s, s]", left, right));
        json_array_append_new(strings, json_sprintf("%s %s", left, right));
    }
    REQUIRE_INT(json_array_size(pairs), 700);
    json_t *forms[] = {strings, pairs};
    for (i = 0; i < 2; i++) {
        json_object_set(model, "merges", forms[i]);
        char *text = json_dumps(root, 0);
        struct tokenizer *t = tokenizer_parse(text, strlen(text), NULL, 0, &err);
        REQUIRE(t);
        require_same(encode(t, "there in the information", TOKENIZER_MATCH_ALL),
                     encode(tiny, "there in the information", TOKENIZER_MATCH_ALL));
        tokenizer_destroy(&t);
        free(text);
    }
    json_decref(strings);
    json_decref(pairs);
    json_decref(root);
    file_bytes_free(&bytes);
}

static void decoding_skips_special_and_unknown_ids(void **state)
{
    (void)state;
    const uint32_t ids[] = {39, 72, 958, 977, 1023, UINT32_MAX, 0};
    struct token_text all = {0}, plain = {0};
    REQUIRE_OK(tokenizer_decode(tiny, ids, 7, false, &all, &err));
    REQUIRE_OK(tokenizer_decode(tiny, ids, 7, true, &plain, &err));
    REQUIRE_STRING(all.data, "Hi<|im_end|><|file_sep|>!");
    REQUIRE_STRING(plain.data, "Hi<|file_sep|>!");
    token_text_free(&all);
    token_text_free(&plain);
    REQUIRE_OK(tokenizer_decode(tiny, ids, 0, false, &all, &err));
    REQUIRE_STRING(all.data, "");
    token_text_free(&all);
}

static void a_stream_never_shows_half_a_character(void **state)
{
    (void)state;
    // The four bytes of U+1F600 as four tokens, then a lone lead byte.
    struct token_stream s;
    struct token_text shown = {0};
    token_stream_init(&s, tiny, false);
    static const unsigned char bytes[] = {0xf0, 0x9f, 0x98, 0x80, 0xe2};
    for (size_t i = 0; i < sizeof bytes; i++) {
        uint32_t id = TOKENIZER_NO_ID;
        for (uint32_t k = 0; k < 256 && id == TOKENIZER_NO_ID; k++) {
            size_t length;
            const char *is = tokenizer_bytes(tiny, k, &length);
            if (length == 1 && (unsigned char)is[0] == bytes[i])
                id = k;
        }
        REQUIRE_OK(token_stream_add(&s, id, &shown, &err));
        REQUIRE_INT(shown.length, i < 3 ? 0 : 4);
    }
    REQUIRE_OK(token_stream_end(&s, &shown, &err));
    REQUIRE_STRING(shown.data, "\xf0\x9f\x98\x80\xef\xbf\xbd");
    token_text_free(&shown);
}

static void ill_formed_utf8_is_replaced_by_maximal_parts(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } rows[] = {{"a\xff" "b", "a\xef\xbf\xbd" "b"},
                {"\xf0\x9f\x98", "\xef\xbf\xbd"},
                {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
                {"\xe2\x82" "x", "\xef\xbf\xbdx"},
                {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct token_text out = {0};
        REQUIRE_OK(utf8_replace(rows[i].in, strlen(rows[i].in), &out, &err));
        REQUIRE_STRING(out.data, rows[i].out);
        REQUIRE(!utf8_is_valid(rows[i].in, strlen(rows[i].in)) && utf8_is_valid(out.data, out.length));
        token_text_free(&out);
    }
}

static void long_pieces_take_no_quadratic_time(void **state)
{
    (void)state;
    enum { SIZE = 1 << 20 };
    char *text = malloc(SIZE);
    REQUIRE(text);
    double start = clock_seconds();
    static const char *const units[] = {"a", " ", "<|", "\xcc\x81\xcc\xa3", "'", "\n "};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t n = strlen(units[i]);
        for (size_t k = 0; k + n <= SIZE; k += n)
            memcpy(text + k, units[i], n);
        struct token_ids ids = {0};
        REQUIRE_OK(tokenizer_encode(tiny, text, SIZE, TOKENIZER_MATCH_ALL, &ids, &err));
        REQUIRE(ids.count > 0);
        token_ids_free(&ids);
    }
    // 2 s unhurried, sanitised and shared machines included; a quadratic step would take hours.
    REQUIRE(clock_seconds() - start < 60);
    free(text);
    struct token_ids ids = {0};
    REQUIRE_FAIL(tokenizer_encode(tiny, "", (size_t)TOKENIZER_MAX_TEXT + 1, TOKENIZER_MATCH_ALL, &ids, &err),
                 VIREO_TOO_LARGE);
}

// The 256 byte symbols and what the tests change.
static json_t *base_json(void)
{
    json_t *vocab = json_object();
    int next = 0;
    for (uint32_t c = 33; c < 324; c++) {
        char name[5] = {0};
        if ((c > 126 && c < 161) || c == 173)
            continue;
        utf8_encode(c, name);
        json_object_set_new(vocab, name, json_integer(next++));
    }
    return json_pack("{s:{s:s, s:o, s:[]}, s:[], s:{s:s}, s:{s:s, s:b}, s:{s:s}}", "model", "type", "BPE", "vocab",
                     vocab, "merges", "added_tokens", "normalizer", "type", "NFC", "pre_tokenizer", "type", "ByteLevel",
                     "add_prefix_space", 0, "decoder", "type", "ByteLevel");
}

static struct tokenizer *parse_with(const char *where, const char *key, const char *value)
{
    json_t *root = base_json(), *at = *where ? json_object_get(root, where) : root;
    json_t *parsed = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    if (value)
        json_object_set_new(at, key, parsed);
    else
        json_object_del(at, key);
    char *text = json_dumps(root, 0);
    struct tokenizer *t = tokenizer_parse(text, strlen(text), NULL, 0, &err);
    free(text);
    json_decref(root);
    return t;
}

static void wrong_files_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *where, *key, *value;
        enum vireo_code code;
        const char *says;
    } rows[] = {
        {"", "model", NULL, VIREO_CORRUPT, "model must be"},
        {"model", "type", "\"Unigram\"", VIREO_UNSUPPORTED, "Unigram"},
        {"model", "vocab", "[]", VIREO_CORRUPT, "model.vocab must be"},
        {"model", "vocab", "{\"a\": 0}", VIREO_CORRUPT, "no symbol for the byte"},
        {"model", "vocab", "{\"a\": -1}", VIREO_CORRUPT, "must be an integer"},
        {"model", "vocab", "{\"a\": 1099511627776}", VIREO_CORRUPT, "must be an integer"},
        {"model", "vocab", "{\"a\": \"0\"}", VIREO_CORRUPT, "must be an integer"},
        {"model", "vocab", "{\"a\": 0, \"b\": 0}", VIREO_CORRUPT, "same id"},
        {"model", "merges", "{}", VIREO_CORRUPT, "model.merges must be"},
        {"model", "merges", "[\"a b\"]", VIREO_CORRUPT, "not in model.vocab"},
        {"model", "merges", "[\"ab\"]", VIREO_CORRUPT, "model.merges[0]"},
        {"model", "merges", "[[\"a\"]]", VIREO_CORRUPT, "model.merges[0]"},
        {"model", "dropout", "0.1", VIREO_UNSUPPORTED, "dropout"},
        {"model", "byte_fallback", "true", VIREO_UNSUPPORTED, "byte_fallback"},
        {"model", "end_of_word_suffix", "\"</w>\"", VIREO_UNSUPPORTED, "end_of_word_suffix"},
        {"", "normalizer", "{\"type\": \"NFKC\"}", VIREO_UNSUPPORTED, "NFKC"},
        {"", "pre_tokenizer", "{\"type\": \"Whitespace\"}", VIREO_UNSUPPORTED, "Whitespace"},
        {"", "pre_tokenizer", "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", VIREO_UNSUPPORTED,
         "add_prefix_space"},
        {"", "pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}",
         VIREO_CORRUPT, "does not compile"},
        {"", "pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\w\"}, \"behavior\": \"Isolated\"}",
         VIREO_UNSUPPORTED, "\\w"},
        {"", "pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Removed\"}",
         VIREO_UNSUPPORTED, "Removed"},
        {"", "decoder", "null", VIREO_UNSUPPORTED, "decoder"},
        {"", "added_tokens", "[{\"id\": 3, \"content\": \"<x>\"}]", VIREO_CORRUPT, "<x>"},
        {"", "added_tokens", "[{\"id\": 300, \"content\": \"\"}]", VIREO_CORRUPT, "content"},
        {"", "added_tokens", "[{\"id\": 300, \"content\": \"<x>\", \"lstrip\": true}]", VIREO_UNSUPPORTED, "lstrip"},
        {"", "added_tokens", "[{\"id\": 300, \"content\": \"x!\"}, {\"id\": 301, \"content\": \"x!\"}]", VIREO_CORRUPT,
         "two ids"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tokenizer *t = parse_with(rows[i].where, rows[i].key, rows[i].value);
        if (t)
            fail_msg("row %zu was accepted", i);
        if (err.code != rows[i].code || !strstr(err.message, rows[i].says))
            fail_msg("row %zu: %s: %s", i, vireo_code_name(err.code), err.message);
    }
    struct tokenizer *t = tokenizer_parse("{", 1, NULL, 0, &err);
    REQUIRE(!t && err.code == VIREO_INVALID);
    REQUIRE(!tokenizer_load("no/such/folder", &err));
    REQUIRE(!tokenizer_load("no/such/file.json", &err));
}

static void white_space_is_unicodes_and_not_pcres(void **state)
{
    (void)state;
    // U+180E has not been white space since Unicode 6.3; U+0085 is. "a" merges with the first byte of both.
    static const char *const patterns[] = {"\\s+|\\S+", "[\\s]+|[^\\s]+", "[^\\S]+|[\\S]+"};
    for (size_t i = 0; i < 3; i++) {
        json_t *root = base_json(), *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
        json_object_set_new(vocab, "a\xc3\xa1", json_integer(256)); // a + byte e1
        json_object_set_new(vocab, "a\xc3\x82", json_integer(257)); // a + byte c2
        json_object_set_new(model, "merges", json_pack("[[s, s], [s, s]]", "a", "\xc3\xa1", "a", "\xc3\x82"));
        json_object_set_new(root, "pre_tokenizer",
                            json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s, s:b, s:b}]}", "type", "Sequence",
                                      "pretokenizers", "type", "Split", "pattern", "Regex", patterns[i], "behavior",
                                      "Isolated", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0));
        char *text = json_dumps(root, 0);
        struct tokenizer *t = tokenizer_parse(text, strlen(text), NULL, 0, &err);
        REQUIRE(t);
        struct token_ids one = encode(t, "a\xe1\xa0\x8e", TOKENIZER_MATCH_ALL),
                         two = encode(t, "a\xc2\x85", TOKENIZER_MATCH_ALL);
        REQUIRE_INT(one.ids[0], 256);
        REQUIRE_INT(one.count, 3);
        REQUIRE_INT(two.count, 3);
        token_ids_free(&one);
        token_ids_free(&two);
        tokenizer_destroy(&t);
        free(text);
        json_decref(root);
    }
}

static void added_tokens_match_longest_and_after_composition(void **state)
{
    (void)state;
    struct tokenizer *t = parse_with("", "added_tokens",
                                     "[{\"id\": 300, \"content\": \"<a>\", \"normalized\": false, \"special\": true},"
                                     "{\"id\": 301, \"content\": \"<a><b>\", \"normalized\": false},"
                                     "{\"id\": 302, \"content\": \"\\u00e9t\\u00e9\", \"normalized\": true}]");
    REQUIRE(t);
    struct token_ids ids = encode(t, "<a><b><a>\xc3\xa9te\xcc\x81", TOKENIZER_MATCH_ALL);
    REQUIRE_INT(ids.count, 3);
    REQUIRE_INT(ids.ids[0], 301);
    REQUIRE_INT(ids.ids[1], 300);
    REQUIRE_INT(ids.ids[2], 302);
    token_ids_free(&ids);
    tokenizer_destroy(&t);
}

static void config_adds_the_tokens_the_file_lacks(void **state)
{
    (void)state;
    json_t *root = base_json();
    char *text = json_dumps(root, 0);
    static const char config[] =
        "{\"added_tokens_decoder\": {\"256\": {\"content\": \"<end>\", \"special\": true, \"normalized\": false}},"
        "\"eos_token\": {\"content\": \"<end>\"}, \"pad_token\": null}";
    struct tokenizer *t = tokenizer_parse(text, strlen(text), config, strlen(config), &err);
    REQUIRE(t);
    REQUIRE_INT(tokenizer_eos(t), 256);
    REQUIRE_INT(tokenizer_pad(t), TOKENIZER_NO_ID);
    REQUIRE(tokenizer_is_special(t, 256));
    tokenizer_destroy(&t);
    static const char bad[] = "{\"eos_token\": \"<none>\"}",
                      key[] = "{\"added_tokens_decoder\": {\"-1\": {\"content\": \"x\"}}}";
    REQUIRE(!tokenizer_parse(text, strlen(text), bad, strlen(bad), &err) && strstr(err.message, "<none>"));
    REQUIRE(!tokenizer_parse(text, strlen(text), key, strlen(key), &err) && strstr(err.message, "\"-1\""));
    free(text);
    json_decref(root);
}

static void failed_allocations_are_errors(void **state)
{
    (void)state;
    json_t *root = base_json();
    char *text = json_dumps(root, 0), rule[64];
    for (int n = 1; n < 200; n++) {
        snprintf(rule, sizeof rule, "fail:alloc:%d", n);
        vireo_fault_set(rule);
        struct tokenizer *t = tokenizer_parse(text, strlen(text), NULL, 0, &err);
        struct token_ids ids = {0};
        struct token_text out = {0};
        struct tokenizer_span two[] = {{"he\xcc\x81llo", 7, TOKENIZER_MATCH_ALL}, {"x\xff", 2, TOKENIZER_MATCH_NONE}};
        size_t ends[2];
        bool ok = t && tokenizer_encode_spans(t, two, 2, &ids, ends, &err) &&
                  tokenizer_decode(t, ids.ids, ids.count, false, &out, &err);
        vireo_fault_set("");
        if (!ok)
            REQUIRE_INT(err.code, VIREO_NO_MEMORY);
        else
            REQUIRE_STRING(out.data, "h\xc3\xa9llox\xef\xbf\xbd");
        token_ids_free(&ids);
        token_text_free(&out);
        tokenizer_destroy(&t);
        if (ok && n > 20)
            break;
        REQUIRE(n < 199);
    }
    vireo_fault_set(NULL);
    free(text);
    json_decref(root);
}

static void training_learns_the_most_frequent_pairs(void **state)
{
    (void)state;
    char folder[] = "/tmp/vireo-train-XXXXXX", again[64], path[96];
    REQUIRE(mkdtemp(folder));
    snprintf(again, sizeof again, "%s/again", folder);
    static const char *const texts[] = {"low low low lower", "newest newest", "<think>wide</think>"};
    static const char *const added[] = {"<think>", "</think>"};
    struct tokenizer_train_params p = {.vocabulary_size = 275, .added = added, .added_count = 2};
    uint32_t size = 0;
    REQUIRE_OK(tokenizer_train(&p, texts, 3, folder, &size, &err));
    REQUIRE_OK(tokenizer_train(&p, texts, 3, again, NULL, &err));
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
    for (size_t i = 0; i < 2; i++) {
        struct file_bytes a, b;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        REQUIRE_OK(file_read(path, 1 << 20, &a, &err));
        snprintf(path, sizeof path, "%s/%s", again, names[i]);
        REQUIRE_OK(file_read(path, 1 << 20, &b, &err));
        REQUIRE(a.size == b.size && memcmp(a.data, b.data, a.size) == 0);
        file_bytes_free(&a);
        file_bytes_free(&b);
    }
    struct tokenizer *t = tokenizer_load(folder, &err);
    REQUIRE(t);
    REQUIRE_INT(tokenizer_size(t), size);
    REQUIRE_INT(size, 275);
    // l-o and o-w occur four times each; o-w comes second, for l < o. Then the space before it, three times.
    REQUIRE_STRING(tokenizer_name(t, 256), "lo");
    REQUIRE_STRING(tokenizer_name(t, 257), "low");
    REQUIRE_STRING(tokenizer_name(t, 258), "\xc4\xa0low");
    REQUIRE_STRING(tokenizer_name(t, tokenizer_eos(t)), "<|im_end|>");
    REQUIRE_STRING(tokenizer_name(t, tokenizer_pad(t)), "<|endoftext|>");
    REQUIRE(tokenizer_is_special(t, tokenizer_find(t, "<|image_pad|>")));
    struct token_ids ids = encode(t, "<think>low", TOKENIZER_MATCH_PLAIN);
    REQUIRE_INT(ids.count, 2);
    REQUIRE(!tokenizer_is_special(t, ids.ids[0]) && tokenizer_is_added(t, ids.ids[0]));
    token_ids_free(&ids);
    tokenizer_destroy(&t);
    // Nothing occurs five times: no merges.
    p.min_frequency = 5;
    REQUIRE_OK(tokenizer_train(&p, texts, 3, folder, &size, &err));
    REQUIRE_INT(size, 266);
    p.vocabulary_size = 200;
    REQUIRE_FAIL(tokenizer_train(&p, texts, 3, folder, &size, &err), VIREO_INVALID);
    REQUIRE_STRING(err.param, "vocabulary_size");
    p.vocabulary_size = 300;
    p.eos = "<none>";
    REQUIRE_FAIL(tokenizer_train(&p, texts, 3, folder, &size, &err), VIREO_INVALID);
    REQUIRE_STRING(err.param, "eos");
    REQUIRE_OK(file_remove_tree(folder, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_ids_and_roles_of_tokens),
        cmocka_unit_test(special_tokens_match_only_in_trusted_text),
        cmocka_unit_test(spans_merge_across_borders_and_guard_untrusted_text),
        cmocka_unit_test(ends_of_spans_count_the_tokens_before_them),
        cmocka_unit_test(text_is_composed_before_it_is_split),
        cmocka_unit_test(both_forms_of_merges_give_the_same_ids),
        cmocka_unit_test(decoding_skips_special_and_unknown_ids),
        cmocka_unit_test(a_stream_never_shows_half_a_character),
        cmocka_unit_test(ill_formed_utf8_is_replaced_by_maximal_parts),
        cmocka_unit_test(long_pieces_take_no_quadratic_time),
        cmocka_unit_test(wrong_files_are_refused_by_name),
        cmocka_unit_test(white_space_is_unicodes_and_not_pcres),
        cmocka_unit_test(added_tokens_match_longest_and_after_composition),
        cmocka_unit_test(config_adds_the_tokens_the_file_lacks),
        cmocka_unit_test(failed_allocations_are_errors),
        cmocka_unit_test(training_learns_the_most_frequent_pairs),
    };
    return cmocka_run_group_tests(tests, load_tiny, free_tiny);
}
