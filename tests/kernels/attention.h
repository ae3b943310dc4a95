// Problems of attention, their reference in double, and runs of the op: what the case_attention*.c share.
#ifndef VIREO_TESTS_KERNELS_ATTENTION_H
#define VIREO_TESTS_KERNELS_ATTENTION_H

#include "tests/kernels/kernels.h"

#include "compute/base/check.h"

// One test problem. Key rows are rows of `qkv` itself.
struct problem {
    struct nn_heads heads;
    uint32_t rows, width;
    uint32_t *query; // [rows, 4]
    uint32_t *key;   // [rows, 2]
    float *qkv, *go;
    double *o, *gqkv; // reference
};

static inline uint32_t count_of(const struct problem *p, uint32_t i)
{
    return p->query[4 * i + 1] + p->query[4 * i + 3];
}

static inline uint32_t key_row(const struct problem *p, uint32_t i, uint32_t j)
{
    const uint32_t *s = p->query + 4 * i;
    return j < s[1] ? s[0] + j : s[2] + (j - s[1]);
}

// The inverse of the query spans; every query between first and end must see the key.
static inline void invert(struct problem *p)
{
    for (uint32_t r = 0; r < p->rows; r++) {
        uint32_t first = 0, end = 0, seen = 0;
        for (uint32_t i = 0; i < p->rows; i++) {
            bool sees = false;
            for (uint32_t j = 0; j < count_of(p, i) && !sees; j++)
                sees = key_row(p, i, j) == r;
            if (!sees)
                continue;
            first = seen == 0 ? i : first;
            end = i + 1;
            seen++;
        }
        REQUIRE(end - first == seen);
        p->key[2 * r] = first;
        p->key[2 * r + 1] = end;
    }
}

static inline struct problem make(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t rows)
{
    struct problem p = {
        .heads = {heads, kv_heads, head_dim, (float)(1 / sqrt(head_dim))},
        .rows = rows,
        .width = (heads + 2 * kv_heads) * head_dim,
    };
    p.query = calloc(rows, 16);
    p.key = calloc(rows, 8);
    p.qkv = calloc((size_t)rows * p.width, 4);
    p.go = calloc((size_t)rows * heads * head_dim, 4);
    p.o = calloc((size_t)rows * heads * head_dim, 8);
    p.gqkv = calloc((size_t)rows * p.width, 8);
    REQUIRE(p.query && p.key && p.qkv && p.go && p.o && p.gqkv);
    test_values(p.qkv, (size_t)rows * p.width, 7 + rows);
    for (size_t i = 0; i < (size_t)rows * p.width; i++)
        p.qkv[i] *= 2; // sharper softmax
    test_values(p.go, (size_t)rows * heads * head_dim, 8 + rows);
    return p;
}

static inline void drop(struct problem *p)
{
    free(p->query);
    free(p->key);
    free(p->qkv);
    free(p->go);
    free(p->o);
    free(p->gqkv);
}

// [prompt, completion 1 .. n] with completions attending the prompt and themselves. Lengths differ: length, then
// 1 + (length + 3 c) % length. Returns the row after the last.
static inline uint32_t lay_group(struct problem *p, uint32_t at, uint32_t prompt, uint32_t completions, uint32_t length)
{
    uint32_t base = at;
    for (uint32_t i = 0; i < prompt; i++, at++)
        memcpy(p->query + 4 * at, (uint32_t[]){0, 0, base, i + 1}, 16);
    for (uint32_t c = 0; c < completions; c++) {
        uint32_t own = at, n = c == 0 ? length : 1 + (length + 3 * c) % length;
        for (uint32_t i = 0; i < n; i++, at++)
            memcpy(p->query + 4 * at, (uint32_t[]){base, prompt, own, i + 1}, 16);
    }
    REQUIRE(at <= p->rows);
    return at;
}

