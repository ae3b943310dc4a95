// nn_logprob.
#include "tests/kernels/guard.h"


struct head_case {
    uint32_t rows, width, vocabulary;
    enum dtype type;
    float temperature;
};

// Log-softmax of logits / temperature in double.
struct row_stats {
    double max, log_sum, entropy;
    uint32_t top;
};
static struct row_stats stats_of(const double *logits, uint32_t n, double temperature)
{
    struct row_stats s = {.max = -INFINITY};
    for (uint32_t v = 0; v < n; v++)
        if (logits[v] / temperature > s.max) {
            s.max = logits[v] / temperature;
            s.top = v;
        }
    double sum = 0, weighted = 0;
    for (uint32_t v = 0; v < n; v++) {
        const double d = logits[v] / temperature - s.max;
        sum += exp(d);
        weighted += exp(d) * d;
    }
    s.log_sum = log(sum);
    s.entropy = s.log_sum - weighted / sum;
    return s;
}

struct reference {
    double *logprob, *entropy, *dx, *dw;
    uint32_t *top;
};

static struct reference reference(const struct head_case *k, const float *x, const float *w, const uint32_t *target,
                                  const float *g)
{
    struct reference r = {
        .logprob = test_alloc(k->rows, sizeof(double)),
        .entropy = test_alloc(k->rows, sizeof(double)),
        .dx = test_alloc((size_t)k->rows * k->width, sizeof(double)),
        .dw = test_alloc((size_t)k->vocabulary * k->width, sizeof(double)),
        .top = test_alloc(k->rows, sizeof(uint32_t)),
    };
    double *logits = test_alloc(k->vocabulary, sizeof *logits);
    for (uint32_t m = 0; m < k->rows; m++) {
        for (uint32_t v = 0; v < k->vocabulary; v++) {
            logits[v] = 0;
            for (uint32_t c = 0; c < k->width; c++)
                logits[v] += (double)x[(size_t)m * k->width + c] * w[(size_t)v * k->width + c];
        }
        const struct row_stats s = stats_of(logits, k->vocabulary, k->temperature);
        r.logprob[m] = logits[target[m]] / k->temperature - s.max - s.log_sum;
        r.entropy[m] = s.entropy;
        r.top[m] = s.top;
        for (uint32_t v = 0; v < k->vocabulary; v++) {
            const double p = exp(logits[v] / k->temperature - s.max - s.log_sum);
            const double d = g[m] * ((v == target[m]) - p) / k->temperature;
            for (uint32_t c = 0; c < k->width; c++) {
                r.dx[(size_t)m * k->width + c] += d * w[(size_t)v * k->width + c];
                r.dw[(size_t)v * k->width + c] += d * x[(size_t)m * k->width + c];
            }
        }
    }
    free(logits);
    return r;
}

static void check(struct head_case k)
{
    const size_t nx = (size_t)k.rows * k.width, nw = (size_t)k.vocabulary * k.width;
    float *x = test_random(nx, 1, 2), *w = test_random(nw, 2, 1.5f), *g = test_random(k.rows, 3, 1);
    test_round_all(k.type, w, nw);
    uint32_t *target = test_alloc(k.rows, sizeof *target), *top = test_alloc(k.rows, sizeof *top);
    for (uint32_t m = 0; m < k.rows; m++)
        target[m] = m * 977 % k.vocabulary;
    struct reference want = reference(&k, x, w, target, g);
    struct weight head = test_weight(k.type, k.vocabulary, k.width, w, true);
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, k.rows, k.width, x);
    struct nn_logprob out = nn_logprob(t, leaf, &head, test_tensor_u32(k.rows, 1, target), k.temperature);
    REQUIRE_OK(tape_backward(t, out.logprob, test_tensor(DTYPE_F32, k.rows, 1, g), &err));
    bool fresh;
    struct tensor d = tape_grad(t, leaf, &fresh);
    float *logprob = test_fetch(out.logprob), *entropy = test_fetch(out.entropy), *dx = test_fetch(d);
    float *dw = test_fetch(head.grad);
    test_read_u32(out.top, top);
    test_near("logprob", logprob, want.logprob, k.rows, 3e-6);
    test_near("entropy", entropy, want.entropy, k.rows, 3e-6);
    test_near("logprob dx", dx, want.dx, nx, 5e-6);
    test_near("logprob dw", dw, want.dw, nw, 1e-5);
    for (uint32_t m = 0; m < k.rows; m++)
        REQUIRE_INT(top[m], want.top[m]);
    guard_check("logprob", out.logprob);
    guard_check("entropy", out.entropy);
    guard_check("top", out.top);
    guard_check("logprob dx", d);
    test_tape_end(&t);
    free(x), free(w), free(g), free(target), free(top), free(logprob), free(entropy), free(dx), free(dw);
    free(want.logprob), free(want.entropy), free(want.dx), free(want.dw), free(want.top);
}

