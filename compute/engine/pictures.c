#include "compute/engine/pictures.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/engine/slots.h"

#include <stdlib.h>
#include <string.h>

struct features {
    struct tensor pool;
    struct slots *slots; // which rows are free
    struct feature *list;
    uint64_t clock;
    bool newest_goes;
};

struct features *features_create(struct gpu_arena *memory, enum dtype type, uint32_t rows, uint32_t columns,
                                 struct vireo_error *err)
{
    struct features *f = vireo_calloc(1, sizeof *f);
    if (!f || !(f->slots = slots_create(rows))) {
        free(f);
        vireo_fail_memory(err, sizeof *f);
        return NULL;
    }
    f->pool = tensor_matrix(memory, type, rows, columns, err);
    if (!f->pool.span.address)
        features_destroy(&f);
    return f;
}

void features_destroy(struct features **features)
{
    struct features *f = *features;
    if (!f)
        return;
    features_forget(f);
    slots_destroy(&f->slots);
    free(f);
    *features = NULL;
}

struct tensor features_pool(const struct features *f)
{
    return f->pool;
}

const struct feature *features_find(struct features *f, const uint8_t digest[HASH_BYTES])
{
    for (struct feature *x = f->list; x; x = x->next)
        if (memcmp(x->digest, digest, HASH_BYTES) == 0) {
            x->pinned = true;
            x->used = ++f->clock;
            return x;
        }
    return NULL;
}

static void drop(struct features *f, struct feature **at)
{
    struct feature *x = *at;
    *at = x->next;
    slots_release(f->slots, x->first, x->count);
    free(x->place);
    free(x);
}

// False: nothing can go.
static bool drop_one(struct features *f)
{
    struct feature **next = NULL;
    for (struct feature **at = &f->list; *at; at = &(*at)->next)
        if (!(*at)->pinned && (!next || ((*at)->used < (*next)->used) != f->newest_goes))
            next = at;
    if (next)
        drop(f, next);
    return next != NULL;
}

struct feature *features_add(struct features *f, const uint8_t digest[HASH_BYTES], uint32_t count)
{
    struct feature *x = vireo_calloc(1, sizeof *x);
    uint32_t *place = vireo_calloc(count, sizeof *place);
    bool room = x && place;
    while (room && !slots_take(f->slots, count, &x->first))
        room = drop_one(f);
    if (!room) {
        free(x);
        free(place);
        return NULL;
    }
    memcpy(x->digest, digest, HASH_BYTES);
    x->count = count;
    x->place = place;
    x->pinned = true;
    x->used = ++f->clock;
    x->next = f->list;
    f->list = x;
    return x;
}

void features_unpin(struct features *f)
{
    for (struct feature *x = f->list; x; x = x->next)
        x->pinned = false;
}

void features_newest_go(struct features *f)
{
    f->newest_goes = true;
}

void features_forget(struct features *f)
{
    while (f->list)
        drop(f, &f->list);
}
