// Attention: against a double-precision reference, finite differences, and the promise that the bits of a row depend on
// nothing but its own keys in their order.
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

static uint32_t count_of(const struct problem *p, uint32_t i)
{
    return p->query[4 * i + 1] + p->query[4 * i + 3];
}

static uint32_t key_row(const struct problem *p, uint32_t i, uint32_t j)
{
    const uint32_t *s = p->query + 4 * i;
    return j < s[1] ? s[0] + j : s[2] + (j - s[1]);
}

// The inverse of the query spans; every query between first and end must see the key.
static void invert(struct problem *p)
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

static struct problem make(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t rows)
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

static void drop(struct problem *p)
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
static uint32_t lay_group(struct problem *p, uint32_t at, uint32_t prompt, uint32_t completions, uint32_t length)
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

static uint32_t group_rows(uint32_t prompt, uint32_t completions, uint32_t length)
{
    uint32_t n = prompt;
    for (uint32_t c = 0; c < completions; c++)
        n += c == 0 ? length : 1 + (length + 3 * c) % length;
    return n;
}

// Windows: bidirectional segments of these sizes, 0-terminated.
static struct problem make_windows(uint32_t heads, uint32_t head_dim, const uint32_t *sizes)
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

static struct problem make_group(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t prompt,
                                 uint32_t completions, uint32_t length)
{
    struct problem p = make(heads, kv_heads, head_dim, group_rows(prompt, completions, length));
    lay_group(&p, 0, prompt, completions, length);
    invert(&p);
    return p;
}

// Fills p->o and, with `gradient`, p->gqkv. `x` are the values of qkv in double.
static void reference(struct problem *p, const double *x, bool gradient)
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

static double *doubles(const float *x, size_t n)
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

static struct nn_spans spans_of(const struct problem *p)
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
static void check_guard(struct tensor x)
{
    uint64_t used = tensor_bytes(x), room = vireo_round_up(used, 256);
    uint8_t *bytes = malloc(room);
    REQUIRE_OK(gpu_read(test_device, x.span, bytes, room, &err));
    for (uint64_t i = used; i < room; i++)
        REQUIRE_INT(bytes[i], 0xff);
    free(bytes);
}

static size_t out_count(const struct problem *p)
{
    return (size_t)p->rows * p->heads.heads * p->heads.head_dim;
}

// Forward on the device; the caller frees.
static float *device_forward(const struct problem *p)
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
static float *device_backward(const struct problem *p, const float *start, float *o_out)
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

static void check(struct problem *p)
{
    size_t n = (size_t)p->rows * p->width;
    double *x = doubles(p->qkv, n);
    reference(p, x, true);
    float *o = calloc(out_count(p), 4), *again = device_forward(p), *g = device_backward(p, NULL, o);
    // f32 sums of a few hundred terms of size one.
    test_near("o", o, p->o, out_count(p), 3e-6);
    test_same_bits("o with and without gradients", o, again, out_count(p));
    test_near("gradient of qkv", g, p->gqkv, n, 2e-5);

    float *start = malloc(n * 4);
    test_values(start, n, 99);
    for (size_t i = 0; i < n; i++)
        p->gqkv[i] += start[i];
    float *added = device_backward(p, start, NULL);
    test_near("gradient of qkv, added", added, p->gqkv, n, 2e-5);
    for (size_t i = 0; i < n; i++)
        start[i] = g[i] + start[i];
    test_same_bits("fresh + start", added, start, n);
    free(x);
    free(o);
    free(again);
    free(g);
    free(start);
    free(added);
    drop(p);
}

static void sizes(void **state)
{
    (void)state;
    struct problem p;
    p = make_group(1, 1, 8, 1, 0, 1); // one row, one key
    check(&p);
    p = make_group(4, 2, 16, 27, 8, 23); // the demo's text
    check(&p);
    p = make_group(6, 2, 32, 45, 3, 19); // three heads a kv head
    check(&p);
    p = make_group(7, 1, 9, 13, 4, 7); // odd head size, one kv head
    check(&p);
    p = make_group(2, 2, 80, 9, 2, 17);
    check(&p);
    p = make_group(2, 1, 128, 8, 2, 9);
    check(&p);
    p = make_windows(4, 12, (uint32_t[]){4, 4, 16, 1, 7, 8, 9, 36, 36, 0});
    check(&p);
    p = make_windows(2, 12, (uint32_t[]){8, 16, 8, 0}); // whole blocks
    check(&p);
}

static void large(void **state)
{
    (void)state;
    struct problem p = make_group(4, 2, 16, 173, 8, 64);
    check(&p);
    p = make_windows(2, 32, (uint32_t[]){576, 64, 64, 0});
    check(&p);
}

