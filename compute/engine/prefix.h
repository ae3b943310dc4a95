// Names of the beginnings of prompts and of what was said next: what two must share for their keys and values to be the
// same.
//
// The key of page i is SHA-256 over the key of page i - 1 and, for each token of the page, its id, its three positions
// and, for tokens of pictures, the picture's digest and the row in it. The key of no page is the digest of the scope:
// who may share with whom (an API key). Nothing that leaves a trace in the keys and values of a page is left out.
#ifndef VIREO_ENGINE_PREFIX_H
#define VIREO_ENGINE_PREFIX_H

#include "compute/engine/pages.h"
#include "compute/models/prompt.h"

// Values and grid of one preprocessed picture.
bool prefix_image_digest(const struct patches *p, uint8_t digest[HASH_BYTES]);
// digest = SHA-256(digest of the scope, digest): pictures are known within a scope only.
bool prefix_scoped(const char *scope, uint8_t digest[HASH_BYTES]);
// Key of whole page number `page` of a prompt followed by the tokens `ids` (NULL where the page ends within the prompt).
// `before`: the key of the page before; unused for page 0. False without memory.
bool prefix_key(const struct prompt *p, const char *scope, const uint8_t (*digests)[HASH_BYTES], const uint32_t *ids,
                uint32_t page, const uint8_t *before, uint8_t key[HASH_BYTES]);
// Keys of the whole pages of a prompt: out [p->count / PAGE_TOKENS]. `digests` [p->image_count]. False without memory.
bool prefix_keys(const struct prompt *p, const char *scope, const uint8_t (*digests)[HASH_BYTES],
                 uint8_t (*out)[HASH_BYTES]);

#endif
