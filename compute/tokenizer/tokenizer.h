// Byte-level BPE as Hugging Face `tokenizers` does it, read from a model folder's tokenizer.json.
//
// Understood: model BPE over byte symbols (merges as "left right" strings or as two-element arrays, ignore_merges),
// normaliser none or NFC, pre-tokenizer Split (regular expressions, Isolated) and ByteLevel, decoder ByteLevel, added
// tokens special and plain, matched before or after normalisation. Whatever else a file asks for is refused by name
// (VIREO_UNSUPPORTED), never approximated. Tokens that only tokenizer_config.json lists (added_tokens_decoder) are
// added too, as transformers does. No token is ever added to a text (no BOS): chat templates carry what is needed.
//
// Encoding: cut at added tokens (leftmost, longest) -> NFC -> split by the pattern -> bytes -> merges.
// A loaded tokenizer never changes: any number of threads may use it at once.
#ifndef VIREO_TOKENIZER_TOKENIZER_H
#define VIREO_TOKENIZER_TOKENIZER_H

#include "compute/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TOKENIZER_MAX_FILE = 128 << 20,    // bytes of tokenizer.json
    TOKENIZER_MAX_ID = 1 << 22,        // ids are below this
    TOKENIZER_MAX_TOKEN = 4096,        // bytes of one token's text
    TOKENIZER_MAX_TEXT = 64 << 20,     // bytes of one text to encode
};
#define TOKENIZER_NO_ID UINT32_MAX

struct tokenizer;

// `path`: a folder with tokenizer.json (and perhaps tokenizer_config.json), or the path of a tokenizer.json, whose
// folder is then looked at for the config. Errors: VIREO_NOT_FOUND or VIREO_IO (no file), VIREO_INVALID (not JSON),
// VIREO_CORRUPT (wrong content; the message names the member), VIREO_UNSUPPORTED, VIREO_TOO_LARGE, VIREO_NO_MEMORY.
struct tokenizer *tokenizer_load(const char *path, struct vireo_error *err);
// The same from bytes; `config` (tokenizer_config.json) may be NULL.
struct tokenizer *tokenizer_parse(const char *json, size_t json_length, const char *config, size_t config_length,
                                  struct vireo_error *err);
void tokenizer_destroy(struct tokenizer **t); // NULL and a NULL pointer are fine

// Which added tokens are recognised inside a text.
enum tokenizer_match {
    TOKENIZER_MATCH_PLAIN, // those not flagged special (<tool_call>, <think>): for text of users and data sets.
                           // "<|im_end|>" in it becomes the ordinary tokens of its characters.
    TOKENIZER_MATCH_ALL,   // all, as the reference does: for text of our own, e.g. the chat template's
    TOKENIZER_MATCH_NONE,  // none: the text as characters only
};

// Growing array of ids; zero-initialise, then token_ids_free.
struct token_ids {
    uint32_t *ids;
    size_t count, capacity;
};
// Appends one id.
bool token_ids_add(struct token_ids *ids, uint32_t id, struct vireo_error *err);
void token_ids_free(struct token_ids *ids); // leaves it empty and usable

// Growing bytes with a NUL behind; zero-initialise, then token_text_free.
struct token_text {
    char *data; // NULL while nothing was added
    size_t length, capacity;
};
// Appends bytes; the NUL behind moves along.
bool token_text_add(struct token_text *text, const void *bytes, size_t count, struct vireo_error *err);
// Leaves it empty and usable.
void token_text_free(struct token_text *text);

// Appends the ids of `text` to *out. Bytes that are not UTF-8 are replaced first: U+FFFD for every maximal ill-formed
// subsequence. On failure (VIREO_TOO_LARGE, VIREO_NO_MEMORY) *out is as before.
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, enum tokenizer_match match,
                      struct token_ids *out, struct vireo_error *err);

// A stretch of one text and what may match in it.
struct tokenizer_span {
    const char *text;
    size_t length;
    enum tokenizer_match match;
};
// As tokenizer_encode on the spans joined to one text: merges cross the borders of spans exactly as in the joined
// text, but an added token is recognised only where every byte of it lies in spans that allow it. So a rendered chat
// gives the reference's ids unless a user's text holds special tokens, and those stay text.
// `ends` (NULL: not wanted) receives for each span the number of ids, counted from the first appended, whose text ends
// at or before the span's end; a token that straddles a border belongs to the later span.
bool tokenizer_encode_spans(const struct tokenizer *t, const struct tokenizer_span *spans, size_t count,
                            struct token_ids *out, size_t *ends, struct vireo_error *err);

// Appends the text of `ids` to *out, each maximal ill-formed UTF-8 subsequence as U+FFFD. skip_special drops tokens
// flagged special. Ids without a token (a model's vocabulary is often padded) give nothing.
bool tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                      struct token_text *out, struct vireo_error *err);

// Highest id + 1.
uint32_t tokenizer_size(const struct tokenizer *t);
// Bytes this id stands for (decoded, perhaps not UTF-8 by themselves); *length set. NULL if there is no such token.
// Valid as long as the tokenizer. NUL behind the last byte.
const char *tokenizer_bytes(const struct tokenizer *t, uint32_t id, size_t *length);
// The token's name as written in tokenizer.json (byte symbols such as "Ġthe", or the added token's text); NULL if none.
const char *tokenizer_name(const struct tokenizer *t, uint32_t id);
// Id of a name as in tokenizer_name; added tokens first. TOKENIZER_NO_ID if there is none.
uint32_t tokenizer_find(const struct tokenizer *t, const char *name);
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id); // flagged special
bool tokenizer_is_added(const struct tokenizer *t, uint32_t id);   // special or plain added token

// eos_token, pad_token, bos_token of tokenizer_config.json; TOKENIZER_NO_ID where it names none. Generation stops by
// generation_config.json, which may list more.
uint32_t tokenizer_eos(const struct tokenizer *t);
uint32_t tokenizer_pad(const struct tokenizer *t);
uint32_t tokenizer_bos(const struct tokenizer *t);

#endif