// Rows without keys among others, and key rows nobody sees.
static void rows_without_keys(void **state)
{
    (void)state;
    struct problem p = make(4, 2, 16, 37);
    for (uint32_t i = 0; i < p.rows; i++) {
        uint32_t n = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 2; // rows 3m alone, 3m+1 and 3m+2 causal
        memcpy(p.query + 4 * i, (uint32_t[]){i % 2 ? 5 : 0xfffffff0u, 0, i / 3 * 3 + 1, n}, 16);
    }
    invert(&p);
    check(&p);

    p = make(2, 1, 12, 11);
    invert(&p); // nobody sees anything
    float *o = malloc(out_count(&p) * 4), *g = device_backward(&p, NULL, o);
    for (size_t i = 0; i < out_count(&p); i++)
        REQUIRE(o[i] == 0 && !signbit(o[i]));
    for (size_t i = 0; i < (size_t)p.rows * p.width; i++)
        REQUIRE(g[i] == 0);
    free(o);
    free(g);
    drop(&p);
}

// Neighbours whose runs agree in some numbers and differ in others, so that every part of "the same rows" counts: first
// such rows made by hand, then random ones.
static void any_runs(void **state)
{
    (void)state;
    static const uint32_t near[][4] = {
        {0, 10, 20, 3}, {0, 0, 10, 13},  // a block in both runs; the same own rows without a prefix
        {0, 11, 21, 3}, {0, 10, 20, 9},  // the prefix ends elsewhere
        {1, 10, 20, 3}, {0, 10, 21, 3},  // it starts elsewhere; the own run does
        {0, 16, 16, 5}, {0, 0, 0, 21},   // the same rows, split or not
        {0, 16, 24, 5}, {8, 16, 24, 5}, {0, 3, 0, 0}, {5, 0, 7, 1},
    };
    for (uint32_t round = 0; round < 6; round++) {
        struct problem p = make(round % 2 ? 4 : 2, 2, 8, 48);
        for (uint32_t i = 0; i < p.rows; i++) {
            uint32_t *s = p.query + 4 * i;
            if (round < 2) {
                memcpy(s, near[(i + i / 12 * round) % 12], 16);
                continue;
            }
            for (uint32_t k = 0; k < 4; k++)
                s[k] = (uint32_t)((test_value(100 + round, 4 * i + k) + 1) * (round < 4 ? 2 : 12)) * (k == 1 ? 4 : 1);
            s[2] = VIREO_MIN(s[2], p.rows - s[3]);
            s[1] = VIREO_MIN(s[1], p.rows - s[0]);
        }
        double *x = doubles(p.qkv, (size_t)p.rows * p.width);
        reference(&p, x, false);
        float *o = device_forward(&p);
        test_near("o", o, p.o, out_count(&p), 3e-6);
        free(x);
        free(o);
        drop(&p);
    }
}

// The device's gradient against central differences of the reference's forward pass.
static void finite_differences(void **state)
{
    (void)state;
    struct problem p = make_group(2, 1, 8, 3, 2, 4);
    size_t n = (size_t)p.rows * p.width;
    float *g = device_backward(&p, NULL, NULL);
    double *x = doubles(p.qkv, n), *numeric = calloc(n, 8), step = 1e-5;
    for (size_t i = 0; i < n; i++) {
        double at = x[i], sum[2] = {0, 0};
        for (int side = 0; side < 2; side++) {
            x[i] = at + (side ? step : -step);
            reference(&p, x, false);
            for (size_t e = 0; e < out_count(&p); e++)
                sum[side] += p.go[e] * p.o[e];
        }
        x[i] = at;
        numeric[i] = (sum[1] - sum[0]) / (2 * step);
    }
    test_near("gradient against differences", g, numeric, n, 1e-6);
    free(g);
    free(x);
    free(numeric);
    drop(&p);
}

// The rows of one sequence of a packed problem: the prompt and completion `c` of lay_group.
struct sequence {
    uint32_t prompt, own, length; // first rows and the completion's length
};

static struct sequence find_sequence(uint32_t prompt, uint32_t completion, uint32_t length)
{
    struct sequence s = {.prompt = 0, .own = prompt};
    for (uint32_t c = 0;; c++) {
        s.length = c == 0 ? length : 1 + (length + 3 * c) % length;
        if (c == completion)
            return s;
        s.own += s.length;
    }
}

