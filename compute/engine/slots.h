// Which rows of a pool are free: contiguous runs, first fit, merged on release.
#ifndef VIREO_ENGINE_SLOTS_H
#define VIREO_ENGINE_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

struct slots;
struct slots *slots_create(uint32_t count); // NULL without memory
void slots_destroy(struct slots **s);
// First slot of a run of `count`, or false when no run is long enough.
bool slots_take(struct slots *s, uint32_t count, uint32_t *first);
void slots_release(struct slots *s, uint32_t first, uint32_t count);
uint32_t slots_free(const struct slots *s); // in all

#endif
