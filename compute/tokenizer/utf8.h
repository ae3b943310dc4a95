// UTF-8: well-formedness as Unicode table 3-7, replacement of what is ill-formed, canonical composition.
#ifndef VIREO_TOKENIZER_UTF8_H
#define VIREO_TOKENIZER_UTF8_H

#include "compute/tokenizer/tokenizer.h"

// Length of the sequence at `p` (1..4) if it is well-formed. Otherwise 0, and *bad is the length of the maximal
// ill-formed subsequence (at least 1); *incomplete says whether it only lacks bytes beyond `available`.
size_t utf8_sequence(const unsigned char *p, size_t available, size_t *bad, bool *incomplete);
bool utf8_is_valid(const char *text, size_t length);
// Appends `text`, each maximal ill-formed subsequence as U+FFFD (what browsers, Python and Rust do).
bool utf8_replace(const char *text, size_t length, struct token_text *out, struct vireo_error *err);
// Code point of a well-formed sequence; *length its bytes.
uint32_t utf8_decode(const char *text, size_t *length);
size_t utf8_encode(uint32_t c, char out[4]); // bytes written, 1..4
// Appends the NFC form of well-formed `text`. Linear but for sorting runs of combining marks (n log n).
bool utf8_compose(const char *text, size_t length, struct token_text *out, struct vireo_error *err);

#endif
