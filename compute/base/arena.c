#include "compute/base/arena.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arena_block {
    struct arena_block *next;
    size_t size, used;
    _Alignas(16) unsigned char bytes[];
};

void arena_init(struct arena *a, size_t block_bytes)
{
    *a = (struct arena){.block_bytes = block_bytes};
}

static void free_blocks(struct arena_block *block)
{
    while (block) {
        struct arena_block *next = block->next;
        free(block);
        block = next;
    }
}

void arena_finish(struct arena *a)
{
    free_blocks(a->first);
    *a = (struct arena){.block_bytes = a->block_bytes};
}

static struct arena_block *add_block(struct arena *a, size_t bytes)
{
    size_t wanted = VIREO_MAX(bytes, a->block_bytes ? a->block_bytes : (size_t)64 << 10), total;
    if (!vireo_add_size(wanted, sizeof(struct arena_block), &total))
        return NULL;
    if (a->limit_bytes && total > a->limit_bytes - VIREO_MIN(a->held_bytes, a->limit_bytes))
        return NULL;
    struct arena_block *block = vireo_alloc(total);
    if (!block)
        return NULL;
    *block = (struct arena_block){.size = wanted};
    a->held_bytes += total;
    if (a->current)
        a->current->next = block;
    else
        a->first = block;
    a->current = block;
    return block;
}

void *arena_take(struct arena *a, size_t bytes)
{
    size_t rounded;
    if (!vireo_add_size(bytes, 15, &rounded)) {
        a->failed = true;
        return NULL;
    }
    rounded &= ~(size_t)15;
    struct arena_block *block = a->current;
    if (!block || block->size - block->used < rounded)
        block = add_block(a, rounded);
    if (!block) {
        a->failed = true;
        return NULL;
    }
    void *result = block->bytes + block->used;
    block->used += rounded;
    return memset(result, 0, bytes);
}

void *arena_take_array(struct arena *a, size_t count, size_t size)
{
    size_t bytes;
    if (!vireo_mul_size(count, size, &bytes)) {
        a->failed = true;
        return NULL;
    }
    return arena_take(a, bytes);
}

char *arena_copy_bytes(struct arena *a, const void *bytes, size_t count)
{
    char *copy = count < SIZE_MAX ? arena_take(a, count + 1) : NULL;
    if (copy && count)
        memcpy(copy, bytes, count);
    return copy;
}

char *arena_copy_string(struct arena *a, const char *text)
{
    return arena_copy_bytes(a, text, strlen(text));
}

char *arena_format(struct arena *a, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = length >= 0 ? arena_take(a, (size_t)length + 1) : NULL;
    if (text) {
        va_start(args, fmt);
        vsnprintf(text, (size_t)length + 1, fmt, args);
        va_end(args);
    }
    return text;
}

struct arena_mark arena_mark(const struct arena *a)
{
    return (struct arena_mark){.block = a->current, .used = a->current ? a->current->used : 0};
}

void arena_rewind(struct arena *a, struct arena_mark mark)
{
    struct arena_block *dead = mark.block ? mark.block->next : a->first;
    for (struct arena_block *b = dead; b; b = b->next)
        a->held_bytes -= b->size + sizeof *b;
    free_blocks(dead);
    if (mark.block) {
        mark.block->next = NULL;
        mark.block->used = mark.used;
    } else {
        a->first = NULL;
    }
    a->current = mark.block;
}

bool arena_failed(const struct arena *a)
{
    return a->failed;
}
