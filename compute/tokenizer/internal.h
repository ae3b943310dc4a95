// What the files of this folder share; nobody else includes it.
#ifndef VIREO_TOKENIZER_INTERNAL_H
#define VIREO_TOKENIZER_INTERNAL_H

#include "compute/base/arena.h"
#include "compute/tokenizer/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

// ---- vocabulary.c: names and ids

enum { TOKEN_ADDED = 1, TOKEN_SPECIAL = 2, TOKEN_NORMALIZED = 4 };
struct token_entry {
    const char *name;  // as in the file; NULL: no such id
    const char *bytes; // what it decodes to; NUL behind
    uint32_t name_length, length;
    uint32_t flags;
};

// Open addressing; `slots` hold id + 1, 0 is empty. The names are the entries'.
struct name_table {
    uint32_t *slots;
    size_t mask;
};

// Added tokens by their bytes. Children are a list of siblings; node 0 is the root.
struct trie_node {
    uint32_t child, sibling; // 0: none
    uint32_t id;             // TOKENIZER_NO_ID: no token ends here
    unsigned char byte;
};
struct trie {
    struct trie_node *nodes;
    size_t count, capacity;
    uint32_t first[256]; // child of the root by byte
};

struct vocabulary {
    struct token_entry *entries; // [size]
    uint32_t size;               // highest id + 1
    struct name_table model, added;
    struct trie raw, normalized; // added tokens matched before and after normalisation
};

// Symbol of a byte (33..126, 161..172, 174..255 are themselves, the others U+0100 and up) and back (-1: not a symbol).
uint32_t byte_symbol(unsigned char byte);
int symbol_byte(uint32_t c);

bool vocabulary_reserve(struct vocabulary *v, struct arena *a, uint32_t size, size_t model_count, size_t added_count,
                        struct vireo_error *err);
// Copies name into `a`. VIREO_CORRUPT when the id is taken by another name or out of range.
bool vocabulary_add_model(struct vocabulary *v, struct arena *a, const char *name, size_t length, uint32_t id,
                          struct vireo_error *err);
bool vocabulary_add_added(struct vocabulary *v, struct arena *a, const char *name, size_t length, uint32_t id,
                          uint32_t flags, struct vireo_error *err);
uint32_t vocabulary_find_model(const struct vocabulary *v, const char *name, size_t length);
uint32_t vocabulary_find_added(const struct vocabulary *v, const char *name, size_t length);
void vocabulary_finish(struct vocabulary *v); // what is not in the arena

// ---- bpe.c: merges

struct merge {
    uint32_t left, right, rank, id;
};
struct merges {
    struct merge *slots; // open addressing; rank UINT32_MAX is empty
    size_t mask;
    uint32_t byte_ids[256]; // id of each byte's symbol
    bool ignore_merges;     // a piece that is a token stays one
};
struct bpe_symbol {
    uint32_t id, length; // length 0: merged away
    int32_t previous, next;
};
struct bpe_candidate {
    uint32_t rank, id;
    int32_t at;
};
// Work space of one encoding; zero-initialise.
struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t symbol_capacity, heap_capacity, heap_count;
};
bool merges_reserve(struct merges *m, struct arena *a, size_t count, struct vireo_error *err);
void merges_add(struct merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t id); // the last one wins
const struct merge *merges_find(const struct merges *m, uint32_t left, uint32_t right);
// Appends the ids of one piece; lengths (NULL: not wanted) gets the bytes of each.
bool bpe_encode(const struct tokenizer *t, struct bpe_scratch *s, const char *piece, size_t length,
                struct token_ids *out, struct token_ids *lengths, struct vireo_error *err);
void bpe_scratch_free(struct bpe_scratch *s);

// ---- split.c: the pre-tokenizer's patterns

enum { SPLIT_MAX_STAGES = 8, SPLIT_MAX_PATTERN = 8192 };
extern const char split_pattern_qwen2[], split_pattern_gpt2[];
struct splitter {
    pcre2_code *stages[SPLIT_MAX_STAGES];
    size_t count;
};
// Regex in the dialect of Oniguruma as tokenizer.json has it; VIREO_UNSUPPORTED for what would match differently here.
bool splitter_add(struct splitter *s, const char *pattern, size_t length, struct vireo_error *err);
void splitter_finish(struct splitter *s);
// Calls `visit` for each piece of well-formed `text`, in order; matches and what lies between ("Isolated").
typedef bool (*split_visit)(void *user, const char *piece, size_t length, struct vireo_error *err);
bool splitter_run(const struct splitter *s, const char *text, size_t length, split_visit visit, void *user,
                  struct vireo_error *err);

// ---- the whole

struct tokenizer {
    struct arena arena;
    struct vocabulary vocabulary;
    struct merges merges;
    struct splitter splitter;
    bool compose; // NFC
    uint32_t eos, pad, bos;
};

// Bytes that grow: makes *array hold at least `wanted` elements of `size`; *capacity in elements.
bool grow_array(void *array, size_t *capacity, size_t wanted, size_t size, struct vireo_error *err);

#endif
