#include "compute/tokenizer/train.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/tokenizer/internal.h"
#include "compute/tokenizer/utf8.h"

#include <jansson.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const qwen_special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>",
                                           "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"};

// A distinct piece of the corpus: its symbols shrink as pairs merge.
struct word {
    uint32_t *symbols;
    uint32_t count, length; // occurrences; symbols left
    const char *text;
    uint32_t bytes;
};
// An adjacent pair: how often it occurs, and in which words it was seen (perhaps no longer).
struct pair_entry {
    uint32_t left, right;
    int64_t count;
    uint32_t *words;
    size_t word_count, word_capacity;
    bool used;
};
struct candidate {
    int64_t count;
    uint32_t left, right;
};
struct learnt {
    char *name; // byte symbols
    uint32_t left, right;
};
struct trainer {
    struct splitter splitter;
    struct arena arena;
    struct word *words;
    size_t word_count, word_capacity;
    uint32_t *word_slots; // open addressing; index + 1
    size_t word_mask;
    struct pair_entry *pairs; // open addressing
    size_t pair_used, pair_mask;
    struct candidate *heap;
    size_t heap_count, heap_capacity;
    char **names; // of ids, [id_count]
    size_t id_count, id_capacity;
    struct learnt *merges;
    size_t merge_count, merge_capacity;
};

static uint64_t mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static uint64_t hash_bytes_of(const char *text, size_t length)
{
    uint64_t h = length;
    for (size_t i = 0; i < length; i++)
        h = mix(h, (unsigned char)text[i]);
    return h;
}

static bool grow_words(struct trainer *t, struct vireo_error *err)
{
    size_t slots = t->word_slots ? (t->word_mask + 1) * 2 : 1024;
    uint32_t *table = vireo_calloc(slots, sizeof *table);
    if (!table)
        return vireo_fail_memory(err, slots * sizeof *table);
    for (size_t i = 0; i < t->word_count; i++) {
        size_t at = hash_bytes_of(t->words[i].text, t->words[i].bytes) & (slots - 1);
        while (table[at])
            at = (at + 1) & (slots - 1);
        table[at] = (uint32_t)i + 1;
    }
    free(t->word_slots);
    t->word_slots = table;
    t->word_mask = slots - 1;
    return true;
}

static bool count_piece(void *user, const char *piece, size_t length, struct vireo_error *err)
{
    struct trainer *t = user;
    if ((!t->word_slots || t->word_count * 2 > t->word_mask) && !grow_words(t, err))
        return false;
    size_t at = hash_bytes_of(piece, length) & t->word_mask;
    for (; t->word_slots[at]; at = (at + 1) & t->word_mask) {
        struct word *w = &t->words[t->word_slots[at] - 1];
        if (w->bytes == length && memcmp(w->text, piece, length) == 0) {
            w->count++;
            return true;
        }
    }
    if (!grow_array(&t->words, &t->word_capacity, t->word_count + 1, sizeof *t->words, err))
        return false;
    struct word w = {.count = 1, .length = (uint32_t)length, .bytes = (uint32_t)length};
    w.text = arena_copy_bytes(&t->arena, piece, length);
    w.symbols = arena_array(&t->arena, uint32_t, length);
    if (!w.text || !w.symbols)
        return vireo_fail_memory(err, length * sizeof *w.symbols);
    t->words[t->word_count++] = w;
    t->word_slots[at] = (uint32_t)t->word_count;
    return true;
}

static bool count_words(struct trainer *t, const char *const *texts, size_t count, struct vireo_error *err)
{
    for (size_t i = 0; i < count; i++) {
        struct token_text clean = {0}, composed = {0};
        bool ok = utf8_replace(texts[i], strlen(texts[i]), &clean, err) &&
                  utf8_compose(clean.data ? clean.data : "", clean.length, &composed, err) &&
                  (composed.length == 0 ||
                   splitter_run(&t->splitter, composed.data, composed.length, count_piece, t, err));
        token_text_free(&clean);
        token_text_free(&composed);
        if (!ok)
            return vireo_explain(err, "text %zu: ", i);
    }
    return true;
}

