#include "compute/tokenizer/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/tokenizer/utf8.h"

#include <stdlib.h>
#include <string.h>

uint32_t byte_symbol(unsigned char byte)
{
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)
        return byte;
    if (byte <= 32)
        return 256u + byte;
    if (byte <= 160)
        return 256u + 33u + (byte - 127u);
    return 256u + 67u; // 173
}

int symbol_byte(uint32_t c)
{
    if (c < 256)
        return byte_symbol((unsigned char)c) == c ? (int)c : -1;
    if (c <= 256 + 32)
        return (int)c - 256;
    if (c < 256 + 67)
        return (int)c - 256 - 33 + 127;
    return c == 256 + 67 ? 173 : -1;
}

bool grow_array(void *array, size_t *capacity, size_t wanted, size_t size, struct vireo_error *err)
{
    if (wanted <= *capacity)
        return true;
    size_t more = VIREO_MAX(wanted, *capacity * 2), bytes;
    if (more < 16)
        more = 16;
    void **place = array;
    if (!vireo_mul_size(more, size, &bytes))
        return vireo_fail_memory(err, UINT64_MAX);
    void *grown = vireo_realloc(*place, bytes);
    if (!grown)
        return vireo_fail_memory(err, bytes);
    *place = grown;
    *capacity = more;
    return true;
}

static uint64_t hash_name(const char *name, size_t length)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ length;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, name, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
        name += 8;
        length -= 8;
    }
    uint64_t word = 0;
    memcpy(&word, name, length);
    h = (h ^ word) * 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 29;
}

static bool name_table_reserve(struct name_table *t, struct arena *a, size_t count, struct vireo_error *err)
{
    size_t slots = 16;
    while (slots < count * 2)
        slots *= 2;
    t->slots = arena_array(a, uint32_t, slots);
    if (!t->slots)
        return vireo_fail_memory(err, slots * sizeof *t->slots);
    t->mask = slots - 1;
    return true;
}

static uint32_t *name_table_slot(const struct name_table *t, const struct vocabulary *v, const char *name,
                                 size_t length)
{
    for (size_t at = hash_name(name, length) & t->mask;; at = (at + 1) & t->mask) {
        uint32_t *slot = &t->slots[at];
        if (*slot == 0)
            return slot;
        const struct token_entry *e = &v->entries[*slot - 1];
        if (e->name_length == length && memcmp(e->name, name, length) == 0)
            return slot;
    }
}

static uint32_t name_table_find(const struct name_table *t, const struct vocabulary *v, const char *name, size_t length)
{
    return t->slots ? *name_table_slot(t, v, name, length) - 1 : TOKENIZER_NO_ID; // an empty slot is 0 - 1
}

uint32_t vocabulary_find_model(const struct vocabulary *v, const char *name, size_t length)
{
    return name_table_find(&v->model, v, name, length);
}

uint32_t vocabulary_find_added(const struct vocabulary *v, const char *name, size_t length)
{
    return name_table_find(&v->added, v, name, length);
}

bool vocabulary_reserve(struct vocabulary *v, struct arena *a, uint32_t size, size_t model_count, size_t added_count,
                        struct vireo_error *err)
{
    v->entries = arena_array(a, struct token_entry, size);
    if (!v->entries)
        return vireo_fail_memory(err, (unsigned long long)size * sizeof *v->entries);
    v->size = size;
    return name_table_reserve(&v->model, a, model_count, err) && name_table_reserve(&v->added, a, added_count, err);
}

static bool check_name(const struct vocabulary *v, const char *name, size_t length, uint32_t id,
                       struct vireo_error *err)
{
    if (id >= v->size)
        return vireo_fail(err, VIREO_CORRUPT, "token \"%.60s\" has id %u, beyond the table of %u", name, id, v->size);
    if (length == 0)
        return vireo_fail(err, VIREO_CORRUPT, "token %u has an empty name", id);
    if (length > TOKENIZER_MAX_TOKEN)
        return vireo_fail(err, VIREO_CORRUPT, "token %u has a name of %zu bytes; at most %d are allowed", id, length,
                          TOKENIZER_MAX_TOKEN);
    return true;
}