static inline uint32_t group_rows(uint32_t prompt, uint32_t completions, uint32_t length)
{
    uint32_t n = prompt;
    for (uint32_t c = 0; c < completions; c++)
        n += c == 0 ? length : 1 + (length + 3 * c) % length;
    return n;
}

// Windows: bidirectional segments of these sizes, 0-terminated.
static inline struct problem make_windows(uint32_t heads, uint32_t head_dim, const uint32_t *sizes)
{
    uint32_t rows = 0;
    for (const uint32_t *s = sizes; *s; s++)
        rows += *s;
    struct problem p = make(heads, heads, head_dim, rows);
    uint32_t at = 0;
    for (const uint32_t *s = sizes; *s; s++) {
        for (uint32_t i = 0, first = at; i < *s; i++, at++)
            memcpy(p.query + 4 * at, (uint32_t[]){0, 0, first, *s}, 16);
    }
    invert(&p);
    return p;
}

static inline struct problem make_group(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t prompt,
                                 uint32_t completions, uint32_t length)
{
    struct problem p = make(heads, kv_heads, head_dim, group_rows(prompt, completions, length));
    lay_group(&p, 0, prompt, completions, length);
    invert(&p);
    return p;
}

// The rows of one sequence of a packed problem: the prompt and completion `c` of lay_group.
struct sequence {
    uint32_t prompt, own, length; // first rows and the completion's length
};

static inline struct sequence find_sequence(uint32_t prompt, uint32_t completion, uint32_t length)
{
    struct sequence s = {.prompt = 0, .own = prompt};
    for (uint32_t c = 0;; c++) {
        s.length = c == 0 ? length : 1 + (length + 3 * c) % length;
        if (c == completion)
            return s;
        s.own += s.length;
    }
}

// Fills p->o and, with `gradient`, p->gqkv. `x` are the values of qkv in double.
static inline void reference(struct problem *p, const double *x, bool gradient)
{
    const struct nn_heads *h = &p->heads;
    uint32_t D = h->head_dim, k0 = h->heads * D, v0 = k0 + h->kv_heads * D;
    double *w = calloc(2 * p->rows + 1, 8); // runs may overlap
    memset(p->o, 0, (size_t)p->rows * h->heads * D * 8);
    memset(p->gqkv, 0, (size_t)p->rows * p->width * 8);
    for (uint32_t i = 0; i < p->rows; i++)
        for (uint32_t a = 0; a < h->heads; a++) {
            uint32_t n = count_of(p, i), g = a / (h->heads / h->kv_heads);
            const double *q = x + (size_t)i * p->width + a * D;
            double *o = p->o + ((size_t)i * h->heads + a) * D, top = -INFINITY, sum = 0, delta = 0;
            for (uint32_t j = 0; j < n; j++) {
                const double *k = x + (size_t)key_row(p, i, j) * p->width + k0 + g * D;
                w[j] = 0;
                for (uint32_t d = 0; d < D; d++)
                    w[j] += q[d] * k[d] * (double)h->scale;
                top = fmax(top, w[j]);
            }
            for (uint32_t j = 0; j < n; j++)
                sum += w[j] = exp(w[j] - top);
            for (uint32_t j = 0; j < n; j++) {
                const double *v = x + (size_t)key_row(p, i, j) * p->width + v0 + g * D;
                w[j] /= sum;
                for (uint32_t d = 0; d < D; d++)
                    o[d] += w[j] * v[d];
            }
            if (!gradient)
                continue;
            const float *go = p->go + ((size_t)i * h->heads + a) * D;
            double *gq = p->gqkv + (size_t)i * p->width + a * D;
            for (uint32_t d = 0; d < D; d++)
                delta += go[d] * o[d];
            for (uint32_t j = 0; j < n; j++) {
                size_t row = (size_t)key_row(p, i, j) * p->width;
                double dp = 0;
                for (uint32_t d = 0; d < D; d++)
                    dp += go[d] * x[row + v0 + g * D + d];
                double ds = w[j] * (dp - delta) * (double)h->scale;
                for (uint32_t d = 0; d < D; d++) {
                    gq[d] += ds * x[row + k0 + g * D + d];
                    p->gqkv[row + k0 + g * D + d] += ds * q[d];
                    p->gqkv[row + v0 + g * D + d] += w[j] * go[d];
                }
            }
        }
    free(w);
}

