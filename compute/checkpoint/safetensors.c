#include "compute/checkpoint/safetensors.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/half.h"
#include "compute/base/json.h"
#include "compute/checkpoint/names.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [SAFETENSORS_BOOL] = {"BOOL", 1}, [SAFETENSORS_U8] = {"U8", 1},           [SAFETENSORS_I8] = {"I8", 1},
    [SAFETENSORS_F8_E5M2] = {"F8_E5M2", 1}, [SAFETENSORS_F8_E4M3] = {"F8_E4M3", 1}, [SAFETENSORS_I16] = {"I16", 2},
    [SAFETENSORS_U16] = {"U16", 2},   [SAFETENSORS_F16] = {"F16", 2},         [SAFETENSORS_BF16] = {"BF16", 2},
    [SAFETENSORS_I32] = {"I32", 4},   [SAFETENSORS_U32] = {"U32", 4},         [SAFETENSORS_F32] = {"F32", 4},
    [SAFETENSORS_F64] = {"F64", 8},   [SAFETENSORS_I64] = {"I64", 8},         [SAFETENSORS_U64] = {"U64", 8},
};

const char *safetensors_dtype_name(enum safetensors_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t safetensors_dtype_bytes(enum safetensors_dtype dtype)
{
    return dtypes[dtype].bytes;
}

bool safetensors_dtype_parse(const char *name, enum safetensors_dtype *out)
{
    for (size_t i = 0; i < VIREO_COUNT(dtypes); i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            *out = (enum safetensors_dtype)i;
            return true;
        }
    return false;
}

struct safetensors {
    struct file_map map; // empty for open_bytes
    json_t *header;      // owns all names
    struct safetensor *tensors;
    struct safetensor **by_name;
    size_t count;
};

const char *checkpoint_printable(const char *name, char out[CHECKPOINT_PRINTABLE])
{
    size_t i = 0;
    for (; name[i] && i < CHECKPOINT_PRINTABLE - 1; i++)
        out[i] = name[i] > 32 && name[i] < 127 ? name[i] : '?';
    out[i] = 0;
    return out;
}

static bool bad_tensor(struct vireo_error *err, const char *name, const char *what)
{
    char shown[CHECKPOINT_PRINTABLE];
    return vireo_fail(err, VIREO_CORRUPT, "tensor %s: %s", checkpoint_printable(name, shown), what);
}

// One entry of the header. `data_bytes` is the size of everything behind the header.
static bool parse_tensor(const char *name, const json_t *entry, const uint8_t *data, size_t data_bytes,
                         struct safetensor *t, struct vireo_error *err)
{
    char shown[CHECKPOINT_PRINTABLE];
    const json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    *t = (struct safetensor){.name = name, .count = 1};
    if (!name[0] || strlen(name) >= SAFETENSORS_MAX_NAME)
        return bad_tensor(err, name, "its name is empty or longer than 511 bytes");
    if (!json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) || json_array_size(offsets) != 2)
        return bad_tensor(err, name, "dtype, shape or data_offsets is missing or of the wrong type");
    if (!safetensors_dtype_parse(json_string_value(dtype), &t->dtype)) {
        char type[CHECKPOINT_PRINTABLE];
        return vireo_fail(err, VIREO_UNSUPPORTED, "tensor %s: dtype %s is not supported",
                          checkpoint_printable(name, shown), checkpoint_printable(json_string_value(dtype), type));
    }
    if (json_array_size(shape) > SAFETENSORS_MAX_RANK)
        return vireo_fail(err, VIREO_CORRUPT, "tensor %s: %zu dimensions, at most %d are allowed",
                          checkpoint_printable(name, shown), json_array_size(shape), SAFETENSORS_MAX_RANK);
    t->rank = (int)json_array_size(shape);
    size_t count = 1, bytes;
    for (int i = 0; i < t->rank; i++) {
        const json_t *side = json_array_get(shape, (size_t)i);
        if (!json_is_integer(side) || json_integer_value(side) < 0)
            return bad_tensor(err, name, "a dimension is not a number >= 0");
        t->shape[i] = (uint64_t)json_integer_value(side);
        if (!vireo_mul_size(count, t->shape[i], &count))
            return bad_tensor(err, name, "the product of its dimensions does not fit 64 bits");
    }
    if (!vireo_mul_size(count, dtypes[t->dtype].bytes, &bytes))
        return bad_tensor(err, name, "its size does not fit 64 bits");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (!json_is_integer(first) || !json_is_integer(last) || json_integer_value(first) < 0 ||
        json_integer_value(last) < json_integer_value(first) || (uint64_t)json_integer_value(last) > data_bytes)
        return bad_tensor(err, name, "its data_offsets are not inside the file (cut off?)");
    if ((uint64_t)(json_integer_value(last) - json_integer_value(first)) != bytes)
        return bad_tensor(err, name, "its data_offsets do not match dtype and shape");
    t->count = count;
    t->bytes = bytes;
    t->data = data + json_integer_value(first);
    return true;
}

