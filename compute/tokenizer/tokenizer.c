#include "compute/tokenizer/internal.h"

#include "compute/base/check.h"
#include "compute/tokenizer/stream.h"
#include "compute/tokenizer/utf8.h"

#include <stdlib.h>
#include <string.h>

bool token_ids_add(struct token_ids *ids, uint32_t id, struct vireo_error *err)
{
    if (!grow_array(&ids->ids, &ids->capacity, ids->count + 1, sizeof *ids->ids, err))
        return false;
    ids->ids[ids->count++] = id;
    return true;
}

void token_ids_free(struct token_ids *ids)
{
    free(ids->ids);
    *ids = (struct token_ids){0};
}

bool token_text_add(struct token_text *text, const void *bytes, size_t count, struct vireo_error *err)
{
    if (!grow_array(&text->data, &text->capacity, text->length + count + 1, 1, err))
        return false;
    if (count)
        memcpy(text->data + text->length, bytes, count);
    text->length += count;
    text->data[text->length] = 0;
    return true;
}

void token_text_free(struct token_text *text)
{
    free(text->data);
    *text = (struct token_text){0};
}

uint32_t tokenizer_size(const struct tokenizer *t)
{
    return t->vocabulary.size;
}

static const struct token_entry *entry(const struct tokenizer *t, uint32_t id)
{
    static const struct token_entry none;
    return id < t->vocabulary.size ? &t->vocabulary.entries[id] : &none;
}

const char *tokenizer_bytes(const struct tokenizer *t, uint32_t id, size_t *length)
{
    *length = entry(t, id)->length;
    return entry(t, id)->bytes;
}

const char *tokenizer_name(const struct tokenizer *t, uint32_t id)
{
    return entry(t, id)->name;
}

uint32_t tokenizer_find(const struct tokenizer *t, const char *name)
{
    uint32_t id = vocabulary_find_added(&t->vocabulary, name, strlen(name));
    return id != TOKENIZER_NO_ID ? id : vocabulary_find_model(&t->vocabulary, name, strlen(name));
}

bool tokenizer_is_special(const struct tokenizer *t, uint32_t id)
{
    return entry(t, id)->flags & TOKEN_SPECIAL;
}

bool tokenizer_is_added(const struct tokenizer *t, uint32_t id)
{
    return entry(t, id)->flags & TOKEN_ADDED;
}

uint32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

uint32_t tokenizer_pad(const struct tokenizer *t)
{
    return t->pad;
}

uint32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

// One encoding. The text goes through in this order: segments between added tokens (raw), their NFC, segments between
// added tokens (normalised), pieces of the splitter, tokens.
struct encoder {
    const struct tokenizer *t;
    struct token_ids *out;
    struct token_ids *lengths; // bytes of each id in the composed text; NULL: not wanted
    struct bpe_scratch scratch;
    struct token_text composed;
    // For spans: where they end in the text, and where those ends lie in the composed text.
    const size_t *borders;
    size_t *composed_borders;
    size_t border_count, border_done, composed_total;
};

static bool encode_piece(void *user, const char *piece, size_t length, struct vireo_error *err)
{
    struct encoder *e = user;
    return bpe_encode(e->t, &e->scratch, piece, length, e->out, e->lengths, err);
}

static bool encode_added(struct encoder *e, uint32_t id, size_t length, struct vireo_error *err)
{
    return token_ids_add(e->out, id, err) && (!e->lengths || token_ids_add(e->lengths, (uint32_t)length, err));
}

static bool allows(unsigned char match, bool special)
{
    return match == TOKENIZER_MATCH_ALL || (match == TOKENIZER_MATCH_PLAIN && !special);
}

