#include "compute/worker/answer.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool answer_init(struct answer *a, const struct tokenizer *t, const struct answer_rules *rules, struct vireo_error *err)
{
    *a = (struct answer){.tokenizer = t, .rules = rules, .entries = json_array()};
    token_stream_init(&a->stream, t, true);
    return a->entries || vireo_fail_memory(err, 64);
}

void answer_finish(struct answer *a)
{
    token_text_free(&a->held);
    json_decref(a->entries);
    free(a->starts);
    *a = (struct answer){0};
}

// {"token", "bytes", "logprob"}. The text of a token that is no character by itself is shown with U+FFFD; its bytes are exact.
static json_t *token_json(const struct tokenizer *t, uint32_t id, float logprob)
{
    size_t length = 0;
    const char *bytes = tokenizer_bytes(t, id, &length);
    struct token_text text = {0};
    json_t *list = json_array(), *name = NULL;
    for (size_t i = 0; bytes && i < length; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    if (bytes && tokenizer_decode(t, &id, 1, false, &text, NULL))
        name = json_stringn(text.data ? text.data : "", text.length);
    token_text_free(&text);
    // JSON has no infinity; clients of the API know this value.
    double value = isfinite(logprob) ? logprob : -9999.0;
    return json_pack("{s:o,s:o,s:f}", "token", name ? name : json_string(""), "bytes", list, "logprob", value);
}

static bool note_entry(struct answer *a, const struct engine_token *token, size_t start, struct vireo_error *err)
{
    size_t count = json_array_size(a->entries);
    if (count == a->entry_capacity) {
        size_t capacity = count ? count * 2 : 32;
        size_t *grown = vireo_realloc(a->starts, capacity * sizeof *grown);
        if (!grown)
            return vireo_fail_memory(err, capacity * sizeof *grown);
        a->starts = grown;
        a->entry_capacity = capacity;
    }
    json_t *entry = token_json(a->tokenizer, token->id, token->logprob), *top = json_array();
    for (uint32_t i = 0; i < token->top_count; i++)
        json_array_append_new(top, token_json(a->tokenizer, token->top_ids[i], token->top_logprobs[i]));
    if (!entry || json_object_set_new(entry, "top_logprobs", top) != 0 || json_array_append_new(a->entries, entry) != 0)
        return vireo_fail_memory(err, 256);
    a->starts[count] = start;
    return true;
}

// Hands out the first `length` bytes of what is held, and the entries of the tokens that begin in them.
static bool hand_out(struct answer *a, size_t length, json_t **text, json_t **entries, struct vireo_error *err)
{
    *text = *entries = NULL;
    size_t total = json_array_size(a->entries), count = 0;
    bool all = length == a->held.length;
    while (count < total && (all || a->starts[count] < length))
        count++;
    if (length == 0 && count == 0)
        return true;
    *text = json_stringn(a->held.data ? a->held.data : "", length);
    json_t *rest = json_array();
    if (count)
        *entries = json_array();
    bool done = *text && rest && (!count || *entries);
    for (size_t i = 0; done && i < total; i++) {
        done = json_array_append(i < count ? *entries : rest, json_array_get(a->entries, i)) == 0;
        if (i >= count)
            a->starts[i - count] = a->starts[i] - length;
    }
    if (!done) {
        json_decref(*text);
        json_decref(*entries);
        json_decref(rest);
        *text = *entries = NULL;
        return vireo_fail_memory(err, length);
    }
    json_decref(a->entries);
    a->entries = rest;
    if (length) {
        memmove(a->held.data, a->held.data + length, a->held.length - length);
        a->held.length -= length;
        a->held.data[a->held.length] = 0;
    }
    return true;
}

// Where the earliest stop string begins in the held text; SIZE_MAX: none is there.
static size_t find_stop(const struct answer *a)
{
    size_t best = SIZE_MAX;
    for (size_t s = 0; s < a->rules->stop_count; s++) {
        const char *stop = a->rules->stop[s];
        size_t n = strlen(stop);
        for (size_t i = 0; n <= a->held.length && i + n <= a->held.length && i < best; i++)
            if (memcmp(a->held.data + i, stop, n) == 0)
                best = i;
    }
    return best;
}

// How much of the end of the held text might still become a stop string.
static size_t partial_stop(const struct answer *a)
{
    size_t longest = 0;
    for (size_t s = 0; s < a->rules->stop_count; s++) {
        const char *stop = a->rules->stop[s];
        size_t n = strlen(stop), most = VIREO_MIN(n ? n - 1 : 0, a->held.length);
        for (size_t k = most; k > longest; k--)
            if (memcmp(a->held.data + a->held.length - k, stop, k) == 0)
                longest = k;
    }
    return longest;
}

bool answer_add(struct answer *a, const struct engine_token *token, json_t **text, json_t **entries, struct vireo_error *err)
{
    *text = *entries = NULL;
    a->tokens++;
    for (size_t i = 0; i < a->rules->eos_count; i++)
        if (token->id == a->rules->eos[i])
            return true;
    size_t start = a->held.length;
    if (!token_stream_add(&a->stream, token->id, &a->held, err) || (a->rules->logprobs && !note_entry(a, token, start, err)))
        return false;
    size_t stop = a->rules->stop_count ? find_stop(a) : SIZE_MAX;
    if (stop != SIZE_MAX) {
        a->stopped = true;
        a->held.length = stop; // what follows is neither text nor log-probs of the answer
        a->held.data[stop] = 0;
        while (json_array_size(a->entries) && a->starts[json_array_size(a->entries) - 1] >= stop)
            json_array_remove(a->entries, json_array_size(a->entries) - 1);
        return hand_out(a, stop, text, entries, err);
    }
    return hand_out(a, a->held.length - partial_stop(a), text, entries, err);
}

bool answer_end(struct answer *a, json_t **text, json_t **entries, struct vireo_error *err)
{
    *text = *entries = NULL;
    if (a->stopped)
        return true;
    return token_stream_end(&a->stream, &a->held, err) && hand_out(a, a->held.length, text, entries, err);
}
