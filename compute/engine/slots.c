#include "compute/engine/slots.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

struct run {
    uint32_t first, count;
};

struct slots {
    struct run *runs;                             // free ones, ascending, never adjacent
    uint32_t run_count, room, total, free, taken; // taken: runs given out and not yet back
};

struct slots *slots_create(uint32_t count)
{
    struct slots *s = vireo_calloc(1, sizeof *s);
    struct run *runs = vireo_calloc(16, sizeof *runs);
    if (!s || !runs) {
        free(s);
        free(runs);
        return NULL;
    }
    runs[0] = (struct run){0, count};
    *s = (struct slots){.runs = runs, .run_count = 1, .room = 16, .total = count, .free = count};
    return s;
}

void slots_destroy(struct slots **s)
{
    if (!*s)
        return;
    free((*s)->runs);
    free(*s);
    *s = NULL;
}

bool slots_take(struct slots *s, uint32_t count, uint32_t *first)
{
    // Every run given out may come back as a free run of its own: keep room for all, so that release cannot fail.
    if (s->run_count + s->taken + 1 >= s->room) {
        struct run *more = vireo_realloc(s->runs, 2 * s->room * sizeof *more);
        if (!more)
            return false;
        s->runs = more;
        s->room *= 2;
    }
    for (uint32_t i = 0; i < s->run_count; i++) {
        struct run *r = &s->runs[i];
        if (r->count < count)
            continue;
        *first = r->first;
        r->first += count;
        r->count -= count;
        s->free -= count;
        s->taken++;
        if (r->count == 0)
            memmove(r, r + 1, (--s->run_count - i) * sizeof *r);
        return true;
    }
    return false;
}

void slots_release(struct slots *s, uint32_t first, uint32_t count)
{
    vireo_assert((uint64_t)first + count <= s->total);
    uint32_t i = 0;
    while (i < s->run_count && s->runs[i].first < first)
        i++;
    bool before = i > 0 && s->runs[i - 1].first + s->runs[i - 1].count == first;
    bool after = i < s->run_count && first + count == s->runs[i].first;
    vireo_assert(i == 0 || s->runs[i - 1].first + s->runs[i - 1].count <= first);
    if (before && after) {
        s->runs[i - 1].count += count + s->runs[i].count;
        memmove(&s->runs[i], &s->runs[i + 1], (--s->run_count - i) * sizeof *s->runs);
    } else if (before) {
        s->runs[i - 1].count += count;
    } else if (after) {
        s->runs[i].first = first;
        s->runs[i].count += count;
    } else {
        vireo_assert(s->run_count < s->room);
        memmove(&s->runs[i + 1], &s->runs[i], (s->run_count++ - i) * sizeof *s->runs);
        s->runs[i] = (struct run){first, count};
    }
    s->free += count;
    s->taken--;
}

uint32_t slots_free(const struct slots *s)
{
    return s->free;
}
