// The pre-tokenizer's regular expressions, run by PCRE2.
//
// tokenizer.json is written for Oniguruma. The dialects agree on what these patterns use, but for \s: PCRE2 counts
// U+180E as a space, Unicode (and Oniguruma) does not. \s and \S are therefore written out. Escapes whose meaning
// differs otherwise (\w, \b, \h, ...) are refused.
#include "compute/tokenizer/internal.h"

#include "compute/base/fault.h"
#include "compute/tokenizer/utf8.h"

#include <stdlib.h>
#include <string.h>

const char split_pattern_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
// What ByteLevel uses when it splits by itself.
const char split_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// Unicode White_Space, and all else, as members of a class.
#define SPACES "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define OTHERS                                                                                                         \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{"  \
    "202e}"                                                                                                            \
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}"

static bool refuse_escape(char c, struct vireo_error *err)
{
    return vireo_fail(err, VIREO_UNSUPPORTED, "the split pattern uses \\%c, which is not supported; known are "
                      "\\s \\S \\d \\p{..} \\P{..} \\r \\n \\t \\x \\u and escaped punctuation", c);
}

static bool translate(const char *pattern, size_t length, struct token_text *out, struct vireo_error *err)
{
    bool in_class = false;
    for (size_t i = 0; i < length; i++) {
        char c = pattern[i];
        if (c != '\\' || i + 1 == length) {
            // "[" inside a class would nest in Oniguruma; PCRE2 takes it literally.
            if (in_class && c == '[')
                return vireo_fail(err, VIREO_UNSUPPORTED, "the split pattern nests character classes");
            if (in_class && c == '&' && i + 1 < length && pattern[i + 1] == '&')
                return vireo_fail(err, VIREO_UNSUPPORTED, "the split pattern intersects character classes");
            if (c == '[' || c == ']')
                in_class = c == '[';
            if (!token_text_add(out, &c, 1, err))
                return false;
            continue;
        }
        char e = pattern[++i];
        const char *text = NULL;
        if (e == 's')
            text = in_class ? SPACES : "[" SPACES "]";
        else if (e == 'S')
            text = in_class ? OTHERS : "[^" SPACES "]";
        else if (e == 'u') // \uHHHH
            text = i + 4 < length ? "\\x{" : NULL;
        if (e == 'u' && text) {
            if (!token_text_add(out, text, 3, err) || !token_text_add(out, pattern + i + 1, 4, err) ||
                !token_text_add(out, "}", 1, err))
                return false;
            i += 4;
            continue;
        }
        if (text) {
            if (!token_text_add(out, text, strlen(text), err))
                return false;
            continue;
        }
        bool letter = (e >= 'a' && e <= 'z') || (e >= 'A' && e <= 'Z') || (e >= '0' && e <= '9');
        if (letter && !strchr("dpPrntxf", e))
            return refuse_escape(e, err);
        if (!token_text_add(out, pattern + i - 1, 2, err))
            return false;
    }
    return true;
}

static void *take_memory(PCRE2_SIZE bytes, void *user)
{
    (void)user;
    return vireo_alloc(bytes);
}

static void give_memory(void *memory, void *user)
{
    (void)user;
    free(memory);
}

bool splitter_add(struct splitter *s, const char *pattern, size_t length, struct vireo_error *err)
{
    if (s->count == SPLIT_MAX_STAGES)
        return vireo_fail(err, VIREO_UNSUPPORTED, "more than %d split patterns", SPLIT_MAX_STAGES);
    if (length > SPLIT_MAX_PATTERN)
        return vireo_fail(err, VIREO_TOO_LARGE, "a split pattern of %zu bytes; at most %d are allowed", length,
                          SPLIT_MAX_PATTERN);
    struct token_text text = {0};
    pcre2_general_context *general = NULL;
    pcre2_compile_context *compile = NULL;
    bool ok = translate(pattern, length, &text, err);
    if (ok) {
        general = pcre2_general_context_create(take_memory, give_memory, NULL);
        compile = general ? pcre2_compile_context_create(general) : NULL;
        if (!compile)
            ok = vireo_fail_memory(err, sizeof(void *));
    }
    if (ok) {
        int code = 0;
        PCRE2_SIZE where = 0;
        pcre2_set_parens_nest_limit(compile, 32);
        pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.length,
                                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code,
                                             &where, compile);
        if (compiled) {
            // Without executable memory there is no JIT; the interpreter gives the same matches.
            (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
            s->stages[s->count++] = compiled;
        } else if (code == PCRE2_ERROR_HEAP_FAILED) {
            ok = vireo_fail_memory(err, text.length);
        } else {
            char why[120] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
            ok = vireo_fail(err, VIREO_CORRUPT, "the split pattern does not compile: %s (near byte %zu)", why, where);
        }
    }
    pcre2_compile_context_free(compile);
    pcre2_general_context_free(general);
    token_text_free(&text);
    return ok;
}

