// Archives: any bytes end in an error that says why, or in entries with sane names, within the limits.
#include "compute/dataset/unpack.h"
#include "compute/image/decode.h"
#include "tests/fuzz/require.h"

#include <locale.h>

static const struct unpack_limits limits = {.entries = 50, .entry_bytes = 1 << 20, .total_bytes = 4 << 20, .ratio = 100};

struct seen {
    uint64_t entries, bytes;
};

static bool entry(void *context, const char *name, const void *bytes, size_t count, struct vireo_error *err)
{
    struct seen *s = context;
    struct image_info info;
    FUZZ_REQUIRE(name[0] && name[0] != '/' && !strchr(name, '\\') && strlen(name) <= 255);
    for (const char *part = name; part; part = strchr(part, '/'), part += part != NULL)
        FUZZ_REQUIRE(strncmp(part, "../", 3) != 0 && strcmp(part, "..") != 0);
    s->entries++;
    s->bytes += count;
    FUZZ_REQUIRE(s->entries <= limits.entries && count <= limits.entry_bytes && s->bytes <= limits.total_bytes);
    if (image_sniff(bytes, count) != IMAGE_UNKNOWN)
        image_probe(bytes, count, NULL, &info, err);
    return s->entries != 17 || vireo_fail(err, VIREO_CANCELLED, "enough");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;
    if (!ready)
        ready = setlocale(LC_CTYPE, "C.UTF-8") != NULL;
    struct vireo_error err = {0};
    struct seen s = {0};
    unpack_is_archive(data, size);
    if (!unpack_each(data, size, &limits, entry, &s, &err))
        FUZZ_REQUIRE(err.message[0] && err.code != VIREO_OK);
    return 0;
}
