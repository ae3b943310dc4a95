#include "compute/dataset/sample.h"

#include "compute/base/check.h"

#include <string.h>

void dataset_finish(struct dataset *d)
{
    for (uint32_t i = 0; i < d->count; i++)
        json_decref(d->samples[i].item);
    arena_finish(&d->arena);
    memset(d, 0, sizeof *d);
}

bool dataset_has_item_key(const struct dataset *d, const char *key)
{
    for (uint32_t i = 0; i < d->count; i++)
        if (json_object_get(d->samples[i].item, key))
            return true;
    return false;
}

const uint32_t *dataset_units(const struct dataset *d)
{
    return d->units;
}
