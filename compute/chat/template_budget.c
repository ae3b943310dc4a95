// What a rendering may spend: steps, bytes, memory.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <stdio.h>
#include <string.h>

bool render_fail(struct render *r, enum vireo_code code, const char *fmt, ...)
{
    char message[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return vireo_fail(r->err, code, "chat template, line %d: %s", r->line, message);
}

bool render_spend(struct render *r, size_t steps)
{
    if (steps > TEMPLATE_MAX_STEPS || (r->steps += (int64_t)steps) > TEMPLATE_MAX_STEPS)
        return render_fail(r, VIREO_TOO_LARGE, "more than %d steps", TEMPLATE_MAX_STEPS);
    return true;
}

bool render_spend_bytes(struct render *r, size_t bytes)
{
    if (bytes > TEMPLATE_MAX_OUTPUT)
        return render_fail(r, VIREO_TOO_LARGE, "a text of more than %d MiB", TEMPLATE_MAX_OUTPUT >> 20);
    return render_spend(r, bytes / 128);
}

void *render_take(struct render *r, size_t count, size_t size)
{
    void *memory = arena_take_array(&r->arena, count ? count : 1, size);
    if (!memory)
        render_fail(r, VIREO_TOO_LARGE, "out of working memory (at most %d MiB)", TEMPLATE_MAX_MEMORY >> 20);
    return memory;
}

bool render_grow(struct render *r, void *array, size_t used, size_t wanted, size_t *capacity, size_t size)
{
    if (wanted <= *capacity)
        return true;
    size_t more = VIREO_MAX(wanted, *capacity * 2);
    more = VIREO_MAX(more, 8u);
    void **place = array, *grown = render_take(r, more, size);
    if (!grown)
        return false;
    if (used)
        memcpy(grown, *place, used * size);
    *place = grown;
    *capacity = more;
    return true;
}
