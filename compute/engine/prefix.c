#include "compute/engine/prefix.h"

#include <string.h>

bool prefix_image_digest(const struct patches *p, uint8_t digest[HASH_BYTES])
{
    const uint64_t shape[5] = {p->t, p->h, p->w, p->rows, p->columns};
    struct hash *h = hash_create();
    bool done = h && hash_add(h, shape, sizeof shape) && hash_add(h, p->values, p->rows * p->columns * sizeof(float)) &&
                hash_end(h, digest);
    hash_destroy(&h);
    return done;
}

static bool scope_digest(const char *scope, uint8_t digest[HASH_BYTES])
{
    return hash_bytes(scope ? scope : "", scope ? strlen(scope) : 0, digest);
}

bool prefix_scoped(const char *scope, uint8_t digest[HASH_BYTES])
{
    uint8_t both[2 * HASH_BYTES];
    memcpy(both + HASH_BYTES, digest, HASH_BYTES);
    return scope_digest(scope, both) && hash_bytes(both, sizeof both, digest);
}

// What a token leaves in its keys and values: id, positions, and for a picture's token (the picture's digest and) its row.
static void describe(const struct prompt *p, const uint32_t *ids, uint32_t i, uint32_t token[6])
{
    if (i >= p->count) {
        const uint32_t position = p->next_position + i - p->count;
        memcpy(token, (uint32_t[6]){ids[i - p->count], position, position, position, 0, 0}, 6 * sizeof *token);
        return;
    }
    const bool picture = p->image[i] >= 0;
    memcpy(token,
           (uint32_t[6]){p->ids[i], p->positions[i][0], p->positions[i][1], p->positions[i][2], picture,
                         picture ? p->image_row[i] : 0},
           6 * sizeof *token);
}

bool prefix_key(const struct prompt *p, const char *scope, const uint8_t (*digests)[HASH_BYTES], const uint32_t *ids,
                uint32_t page, const uint8_t *before, uint8_t key[HASH_BYTES])
{
    uint8_t first[HASH_BYTES];
    if (page == 0 && !scope_digest(scope, first))
        return false;
    struct hash *h = hash_create();
    bool done = h && hash_add(h, page == 0 ? first : before, HASH_BYTES);
    for (uint32_t i = page * PAGE_TOKENS; done && i < (page + 1) * PAGE_TOKENS; i++) {
        uint32_t token[6];
        describe(p, ids, i, token);
        done = hash_add(h, token, sizeof token) && (!token[4] || hash_add(h, digests[p->image[i]], HASH_BYTES));
    }
    done = done && hash_end(h, key);
    hash_destroy(&h);
    return done;
}

bool prefix_keys(const struct prompt *p, const char *scope, const uint8_t (*digests)[HASH_BYTES],
                 uint8_t (*out)[HASH_BYTES])
{
    bool done = true;
    for (uint32_t page = 0; done && page < p->count / PAGE_TOKENS; page++)
        done = prefix_key(p, scope, digests, NULL, page, page ? out[page - 1] : NULL, out[page]);
    return done;
}