static inline double *doubles(const float *x, size_t n)
{
    double *out = calloc(n, 8);
    REQUIRE(out);
    for (size_t i = 0; i < n; i++)
        out[i] = x[i];
    return out;
}

// Times the true cost estimate: by it the op chooses how many items a lane works on.
static double pairs_scale = 1;
// Type of qkv, and so of o and of their gradients.
static enum dtype storage = DTYPE_F32;

static inline struct nn_spans spans_of(const struct problem *p)
{
    struct nn_spans s = {
        .query = test_tensor_u32(p->rows, 4, p->query),
        .key = test_tensor_u32(p->rows, 2, p->key),
    };
    for (uint32_t i = 0; i < p->rows; i++) {
        s.pairs += pairs_scale * count_of(p, i);
        s.most_keys = VIREO_MAX(s.most_keys, count_of(p, i));
    }
    return s;
}

// The arenas poison what they hand out, in steps of 256 bytes: what lies behind x must still be poison.
static inline void check_guard(struct tensor x)
{
    uint64_t used = tensor_bytes(x), room = vireo_round_up(used, 256);
    uint8_t *bytes = malloc(room);
    REQUIRE_OK(gpu_read(test_device, x.span, bytes, room, &err));
    for (uint64_t i = used; i < room; i++)
        REQUIRE_INT(bytes[i], 0xff);
    free(bytes);
}

static inline size_t out_count(const struct problem *p)
{
    return (size_t)p->rows * p->heads.heads * p->heads.head_dim;
}

// Forward on the device; the caller frees.
static inline float *device_forward(const struct problem *p)
{
    struct tape *t = test_tape(false);
    struct tensor qkv = test_tensor(storage, p->rows, p->width, p->qkv);
    struct nn_spans s = spans_of(p);
    struct tensor o = nn_attention(t, qkv, &p->heads, &s, NULL);
    REQUIRE_INT(o.dtype, storage);
    float *out = malloc(out_count(p) * 4);
    REQUIRE(out && !tape_failed(t));
    test_read(o, out);
    check_guard(o);
    test_tape_end(&t);
    return out;
}

// Forward and backward; gradient of qkv, to be freed. `start`: what the gradient holds before (NULL: fresh).
static inline float *device_backward(const struct problem *p, const float *start, float *o_out)
{
    size_t n = (size_t)p->rows * p->width;
    struct tape *t = test_tape(true);
    struct tensor qkv = tape_new(t, storage, p->rows, p->width, true);
    REQUIRE_OK(tensor_write_floats(test_device, qkv, p->qkv, &err));
    struct nn_spans s = spans_of(p);
    struct tensor o = nn_attention(t, qkv, &p->heads, &s, NULL);
    REQUIRE(!tape_failed(t));
    bool fresh;
    if (start) {
        struct tensor g = tape_grad(t, qkv, &fresh);
        REQUIRE(fresh);
        REQUIRE_OK(tensor_write_floats(test_device, g, start, &err));
    }
    struct tensor go = test_tensor(storage, p->rows, p->heads.heads * p->heads.head_dim, p->go);
    REQUIRE_OK(tape_backward(t, o, go, &err));
    struct tensor g = tape_grad(t, qkv, &fresh);
    REQUIRE(!fresh);
    float *out = malloc(n * 4);
    REQUIRE(out);
    test_read(g, out);
    check_guard(g);
    if (o_out)
        test_read(o, o_out);
    test_tape_end(&t);
    return out;
}

#endif