static int compare_place(const void *a, const void *b)
{
    const struct safetensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) // empty tensors lie before the one that begins at the same place
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_name(const void *a, const void *b)
{
    const struct safetensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static bool metadata_is_sane(const json_t *metadata)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return false;
    json_object_foreach((json_t *)metadata, key, value)
        if (!json_is_string(value))
            return false;
    return true;
}

static bool parse(struct safetensors *s, const uint8_t *bytes, size_t size, struct vireo_error *err)
{
    if (size < 8)
        return vireo_fail(err, VIREO_CORRUPT, "not a safetensors file: only %zu bytes", size);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > SAFETENSORS_MAX_HEADER)
        return vireo_fail(err, VIREO_CORRUPT, "not a safetensors file: a header of %llu bytes (at most %d)",
                          (unsigned long long)length, SAFETENSORS_MAX_HEADER);
    if (length > size - 8 || length < 2 || bytes[8] != '{')
        return vireo_fail(err, VIREO_CORRUPT, "not a safetensors file, or cut off inside its header");
    s->header = vireo_json_parse((const char *)bytes + 8, (size_t)length, err);
    if (!s->header) {
        if (err && err->code == VIREO_INVALID) {
            vireo_explain(err, "header: ");
            err->code = VIREO_CORRUPT;
            err->kind[0] = 0;
        }
        return false;
    }
    if (!json_is_object(s->header))
        return vireo_fail(err, VIREO_CORRUPT, "the header is not a JSON object");

    const uint8_t *data = bytes + 8 + length;
    size_t data_bytes = size - 8 - (size_t)length, entries = json_object_size(s->header);
    const json_t *metadata = json_object_get(s->header, "__metadata__");
    if (metadata && !metadata_is_sane(metadata))
        return vireo_fail(err, VIREO_CORRUPT, "__metadata__ is not a map from strings to strings");
    s->count = entries - (metadata ? 1 : 0);
    if (s->count > SAFETENSORS_MAX_TENSORS)
        return vireo_fail(err, VIREO_CORRUPT, "%zu tensors, at most %d are allowed", s->count, SAFETENSORS_MAX_TENSORS);
    s->tensors = vireo_calloc(s->count, sizeof *s->tensors);
    s->by_name = vireo_calloc(s->count, sizeof(struct safetensor *));
    if (!s->tensors || !s->by_name)
        return vireo_fail_memory(err, s->count * sizeof *s->tensors);
    const char *name;
    json_t *entry;
    size_t used = 0;
    json_object_foreach(s->header, name, entry)
        if (entry != metadata && !parse_tensor(name, entry, data, data_bytes, &s->tensors[used++], err))
            return false;
    qsort(s->tensors, s->count, sizeof *s->tensors, compare_place);
    const uint8_t *end = data;
    for (size_t i = 0; i < s->count; i++) {
        if (s->tensors[i].data != end)
            return bad_tensor(err, s->tensors[i].name,
                              s->tensors[i].data < end ? "its data overlaps another tensor's"
                                                       : "a gap lies before its data");
        end += s->tensors[i].bytes;
        s->by_name[i] = &s->tensors[i];
    }
    if (end != data + data_bytes)
        return vireo_fail(err, VIREO_CORRUPT, "%zu bytes behind the last tensor belong to none",
                          (size_t)(data + data_bytes - end));
    qsort(s->by_name, s->count, sizeof(struct safetensor *), compare_name);
    return true;
}

bool safetensors_open_bytes(const uint8_t *bytes, size_t count, struct safetensors **out, struct vireo_error *err)
{
    struct safetensors *s = vireo_calloc(1, sizeof *s);
    if (!s)
        return vireo_fail_memory(err, sizeof *s);
    // The code of a failure decides what callers do, so it must be known even if they do not care for the message.
    struct vireo_error local;
    if (!parse(s, bytes, count, err ? err : &local)) {
        safetensors_close(&s);
        return false;
    }
    *out = s;
    return true;
}