// The 256 byte symbols in the order of their code points: the ids 0..255.
static bool make_alphabet(struct trainer *t, struct vireo_error *err)
{
    uint32_t ids[256];
    for (uint32_t c = 0; c < 256 + 68; c++) {
        int byte = symbol_byte(c);
        char name[4];
        if (byte < 0)
            continue;
        if (!grow_array(&t->names, &t->id_capacity, t->id_count + 1, sizeof *t->names, err))
            return false;
        if (!(t->names[t->id_count] = arena_copy_bytes(&t->arena, name, utf8_encode(c, name))))
            return vireo_fail_memory(err, 8);
        ids[byte] = (uint32_t)t->id_count++;
    }
    vireo_assert(t->id_count == 256);
    for (size_t i = 0; i < t->word_count; i++)
        for (uint32_t k = 0; k < t->words[i].length; k++)
            t->words[i].symbols[k] = ids[(unsigned char)t->words[i].text[k]];
    return true;
}

static size_t pair_slot(const struct trainer *t, uint32_t left, uint32_t right)
{
    size_t at = mix(left, (uint64_t)right << 20 | 1) & t->pair_mask;
    while (t->pairs[at].used && (t->pairs[at].left != left || t->pairs[at].right != right))
        at = (at + 1) & t->pair_mask;
    return at;
}

static bool grow_pairs(struct trainer *t, struct vireo_error *err)
{
    size_t slots = t->pairs ? (t->pair_mask + 1) * 2 : 4096, old_slots = t->pairs ? t->pair_mask + 1 : 0;
    struct pair_entry *old = t->pairs, *table = vireo_calloc(slots, sizeof *table);
    if (!table)
        return vireo_fail_memory(err, slots * sizeof *table);
    t->pairs = table;
    t->pair_mask = slots - 1;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].used)
            t->pairs[pair_slot(t, old[i].left, old[i].right)] = old[i];
    free(old);
    return true;
}

static bool comes_before(struct candidate a, struct candidate b)
{
    if (a.count != b.count)
        return a.count > b.count;
    return a.left != b.left ? a.left < b.left : a.right < b.right;
}

