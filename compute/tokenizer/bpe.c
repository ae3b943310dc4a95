// Merging by rank: the pair of lowest rank first, the leftmost of equals, until none is left. The candidates wait in a
// heap and the symbols form a list, so a piece of n bytes costs n log n and a megabyte of one letter is no problem.
#include "compute/tokenizer/internal.h"

#include "compute/tokenizer/utf8.h"

#include <stdlib.h>
#include <string.h>

static size_t merge_home(const struct merges *m, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    h ^= h >> 32;
    return (size_t)(h * 0xd6e8feb86659fd93u >> 20) & m->mask;
}

bool merges_reserve(struct merges *m, struct arena *a, size_t count, struct vireo_error *err)
{
    size_t slots = 16;
    while (slots < count * 2)
        slots *= 2;
    m->slots = arena_array(a, struct merge, slots);
    if (!m->slots)
        return vireo_fail_memory(err, slots * sizeof *m->slots);
    for (size_t i = 0; i < slots; i++)
        m->slots[i].rank = UINT32_MAX;
    m->mask = slots - 1;
    return true;
}

void merges_add(struct merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    size_t at = merge_home(m, left, right);
    while (m->slots[at].rank != UINT32_MAX && (m->slots[at].left != left || m->slots[at].right != right))
        at = (at + 1) & m->mask;
    m->slots[at] = (struct merge){left, right, rank, id};
}

const struct merge *merges_find(const struct merges *m, uint32_t left, uint32_t right)
{
    for (size_t at = merge_home(m, left, right); m->slots[at].rank != UINT32_MAX; at = (at + 1) & m->mask)
        if (m->slots[at].left == left && m->slots[at].right == right)
            return &m->slots[at];
    return NULL;
}

static bool comes_before(struct bpe_candidate a, struct bpe_candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(struct bpe_scratch *s, struct bpe_candidate c)
{
    size_t at = s->heap_count++;
    for (; at > 0 && comes_before(c, s->heap[(at - 1) / 2]); at = (at - 1) / 2)
        s->heap[at] = s->heap[(at - 1) / 2];
    s->heap[at] = c;
}

static struct bpe_candidate heap_pop(struct bpe_scratch *s)
{
    struct bpe_candidate top = s->heap[0], last = s->heap[--s->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < s->heap_count; at = child) {
        if (child + 1 < s->heap_count && comes_before(s->heap[child + 1], s->heap[child]))
            child++;
        if (!comes_before(s->heap[child], last))
            break;
        s->heap[at] = s->heap[child];
    }
    s->heap[at] = last;
    return top;
}

static void consider(const struct merges *m, struct bpe_scratch *s, int32_t at)
{
    int32_t next = at < 0 ? -1 : s->symbols[at].next;
    if (next < 0)
        return;
    const struct merge *found = merges_find(m, s->symbols[at].id, s->symbols[next].id);
    if (found)
        heap_push(s, (struct bpe_candidate){found->rank, found->id, at});
}

static void merge_all(const struct merges *m, struct bpe_scratch *s, int32_t count)
{
    s->heap_count = 0;
    for (int32_t i = 0; i + 1 < count; i++)
        consider(m, s, i);
    while (s->heap_count) {
        struct bpe_candidate c = heap_pop(s);
        struct bpe_symbol *left = &s->symbols[c.at];
        if (left->length == 0 || left->next < 0)
            continue;
        struct bpe_symbol *right = &s->symbols[left->next];
        // A neighbour may have been merged since this candidate was found; then the pair is another one.
        const struct merge *now = merges_find(m, left->id, right->id);
        if (!now || now->rank != c.rank)
            continue;
        left->id = c.id;
        left->length += right->length;
        left->next = right->next;
        right->length = 0;
        if (left->next >= 0)
            s->symbols[left->next].previous = c.at;
        consider(m, s, left->previous);
        consider(m, s, c.at);
    }
}

static uint32_t whole_piece(const struct tokenizer *t, const char *piece, size_t length)
{
    char name[TOKENIZER_MAX_TOKEN];
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        if (used + 2 > sizeof name)
            return TOKENIZER_NO_ID;
        used += utf8_encode(byte_symbol((unsigned char)piece[i]), name + used);
    }
    return vocabulary_find_model(&t->vocabulary, name, used);
}

bool bpe_encode(const struct tokenizer *t, struct bpe_scratch *s, const char *piece, size_t length,
                struct token_ids *out, struct token_ids *lengths, struct vireo_error *err)
{
    if (length == 0)
        return true;
    if (t->merges.ignore_merges) {
        uint32_t id = whole_piece(t, piece, length);
        if (id != TOKENIZER_NO_ID)
            return token_ids_add(out, id, err) && (!lengths || token_ids_add(lengths, (uint32_t)length, err));
    }
    // At most one candidate per symbol at first, and two more for each of the length - 1 merges.
    if (!grow_array(&s->symbols, &s->symbol_capacity, length, sizeof *s->symbols, err) ||
        !grow_array(&s->heap, &s->heap_capacity, 3 * length, sizeof *s->heap, err))
        return false;
    int32_t count = (int32_t)length;
    for (int32_t i = 0; i < count; i++)
        s->symbols[i] =
            (struct bpe_symbol){t->merges.byte_ids[(unsigned char)piece[i]], 1, i - 1, i + 1 < count ? i + 1 : -1};
    merge_all(&t->merges, s, count);
    for (int32_t i = 0; i >= 0; i = s->symbols[i].next)
        if (!token_ids_add(out, s->symbols[i].id, err) ||
            (lengths && !token_ids_add(lengths, s->symbols[i].length, err)))
            return false;
    return true;
}

void bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}
