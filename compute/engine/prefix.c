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

bool prefix_keys(const struct prompt *p, const char *scope, const uint8_t (*digests)[HASH_BYTES],
                 uint8_t (*out)[HASH_BYTES])
{
    uint8_t last[HASH_BYTES];
    if (!hash_bytes(scope ? scope : "", scope ? strlen(scope) : 0, last))
        return false;
    for (uint32_t page = 0; page < p->count / PAGE_TOKENS; page++) {
        struct hash *h = hash_create();
        bool done = h && hash_add(h, last, sizeof last);
        for (uint32_t i = page * PAGE_TOKENS; done && i < (page + 1) * PAGE_TOKENS; i++) {
            const bool picture = p->image[i] >= 0;
            const uint32_t token[6] = {p->ids[i],          p->positions[i][0], p->positions[i][1],
                                       p->positions[i][2], picture,            picture ? p->image_row[i] : 0};
            done = hash_add(h, token, sizeof token) && (!picture || hash_add(h, digests[p->image[i]], HASH_BYTES));
        }
        done = done && hash_end(h, last);
        hash_destroy(&h);
        if (!done)
            return false;
        memcpy(out[page], last, sizeof last);
    }
    return true;
}