void splitter_finish(struct splitter *s)
{
    for (size_t i = 0; i < s->count; i++)
        pcre2_code_free(s->stages[i]);
    s->count = 0;
}

struct run {
    const struct splitter *splitter;
    pcre2_match_data *data[SPLIT_MAX_STAGES];
    pcre2_match_context *context;
    split_visit visit;
    void *user;
};

static int match(const struct run *r, size_t stage, const char *text, size_t length, size_t at)
{
    // The text is known to be well-formed; checking it again at each match would make the whole quadratic.
    int found = pcre2_match(r->splitter->stages[stage], (PCRE2_SPTR)text, length, at, PCRE2_NO_UTF_CHECK,
                            r->data[stage], r->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(r->splitter->stages[stage], (PCRE2_SPTR)text, length, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            r->data[stage], r->context);
    return found;
}

static bool run_stage(const struct run *r, size_t stage, const char *text, size_t length, struct vireo_error *err)
{
    if (length == 0)
        return true;
    if (stage == r->splitter->count)
        return r->visit(r->user, text, length, err);
    size_t piece = 0, at = 0;
    while (at < length) {
        int found = match(r, stage, text, length, at);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0) {
            char why[120] = "";
            pcre2_get_error_message(found, (PCRE2_UCHAR *)why, sizeof why);
            return vireo_fail(err, found == PCRE2_ERROR_NOMEMORY ? VIREO_NO_MEMORY : VIREO_TOO_LARGE,
                              "splitting the text failed: %s", why);
        }
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(r->data[stage]);
        size_t start = span[0], end = span[1];
        if (end <= start) { // an empty match splits nothing; go on behind the next character
            size_t step;
            (void)utf8_decode(text + at, &step);
            at = start > at ? start : at + step;
            continue;
        }
        if (!run_stage(r, stage + 1, text + piece, start - piece, err) ||
            !run_stage(r, stage + 1, text + start, end - start, err))
            return false;
        piece = at = end;
    }
    return run_stage(r, stage + 1, text + piece, length - piece, err);
}

bool splitter_run(const struct splitter *s, const char *text, size_t length, split_visit visit, void *user,
                  struct vireo_error *err)
{
    struct run r = {.splitter = s, .visit = visit, .user = user};
    pcre2_general_context *general = pcre2_general_context_create(take_memory, give_memory, NULL);
    r.context = general ? pcre2_match_context_create(general) : NULL;
    bool ok = r.context != NULL;
    for (size_t i = 0; i < s->count && ok; i++) {
        r.data[i] = pcre2_match_data_create(1, general);
        ok = r.data[i] != NULL;
    }
    if (!ok) {
        vireo_fail_memory(err, sizeof(void *));
    } else {
        // Far beyond what the known patterns need on the longest text; a bound for patterns of hostile folders.
        pcre2_set_match_limit(r.context, 50000000);
        pcre2_set_heap_limit(r.context, 64 * 1024);
        ok = run_stage(&r, 0, text, length, err);
    }
    for (size_t i = 0; i < s->count; i++)
        pcre2_match_data_free(r.data[i]);
    pcre2_match_context_free(r.context);
    pcre2_general_context_free(general);
    return ok;
}
