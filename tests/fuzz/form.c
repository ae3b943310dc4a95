// multipart/form-data in pieces of random sizes: the same events as in one piece, and no data that was not sent.
#include "server/http/form.h"
#include "tests/fuzz/require.h"

struct log {
    size_t parts, bytes, ends;
    uint64_t hash;
};

static void mix(struct log *log, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        log->hash = (log->hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
}

static bool begin(void *context, const char *name, const char *filename, const char *type, struct vireo_error *err)
{
    struct log *log = context;
    (void)err;
    FUZZ_REQUIRE(log->parts == log->ends);
    log->parts++;
    mix(log, name, strlen(name));
    mix(log, filename ? filename : "", filename ? strlen(filename) : 0);
    mix(log, type, strlen(type));
    return true;
}
static bool data_of(void *context, const void *bytes, size_t count, struct vireo_error *err)
{
    struct log *log = context;
    (void)err;
    FUZZ_REQUIRE(log->parts == log->ends + 1 && count > 0);
    log->bytes += count;
    mix(log, bytes, count);
    return true;
}
static bool end_of(void *context, struct vireo_error *err)
{
    struct log *log = context;
    (void)err;
    log->ends++;
    mix(log, "|", 1);
    return true;
}

static bool parse(const char *type, const uint8_t *data, size_t size, uint32_t seed, struct log *log)
{
    static struct form f;
    struct vireo_error err;
    struct form_sink sink = {begin, data_of, end_of, log};
    *log = (struct log){.hash = 0xcbf29ce484222325u};
    if (!form_init(&f, type, &sink, &err))
        return false;
    while (size) {
        seed = seed * 1664525u + 1013904223u;
        size_t count = seed >> 24 < 200 ? 1 + (seed >> 8) % 7 : 1 + (seed >> 8) % 3000;
        count = count < size ? count : size;
        if (!form_feed(&f, data, count, &err))
            return false;
        data += count;
        size -= count;
    }
    return form_finish(&f, &err);
}

// The first line is the Content-Type, the rest the body.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char type[300];
    const uint8_t *line = memchr(data, '\n', size);
    size_t length = line ? (size_t)(line - data) : 0;
    if (!line || length >= sizeof type)
        return 0;
    memcpy(type, data, length);
    type[length] = 0;
    struct log once, pieces;
    bool a = parse(type, line + 1, size - length - 1, 1, &once), b = parse(type, line + 1, size - length - 1, 77, &pieces);
    FUZZ_REQUIRE(a == b);
    if (a)
        FUZZ_REQUIRE(once.hash == pieces.hash && once.parts == pieces.parts && once.bytes == pieces.bytes &&
                     once.parts == once.ends && once.bytes <= size);
    return 0;
}