// Longest added token that begins at text[at] and may match there. `matches` has one enum tokenizer_match a byte; NULL:
// `everywhere` holds for all.
static uint32_t find_added(const struct tokenizer *t, const struct trie *trie, const char *text, size_t length,
                           size_t at, const unsigned char *matches, enum tokenizer_match everywhere,
                           size_t *found_length)
{
    uint32_t best = TOKENIZER_NO_ID, node = trie->first[(unsigned char)text[at]];
    bool plain_fine = true, special_fine = true;
    for (size_t i = at; node; i++) {
        unsigned char match = matches ? matches[i] : (unsigned char)everywhere;
        plain_fine = plain_fine && allows(match, false);
        special_fine = special_fine && allows(match, true);
        if (!plain_fine)
            break;
        uint32_t id = trie->nodes[node].id;
        if (id != TOKENIZER_NO_ID && (special_fine || !tokenizer_is_special(t, id))) {
            best = id;
            *found_length = i + 1 - at;
        }
        if (i + 1 == length)
            break;
        unsigned char byte = (unsigned char)text[i + 1];
        node = trie->nodes[node].child;
        while (node && trie->nodes[node].byte != byte)
            node = trie->nodes[node].sibling;
    }
    return best;
}

static bool encode_plain(struct encoder *e, const char *text, size_t length, struct vireo_error *err)
{
    return splitter_run(&e->t->splitter, text, length, encode_piece, e, err);
}

static bool cut_at_added(struct encoder *e, const struct trie *trie, const char *text, size_t length,
                         const unsigned char *matches, enum tokenizer_match everywhere, struct vireo_error *err)
{
    size_t start = 0;
    for (size_t at = 0; at < length && trie->count && (matches || everywhere != TOKENIZER_MATCH_NONE);) {
        size_t found = 0;
        uint32_t id = find_added(e->t, trie, text, length, at, matches, everywhere, &found);
        if (id == TOKENIZER_NO_ID) {
            at++;
            continue;
        }
        if (at > start && !encode_plain(e, text + start, at - start, err))
            return false;
        if (!encode_added(e, id, found, err))
            return false;
        at += found;
        start = at;
    }
    return start == length || encode_plain(e, text + start, length - start, err);
}

// Where the borders inside text[0, length) lie after composition: behind the composed form of what precedes them.
static bool place_borders(struct encoder *e, const char *text, size_t from, size_t length, bool changed, size_t base,
                          struct vireo_error *err)
{
    while (e->border_done < e->border_count && e->borders[e->border_done] <= from + length) {
        size_t within = e->borders[e->border_done] - from;
        if (changed) {
            struct token_text part = {0};
            bool ok = utf8_compose(text, within, &part, err);
            within = part.length;
            token_text_free(&part);
            if (!ok)
                return false;
        }
        e->composed_borders[e->border_done++] = base + within;
    }
    return true;
}

static bool encode_composed(struct encoder *e, const char *text, size_t length, const unsigned char *matches,
                            enum tokenizer_match everywhere, struct vireo_error *err)
{
    const char *composed = text;
    size_t composed_length = length;
    if (e->t->compose) {
        e->composed.length = 0;
        if (!utf8_compose(text, length, &e->composed, err))
            return false;
        composed = e->composed.data;
        composed_length = e->composed.length;
    }
    bool changed = composed_length != length || memcmp(composed, text, length) != 0;
    if (changed && matches) {
        // The permissions no longer line up byte by byte: only what the whole segment allows is allowed.
        everywhere = TOKENIZER_MATCH_ALL;
        for (size_t i = 0; i < length; i++)
            if (matches[i] == TOKENIZER_MATCH_NONE || everywhere == TOKENIZER_MATCH_ALL)
                everywhere = (enum tokenizer_match)matches[i];
        matches = NULL;
    }
    return cut_at_added(e, &e->t->vocabulary.normalized, composed, composed_length, matches, everywhere, err);
}