// The bits of a completion's rows are the same packed behind a shared prompt, alone, split elsewhere into prefix and
// own run, among other rows, and read from a pool, one query a dispatch.
static void same_bits(uint32_t heads, uint32_t kv_heads, uint32_t head_dim)
{
    enum { PROMPT = 29, COMPLETIONS = 5, LENGTH = 21 };
    struct problem p = make_group(heads, kv_heads, head_dim, PROMPT, COMPLETIONS, LENGTH);
    uint32_t out_width = heads * head_dim;
    float *packed = device_forward(&p), *trained = malloc(out_count(&p) * 4);
    free(device_backward(&p, NULL, trained));
    test_same_bits("on a tape with gradients", packed, trained, out_count(&p));

    for (uint32_t c = 0; c < COMPLETIONS; c++) {
        struct sequence s = find_sequence(PROMPT, c, LENGTH);
        uint32_t total = PROMPT + s.length;
        // Alone in its own buffer behind `pad` other rows, split into prefix and own run at `cut`.
        for (uint32_t cut = 0; cut <= PROMPT; cut += c == 1 ? 1 : PROMPT - 3) {
            uint32_t pad = cut % 5;
            struct problem alone = make(heads, kv_heads, head_dim, pad + total);
            for (uint32_t i = 0; i < total; i++) {
                uint32_t from = i < PROMPT ? i : s.own + i - PROMPT, shared = VIREO_MIN(cut, i + 1);
                memcpy(alone.qkv + (size_t)(pad + i) * p.width, p.qkv + (size_t)from * p.width, p.width * 4);
                memcpy(alone.query + 4 * (pad + i), (uint32_t[]){pad, shared, pad + shared, i + 1 - shared}, 16);
            }
            float *o = device_forward(&alone);
            test_same_bits("prompt alone", o + (size_t)pad * out_width, packed, (size_t)PROMPT * out_width);
            test_same_bits("completion alone", o + (size_t)(pad + PROMPT) * out_width,
                           packed + (size_t)s.own * out_width, (size_t)s.length * out_width);
            free(o);
            drop(&alone);
        }
    }

    // Decode: step i asks all completions that are that long for one row each, in an order that changes, with keys in a
    // pool whose slots lie elsewhere; what no sequence owns is NaN.
    uint32_t kv_width = kv_heads * head_dim, slots = 300, prompt_slot = 231, own_slot[COMPLETIONS];
    float *k = malloc((size_t)slots * kv_width * 4), *v = malloc((size_t)slots * kv_width * 4);
    for (size_t i = 0; i < (size_t)slots * kv_width; i++)
        k[i] = v[i] = NAN;
    for (uint32_t c = 0; c <= COMPLETIONS; c++) {
        struct sequence s = find_sequence(PROMPT, VIREO_MIN(c, COMPLETIONS - 1), LENGTH);
        uint32_t n = c < COMPLETIONS ? s.length : PROMPT, first = c < COMPLETIONS ? s.own : 0;
        uint32_t slot = c < COMPLETIONS ? (own_slot[c] = 200 - 40 * c) : prompt_slot;
        for (uint32_t i = 0; i < n; i++) {
            const float *row = p.qkv + (size_t)(first + i) * p.width;
            memcpy(k + (size_t)(slot + i) * kv_width, row + out_width, kv_width * 4);
            memcpy(v + (size_t)(slot + i) * kv_width, row + out_width + kv_width, kv_width * 4);
        }
    }
    struct nn_kv kv = {
        .k = test_tensor(DTYPE_F32, slots, kv_width, k),
        .v = test_tensor(DTYPE_F32, slots, kv_width, v),
    };
    for (uint32_t i = 0; i < LENGTH; i++) {
        struct problem step = make(heads, kv_heads, head_dim, COMPLETIONS);
        uint32_t rows = 0, from[COMPLETIONS];
        for (uint32_t n = 0; n < COMPLETIONS; n++) {
            uint32_t c = (n + i) % COMPLETIONS;
            struct sequence s = find_sequence(PROMPT, c, LENGTH);
            if (i >= s.length)
                continue;
            from[rows] = s.own + i;
            memcpy(step.qkv + (size_t)rows * p.width, p.qkv + (size_t)from[rows] * p.width, out_width * 4);
            memcpy(step.query + 4 * rows, (uint32_t[]){prompt_slot, PROMPT, own_slot[c], i + 1}, 16);
            rows++;
        }
        step.rows = rows;
        struct tape *t = test_tape(false);
        struct nn_spans spans = spans_of(&step);
        struct tensor o = nn_attention(t, test_tensor(DTYPE_F32, rows, p.width, step.qkv), &p.heads, &spans, &kv);
        float *out = malloc((size_t)rows * out_width * 4);
        test_read(o, out);
        test_tape_end(&t);
        for (uint32_t r = 0; r < rows; r++)
            test_same_bits("decode", out + (size_t)r * out_width, packed + (size_t)from[r] * out_width, out_width);
        free(out);
        drop(&step);
    }
    free(k);
    free(v);
    free(packed);
    free(trained);
    drop(&p);
}

static void bits_do_not_depend_on_packing(void **state)
{
    (void)state;
    same_bits(4, 2, 16);
    same_bits(6, 2, 32);
    same_bits(3, 3, 12);
    same_bits(2, 1, 15);
}

// A pool in pages, lists of them, and rows to ask.
struct paged {
    uint32_t page_size, pages, kv_width;
    float *k, *v;
    uint32_t *list, listed; // all lists, one after the other
    uint32_t taken;         // pages handed out
};

// Pages in an order that jumps about.
static uint32_t take_page(struct paged *g)
{
    REQUIRE(g->taken < g->pages);
    return (g->taken++ * 7 + 3) % g->pages; // 7 does not divide the number of pages
}

