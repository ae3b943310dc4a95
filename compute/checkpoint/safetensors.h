// The safetensors format: 8 bytes little-endian header length N, N bytes of JSON, tensor data.
// Reference: https://github.com/huggingface/safetensors, README, section Format.
//
// Reader: maps the file and checks everything before it hands out a pointer: header <= 16 MiB, at most 100,000 tensors,
// at most 8 dimensions, products without overflow, data_offsets that tile the data exactly (no gap, overlap or rest).
// A file that fails is VIREO_CORRUPT (or VIREO_UNSUPPORTED for an unknown dtype), the message names the tensor.
// Writer: for files of any size, in one pass, the same input gives the same bytes.
#ifndef VIREO_CHECKPOINT_SAFETENSORS_H
#define VIREO_CHECKPOINT_SAFETENSORS_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SAFETENSORS_MAX_RANK = 8,
    SAFETENSORS_MAX_TENSORS = 100000,
    SAFETENSORS_MAX_HEADER = 16 << 20,
    SAFETENSORS_MAX_NAME = 512, // bytes with NUL
};

enum safetensors_dtype {
    SAFETENSORS_BOOL,
    SAFETENSORS_U8,
    SAFETENSORS_I8,
    SAFETENSORS_F8_E5M2,
    SAFETENSORS_F8_E4M3,
    SAFETENSORS_I16,
    SAFETENSORS_U16,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_I32,
    SAFETENSORS_U32,
    SAFETENSORS_F32,
    SAFETENSORS_F64,
    SAFETENSORS_I64,
    SAFETENSORS_U64,
};
const char *safetensors_dtype_name(enum safetensors_dtype dtype); // "BF16"
size_t safetensors_dtype_bytes(enum safetensors_dtype dtype);     // of one element
// The inverse of safetensors_dtype_name; false for an unknown name.
bool safetensors_dtype_parse(const char *name, enum safetensors_dtype *out);

struct safetensor {
    const char *name; // belongs to the file
    enum safetensors_dtype dtype;
    int rank; // 0 = scalar
    uint64_t shape[SAFETENSORS_MAX_RANK];
    uint64_t count, bytes; // elements, and count * element size
    const uint8_t *data;   // into the map; only byte-aligned for sure
    bool mapped;           // of a file, not of bytes in memory
};

// An open file. Immutable after opening: any number of threads may read.
struct safetensors;
bool safetensors_open(const char *path, struct safetensors **out, struct vireo_error *err);
// On bytes in memory, which must stay until the close.
bool safetensors_open_bytes(const uint8_t *bytes, size_t count, struct safetensors **out, struct vireo_error *err);
void safetensors_close(struct safetensors **s); // unmaps: no tensor of it may be used any more

size_t safetensors_count(const struct safetensors *s);
// In the order of the data, i < count.
const struct safetensor *safetensors_at(const struct safetensors *s, size_t i);
// By exact name; NULL if it is not there.
const struct safetensor *safetensors_find(const struct safetensors *s, const char *name);
// Value of a key in __metadata__, or NULL.
const char *safetensors_metadata(const struct safetensors *s, const char *key);

// `count` elements from element `first` on as float (F32, F16, BF16; others: VIREO_UNSUPPORTED; a range outside the
// tensor: VIREO_INVALID). Conversions are exact.
bool safetensors_floats(const struct safetensor *t, uint64_t first, uint64_t count, float *out,
                        struct vireo_error *err);
// The process need not keep the pages of these elements: they are read again from the file (the system's page cache)
// when they are wanted. Nothing for bytes in memory.
void safetensors_forget(const struct safetensor *t, uint64_t first, uint64_t count);
// The same for all of the file: the system maps pages beside those that are read.
void safetensors_forget_all(const struct safetensors *s);
// The same for I32, I64, U8, BOOL and U32 (I64 values must fit 32 bits, U32 values 31).
bool safetensors_integers(const struct safetensor *t, uint64_t first, uint64_t count, int32_t *out,
                          struct vireo_error *err);
// Floats -> bytes of F32, F16 or BF16 (round to nearest even), 4 or 2 bytes each, little-endian.
bool safetensors_encode(enum safetensors_dtype dtype, const float *in, size_t count, uint8_t *out,
                        struct vireo_error *err);

// Where bytes go: a file, a checkpoint folder (folder.h), memory. Called in order, any piece size.
struct byte_sink {
    bool (*write)(void *context, const void *bytes, size_t count, struct vireo_error *err);
    void *context;
};

// One tensor to be written. Strings are read during safetensors_write_begin only.
struct safetensors_entry {
    const char *name;
    enum safetensors_dtype dtype;
    int rank;
    uint64_t shape[SAFETENSORS_MAX_RANK];
};

// Writes the header at once (padded with blanks so that the data begins at a multiple of 64 in the file); then the data
// of every entry follows in the order of `entries`, which is also the order in the file. For element-aligned data put
// wider dtypes first. `metadata`: key, value, key, value, ..., NULL; or NULL. The keys of __metadata__ come out in the
// given order. Names must be unique. On failure nothing is left to free; what reached the sink is the caller's to drop.
struct safetensors_writer;
bool safetensors_write_begin(struct safetensors_writer **out, struct byte_sink sink,
                             const struct safetensors_entry *entries, size_t count, const char *const *metadata,
                             struct vireo_error *err);
// Raw bytes of the current tensor, in pieces; a piece must not reach beyond the tensor's end.
bool safetensors_write_bytes(struct safetensors_writer *w, const void *bytes, size_t count, struct vireo_error *err);
// As floats, converted to the current tensor's dtype.
bool safetensors_write_floats(struct safetensors_writer *w, const float *values, size_t count,
                              struct vireo_error *err);
// Fails if any data is missing. Frees the writer in either case.
bool safetensors_write_end(struct safetensors_writer **w, struct vireo_error *err);
void safetensors_write_abandon(struct safetensors_writer **w);

#endif
