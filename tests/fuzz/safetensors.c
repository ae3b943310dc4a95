// Any bytes as a safetensors file; what opens is read to its last element.
#include "compute/checkpoint/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s;
    struct vireo_error err;
    if (!safetensors_open_bytes(data, size, &s, &err))
        return 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensor *t = safetensors_at(s, i);
        float f[16];
        int32_t n[16];
        bytes += t->bytes;
        for (uint64_t at = 0; at < t->count; at += 16) {
            uint64_t count = t->count - at < 16 ? t->count - at : 16;
            safetensors_floats(t, at, count, f, &err);
            safetensors_integers(t, at, count, n, &err);
        }
        if (safetensors_find(s, t->name) != t)
            abort();
    }
    if (bytes > size)
        abort();
    safetensors_close(&s);
    return 0;
}