static bool offer(struct trainer *t, struct candidate c, struct vireo_error *err)
{
    if (!grow_array(&t->heap, &t->heap_capacity, t->heap_count + 1, sizeof *t->heap, err))
        return false;
    size_t at = t->heap_count++;
    for (; at > 0 && comes_before(c, t->heap[(at - 1) / 2]); at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = c;
    return true;
}

static struct candidate take_best(struct trainer *t)
{
    struct candidate top = t->heap[0], last = t->heap[--t->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->heap_count; at = child) {
        if (child + 1 < t->heap_count && comes_before(t->heap[child + 1], t->heap[child]))
            child++;
        if (!comes_before(t->heap[child], last))
            break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = last;
    return top;
}

// Counts `by` more occurrences in a word; a pair that gained is a candidate again.
static bool change_pair(struct trainer *t, uint32_t left, uint32_t right, int64_t by, uint32_t word,
                        struct vireo_error *err)
{
    if ((!t->pairs || t->pair_used * 2 > t->pair_mask) && !grow_pairs(t, err))
        return false;
    struct pair_entry *p = &t->pairs[pair_slot(t, left, right)];
    if (!p->used) {
        *p = (struct pair_entry){.left = left, .right = right, .used = true};
        t->pair_used++;
    }
    p->count += by;
    if (by <= 0 || (p->word_count && p->words[p->word_count - 1] == word))
        return true;
    if (!grow_array(&p->words, &p->word_capacity, p->word_count + 1, sizeof *p->words, err))
        return false;
    p->words[p->word_count++] = word;
    return true;
}

static bool count_pairs(struct trainer *t, struct vireo_error *err)
{
    for (size_t i = 0; i < t->word_count; i++) {
        const struct word *w = &t->words[i];
        for (uint32_t k = 0; k + 1 < w->length; k++)
            if (!change_pair(t, w->symbols[k], w->symbols[k + 1], w->count, (uint32_t)i, err))
                return false;
    }
    for (size_t i = 0; t->pairs && i <= t->pair_mask; i++)
        if (t->pairs[i].used &&
            !offer(t, (struct candidate){t->pairs[i].count, t->pairs[i].left, t->pairs[i].right}, err))
            return false;
    return true;
}

// A neighbouring pair that a merge made: counted at once, offered after the whole merge with its final count.
static bool gain(struct trainer *t, uint32_t left, uint32_t right, uint32_t word, struct token_ids *gained,
                 struct vireo_error *err)
{
    return change_pair(t, left, right, t->words[word].count, word, err) && token_ids_add(gained, left, err) &&
           token_ids_add(gained, right, err);
}

// Replaces the pair everywhere in one word, leftmost first.
static bool merge_word(struct trainer *t, uint32_t index, uint32_t left, uint32_t right, uint32_t id,
                       struct token_ids *gained, struct vireo_error *err)
{
    struct word *w = &t->words[index];
    uint32_t *s = w->symbols, to = 0;
    for (uint32_t from = 0; from < w->length; to++) {
        if (from + 1 == w->length || s[from] != left || s[from + 1] != right) {
            s[to] = s[from++];
            continue;
        }
        if (to > 0 && (!change_pair(t, s[to - 1], left, -(int64_t)w->count, index, err) ||
                       !gain(t, s[to - 1], id, index, gained, err)))
            return false;
        if (from + 2 < w->length && (!change_pair(t, right, s[from + 2], -(int64_t)w->count, index, err) ||
                                     !gain(t, id, s[from + 2], index, gained, err)))
            return false;
        s[to] = id;
        from += 2;
    }
    w->length = to;
    return true;
}

static bool add_token(struct trainer *t, uint32_t left, uint32_t right, uint32_t *id, struct vireo_error *err)
{
    char *name = arena_format(&t->arena, "%s%s", t->names[left], t->names[right]);
    if (!name)
        return vireo_fail_memory(err, strlen(t->names[left]) + strlen(t->names[right]) + 1);
    // Two ways to the same string share one token: "ab"+"c" and "a"+"bc".
    for (*id = 256; *id < t->id_count; (*id)++)
        if (strcmp(t->names[*id], name) == 0)
            break;
    if (*id == t->id_count) {
        if (!grow_array(&t->names, &t->id_capacity, t->id_count + 1, sizeof *t->names, err))
            return false;
        t->names[t->id_count++] = name;
    }
    if (!grow_array(&t->merges, &t->merge_capacity, t->merge_count + 1, sizeof *t->merges, err))
        return false;
    t->merges[t->merge_count++] = (struct learnt){name, left, right};
    return true;
}

static bool merge_pair(struct trainer *t, uint32_t left, uint32_t right, struct vireo_error *err)
{
    uint32_t id = 0;
    struct token_ids gained = {0};
    if (!add_token(t, left, right, &id, err))
        return false;
    // The entry may move while others are added; its list of words is its own from here on.
    struct pair_entry *p = &t->pairs[pair_slot(t, left, right)];
    uint32_t *words = p->words;
    size_t count = p->word_count;
    p->words = NULL;
    p->word_count = p->word_capacity = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++)
        ok = merge_word(t, words[i], left, right, id, &gained, err);
    free(words);
    t->pairs[pair_slot(t, left, right)].count = 0;
    for (size_t i = 0; ok && i < gained.count; i += 2) {
        const struct pair_entry *g = &t->pairs[pair_slot(t, gained.ids[i], gained.ids[i + 1])];
        ok = g->count <= 0 || offer(t, (struct candidate){g->count, g->left, g->right}, err);
    }
    token_ids_free(&gained);
    return ok;
}

static bool learn(struct trainer *t, size_t most, int64_t min_frequency, struct vireo_error *err)
{
    while (t->id_count < most && t->heap_count) {
        struct candidate c = take_best(t);
        int64_t now = t->pairs[pair_slot(t, c.left, c.right)].count;
        if (now <= 0)
            continue;
        if (now != c.count) { // counted before other merges took some of it
            c.count = now;
            if (!offer(t, c, err))
                return false;
            continue;
        }
        if (now < min_frequency)
            break;
        if (!merge_pair(t, c.left, c.right, err))
            return false;
    }
    return true;
}

// ---- writing

static json_t *added_token(const char *content, bool special)
{
    return json_pack("{s:s, s:b, s:b, s:b, s:b, s:b}", "content", content, "single_word", 0, "lstrip", 0, "rstrip", 0,
                     "normalized", 0, "special", special);
}

static json_t *byte_level(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex",
                     0);
}