static void logprobs(void **state)
{
    (void)state;
    check((struct head_case){1, 1, 1, DTYPE_F32, 1});
    check((struct head_case){3, 5, 31, DTYPE_F32, 0.7f});
    check((struct head_case){7, 24, 33, DTYPE_BF16, 1});
    check((struct head_case){7, 24, 33, DTYPE_F16, 1});
    check((struct head_case){5, 8, 4099, DTYPE_F32, 1.3f}); // two blocks of the softmax
    check((struct head_case){17, 4, 9001, DTYPE_BF16, 1});
}

// More rows than a chunk holds: the backward pass computes the logits again.
static void many_rows_in_chunks(void **state)
{
    (void)state;
    check((struct head_case){1031, 3, 13, DTYPE_F32, 1});
}

static void reference_is_the_derivative(void **state)
{
    (void)state;
    struct head_case k = {2, 3, 5, DTYPE_F32, 0.8f};
    float x[6], w[15], g[2] = {0.7f, -1.1f};
    const uint32_t target[2] = {4, 1};
    test_values(x, 6, 1);
    test_values(w, 15, 2);
    struct reference r = reference(&k, x, w, target, g);
    for (int i = 0; i < 6 + 15; i++) {
        float *v = i < 6 ? &x[i] : &w[i - 6], kept = *v, up = kept + 0x1p-8f, down = kept - 0x1p-8f;
        *v = up;
        struct reference a = reference(&k, x, w, target, g);
        *v = down;
        struct reference b = reference(&k, x, w, target, g);
        *v = kept;
        double slope = 0;
        for (int m = 0; m < 2; m++)
            slope += g[m] * (a.logprob[m] - b.logprob[m]) / ((double)up - down);
        REQUIRE_NEAR(i < 6 ? r.dx[i] : r.dw[i - 6], slope, 1e-4);
        free(a.logprob), free(a.entropy), free(a.dx), free(a.dw), free(a.top);
        free(b.logprob), free(b.entropy), free(b.dx), free(b.dw), free(b.top);
    }
    free(r.logprob), free(r.entropy), free(r.dx), free(r.dw), free(r.top);
}

// Rows keep their bits: alone, with others, with and without gradients, in one chunk or another.
static void rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { ROWS = 1030, C = 7, V = 101 };
    float *x = test_random(ROWS * C, 1, 2), *w = test_random(V * C, 2, 2), *g = test_random(ROWS, 3, 1);
    uint32_t *target = test_alloc(ROWS, sizeof *target);
    for (uint32_t m = 0; m < ROWS; m++)
        target[m] = m % V;
    struct weight head = test_weight(DTYPE_F32, V, C, w, false);
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, ROWS, C, x);
    struct nn_logprob all = nn_logprob(t, leaf, &head, test_tensor_u32(ROWS, 1, target), 0.9f);
    REQUIRE_OK(tape_backward(t, all.logprob, test_tensor(DTYPE_F32, ROWS, 1, g), &err));
    bool fresh;
    float *logprob = test_fetch(all.logprob), *entropy = test_fetch(all.entropy);
    float *dx = test_fetch(tape_grad(t, leaf, &fresh));
    test_tape_end(&t);
    static const uint32_t parts[][2] = {{0, 1}, {1023, 3}, {1029, 1}, {500, 37}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        for (int grad = 0; grad < 2; grad++) {
            const uint32_t first = parts[i][0], count = parts[i][1];
            float one[64], dpart[64 * C];
            t = test_tape(grad);
            leaf = test_leaf(t, count, C, x + first * C);
            struct nn_logprob part = nn_logprob(t, leaf, &head, test_tensor_u32(count, 1, target + first), 0.9f);
            test_read(part.logprob, one);
            test_same_bits("logprob of a part", one, logprob + first, count);
            test_read(part.entropy, one);
            test_same_bits("entropy of a part", one, entropy + first, count);
            if (grad) {
                REQUIRE_OK(tape_backward(t, part.logprob, test_tensor(DTYPE_F32, count, 1, g + first), &err));
                test_read(tape_grad(t, leaf, &fresh), dpart);
                test_same_bits("dx of a part", dpart, dx + first * C, count * C);
            }
            test_tape_end(&t);
        }
    free(x), free(w), free(g), free(target), free(logprob), free(entropy), free(dx);
}

