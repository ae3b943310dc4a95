#include "compute/checkpoint/safetensors.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/half.h"
#include "compute/checkpoint/names.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

struct safetensors_writer {
    struct byte_sink sink;
    size_t count, current; // entries, and which of them takes bytes now
    uint64_t left;         // bytes still missing of the current one
    bool failed;
    struct {
        enum safetensors_dtype dtype;
        uint64_t bytes;
    } entries[];
};

bool safetensors_encode(enum safetensors_dtype dtype, const float *in, size_t count, uint8_t *out,
                        struct vireo_error *err)
{
    if (dtype == SAFETENSORS_F32) {
        if (count)
            memcpy(out, in, count * 4);
        return true;
    }
    if (dtype != SAFETENSORS_F16 && dtype != SAFETENSORS_BF16)
        return vireo_fail(err, VIREO_UNSUPPORTED, "floats cannot be stored as %s (only as F32, F16 and BF16)",
                          safetensors_dtype_name(dtype));
    for (size_t i = 0; i < count; i++) {
        uint16_t h = dtype == SAFETENSORS_BF16 ? float_to_bf16(in[i]) : float_to_fp16(in[i]);
        memcpy(out + 2 * i, &h, 2);
    }
    return true;
}

// Adds one entry to the header object; *offset moves behind its data.
static bool describe(json_t *header, const struct safetensors_entry *e, uint64_t *offset, uint64_t *bytes_out,
                     struct vireo_error *err)
{
    char shown[CHECKPOINT_PRINTABLE];
    size_t bytes = safetensors_dtype_bytes(e->dtype), end;
    checkpoint_printable(e->name, shown);
    if (!e->name[0] || strlen(e->name) >= SAFETENSORS_MAX_NAME || strcmp(e->name, "__metadata__") == 0)
        return vireo_fail(err, VIREO_INVALID, "\"%s\" cannot be a tensor's name", shown);
    if (json_object_get(header, e->name))
        return vireo_fail(err, VIREO_INVALID, "tensor %s stands twice in the list", shown);
    if (e->rank < 0 || e->rank > SAFETENSORS_MAX_RANK)
        return vireo_fail(err, VIREO_INVALID, "tensor %s: %d dimensions, 0 to %d are allowed", shown, e->rank,
                          SAFETENSORS_MAX_RANK);
    json_t *shape = json_array();
    bool fine = shape;
    for (int i = 0; fine && i < e->rank; i++) {
        if (e->shape[i] > INT64_MAX || !vireo_mul_size(bytes, e->shape[i], &bytes)) {
            json_decref(shape);
            return vireo_fail(err, VIREO_INVALID, "tensor %s: its size does not fit 63 bits", shown);
        }
        fine = json_array_append_new(shape, json_integer((json_int_t)e->shape[i])) == 0;
    }
    if (!vireo_add_size(*offset, bytes, &end) || end > INT64_MAX) {
        json_decref(shape);
        return vireo_fail(err, VIREO_INVALID, "tensor %s: the file's size does not fit 63 bits", shown);
    }
    // json_pack takes over `shape` even when it fails.
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(e->dtype), "shape", shape,
                              "data_offsets", (json_int_t)*offset, (json_int_t)end);
    if (!fine || !entry || json_object_set_new(header, e->name, entry) != 0) {
        if (!fine)
            json_decref(entry);
        return vireo_fail(err, VIREO_NO_MEMORY, "no memory for the header, or a name is not UTF-8: %s", shown);
    }
    *offset = end;
    *bytes_out = bytes;
    return true;
}

static void next_entry(struct safetensors_writer *w)
{
    while (w->left == 0 && w->current < w->count)
        w->left = ++w->current < w->count ? w->entries[w->current].bytes : 0;
}

static bool write_header(struct safetensors_writer *w, const json_t *header, struct vireo_error *err)
{
    char *text = json_dumps(header, JSON_COMPACT);
    if (!text)
        return vireo_fail_memory(err, SAFETENSORS_MAX_HEADER);
    size_t length = strlen(text), padded = (size_t)vireo_round_up(8 + length, ALIGNMENT) - 8;
    bool done = false;
    if (padded > SAFETENSORS_MAX_HEADER) {
        vireo_fail(err, VIREO_INVALID, "the header would have %zu bytes, at most %d are allowed", padded,
                   SAFETENSORS_MAX_HEADER);
    } else {
        uint8_t size[8], blanks[ALIGNMENT];
        for (int i = 0; i < 8; i++)
            size[i] = (uint8_t)((uint64_t)padded >> (8 * i));
        memset(blanks, ' ', sizeof blanks);
        done = w->sink.write(w->sink.context, size, 8, err) && w->sink.write(w->sink.context, text, length, err) &&
               w->sink.write(w->sink.context, blanks, padded - length, err);
    }
    free(text);
    return done;
}

