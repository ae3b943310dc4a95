// Trains a small byte-level BPE and writes it in the standard form: for the demo and for tests.
//
// The rule is that of Hugging Face's BpeTrainer: NFC, Qwen2's split pattern, the 256 byte symbols as alphabet (ids
// 0..255 in order of their code points), then again and again the most frequent adjacent pair becomes a token; ties go
// to the pair with the lower (left id, right id). It stops at the wanted size or when no pair occurs `min_frequency`
// times. The same input gives the same bytes on every machine.
#ifndef VIREO_TOKENIZER_TRAIN_H
#define VIREO_TOKENIZER_TRAIN_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct tokenizer_train_params {
    uint32_t vocabulary_size; // most tokens in all, special and added ones included; at least 256 + those
    uint32_t min_frequency;   // 0 means 2
    // Special tokens, then plain added tokens: they get the ids behind the learnt ones, in this order.
    const char *const *special; // NULL: Qwen's eight: <|endoftext|> <|im_start|> <|im_end|> <|vision_start|>
    size_t special_count;       //   <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
    const char *const *added;   // may be NULL
    size_t added_count;
    const char *eos, *pad;       // NULL: <|im_end|> and <|endoftext|>; must be among the special tokens
    const char *chat_template;   // put into tokenizer_config.json; may be NULL
    uint32_t model_max_length;   // for tokenizer_config.json; 0 means 32768
};

// Trains on `count` texts (NUL-terminated UTF-8; added tokens inside them are ordinary text here, as in the reference)
// and writes folder/tokenizer.json and folder/tokenizer_config.json, each whole or not at all. *size (may be NULL)
// receives the number of tokens.
bool tokenizer_train(const struct tokenizer_train_params *params, const char *const *texts, size_t count,
                     const char *folder, uint32_t *size, struct vireo_error *err);

#endif