// Appends the list of a sequence of `count` keys, whose first `shared` pages are those at list[from]. The rows of qkv
// that hold its keys come from `row`. Entries behind the last page are far outside the pool.
static uint32_t lay_pages(struct paged *g, const struct problem *p, uint32_t prompt, uint32_t own, uint32_t count,
                          uint32_t from, uint32_t shared)
{
    uint32_t first = g->listed, k0 = p->heads.heads * p->heads.head_dim;
    for (uint32_t n = 0; n < (count + g->page_size - 1) / g->page_size; n++)
        g->list[g->listed++] = n < shared ? g->list[from + n] : take_page(g);
    for (uint32_t j = shared * g->page_size; j < count; j++) {
        const float *row = p->qkv + (size_t)(j < prompt ? j : own + j - prompt) * p->width + k0;
        size_t slot = (size_t)g->list[first + j / g->page_size] * g->page_size + j % g->page_size;
        memcpy(g->k + slot * g->kv_width, row, g->kv_width * 4);
        memcpy(g->v + slot * g->kv_width, row + g->kv_width, g->kv_width * 4);
    }
    g->list[g->listed++] = 0x7fffffff;
    return first;
}

// The same rows of qkv out of the pool as stored, all of one type, by the kernel for rows that are apart (1), or apart and
// yet together (2), or by the other.
static void run_pages(const struct paged *g, const struct problem *p, uint32_t rows, const float *qkv, uint32_t (*spans)[4],
                      double cost, enum dtype type, int apart, float *out)
{
    struct nn_kv kv = {
        .k = test_tensor(type, g->pages * g->page_size, g->kv_width, g->k),
        .v = test_tensor(type, g->pages * g->page_size, g->kv_width, g->v),
        .pages = test_tensor_u32(g->listed, 1, g->list),
        .page_size = g->page_size,
    };
    struct nn_spans s = {.query = test_tensor_u32(rows, 4, spans[0]), .pairs = cost, .apart = apart > 0, .together = apart > 1};
    struct tape *t = test_tape(false);
    struct tensor o = nn_attention(t, test_tensor(type, rows, p->width, qkv), &p->heads, &s, &kv);
    REQUIRE(!tape_failed(t));
    test_read(o, out);
    check_guard(o);
    test_tape_end(&t);
}

// Rows of `p` (numbers in `from`) with these spans, out of the pool: their bits must be those in `wanted`. In 16 bits both
// kernels agree.
static void ask_pages(const char *what, const struct paged *g, const struct problem *p, uint32_t rows,
                      const uint32_t *from, uint32_t (*spans)[4], double cost, const float *wanted)
{
    uint32_t out_width = p->heads.heads * p->heads.head_dim;
    float *qkv = malloc((size_t)rows * p->width * 4), *out = malloc((size_t)rows * out_width * 4);
    float *apart = malloc((size_t)rows * out_width * 4);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < p->width; c++) // keys of the batch itself are not read
            qkv[(size_t)r * p->width + c] = c < out_width ? p->qkv[(size_t)from[r] * p->width + c] : NAN;
    run_pages(g, p, rows, qkv, spans, cost, DTYPE_F32, 0, out);
    for (uint32_t r = 0; r < rows; r++)
        test_same_bits(what, out + (size_t)r * out_width, wanted + (size_t)from[r] * out_width, out_width);
    for (int kind = 1; kind <= 2; kind++) {
        run_pages(g, p, rows, qkv, spans, cost, DTYPE_F32, kind, apart);
        test_same_bits("rows apart", apart, out, (size_t)rows * out_width);
    }
    for (int half = 0; half < 2 && p->heads.head_dim % 4 == 0; half++) {
        const enum dtype type = half ? DTYPE_F16 : DTYPE_BF16;
        run_pages(g, p, rows, qkv, spans, cost, type, 0, out);
        for (int kind = 1; kind <= 2; kind++) {
            run_pages(g, p, rows, qkv, spans, cost, type, kind, apart);
            test_same_bits("rows apart in 16 bits", apart, out, (size_t)rows * out_width);
        }
    }
    free(qkv);
    free(out);
    free(apart);
}

