#include "server/jobs/unpack.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "server/jobs/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SILENCE_SECONDS = 60, TOTAL_SECONDS = 1800, ENTRY_BYTES = 20 << 20 };

static json_t *question(const char *path, const size_t *wanted, size_t count)
{
    json_t *m = message_new(MESSAGE_UNPACK), *list = wanted ? json_array() : json_null();
    bool done = m && list;
    for (size_t i = 0; done && wanted && i < count; i++)
        done = json_array_append_new(list, json_integer((json_int_t)wanted[i])) == 0;
    done = done && json_object_set_new(m, "path", json_string(path)) == 0 && json_object_set(m, "wanted", list) == 0;
    json_decref(list);
    if (!done) {
        json_decref(m);
        return NULL;
    }
    return m;
}

// What the worker says is foreign too: it may have been taken over by what it read.
static bool read_image(const json_t *m, bool bytes, struct unpack_image *out)
{
    static const char *const formats[] = {"unknown", "jpeg", "png", "webp"};
    json_int_t index = json_integer_value(json_object_get(m, "index")), count = json_integer_value(json_object_get(m, "bytes"));
    json_int_t format = json_integer_value(json_object_get(m, "format"));
    json_int_t width = json_integer_value(json_object_get(m, "width")), height = json_integer_value(json_object_get(m, "height"));
    *out = (struct unpack_image){.index = (size_t)index, .name = json_string_value(json_object_get(m, "name")),
                                 .count = (size_t)count};
    if (index < 0 || count <= 0 || count > ENTRY_BYTES)
        return false;
    if (bytes)
        return true;
    if (!out->name || format < 1 || format > 3 || width < 1 || width > INT32_MAX || height < 1 || height > INT32_MAX)
        return false;
    out->format = formats[format];
    out->width = (uint32_t)width;
    out->height = (uint32_t)height;
    return true;
}

bool jobs_unpack(const char *path, const size_t *wanted, size_t wanted_count, unpack_take *take, void *context,
                 struct vireo_error *err)
{
    struct process p;
    char reason[160], last[100] = "";
    uint8_t *bytes = NULL;
    if (wanted && !wanted_count)
        return true;
    if (!process_begin(&p, "data", question(path, wanted, wanted_count), SILENCE_SECONDS, err))
        return false;
    bool done = true, lost = false, complete = false;
    double until = clock_seconds() + TOTAL_SECONDS;
    size_t taken = 0;
    if (wanted && !(bytes = vireo_alloc(ENTRY_BYTES)))
        done = vireo_fail_memory(err, ENTRY_BYTES);
    while (done && !complete && !lost) {
        json_t *m;
        struct unpack_image image;
        done = process_answer(&p, &m, err);
        enum message_kind kind = message_kind_of(m);
        complete = kind == MESSAGE_UNPACKED;
        if (done && !complete) {
            lost = kind != MESSAGE_ENTRY || clock_seconds() > until || !read_image(m, wanted != NULL, &image) ||
                   (wanted && (taken == wanted_count || image.index != wanted[taken] ||
                               !frame_receive_bytes(p.fd, &p.reader, bytes, image.count, NULL)));
            done = lost || take(context, &image, bytes, err);
            taken += !lost;
            if (!lost && image.name)
                snprintf(last, sizeof last, "%.90s", image.name);
        }
        json_decref(m);
    }
    if (!complete)
        process_kill(&p);
    process_end(&p, reason, sizeof reason);
    free(bytes);
    // What these bytes did to the sandboxed reader they would do again.
    if (done && (lost || (wanted && taken != wanted_count)))
        done = vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "file", "The archive could not be read%s%s%s. %s",
                               last[0] ? " behind its entry '" : "", last, last[0] ? "'" : "", reason);
    return done;
}