struct names {
    const char *const *special, *const *added;
    size_t special_count, added_count;
};

static json_t *make_tokenizer(const struct trainer *t, const struct names *n)
{
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    for (size_t i = 0; i < t->id_count; i++)
        json_object_set_new(vocab, t->names[i], json_integer((json_int_t)i));
    for (size_t i = 0; i < t->merge_count; i++)
        json_array_append_new(merges, json_sprintf("%s %s", t->names[t->merges[i].left], t->names[t->merges[i].right]));
    for (size_t i = 0; i < n->special_count + n->added_count; i++) {
        bool special = i < n->special_count;
        json_t *token = json_pack("{s:i}", "id", (int)(t->id_count + i));
        json_t *rest = added_token(special ? n->special[i] : n->added[i - n->special_count], special);
        json_object_update(token, rest);
        json_decref(rest);
        json_array_append_new(added, token);
    }
    json_t *split = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", split_pattern_qwen2,
                              "behavior", "Isolated", "invert", 0);
    json_t *model = json_pack("{s:s, s:n, s:n, s:s, s:s, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                              "unk_token", "continuing_subword_prefix", "", "end_of_word_suffix", "", "fuse_unk", 0,
                              "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges", merges);
    return json_pack("{s:s, s:n, s:n, s:o, s:{s:s}, s:{s:s, s:[o, o]}, s:o, s:o, s:o}", "version", "1.0", "truncation",
                     "padding", "added_tokens", added, "normalizer", "type", "NFC", "pre_tokenizer", "type", "Sequence",
                     "pretokenizers", split, byte_level(), "post_processor", byte_level(), "decoder", byte_level(),
                     "model", model);
}

static json_t *make_config(const struct trainer *t, const struct names *n, const struct tokenizer_train_params *p)
{
    json_t *decoder = json_object(), *additional = json_array();
    for (size_t i = 0; i < n->special_count + n->added_count; i++) {
        bool special = i < n->special_count;
        char id[16];
        snprintf(id, sizeof id, "%zu", t->id_count + i);
        json_object_set_new(decoder, id,
                            added_token(special ? n->special[i] : n->added[i - n->special_count], special));
        if (special)
            json_array_append_new(additional, json_string(n->special[i]));
    }
    json_t *config = json_pack(
        "{s:b, s:b, s:o, s:o, s:n, s:b, s:s, s:s, s:i, s:s, s:b, s:s, s:n}", "add_bos_token", 0, "add_prefix_space", 0,
        "added_tokens_decoder", decoder, "additional_special_tokens", additional, "bos_token",
        "clean_up_tokenization_spaces", 0, "eos_token", p->eos ? p->eos : "<|im_end|>", "errors", "replace",
        "model_max_length", p->model_max_length ? (int)p->model_max_length : 32768, "pad_token",
        p->pad ? p->pad : "<|endoftext|>", "split_special_tokens", 0, "tokenizer_class", "Qwen2Tokenizer", "unk_token");
    if (config && p->chat_template)
        json_object_set_new(config, "chat_template", json_string(p->chat_template));
    return config;
}

