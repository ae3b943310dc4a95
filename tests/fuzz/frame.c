// Bytes of a worker, in pieces of random sizes: the same frames as in one piece, no byte read twice, never a crash.
#include "compute/wire/frame.h"
#include "tests/fuzz/require.h"

#include <stdlib.h>
#include <string.h>

struct seen {
    size_t frames;
    bool bad;
    uint64_t hash;
};

static void drain(struct frame_reader *r, struct seen *s)
{
    json_t *message;
    struct vireo_error err = {0};
    enum frame_result got = FRAME_NONE;
    while (!s->bad && (got = frame_next(r, &message, &err)) == FRAME_READY) {
        FUZZ_REQUIRE(json_is_object(message));
        size_t size;
        char *bytes = frame_encode(message, &size, &err);
        FUZZ_REQUIRE(bytes);
        for (size_t i = 0; i < size; i++)
            s->hash = (s->hash ^ (uint8_t)bytes[i]) * 0x100000001b3u;
        free(bytes);
        json_decref(message);
        s->frames++;
    }
    if (got == FRAME_BAD) {
        FUZZ_REQUIRE(err.code != VIREO_OK);
        s->bad = true;
    }
}

static struct seen run(const uint8_t *data, size_t size, size_t piece)
{
    struct frame_reader r = {0};
    struct seen s = {0};
    for (size_t at = 0; at < size && !s.bad; at += piece) {
        FUZZ_REQUIRE(frame_reader_feed(&r, data + at, size - at < piece ? size - at : piece, NULL));
        drain(&r, &s);
    }
    frame_reader_finish(&r);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole = run(data, size, size ? size : 1), cut = run(data, size, 1 + (size ? data[0] % 7 : 0));
    FUZZ_REQUIRE(whole.frames == cut.frames && whole.bad == cut.bad && whole.hash == cut.hash);
    return 0;
}