// Keys in scattered pages give the bits of keys in runs: a prompt whose whole pages are shared by the completions (each
// has its own copy of the rest), prompts in chunks, decoding; odd lengths; pages of others are NaN.
static void same_bits_paged(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t page_size, uint32_t prompt)
{
    enum { COMPLETIONS = 5, LENGTH = 21 };
    struct problem p = make_group(heads, kv_heads, head_dim, prompt, COMPLETIONS, LENGTH);
    float *wanted = device_forward(&p);
    uint32_t longest = (prompt + LENGTH) / page_size + 1;
    struct paged g = {
        .page_size = page_size,
        .pages = (COMPLETIONS + 2) * longest + 1,
        .kv_width = kv_heads * head_dim,
    };
    g.pages += g.pages % 7 == 0;
    size_t values = (size_t)g.pages * page_size * g.kv_width;
    g.k = malloc(values * 4);
    g.v = malloc(values * 4);
    g.list = calloc((COMPLETIONS + 1) * (longest + 1), 4);
    for (size_t i = 0; i < values; i++)
        g.k[i] = g.v[i] = NAN;
    uint32_t prompt_first = lay_pages(&g, &p, prompt, 0, prompt, 0, 0), first[COMPLETIONS];
    for (uint32_t c = 0; c < COMPLETIONS; c++) {
        struct sequence s = find_sequence(prompt, c, LENGTH);
        first[c] = lay_pages(&g, &p, prompt, s.own, prompt + s.length, prompt_first, prompt / page_size);
    }

    uint32_t from[256], spans[256][4];
    REQUIRE(p.rows <= 256);
    // The prompt in chunks: rows see keys 0 to their own. Odd chunks beside whole completions.
    for (uint32_t at = 0, chunk = 5; at < prompt; at += chunk, chunk += 6) {
        uint32_t rows = 0;
        for (uint32_t i = at; i < VIREO_MIN(prompt, at + chunk); i++, rows++) {
            from[rows] = i;
            memcpy(spans[rows], (uint32_t[]){prompt_first, i + 1, 0, 0}, 16);
        }
        struct sequence s = find_sequence(prompt, chunk % COMPLETIONS, LENGTH);
        for (uint32_t i = 0; i < s.length && rows < 256; i++, rows++) {
            from[rows] = s.own + i;
            memcpy(spans[rows], (uint32_t[]){first[chunk % COMPLETIONS], prompt + i + 1, 0, 0}, 16);
        }
        ask_pages("chunk of a prompt", &g, &p, rows, from, spans, at % 2 ? 1e9 : 0, wanted);
    }
    for (uint32_t i = 0; i < LENGTH; i++) {
        uint32_t rows = 0;
        for (uint32_t n = 0; n < COMPLETIONS; n++) {
            uint32_t c = (n + i) % COMPLETIONS;
            struct sequence s = find_sequence(prompt, c, LENGTH);
            if (i >= s.length)
                continue;
            from[rows] = s.own + i;
            memcpy(spans[rows++], (uint32_t[]){first[c], prompt + i + 1, 0, 0}, 16);
        }
        ask_pages("decode", &g, &p, rows, from, spans, 0, wanted);
    }
    free(g.k);
    free(g.v);
    free(g.list);
    free(wanted);
    drop(&p);
}

static void bits_do_not_depend_on_pages(void **state)
{
    (void)state;
    same_bits_paged(4, 2, 16, 8, 29);
    same_bits_paged(4, 2, 16, 16, 32);
    same_bits_paged(6, 2, 32, 16, 29);
    same_bits_paged(5, 1, 40, 16, 17);
    same_bits_paged(8, 1, 64, 32, 9);
    same_bits_paged(2, 1, 15, 64, 29); // a page longer than the prompt
    same_bits_paged(3, 3, 12, 8, 7);
}

// A value that is not finite makes NaN of the rows that see it and of no other, by both kernels; finite values whose sum is
// not keep the rest of their row.
static void broken_values_in_pages(void **state)
{
    (void)state;
    enum { ROWS = 40, D = 32, PAGE = 16, WIDTH = 3 * D };
    static const float bad[] = {NAN, INFINITY, 3e38f};
    uint32_t spans[ROWS][4], list[4] = {2, 0, 3, 1};
    float *qkv = malloc(sizeof(float) * ROWS * WIDTH), *k = malloc(sizeof(float) * 64 * D), *v = malloc(sizeof(float) * 64 * D);
    float out[3][ROWS * D];
    for (uint32_t i = 0; i < ROWS; i++)
        memcpy(spans[i], (uint32_t[]){0, i + 1, 0, 0}, 16);
    test_values(qkv, ROWS * WIDTH, 1);
    test_values(k, 64 * D, 2);
    struct problem p = {.heads = {.heads = 1, .kv_heads = 1, .head_dim = D, .scale = 0.2f}, .rows = ROWS, .width = WIDTH};
    struct paged g = {.page_size = PAGE, .pages = 4, .kv_width = D, .k = k, .v = v, .list = list, .listed = 4};
    for (size_t b = 0; b < VIREO_COUNT(bad); b++) {
        const uint32_t key = 19, column = 7;
        test_values(v, 64 * D, 3);
        v[(list[key / PAGE] * PAGE + key % PAGE) * D + column] = bad[b];
        if (b == 2) // rows that see both sum to infinity, most of them
            v[(list[key / PAGE] * PAGE + key % PAGE + 1) * D + column] = bad[b];
        for (int apart = 0; apart < 3; apart++)
            run_pages(&g, &p, ROWS, qkv, spans, 0, DTYPE_F32, apart, out[apart]);
        for (uint32_t i = 0; i < ROWS * D; i++) {
            REQUIRE(b == 2 || isnan(out[0][i]) == (i / D >= key));
            REQUIRE(b < 2 || i % D == column || isfinite(out[0][i]));
            for (int apart = 1; apart < 3; apart++) {
                REQUIRE(isnan(out[apart][i]) == isnan(out[0][i]));
                if (!isnan(out[0][i]))
                    test_same_bits("beside a broken value", &out[apart][i], &out[0][i], 1);
            }
        }
    }
    free(qkv);
    free(k);
    free(v);
}

