// Bump allocator for things that die together: a request, a step, a load. Not thread-safe; one owner.
//
// Memory is zeroed. Pointers stay valid until the arena is rewound past them or destroyed. A failed allocation
// returns NULL and marks the arena failed, so that a chain of takes can be checked once at the end (arena_failed).
#ifndef VIREO_BASE_ARENA_H
#define VIREO_BASE_ARENA_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct arena_block;
struct arena {
    struct arena_block *first, *current;
    size_t block_bytes; // size of a fresh block; 0 = 64 KiB
    size_t limit_bytes; // most the arena may hold in all; 0 = no limit
    size_t held_bytes;
    bool failed;
};
struct arena_mark {
    struct arena_block *block;
    size_t used;
};

// Empty arena; nothing is allocated yet.
void arena_init(struct arena *a, size_t block_bytes);
void arena_finish(struct arena *a); // frees all; a zeroed arena is fine

// `bytes` zeroed bytes aligned to 16, or NULL.
void *arena_take(struct arena *a, size_t bytes);
// count * size bytes with the product checked.
void *arena_take_array(struct arena *a, size_t count, size_t size);
#define arena_new(a, type) ((type *)arena_take((a), sizeof(type)))
#define arena_array(a, type, count) ((type *)arena_take_array((a), (count), sizeof(type)))

// Copies in the arena; NULL without memory.
char *arena_copy_string(struct arena *a, const char *text);
char *arena_copy_bytes(struct arena *a, const void *bytes, size_t count); // NUL added behind the copy
// As snprintf, into the arena.
char *arena_format(struct arena *a, const char *fmt, ...) VIREO_PRINTF(2, 3);

// Where the arena stands now, for arena_rewind.
struct arena_mark arena_mark(const struct arena *a);
void arena_rewind(struct arena *a, struct arena_mark mark); // frees what was taken since the mark
bool arena_failed(const struct arena *a);                   // some take returned NULL since init

#endif
