// What the vision tower made of the pictures seen last: rows of one pool on the device, found by the picture's digest.
//
// A picture is a run of rows. When room is wanted the least recently used pictures go, except those pinned since the
// last features_unpin (the batch that is being built reads them).
#ifndef VIREO_ENGINE_PICTURES_H
#define VIREO_ENGINE_PICTURES_H

#include "compute/base/hash.h"
#include "compute/nn/kept.h"

struct features;
// A pool of `rows` rows of `columns` values in `memory`. NULL + err.
struct features *features_create(struct gpu_arena *memory, enum dtype type, uint32_t rows, uint32_t columns,
                                 struct vireo_error *err);
void features_destroy(struct features **f);
struct tensor features_pool(const struct features *f); // f32 [rows, columns]
// One picture: row place[i] of the pool holds token i (raster order) of it.
struct feature {
    uint8_t digest[HASH_BYTES];
    uint32_t first, count; // its rows of the pool
    uint32_t *place;       // [count]
    struct kept_place kept; // its first row of the vision tower's activations, where they are kept
    bool pinned;
    uint64_t used; // when last
    struct feature *next;
};
// The picture, pinned; NULL: not here.
const struct feature *features_find(struct features *f, const uint8_t digest[HASH_BYTES]);
// Room for a picture of `count` rows, pinned. The caller fills place[] and the rows. NULL: too many are pinned (or no
// memory).
struct feature *features_add(struct features *f, const uint8_t digest[HASH_BYTES], uint32_t count);
void features_unpin(struct features *f);
void features_newest_go(struct features *f); // from now on those used last make room first: for data visited in rounds
void features_forget(struct features *f); // drops all: the weights have changed, or what was to fill them failed

#endif