// A row without keys reads no page.
static void no_keys_in_pages(void **state)
{
    (void)state;
    struct problem p = make(2, 1, 8, 9);
    uint32_t from[9], spans[9][4], list[1] = {0};
    for (uint32_t i = 0; i < 9; i++) {
        from[i] = i;
        memcpy(spans[i], (uint32_t[]){0xfffffff0u, 0, 0, 0}, 16);
    }
    float *zeros = calloc(9 * 16, 4), *nan = malloc(8 * 8 * 4);
    for (uint32_t i = 0; i < 64; i++)
        nan[i] = NAN;
    struct paged g = {.page_size = 8, .pages = 1, .kv_width = 8, .k = nan, .v = nan, .list = list, .listed = 1};
    ask_pages("no keys", &g, &p, 9, from, spans, 0, zeros);
    free(zeros);
    free(nan);
    drop(&p);
}

// Half of the storage, the same sums: o is the f32 result rounded once, also out of a pool in either type; gradients
// differ from the reference by roundings alone.
static void stored_in(enum dtype half, double gradient_error)
{
    static const uint32_t shapes[][5] = {
        {4, 2, 16, 37, 25}, {3, 1, 6, 13, 9}, {2, 2, 80, 9, 17}, {2, 1, 128, 8, 9}, {4, 4, 12, 29, 21},
    };
    for (size_t i = 0; i < VIREO_COUNT(shapes); i++) {
        const uint32_t *s = shapes[i];
        struct problem p = make_group(s[0], s[1], s[2], s[3], 3, s[4]);
        const size_t n = (size_t)p.rows * p.width, out = out_count(&p);
        const uint32_t out_width = s[0] * s[2], kv_width = s[1] * s[2];
        test_round_all(half, p.qkv, n);
        test_round_all(half, p.go, out);
        float *exact = device_forward(&p), *start = malloc(n * 4);
        test_round_all(half, exact, out);
        storage = half;
        float *o = device_forward(&p), *trained = malloc(out * 4), *g = device_backward(&p, NULL, trained);
        test_same_bits("o in 16 bits", o, exact, out);
        test_same_bits("o in 16 bits with gradients", trained, exact, out);
        double *x = doubles(p.qkv, n);
        reference(&p, x, true);
        test_near("gradient in 16 bits", g, p.gqkv, n, gradient_error);
        test_values(start, n, 99);
        test_round_all(half, start, n);
        for (size_t e = 0; e < n; e++)
            p.gqkv[e] += start[e];
        float *added = device_backward(&p, start, NULL);
        test_near("gradient in 16 bits, added", added, p.gqkv, n, 1.5 * gradient_error);

        // The same key rows in a pool, of either type, beside qkv of either type.
        float *k = malloc((size_t)p.rows * kv_width * 4), *v = malloc((size_t)p.rows * kv_width * 4);
        for (uint32_t r = 0; r < p.rows; r++) {
            memcpy(k + (size_t)r * kv_width, p.qkv + (size_t)r * p.width + out_width, kv_width * 4);
            memcpy(v + (size_t)r * kv_width, p.qkv + (size_t)r * p.width + out_width + kv_width, kv_width * 4);
        }
        for (int c = 0; c < 4; c++) {
            const enum dtype type = c & 1 ? half : DTYPE_F32, pool = c & 2 ? half : DTYPE_F32;
            struct nn_kv kv = {
                .k = test_tensor(pool, p.rows, kv_width, k),
                .v = test_tensor(pool, p.rows, kv_width, v),
            };
            struct tape *t = test_tape(false);
            struct nn_spans spans = spans_of(&p);
            test_read(nn_attention(t, test_tensor(type, p.rows, p.width, p.qkv), &p.heads, &spans, &kv), trained);
            test_tape_end(&t);
            test_round_all(half, trained, out); // f32 results become those of 16 bits
            test_same_bits("o out of a pool", trained, exact, out);
        }
        storage = DTYPE_F32;
        free(k);
        free(v);
        free(x);
        free(exact);
        free(start);
        free(o);
        free(trained);
        free(g);
        free(added);
        drop(&p);
    }
}

static void bf16_storage(void **state)
{
    (void)state;
    stored_in(DTYPE_BF16, 8e-3);
}

static void fp16_storage(void **state)
{
    (void)state;
    stored_in(DTYPE_F16, 1e-3); // three more bits
}

