// tokenizer.json from anywhere, and any text through a tokenizer.
//
// Input: tokenizer.json, a NUL, then a text. Without a NUL all of it is the text for a small fixed tokenizer. Checked
// besides the sanitisers: encode then decode gives the text back (NFC and U+FFFD aside), streams equal decode.
#include "compute/base/check.h"
#include "compute/tokenizer/stream.h"
#include "compute/tokenizer/tokenizer.h"
#include "compute/tokenizer/utf8.h"

#include <jansson.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The 256 byte symbols and a few merges, normaliser NFC.
static char *fixed_json(void)
{
    static const char *const merges[][2] = {
        {"h", "e"}, {"l", "l"}, {"he", "ll"}, {"\xc4\xa0", "\xc4\xa0"}, {"\xc3\x8c", "\xc4\xa3"}};
    json_t *vocab = json_object(), *list = json_array();
    int next = 0;
    for (uint32_t c = 33; c < 324; c++) {
        char name[5] = {0};
        if ((c > 126 && c < 161) || c == 173)
            continue;
        utf8_encode(c, name);
        json_object_set_new(vocab, name, json_integer(next++));
    }
    for (size_t i = 0; i < VIREO_COUNT(merges); i++) {
        json_array_append_new(list, json_pack("[s, s]", merges[i][0], merges[i][1]));
        char joined[16];
        snprintf(joined, sizeof joined, "%s%s", merges[i][0], merges[i][1]);
        json_object_set_new(vocab, joined, json_integer(next++));
    }
    json_t *root =
        json_pack("{s:o, s:[{s:i, s:s, s:b, s:b}, {s:i, s:s, s:b, s:b}], s:{s:s}, s:{s:s, s:b}, s:{s:s}}", "model",
                  json_pack("{s:s, s:o, s:o}", "type", "BPE", "vocab", vocab, "merges", list), "added_tokens", "id",
                  next, "content", "<|end|>", "special", 1, "normalized", 0, "id", next + 1, "content",
                  "\xc3\xa9t\xc3\xa9", "special", 0, "normalized", 1, "normalizer", "type", "NFC", "pre_tokenizer",
                  "type", "ByteLevel", "add_prefix_space", 0, "decoder", "type", "ByteLevel");
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

static void check_text(const struct tokenizer *t, const char *text, size_t length, bool exact)
{
    struct vireo_error err = {0};
    struct token_ids ids = {0}, spans = {0};
    struct token_text clean = {0}, wanted = {0}, got = {0}, streamed = {0};
    size_t half = length / 2, ends[2];
    if (tokenizer_encode(t, text, length, TOKENIZER_MATCH_ALL, &ids, &err) &&
        tokenizer_encode_spans(t,
                               (struct tokenizer_span[]){{text, half, TOKENIZER_MATCH_ALL},
                                                         {text + half, length - half, TOKENIZER_MATCH_PLAIN}},
                               2, &spans, ends, &err)) {
        vireo_assert(ends[0] <= ends[1] && ends[1] == spans.count);
        struct token_stream s;
        token_stream_init(&s, t, false);
        bool ok = tokenizer_decode(t, ids.ids, ids.count, false, &got, &err) && token_text_add(&streamed, "", 0, &err);
        for (size_t i = 0; ok && i < ids.count; i++) {
            vireo_assert(ids.ids[i] < tokenizer_size(t));
            ok = token_stream_add(&s, ids.ids[i], &streamed, &err);
        }
        ok = ok && token_stream_end(&s, &streamed, &err) && utf8_replace(text, length, &clean, &err) &&
             utf8_compose(clean.data, clean.length, &wanted, &err);
        vireo_assert(ok);
        vireo_assert(streamed.length == got.length && memcmp(streamed.data, got.data, got.length) == 0);
        vireo_assert(utf8_is_valid(got.data, got.length));
        if (exact)
            vireo_assert(got.length == wanted.length && memcmp(got.data, wanted.data, got.length) == 0);
    }
    token_ids_free(&ids);
    token_ids_free(&spans);
    token_text_free(&clean);
    token_text_free(&wanted);
    token_text_free(&got);
    token_text_free(&streamed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *fixed;
    struct vireo_error err = {0};
    if (!fixed) {
        char *json = fixed_json();
        fixed = tokenizer_parse(json, strlen(json), NULL, 0, &err);
        if (!fixed)
            fprintf(stderr, "%s\n", err.message);
        vireo_assert(fixed != NULL);
        free(json);
    }
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    if (!end) {
        check_text(fixed, (const char *)data, size, true);
        return 0;
    }
    size_t length = (size_t)(end - data);
    struct tokenizer *t = tokenizer_parse((const char *)data, length, NULL, 0, &err);
    if (t)
        check_text(t, (const char *)end + 1, size - length - 1, false);
    else
        vireo_assert(err.message[0] != 0);
    tokenizer_destroy(&t);
    return 0;
}
