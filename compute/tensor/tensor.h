// A tensor is a value, copied freely: a view of device memory with a type and a shape. Nothing to free; it lives as
// long as the arena its span came from.
//
// Row-major. The last axis is contiguous; axis 0 ("rows") may have a stride larger than the row (column views).
// Letters used everywhere: B sequences, N packed tokens, C hidden, H (or A) query heads, K key/value heads, D head size,
// I intermediate, V vocabulary, G group, M selected rows.
#ifndef VIREO_TENSOR_TENSOR_H
#define VIREO_TENSOR_TENSOR_H

#include "compute/gpu/memory.h"
#include "compute/gpu/record.h"

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_U32, DTYPE_I32 };

struct tensor {
    struct gpu_span span;
    enum dtype dtype;
    uint32_t rank, shape[4];
    uint32_t stride; // elements from one row to the next; >= the row's own size
    uint32_t node;   // the tape's gradient slot; 0: takes no gradient
    uint32_t column; // first column within the node's full tensor, for views of columns
};

// Of one element.
uint32_t dtype_bytes(enum dtype t);
const char *dtype_name(enum dtype t); // "f32", "bf16", ...

// A fresh contiguous tensor. On failure span.address is 0 and err says why.
struct tensor tensor_take(struct gpu_arena *a, enum dtype t, uint32_t rank, const uint32_t *shape,
                          struct vireo_error *err);
struct tensor tensor_vector(struct gpu_arena *a, enum dtype t, uint32_t n, struct vireo_error *err);
struct tensor tensor_matrix(struct gpu_arena *a, enum dtype t, uint32_t rows, uint32_t columns,
                            struct vireo_error *err);

uint32_t tensor_rows(struct tensor x);    // shape[0]
uint32_t tensor_columns(struct tensor x); // product of the other axes; 1 for a vector
uint64_t tensor_count(struct tensor x);
uint64_t tensor_bytes(struct tensor x);   // bytes it covers, strides included
// No gaps between rows.
bool tensor_is_contiguous(struct tensor x);

// Views, no copy.
struct tensor tensor_row_part(struct tensor x, uint32_t first, uint32_t count);
struct tensor tensor_column_part(struct tensor x, uint32_t first, uint32_t count);
struct tensor tensor_reshape(struct tensor x, uint32_t rank, const uint32_t *shape); // contiguous only

// The address range for a dispatch's declaration.
struct gpu_use tensor_use(struct tensor x, enum gpu_access access);

// Host <-> device, converting between float and the tensor's type. `count` = tensor_count(x). Contiguous only.
bool tensor_write_floats(struct gpu_device *dev, struct tensor x, const float *values, struct vireo_error *err);
bool tensor_read_floats(struct gpu_device *dev, struct tensor x, float *values, struct vireo_error *err);

#endif