static void bits_do_not_depend_on_the_tile(void **state)
{
    (void)state;
    static const char *const kinds[] = {"any", "simd-1", "simd-2", "simd-3", "simd-4"};
    const char *kept = getenv("VIREO_ATTENTION");
    // Where the other family is the device's own (GPUs, and lavapipe before Mesa 25), "simd" has to be asked for.
    const struct gpu_caps *caps = gpu_device_caps(test_device);
    unsigned mesa = 0;
    const bool old = sscanf(caps->driver_info, "Mesa %u", &mesa) == 1 && mesa < 25;
    const bool tiles = kept && kept[0] ? strcmp(kept, "tile") == 0 : caps->type != GPU_CPU || old;
    char before[32], whole[32];
    snprintf(whole, sizeof whole, "%s", kept ? kept : "");
    snprintf(before, sizeof before, "%s", tiles ? "simd-1" : whole);
    setenv("VIREO_ATTENTION", before, 1);
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (size_t b = 0; b < VIREO_COUNT(types); b++) {
        struct problem p = make_group(6, 2, 16, 37, 3, 25);
        storage = types[b];
        float *o = device_forward(&p), *g = device_backward(&p, NULL, NULL);
        for (size_t i = 0; i < VIREO_COUNT(kinds); i++) {
            setenv("VIREO_ATTENTION", kinds[i], 1);
            float *other_o = device_forward(&p), *other_g = device_backward(&p, NULL, NULL);
            test_same_bits("o", other_o, o, out_count(&p));
            test_same_bits("gradient", other_g, g, (size_t)p.rows * p.width);
            free(other_o);
            free(other_g);
            setenv("VIREO_ATTENTION", before, 1);
        }
        pairs_scale = 0;
        float *short_o = device_forward(&p);
        pairs_scale = 1;
        test_same_bits("o, short rows", short_o, o, out_count(&p));
        free(short_o);
        free(o);
        free(g);
        drop(&p);
    }
    storage = DTYPE_F32;
    setenv("VIREO_ATTENTION", whole, 1);
}

// The same packed rows in a batch of several groups, at other places.
static void bits_do_not_depend_on_neighbours(void **state)
{
    (void)state;
    struct problem one = make_group(4, 2, 16, 11, 3, 9);
    float *wanted = device_forward(&one), *gradient = device_backward(&one, NULL, NULL);
    for (uint32_t before = 1; before < 20; before += 6) {
        struct problem many = make(4, 2, 16, before + one.rows + 13);
        lay_group(&many, 0, before, 0, 1);
        lay_group(&many, before + one.rows, 5, 1, 8);
        uint32_t at = lay_group(&many, before, 11, 3, 9);
        REQUIRE_INT(at, before + one.rows);
        invert(&many);
        memcpy(many.qkv + (size_t)before * one.width, one.qkv, (size_t)one.rows * one.width * 4);
        memcpy(many.go + (size_t)before * 64, one.go, (size_t)one.rows * 64 * 4);
        float *o = device_forward(&many), *g = device_backward(&many, NULL, NULL);
        test_same_bits("o among others", o + (size_t)before * 64, wanted, out_count(&one));
        test_same_bits("gradient among others", g + (size_t)before * one.width, gradient, (size_t)one.rows * one.width);
        free(o);
        free(g);
        drop(&many);
    }
    free(wanted);
    free(gradient);
    drop(&one);
}

// What is not finite reaches the rows that see it, all of them, and nobody else: forward and backward.
static void broken_keys_stay_where_they_are_seen(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct problem p = make_group(4, 2, 16, 10, 3, 9);
    float *wanted = device_forward(&p), *gradient = device_backward(&p, NULL, NULL);
    struct sequence s = find_sequence(10, 1, 9);
    for (uint32_t place = 0; place < 2; place++) // a value, a key
        for (uint32_t b = 0; b < 3; b++) {
            uint32_t row = s.own + 1, column = place ? 64 + 3 : 64 + 32 + 5; // kv head 0: query heads 0 and 1
            float *x = &p.qkv[(size_t)row * p.width + column], kept = *x;
            *x = bad[b];
            float *o = device_forward(&p), *g = device_backward(&p, NULL, NULL);
            for (uint32_t i = 0; i < p.rows; i++) {
                bool sees = i >= row && i < s.own + s.length;
                if (!sees)
                    test_same_bits("o that does not see it", o + 64 * i, wanted + 64 * i, 64);
                test_same_bits("heads that do not use it", o + 64 * i + 32, wanted + 64 * i + 32, 32);
                bool broken = false;
                for (uint32_t d = 0; d < 16; d++)
                    broken = broken || !isfinite(o[64 * i + d]);
                // An infinite key may also win or lose the softmax outright.
                REQUIRE(broken == sees || (place == 1 && bad[b] == bad[b] && sees));
                size_t at = (size_t)i * p.width;
                if (!sees)
                    test_same_bits("gradient of q that does not see it", g + at, gradient + at, 64);
                if (i < s.own && i >= 10) // another completion
                    test_same_bits("gradient that does not see it", g + at, gradient + at, p.width);
            }
            free(o);
            free(g);
            *x = kept;
        }
    // A gradient or a query that is not finite: later rows of the completion do not feed it.
    for (uint32_t b = 0; b < 6; b++) {
        uint32_t row = s.own + 1;
        float *x = b < 3 ? &p.go[64 * row + 3] : &p.qkv[(size_t)row * p.width + 3], kept = *x;
        *x = bad[b % 3];
        float *g = device_backward(&p, NULL, NULL);
        for (uint32_t i = row + 1; i < s.own + s.length; i++)
            test_same_bits("gradient of keys it does not see", g + (size_t)i * p.width, gradient + (size_t)i * p.width,
                           p.width);
        REQUIRE(!isfinite(g[(size_t)row * p.width]));
        free(g);
        *x = kept;
    }
    free(wanted);
    free(gradient);
    drop(&p);
}