// Equal logits: the lowest id. A target outside the vocabulary: NaN. A huge spread: no overflow. NaN stays visible.
static void corners(void **state)
{
    (void)state;
    enum { V = 4200, ROWS = 4 };
    // One input column a row, so that the head's column c gives the logits of row c.
    float *w = test_alloc(V * ROWS, sizeof *w), x[ROWS * ROWS] = {0}, got[ROWS];
    uint32_t top[ROWS];
    const uint32_t target[ROWS] = {4100, V, 17, 5};
    for (int r = 0; r < ROWS; r++)
        x[r * ROWS + r] = 1;
    for (int v = 0; v < V; v++) {
        w[v * ROWS + 0] = v == 77 || v == 4150 ? 3 : 0;
        w[v * ROWS + 2] = v == 17 ? 1e30f : -1e30f;
        w[v * ROWS + 3] = v == 4199 ? NAN : 1;
    }
    struct weight head = test_weight(DTYPE_F32, V, ROWS, w, false);
    for (int r = 0; r < ROWS; r++) { // row by row: a NaN in the head would reach all rows of a product by 0 * NaN
        struct tape *t = test_tape(false);
        if (r != 3) {
            float clean[V * ROWS];
            memcpy(clean, w, sizeof clean);
            for (int v = 0; v < V; v++)
                clean[v * ROWS + 3] = 0;
            head = test_weight(DTYPE_F32, V, ROWS, clean, false);
        } else {
            head = test_weight(DTYPE_F32, V, ROWS, w, false);
        }
        struct nn_logprob out = nn_logprob(t, test_tensor(DTYPE_F32, 1, ROWS, x + r * ROWS), &head,
                                           test_tensor_u32(1, 1, target + r), 1);
        test_read(out.logprob, &got[r]);
        test_read_u32(out.top, &top[r]);
        test_tape_end(&t);
    }
    REQUIRE_INT(top[0], 77);
    REQUIRE_NEAR(got[0], -log(V - 2 + 2 * exp(3)), 1e-5);
    REQUIRE(isnan(got[1]));
    REQUIRE(got[2] == 0 && top[2] == 17);
    REQUIRE(isnan(got[3]));
    free(w);
}

// The next row's logits stand where a target of V would read.
static void a_wild_target_shows(void **state)
{
    (void)state;
    enum { V = 5, C = 2 };
    float x[2 * C] = {1, 2, 3, 4}, w[V * C], got[2];
    test_values(w, V * C, 1);
    struct weight head = test_weight(DTYPE_F32, V, C, w, false);
    struct tape *t = test_tape(false);
    struct nn_logprob out =
        nn_logprob(t, test_tensor(DTYPE_F32, 2, C, x), &head, test_tensor_u32(2, 1, (uint32_t[]){V, 1}), 1);
    test_read(out.logprob, got);
    REQUIRE(isnan(got[0]) && isfinite(got[1]));
    test_tape_end(&t);
}

const struct CMUnitTest cases_logprob[] = {
    cmocka_unit_test(logprobs),
    cmocka_unit_test(many_rows_in_chunks),
    cmocka_unit_test(reference_is_the_derivative),
    cmocka_unit_test(rows_do_not_depend_on_the_batch),
    cmocka_unit_test(corners),
    cmocka_unit_test(a_wild_target_shows),
};
const size_t cases_logprob_count = sizeof cases_logprob / sizeof cases_logprob[0];
