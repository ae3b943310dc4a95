#include "compute/engine/pages.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = 0xffffffff };

struct page {
    uint32_t references;
    bool keyed;
    uint8_t key[HASH_BYTES];
    uint32_t next_in_bucket;    // of the keyed ones
    uint32_t before, after;     // in the list of free or of kept ones
};

// Both lists are rings through a head that stands behind the pages.
struct pages {
    struct page *pages; // [count + 2]
    uint32_t *buckets;  // [bucket_count]: first keyed page
    uint32_t count, bucket_count, free, kept;
};

static uint32_t free_head(const struct pages *p)
{
    return p->count;
}

static uint32_t kept_head(const struct pages *p)
{
    return p->count + 1;
}

static void unlink_page(struct pages *p, uint32_t page)
{
    struct page *x = &p->pages[page];
    p->pages[x->before].after = x->after;
    p->pages[x->after].before = x->before;
}

// At the end of the ring.
static void link_page(struct pages *p, uint32_t head, uint32_t page)
{
    struct page *x = &p->pages[page];
    x->after = head;
    x->before = p->pages[head].before;
    p->pages[x->before].after = page;
    p->pages[head].before = page;
}

struct pages *pages_create(uint32_t count)
{
    struct pages *p = vireo_calloc(1, sizeof *p);
    uint32_t buckets = 64;
    while (buckets < count)
        buckets *= 2;
    struct page *pages = vireo_calloc((size_t)count + 2, sizeof *pages);
    uint32_t *table = vireo_calloc(buckets, sizeof *table);
    if (!p || !pages || !table) {
        free(p);
        free(pages);
        free(table);
        return NULL;
    }
    *p = (struct pages){.pages = pages, .buckets = table, .count = count, .bucket_count = buckets, .free = count};
    memset(table, 0xff, buckets * sizeof *table);
    for (uint32_t h = count; h < count + 2; h++)
        pages[h].before = pages[h].after = h;
    for (uint32_t i = 0; i < count; i++)
        link_page(p, free_head(p), i);
    return p;
}

void pages_destroy(struct pages **p)
{
    if (!*p)
        return;
    free((*p)->pages);
    free((*p)->buckets);
    free(*p);
    *p = NULL;
}

static uint32_t *bucket_of(struct pages *p, const uint8_t key[HASH_BYTES])
{
    uint32_t h;
    memcpy(&h, key, sizeof h);
    return &p->buckets[h & (p->bucket_count - 1)];
}

static uint32_t look_up(struct pages *p, const uint8_t key[HASH_BYTES])
{
    uint32_t i = *bucket_of(p, key);
    while (i != NONE && memcmp(p->pages[i].key, key, HASH_BYTES) != 0)
        i = p->pages[i].next_in_bucket;
    return i;
}

static void drop_key(struct pages *p, uint32_t page)
{
    uint32_t *at = bucket_of(p, p->pages[page].key);
    while (*at != page)
        at = &p->pages[*at].next_in_bucket;
    *at = p->pages[page].next_in_bucket;
    p->pages[page].keyed = false;
}

bool pages_take(struct pages *p, uint32_t *page)
{
    uint32_t i;
    if (p->free > 0) {
        i = p->pages[free_head(p)].after;
        p->free--;
    } else if (p->kept > 0) {
        i = p->pages[kept_head(p)].after;
        p->kept--;
        drop_key(p, i);
    } else {
        return false;
    }
    unlink_page(p, i);
    p->pages[i].references = 1;
    *page = i;
    return true;
}

void pages_share(struct pages *p, uint32_t page)
{
    vireo_assert(page < p->count && p->pages[page].references > 0);
    p->pages[page].references++;
}

void pages_release(struct pages *p, uint32_t page)
{
    vireo_assert(page < p->count && p->pages[page].references > 0);
    if (--p->pages[page].references > 0)
        return;
    if (p->pages[page].keyed) {
        link_page(p, kept_head(p), page);
        p->kept++;
    } else {
        link_page(p, free_head(p), page);
        p->free++;
    }
}

bool pages_find(struct pages *p, const uint8_t key[HASH_BYTES], uint32_t *page)
{
    uint32_t i = look_up(p, key);
    if (i == NONE)
        return false;
    if (p->pages[i].references++ == 0) {
        unlink_page(p, i);
        p->kept--;
    }
    *page = i;
    return true;
}

void pages_keep(struct pages *p, uint32_t page, const uint8_t key[HASH_BYTES])
{
    vireo_assert(page < p->count && p->pages[page].references > 0);
    struct page *x = &p->pages[page];
    if (x->keyed || look_up(p, key) != NONE)
        return;
    memcpy(x->key, key, HASH_BYTES);
    x->keyed = true;
    uint32_t *bucket = bucket_of(p, key);
    x->next_in_bucket = *bucket;
    *bucket = page;
}

void pages_forget(struct pages *p)
{
    memset(p->buckets, 0xff, p->bucket_count * sizeof *p->buckets);
    for (uint32_t i = 0; i < p->count; i++) {
        if (p->pages[i].keyed && p->pages[i].references == 0) {
            unlink_page(p, i);
            link_page(p, free_head(p), i);
            p->free++;
        }
        p->pages[i].keyed = false;
    }
    p->kept = 0;
}

uint32_t pages_available(const struct pages *p)
{
    return p->free + p->kept;
}

uint32_t pages_held(const struct pages *p)
{
    return p->count - p->free - p->kept;
}

uint32_t pages_kept(const struct pages *p)
{
    return p->kept;
}