// Gradients of a shared prompt are the sum over its completions as if each had its own copy.
static void prompt_gradient_is_the_sum(void **state)
{
    (void)state;
    enum { PROMPT = 14, COMPLETIONS = 4, LENGTH = 11 };
    struct problem p = make_group(4, 2, 16, PROMPT, COMPLETIONS, LENGTH);
    memset(p.go, 0, (size_t)PROMPT * 64 * 4); // the prompt's own rows would count once a copy
    float *packed = device_backward(&p, NULL, NULL);
    double *sum = calloc((size_t)PROMPT * p.width, 8);
    for (uint32_t c = 0; c < COMPLETIONS; c++) {
        struct sequence s = find_sequence(PROMPT, c, LENGTH);
        struct problem alone = make_group(4, 2, 16, PROMPT, 1, s.length);
        memcpy(alone.qkv, p.qkv, (size_t)PROMPT * p.width * 4);
        memcpy(alone.qkv + (size_t)PROMPT * p.width, p.qkv + (size_t)s.own * p.width, (size_t)s.length * p.width * 4);
        memset(alone.go, 0, (size_t)PROMPT * 64 * 4);
        memcpy(alone.go + PROMPT * 64, p.go + (size_t)s.own * 64, (size_t)s.length * 64 * 4);
        float *g = device_backward(&alone, NULL, NULL);
        for (size_t i = 0; i < (size_t)PROMPT * p.width; i++)
            sum[i] += g[i];
        test_same_bits("gradient of the completion", packed + (size_t)s.own * p.width, g + (size_t)PROMPT * p.width,
                       (size_t)s.length * p.width);
        free(g);
        drop(&alone);
    }
    test_near("gradient of the prompt", packed, sum, (size_t)PROMPT * p.width, 5e-6);
    free(packed);
    free(sum);
    drop(&p);
}

static void refuses(void **state)
{
    (void)state;
    struct problem p = make_group(2, 1, 8, 4, 0, 1);
    struct nn_spans s = spans_of(&p);
    struct tensor qkv = test_tensor(DTYPE_F32, p.rows, p.width, p.qkv);
    struct nn_kv kv = {.k = test_tensor(DTYPE_F32, p.rows, 8, p.qkv), .v = test_tensor(DTYPE_F32, p.rows, 8, p.qkv)};
    kv.k.dtype = kv.v.dtype = DTYPE_U32;
    struct tape *t = test_tape(false);
    nn_attention(t, qkv, &p.heads, &s, &kv);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    t = test_tape(false);
    nn_attention(t, qkv, &(struct nn_heads){3, 2, 8, 1}, &s, NULL);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    t = test_tape(false);
    nn_attention(t, qkv, &(struct nn_heads){1, 1, 256, 1}, &s, NULL);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    for (int f16 = 0; f16 < 2; f16++) {
        t = test_tape(false); // two halves share a word
        nn_attention(t, test_tensor(f16 ? DTYPE_F16 : DTYPE_BF16, 2, 9, p.qkv), &(struct nn_heads){1, 1, 3, 1}, &s, NULL);
        REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
        REQUIRE(strstr(err.message, f16 ? "attention over f16" : "attention over bf16"));
    }
    drop(&p);
}

// How kernels are compiled ahead of time: all push constants zero.
static void warms_up(void **state)
{
    (void)state;
    const struct gpu_warm list[] = {
        {.kernel = KERNEL_ATTENTION_FWD, .constants = {16, 2}, .constant_count = 2},
        {.kernel = KERNEL_ATTENTION_FWD, .constants = {16, 1, 1, 1, 1, 1}, .constant_count = 6},
        {.kernel = KERNEL_ATTENTION_FWD, .constants = {16, 1, 1, 2, 2, 2}, .constant_count = 6},
        {.kernel = KERNEL_ATTENTION_BWD_QUERY, .constants = {16, 2}, .constant_count = 2},
        {.kernel = KERNEL_ATTENTION_BWD_KEY, .constants = {16, 2}, .constant_count = 2},
    };
    REQUIRE_OK(gpu_warm_up(test_device, list, VIREO_COUNT(list), &err));
}

const struct CMUnitTest cases_attention[] = {
    cmocka_unit_test(warms_up),
    cmocka_unit_test(sizes),
    cmocka_unit_test(rows_without_keys),
    cmocka_unit_test(any_runs),
    cmocka_unit_test(finite_differences),
    cmocka_unit_test(bits_do_not_depend_on_packing),
    cmocka_unit_test(bits_do_not_depend_on_pages),
    cmocka_unit_test(broken_values_in_pages),
    cmocka_unit_test(no_keys_in_pages),
    cmocka_unit_test(bf16_storage),
    cmocka_unit_test(fp16_storage),
    cmocka_unit_test(bits_do_not_depend_on_the_tile),
    cmocka_unit_test(bits_do_not_depend_on_neighbours),
    cmocka_unit_test(broken_keys_stay_where_they_are_seen),
    cmocka_unit_test(prompt_gradient_is_the_sum),
    cmocka_unit_test(large),
    cmocka_unit_test(refuses),
};
const size_t cases_attention_count = VIREO_COUNT(cases_attention);