// The bytes a name of byte symbols stands for; a name with any other character stands for itself, as in the reference.
static bool set_bytes(struct token_entry *e, struct arena *a, struct vireo_error *err)
{
    char *bytes = arena_take(a, e->name_length + 1);
    if (!bytes)
        return vireo_fail_memory(err, e->name_length + 1);
    size_t count = 0;
    for (size_t i = 0, step; i < e->name_length; i += step) {
        int byte = symbol_byte(utf8_decode(e->name + i, &step));
        if (byte < 0) {
            e->bytes = e->name;
            e->length = e->name_length;
            return true;
        }
        bytes[count++] = (char)byte;
    }
    e->bytes = bytes;
    e->length = (uint32_t)count;
    return true;
}

bool vocabulary_add_model(struct vocabulary *v, struct arena *a, const char *name, size_t length, uint32_t id,
                          struct vireo_error *err)
{
    if (!check_name(v, name, length, id, err))
        return false;
    struct token_entry *e = &v->entries[id];
    if (e->name)
        return vireo_fail(err, VIREO_CORRUPT, "tokens \"%.60s\" and \"%.60s\" have the same id %u", e->name, name, id);
    const char *copy = arena_copy_bytes(a, name, length);
    if (!copy)
        return vireo_fail_memory(err, length);
    *e = (struct token_entry){.name = copy, .name_length = (uint32_t)length};
    *name_table_slot(&v->model, v, name, length) = id + 1;
    return set_bytes(e, a, err);
}

static bool trie_add(struct trie *t, const char *name, size_t length, uint32_t id, struct vireo_error *err)
{
    if (!grow_array(&t->nodes, &t->capacity, t->count + length + 1, sizeof *t->nodes, err))
        return false;
    if (t->count == 0)
        t->nodes[t->count++] = (struct trie_node){.id = TOKENIZER_NO_ID};
    uint32_t at = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)name[i];
        uint32_t next = t->nodes[at].child;
        while (next && t->nodes[next].byte != byte)
            next = t->nodes[next].sibling;
        if (!next) {
            next = (uint32_t)t->count++;
            t->nodes[next] = (struct trie_node){.sibling = t->nodes[at].child, .id = TOKENIZER_NO_ID, .byte = byte};
            t->nodes[at].child = next;
        }
        if (at == 0)
            t->first[byte] = next;
        at = next;
    }
    t->nodes[at].id = id;
    return true;
}

bool vocabulary_add_added(struct vocabulary *v, struct arena *a, const char *name, size_t length, uint32_t id,
                          uint32_t flags, struct vireo_error *err)
{
    if (!check_name(v, name, length, id, err))
        return false;
    struct token_entry *e = &v->entries[id];
    if (e->name && (e->name_length != length || memcmp(e->name, name, length) != 0))
        return vireo_fail(err, VIREO_CORRUPT, "added token \"%.60s\" has the id %u of \"%.60s\"", name, id, e->name);
    uint32_t before = vocabulary_find_added(v, name, length);
    if (before != TOKENIZER_NO_ID && before != id)
        return vireo_fail(err, VIREO_CORRUPT, "added token \"%.60s\" has two ids, %u and %u", name, before, id);
    if (!e->name) {
        e->name = arena_copy_bytes(a, name, length);
        if (!e->name)
            return vireo_fail_memory(err, length);
    }
    // An added token decodes to its own text, also where that text could be read as byte symbols.
    e->name_length = e->length = (uint32_t)length;
    e->bytes = e->name;
    e->flags = flags | TOKEN_ADDED;
    *name_table_slot(&v->added, v, name, length) = id + 1;
    return trie_add(flags & TOKEN_NORMALIZED ? &v->normalized : &v->raw, name, length, id, err);
}

void vocabulary_finish(struct vocabulary *v)
{
    free(v->raw.nodes);
    free(v->normalized.nodes);
    v->raw.nodes = v->normalized.nodes = NULL;
}
