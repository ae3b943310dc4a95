#include "compute/tensor/tensor.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/half.h"

#include <stdlib.h>
#include <string.h>

uint32_t dtype_bytes(enum dtype t)
{
    return t == DTYPE_BF16 || t == DTYPE_F16 ? 2 : 4;
}

const char *dtype_name(enum dtype t)
{
    static const char *const names[] = {"f32", "bf16", "f16", "u32", "i32"};
    return (size_t)t < VIREO_COUNT(names) ? names[t] : "?";
}

struct tensor tensor_take(struct gpu_arena *a, enum dtype t, uint32_t rank, const uint32_t *shape,
                          struct vireo_error *err)
{
    vireo_assert(rank >= 1 && rank <= 4);
    struct tensor x = {.dtype = t, .rank = rank};
    size_t bytes = dtype_bytes(t);
    for (uint32_t i = 0; i < rank; i++) {
        x.shape[i] = shape[i];
        if (!vireo_mul_size(bytes, shape[i], &bytes)) {
            vireo_fail(err, VIREO_TOO_LARGE, "tensor size does not fit 64 bits");
            return x;
        }
    }
    x.stride = tensor_columns(x);
    // 16-bit tensors are read in words: an odd count has half a word more.
    x.span = gpu_arena_take(a, bytes ? (bytes + 3) & ~(size_t)3 : 4, err);
    return x;
}

struct tensor tensor_vector(struct gpu_arena *a, enum dtype t, uint32_t n, struct vireo_error *err)
{
    return tensor_take(a, t, 1, &n, err);
}

struct tensor tensor_matrix(struct gpu_arena *a, enum dtype t, uint32_t rows, uint32_t columns,
                            struct vireo_error *err)
{
    return tensor_take(a, t, 2, (uint32_t[]){rows, columns}, err);
}

uint32_t tensor_rows(struct tensor x)
{
    return x.shape[0];
}

uint32_t tensor_columns(struct tensor x)
{
    uint32_t n = 1;
    for (uint32_t i = 1; i < x.rank; i++)
        n *= x.shape[i];
    return n;
}

uint64_t tensor_count(struct tensor x)
{
    return (uint64_t)tensor_rows(x) * tensor_columns(x);
}

uint64_t tensor_bytes(struct tensor x)
{
    if (tensor_rows(x) == 0)
        return 0;
    uint64_t elements = (uint64_t)(tensor_rows(x) - 1) * x.stride + tensor_columns(x);
    return elements * dtype_bytes(x.dtype);
}

bool tensor_is_contiguous(struct tensor x)
{
    return x.stride == tensor_columns(x);
}

struct tensor tensor_row_part(struct tensor x, uint32_t first, uint32_t count)
{
    vireo_assert((uint64_t)first + count <= tensor_rows(x));
    uint64_t offset = (uint64_t)first * x.stride * dtype_bytes(x.dtype);
    x.shape[0] = count;
    x.span = gpu_span_part(x.span, offset, x.span.bytes - offset);
    x.node = 0; // a row part has no gradient slot of its own
    return x;
}

struct tensor tensor_column_part(struct tensor x, uint32_t first, uint32_t count)
{
    vireo_assert(x.rank == 2 && (uint64_t)first + count <= x.shape[1]);
    uint64_t offset = (uint64_t)first * dtype_bytes(x.dtype);
    x.shape[1] = count;
    x.column += first;
    x.span = gpu_span_part(x.span, offset, x.span.bytes - offset);
    return x;
}

struct tensor tensor_reshape(struct tensor x, uint32_t rank, const uint32_t *shape)
{
    vireo_assert(tensor_is_contiguous(x) && rank >= 1 && rank <= 4);
    uint64_t before = tensor_count(x);
    x.rank = rank;
    for (uint32_t i = 0; i < rank; i++)
        x.shape[i] = shape[i];
    x.stride = tensor_columns(x);
    vireo_assert(tensor_count(x) == before);
    return x;
}

struct gpu_use tensor_use(struct tensor x, enum gpu_access access)
{
    return (struct gpu_use){.address = x.span.address, .bytes = tensor_bytes(x), .access = access};
}

bool tensor_write_floats(struct gpu_device *dev, struct tensor x, const float *values, struct vireo_error *err)
{
    vireo_assert(tensor_is_contiguous(x));
    uint64_t count = tensor_count(x);
    if (dtype_bytes(x.dtype) == 4)
        return gpu_write(dev, x.span, values, count * 4, err);
    uint16_t *half = vireo_calloc(count + 1, 2); // whole words
    if (!half)
        return vireo_fail_memory(err, count * 2);
    for (uint64_t i = 0; i < count; i++)
        half[i] = x.dtype == DTYPE_BF16 ? float_to_bf16(values[i]) : float_to_fp16(values[i]);
    bool done = gpu_write(dev, x.span, half, (count * 2 + 3) & ~(uint64_t)3, err);
    free(half);
    return done;
}

bool tensor_read_floats(struct gpu_device *dev, struct tensor x, float *values, struct vireo_error *err)
{
    vireo_assert(tensor_is_contiguous(x));
    uint64_t count = tensor_count(x);
    if (dtype_bytes(x.dtype) == 4)
        return gpu_read(dev, x.span, values, count * 4, err);
    uint16_t *half = vireo_calloc(count + 1, 2);
    if (!half)
        return vireo_fail_memory(err, count * 2);
    bool done = gpu_read(dev, x.span, half, (count * 2 + 3) & ~(uint64_t)3, err);
    for (uint64_t i = 0; done && i < count; i++)
        values[i] = x.dtype == DTYPE_BF16 ? bf16_to_float(half[i]) : fp16_to_float(half[i]);
    free(half);
    return done;
}