bool safetensors_open(const char *path, struct safetensors **out, struct vireo_error *err)
{
    struct file_map map;
    struct safetensors *s;
    if (!file_map_open(path, &map, err))
        return false;
    if (!safetensors_open_bytes(map.data, map.size, &s, err)) {
        file_map_close(&map);
        const char *name = strrchr(path, '/');
        return vireo_explain(err, "%s: ", name ? name + 1 : path);
    }
    s->map = map;
    for (size_t i = 0; i < s->count; i++)
        s->tensors[i].mapped = true;
    *out = s;
    return true;
}

void safetensors_close(struct safetensors **s)
{
    if (!*s)
        return;
    file_map_close(&(*s)->map);
    json_decref((*s)->header);
    free((*s)->tensors);
    free((*s)->by_name);
    free(*s);
    *s = NULL;
}

size_t safetensors_count(const struct safetensors *s)
{
    return s->count;
}

const struct safetensor *safetensors_at(const struct safetensors *s, size_t i)
{
    vireo_assert(i < s->count);
    return &s->tensors[i];
}

const struct safetensor *safetensors_find(const struct safetensors *s, const char *name)
{
    const struct safetensor key = {.name = name}, *wanted = &key;
    struct safetensor **found =
        s->count ? bsearch(&wanted, s->by_name, s->count, sizeof(struct safetensor *), compare_name) : NULL;
    return found ? *found : NULL;
}

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    return json_string_value(json_object_get(json_object_get(s->header, "__metadata__"), key));
}

static bool range_is_inside(const struct safetensor *t, uint64_t first, uint64_t count, struct vireo_error *err)
{
    char shown[CHECKPOINT_PRINTABLE];
    return (first <= t->count && count <= t->count - first) ||
           vireo_fail(err, VIREO_INVALID, "tensor %s: elements %llu and the %llu after it are not inside its %llu",
                      checkpoint_printable(t->name, shown), (unsigned long long)first, (unsigned long long)count,
                      (unsigned long long)t->count);
}

bool safetensors_floats(const struct safetensor *t, uint64_t first, uint64_t count, float *out,
                        struct vireo_error *err)
{
    char shown[CHECKPOINT_PRINTABLE];
    if (!range_is_inside(t, first, count, err))
        return false;
    const uint8_t *from = t->data + first * dtypes[t->dtype].bytes;
    if (t->dtype == SAFETENSORS_F32) {
        if (count)
            memcpy(out, from, count * 4);
        return true;
    }
    if (t->dtype != SAFETENSORS_F16 && t->dtype != SAFETENSORS_BF16)
        return vireo_fail(err, VIREO_UNSUPPORTED, "tensor %s: %s cannot be read as float (F32, F16 and BF16 can)",
                          checkpoint_printable(t->name, shown), dtypes[t->dtype].name);
    for (uint64_t i = 0; i < count; i++, from += 2) {
        uint16_t h;
        memcpy(&h, from, 2);
        out[i] = t->dtype == SAFETENSORS_BF16 ? bf16_to_float(h) : fp16_to_float(h);
    }
    return true;
}

void safetensors_forget(const struct safetensor *t, uint64_t first, uint64_t count)
{
    const size_t size = dtypes[t->dtype].bytes;
    if (t->mapped && first <= t->count && count <= t->count - first)
        file_map_forget(t->data + first * size, count * size);
}

void safetensors_forget_all(const struct safetensors *s)
{
    file_map_forget(s->map.data, s->map.size);
}

bool safetensors_integers(const struct safetensor *t, uint64_t first, uint64_t count, int32_t *out,
                          struct vireo_error *err)
{
    char shown[CHECKPOINT_PRINTABLE];
    if (!range_is_inside(t, first, count, err))
        return false;
    const uint8_t *from = t->data + first * dtypes[t->dtype].bytes;
    for (uint64_t i = 0; i < count; i++, from += dtypes[t->dtype].bytes) {
        int32_t narrow;
        int64_t wide;
        switch (t->dtype) {
        case SAFETENSORS_I32: memcpy(&narrow, from, 4), wide = narrow; break;
        case SAFETENSORS_U32: memcpy(&narrow, from, 4), wide = (uint32_t)narrow; break;
        case SAFETENSORS_I64: memcpy(&wide, from, 8); break;
        case SAFETENSORS_U8:
        case SAFETENSORS_BOOL: wide = *from; break;
        default:
            return vireo_fail(err, VIREO_UNSUPPORTED, "tensor %s: %s cannot be read as integers",
                              checkpoint_printable(t->name, shown), dtypes[t->dtype].name);
        }
        if (wide < INT32_MIN || wide > INT32_MAX)
            return vireo_fail(err, VIREO_INVALID, "tensor %s: %lld does not fit 32 bits",
                              checkpoint_printable(t->name, shown), (long long)wide);
        out[i] = (int32_t)wide;
    }
    return true;
}