bool safetensors_write_begin(struct safetensors_writer **out, struct byte_sink sink,
                             const struct safetensors_entry *entries, size_t count, const char *const *metadata,
                             struct vireo_error *err)
{
    if (count > SAFETENSORS_MAX_TENSORS)
        return vireo_fail(err, VIREO_INVALID, "%zu tensors, at most %d fit one file", count, SAFETENSORS_MAX_TENSORS);
    struct safetensors_writer *w = vireo_calloc(1, sizeof *w + count * sizeof w->entries[0]);
    json_t *header = json_object();
    bool done = w && header;
    if (!done)
        vireo_fail_memory(err, sizeof *w + count * sizeof w->entries[0]);
    if (done && metadata) {
        json_t *map = json_object();
        for (size_t i = 0; done && metadata[i]; i += 2)
            done = json_object_set_new(map, metadata[i], json_string(metadata[i + 1])) == 0;
        if (json_object_set_new(header, "__metadata__", map) != 0)
            done = false;
        if (!done)
            vireo_fail(err, VIREO_INVALID, "the metadata is not UTF-8 text, or there is no memory for it");
    }
    uint64_t offset = 0;
    for (size_t i = 0; done && i < count; i++) {
        w->entries[i].dtype = entries[i].dtype;
        done = describe(header, &entries[i], &offset, &w->entries[i].bytes, err);
    }
    if (done) {
        w->sink = sink;
        w->count = count;
        w->left = count ? w->entries[0].bytes : 0;
        next_entry(w);
        done = write_header(w, header, err);
    }
    json_decref(header);
    if (!done) {
        free(w);
        return false;
    }
    *out = w;
    return true;
}

bool safetensors_write_bytes(struct safetensors_writer *w, const void *bytes, size_t count, struct vireo_error *err)
{
    if (count > w->left) {
        w->failed = true;
        return vireo_fail(err, VIREO_INTERNAL, "tensor %zu takes %llu more bytes, not %zu", w->current,
                          (unsigned long long)w->left, count);
    }
    if (count == 0)
        return true;
    if (!w->sink.write(w->sink.context, bytes, count, err)) {
        w->failed = true;
        return false;
    }
    w->left -= count;
    next_entry(w);
    return true;
}

bool safetensors_write_floats(struct safetensors_writer *w, const float *values, size_t count,
                              struct vireo_error *err)
{
    enum { PART = 4096 };
    uint8_t part[PART * 4];
    if (count == 0)
        return true;
    if (w->current >= w->count) {
        w->failed = true;
        return vireo_fail(err, VIREO_INTERNAL, "all %zu tensors are complete", w->count);
    }
    enum safetensors_dtype dtype = w->entries[w->current].dtype;
    size_t bytes;
    if (!vireo_mul_size(count, safetensors_dtype_bytes(dtype), &bytes) || bytes > w->left) {
        w->failed = true;
        return vireo_fail(err, VIREO_INTERNAL, "tensor %zu takes %llu more bytes, not %zu values", w->current,
                          (unsigned long long)w->left, count);
    }
    if (dtype == SAFETENSORS_F32)
        return safetensors_write_bytes(w, values, bytes, err);
    for (size_t at = 0; at < count; at += PART) {
        size_t n = VIREO_MIN(count - at, PART);
        if (!safetensors_encode(dtype, values + at, n, part, err)) {
            w->failed = true;
            return false;
        }
        if (!safetensors_write_bytes(w, part, n * safetensors_dtype_bytes(dtype), err))
            return false;
    }
    return true;
}

bool safetensors_write_end(struct safetensors_writer **w, struct vireo_error *err)
{
    bool done = !(*w)->failed && (*w)->current == (*w)->count;
    if ((*w)->failed)
        vireo_fail(err, VIREO_IO, "an earlier write failed");
    else if (!done)
        vireo_fail(err, VIREO_INTERNAL, "data of tensor %zu and those behind it is missing", (*w)->current);
    safetensors_write_abandon(w);
    return done;
}

void safetensors_write_abandon(struct safetensors_writer **w)
{
    free(*w);
    *w = NULL;
}