// The outer cut, written out because it has to follow the borders of spans through composition.
static bool encode_text(struct encoder *e, const char *text, size_t length, const unsigned char *matches,
                        enum tokenizer_match everywhere, struct vireo_error *err)
{
    const struct trie *trie = &e->t->vocabulary.raw;
    size_t start = 0, at = 0;
    while (start < length) {
        size_t found = 0;
        uint32_t id = TOKENIZER_NO_ID;
        if (trie->count && (matches || everywhere != TOKENIZER_MATCH_NONE))
            for (; at < length; at++)
                if ((id = find_added(e->t, trie, text, length, at, matches, everywhere, &found)) != TOKENIZER_NO_ID)
                    break;
        if (id == TOKENIZER_NO_ID)
            at = length;
        if (at > start) {
            if (!encode_composed(e, text + start, at - start, matches ? matches + start : NULL, everywhere, err))
                return false;
            size_t composed = e->t->compose ? e->composed.length : at - start;
            bool changed = composed != at - start || (composed && e->t->compose &&
                                                      memcmp(e->composed.data, text + start, composed) != 0);
            if (e->lengths && !place_borders(e, text + start, start, at - start, changed, e->composed_total, err))
                return false;
            e->composed_total += composed;
        }
        if (id != TOKENIZER_NO_ID) {
            if (!encode_added(e, id, found, err) ||
                (e->lengths && !place_borders(e, text + at, at, found, false, e->composed_total, err)))
                return false;
            e->composed_total += found;
            at += found;
        }
        start = at;
    }
    return true;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, enum tokenizer_match match,
                      struct token_ids *out, struct vireo_error *err)
{
    return tokenizer_encode_spans(t, &(struct tokenizer_span){text, length, match}, 1, out, NULL, err);
}

static bool join_spans(const struct tokenizer_span *spans, size_t count, struct token_text *text,
                       struct token_text *matches, size_t *borders, struct vireo_error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        if (spans[i].length > TOKENIZER_MAX_TEXT || (total += spans[i].length) > TOKENIZER_MAX_TEXT)
            return vireo_fail(err, VIREO_TOO_LARGE, "the text to encode is longer than %d MiB",
                              TOKENIZER_MAX_TEXT >> 20);
        if (utf8_is_valid(spans[i].text, spans[i].length)
                ? !token_text_add(text, spans[i].text, spans[i].length, err)
                : !utf8_replace(spans[i].text, spans[i].length, text, err))
            return false;
        if (borders)
            borders[i] = text->length;
        if (count == 1)
            continue;
        size_t before = matches->length;
        if (!grow_array(&matches->data, &matches->capacity, text->length + 1, 1, err))
            return false;
        memset(matches->data + before, (int)spans[i].match, text->length - before);
        matches->length = text->length;
    }
    return true;
}

bool tokenizer_encode_spans(const struct tokenizer *t, const struct tokenizer_span *spans, size_t count,
                            struct token_ids *out, size_t *ends, struct vireo_error *err)
{
    if (count == 0)
        return true;
    size_t before = out->count, bytes = 0;
    struct token_text text = {0}, matches = {0};
    struct token_ids lengths = {0};
    size_t *borders = NULL, capacity = 0;
    struct encoder e = {.t = t, .out = out};
    bool ok =
        !ends || (vireo_mul_size(count, 2, &bytes) && grow_array(&borders, &capacity, bytes, sizeof *borders, err));
    ok = ok && join_spans(spans, count, &text, &matches, borders, err);
    if (ok) {
        if (ends) {
            e.lengths = &lengths;
            e.borders = borders;
            e.composed_borders = borders + count;
            e.border_count = count;
        }
        ok = encode_text(&e, text.data, text.length, count > 1 ? (const unsigned char *)matches.data : NULL,
                         spans[0].match, err);
    }
    if (ok && ends) {
        // Borders of empty spans at the very beginning of an empty text have not been passed.
        while (e.border_done < count)
            e.composed_borders[e.border_done++] = e.composed_total;
        size_t at = 0, id = 0;
        for (size_t i = 0; i < count; i++) {
            while (id < lengths.count && at + lengths.ids[id] <= e.composed_borders[i])
                at += lengths.ids[id++];
            ends[i] = id;
        }
    }
    if (!ok)
        out->count = before;
    free(borders);
    token_ids_free(&lengths);
    token_text_free(&text);
    token_text_free(&matches);
    token_text_free(&e.composed);
    bpe_scratch_free(&e.scratch);
    return ok;
}

bool tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                      struct token_text *out, struct vireo_error *err)
{
    size_t before = out->length;
    struct token_stream s;
    token_stream_init(&s, t, skip_special);
    bool ok = token_text_add(out, "", 0, err);
    for (size_t i = 0; ok && i < count; i++)
        ok = token_stream_add(&s, ids[i], out, err);
    ok = ok && token_stream_end(&s, out, err);
    if (!ok && out->data) {
        out->length = before;
        out->data[before] = 0;
    }
    return ok;
}
