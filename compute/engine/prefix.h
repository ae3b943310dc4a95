// Names of the beginnings of prompts: what two prompts must share for their keys and values to be the same.
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
// Keys of the whole pages of a prompt: out [p->count / PAGE_TOKENS]. `digests` [p->image_count]. False without memory.
bool prefix_keys(const struct prompt *p, const char *scope, const uint8_t (*digests)[HASH_BYTES],
                 uint8_t (*out)[HASH_BYTES]);

#endif
