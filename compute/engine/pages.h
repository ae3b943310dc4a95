// Pages of the KV pool: who holds them, and which of them keep the keys of a known beginning of a prompt.
//
// A page has one reference for each holder (a prompt, or a sample behind it). A page whose last holder lets go is free
// again, unless it was given a key: then it is kept, and found again by that key, until its room is wanted (least
// recently used first). Keys are digests: whoever asks decides what is in them (prefix.h).
#ifndef VIREO_ENGINE_PAGES_H
#define VIREO_ENGINE_PAGES_H

#include "compute/base/hash.h"

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_TOKENS = 16 }; // slots a page; a power of two, at least NN_PAGE_LEAST

struct pages;
struct pages *pages_create(uint32_t count); // NULL without memory
void pages_destroy(struct pages **p);
// A page that nobody else holds, with one reference; a kept one gives way where none is free. False: all are held.
bool pages_take(struct pages *p, uint32_t *page);
void pages_share(struct pages *p, uint32_t page); // one reference more
void pages_release(struct pages *p, uint32_t page);
// The page kept under this key, with one reference more for the caller; false: there is none.
bool pages_find(struct pages *p, const uint8_t key[HASH_BYTES], uint32_t *page);
// From now on the (held) page is found under `key`. A page has one key, a key one page: the first one stays.
void pages_keep(struct pages *p, uint32_t page, const uint8_t key[HASH_BYTES]);
void pages_forget(struct pages *p);                 // drops all keys; kept pages are free
uint32_t pages_available(const struct pages *p);    // free or merely kept
uint32_t pages_held(const struct pages *p);         // with a reference
uint32_t pages_kept(const struct pages *p);         // without a reference, with a key

#endif