static bool write_json(const char *folder, const char *name, json_t *value, struct vireo_error *err)
{
    char path[1024];
    char *text = value ? json_dumps(value, JSON_INDENT(1)) : NULL;
    json_decref(value);
    if (!text)
        return vireo_fail(err, VIREO_NO_MEMORY, "%s could not be made: out of memory", name);
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    bool ok = n > 0 && (size_t)n < sizeof path ? file_write_atomic(path, text, strlen(text), err)
                                               : vireo_fail(err, VIREO_TOO_LARGE, "the folder's path is too long");
    free(text);
    return ok;
}

static bool is_among(const char *const *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], name) == 0)
            return true;
    return false;
}

static bool check(const struct tokenizer_train_params *p, const struct names *n, struct vireo_error *err)
{
    for (size_t i = 0; i < n->special_count + n->added_count; i++) {
        const char *name = i < n->special_count ? n->special[i] : n->added[i - n->special_count];
        if (!name[0] || strlen(name) > TOKENIZER_MAX_TOKEN || !utf8_is_valid(name, strlen(name)))
            return vireo_fail_param(err, "added", "Added token %zu must be UTF-8 of 1 to %d bytes.", i,
                                    TOKENIZER_MAX_TOKEN);
        if (is_among(n->special, VIREO_MIN(i, n->special_count), name) ||
            (i > n->special_count && is_among(n->added, i - n->special_count, name)))
            return vireo_fail_param(err, "added", "The token \"%.60s\" is given twice.", name);
    }
    if (!is_among(n->special, n->special_count, p->eos ? p->eos : "<|im_end|>"))
        return vireo_fail_param(err, "eos", "eos must be one of the special tokens.");
    if (!is_among(n->special, n->special_count, p->pad ? p->pad : "<|endoftext|>"))
        return vireo_fail_param(err, "pad", "pad must be one of the special tokens.");
    size_t least = 256 + n->special_count + n->added_count;
    if (p->vocabulary_size < least || p->vocabulary_size > TOKENIZER_MAX_ID)
        return vireo_fail_param(err, "vocabulary_size", "The vocabulary size is %u; %zu to %d are possible here.",
                                p->vocabulary_size, least, TOKENIZER_MAX_ID);
    if (p->model_max_length > INT32_MAX)
        return vireo_fail_param(err, "model_max_length", "model_max_length must be below 2^31.");
    return true;
}

static void finish(struct trainer *t)
{
    for (size_t i = 0; t->pairs && i <= t->pair_mask; i++)
        free(t->pairs[i].words);
    free(t->pairs);
    free(t->words);
    free(t->word_slots);
    free(t->heap);
    free(t->names);
    free(t->merges);
    splitter_finish(&t->splitter);
    arena_finish(&t->arena);
}

bool tokenizer_train(const struct tokenizer_train_params *params, const char *const *texts, size_t count,
                     const char *folder, uint32_t *size, struct vireo_error *err)
{
    struct names n = {params->special, params->added, params->special_count, params->added ? params->added_count : 0};
    if (!n.special) {
        n.special = qwen_special;
        n.special_count = VIREO_COUNT(qwen_special);
    }
    if (!check(params, &n, err))
        return false;
    struct trainer t = {0};
    arena_init(&t.arena, 1 << 18);
    size_t extra = n.special_count + n.added_count;
    bool ok = splitter_add(&t.splitter, split_pattern_qwen2, strlen(split_pattern_qwen2), err) &&
              count_words(&t, texts, count, err) && make_alphabet(&t, err) && count_pairs(&t, err) &&
              learn(&t, params->vocabulary_size - extra, params->min_frequency ? params->min_frequency : 2, err) &&
              file_make_folders(folder, err) && write_json(folder, "tokenizer.json", make_tokenizer(&t, &n), err) &&
              write_json(folder, "tokenizer_config.json", make_config(&t, &n, params), err);
    if (ok && size)
        *size = (uint32_t)(t.id_count + extra);
    finish(&t);
    return ok;
}
