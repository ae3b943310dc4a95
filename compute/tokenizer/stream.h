// Text of tokens as they are generated: never half a character.
//
// A token may end inside a UTF-8 sequence. The stream holds back the bytes of an incomplete character until the next
// tokens complete it or make it ill-formed; then U+FFFD stands for it. The pieces put together equal tokenizer_decode
// of all ids. One stream a sequence; any one thread at a time.
#ifndef VIREO_TOKENIZER_STREAM_H
#define VIREO_TOKENIZER_STREAM_H

#include "compute/tokenizer/tokenizer.h"

struct token_stream {
    const struct tokenizer *tokenizer;
    bool skip_special;
    unsigned char held[4]; // a valid beginning of a UTF-8 sequence
    size_t held_count;
};

void token_stream_init(struct token_stream *s, const struct tokenizer *t, bool skip_special);
// Appends to *out what can be shown after this id, often nothing. On failure the stream and *out are unchanged.
bool token_stream_add(struct token_stream *s, uint32_t id, struct token_text *out, struct vireo_error *err);
// End of the sequence: bytes still held back become U+FFFD. The stream may be used again afterwards.
bool token_stream_end(struct token_stream *s, struct token_text *out, struct vireo_error *err);

#endif
