// nn_add, nn_add_into, nn_fill, nn_convert, nn_swiglu, nn_gelu.
#include "tests/kernels/guard.h"

#include "compute/base/half.h"

// Past the work of one group (32 * subgroup elements), primes, one.
static const uint32_t shapes[][2] = {{1, 1}, {3, 7}, {1, 257}, {13, 129}, {5, 1031}};

static void adds(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
        const uint32_t rows = shapes[k][0], columns = shapes[k][1];
        const size_t n = (size_t)rows * columns;
        float *a = test_random(n, 1, 3), *b = test_random(n, 2, 3), *dy = test_random(n, 3, 1);
        double *want = test_alloc(n, sizeof *want), *want2 = test_alloc(n, sizeof *want2);
        for (size_t i = 0; i < n; i++) {
            want[i] = (double)a[i] + b[i];
            want2[i] = want[i] + b[i];
        }
        struct tape *t = test_tape(true);
        struct tensor ta = test_leaf(t, rows, columns, a), tb = test_leaf(t, rows, columns, b);
        struct tensor y = nn_add(t, ta, tb), g = test_tensor(DTYPE_F32, rows, columns, dy);
        REQUIRE_OK(tape_backward(t, y, g, &err));
        bool fresh;
        struct tensor da = tape_grad(t, ta, &fresh), db = tape_grad(t, tb, &fresh);
        float *got = test_fetch(y);
        test_near("add", got, want, n, 1e-7);
        test_read(da, got);
        test_same_bits("add: da", got, dy, n);
        test_read(db, got);
        test_same_bits("add: db", got, dy, n);
        guard_check("add", y);
        nn_add_into(t, y, tb);
        test_read(y, got);
        test_near("add_into", got, want2, n, 2e-7);
        nn_fill(t, y, -2.5f);
        test_read(y, got);
        for (size_t i = 0; i < n; i++)
            REQUIRE(got[i] == -2.5f);
        guard_check("fill", y);
        test_tape_end(&t);
        free(a), free(b), free(dy), free(want), free(want2), free(got);
    }
}

// x + x: both gradients arrive at the same slot.
static void adds_to_itself(void **state)
{
    (void)state;
    float x[7], dy[7];
    double want[7];
    test_values(x, 7, 1);
    test_values(dy, 7, 2);
    for (int i = 0; i < 7; i++)
        want[i] = 2.0 * dy[i];
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, 1, 7, x), y = nn_add(t, leaf, leaf);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, 1, 7, dy), &err));
    bool fresh;
    float got[7];
    test_read(tape_grad(t, leaf, &fresh), got);
    test_near("x + x", got, want, 7, 1e-7);
    test_tape_end(&t);
}

// b takes the sum's gradient over; what a gets from elsewhere must not reach it.
static void gradients_stay_apart(void **state)
{
    (void)state;
    enum { N = 5 };
    float a[N], b[N], dy[N], got[N];
    test_values(a, N, 1);
    test_values(b, N, 2);
    test_values(dy, N, 3);
    struct tape *t = test_tape(true);
    struct tensor la = test_leaf(t, 1, N, a), lb = test_leaf(t, 1, N, b);
    struct tensor other = nn_gelu(t, la), sum = nn_add(t, nn_add(t, la, lb), other);
    REQUIRE_OK(tape_backward(t, sum, test_tensor(DTYPE_F32, 1, N, dy), &err));
    bool fresh;
    test_read(tape_grad(t, lb, &fresh), got);
    test_same_bits("b of a + b + gelu(a)", got, dy, N);
    test_tape_end(&t);
}

// Column views: only the view changes.
static void views_are_honoured(void **state)
{
    (void)state;
    enum { ROWS = 5, WIDE = 301, LEFT = 4, COLUMNS = 270 };
    float *a = test_random(ROWS * WIDE, 1, 1), *b = test_random(ROWS * COLUMNS, 2, 1);
    struct tape *t = test_tape(false);
    struct tensor ta = test_tensor(DTYPE_F32, ROWS, WIDE, a), tb = test_tensor(DTYPE_F32, ROWS, COLUMNS, b);
    struct tensor view = tensor_column_part(ta, LEFT, COLUMNS);
    nn_add_into(t, view, tb);
    float *got = test_fetch(ta);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < WIDE; c++) {
            const bool inside = c >= LEFT && c < LEFT + COLUMNS;
            const float want = a[r * WIDE + c] + (inside ? b[r * COLUMNS + c - LEFT] : 0);
            REQUIRE(got[r * WIDE + c] == want);
        }
    nn_convert(t, view, tb);
    test_read(ta, got);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < WIDE; c++) {
            const bool inside = c >= LEFT && c < LEFT + COLUMNS;
            REQUIRE(got[r * WIDE + c] == (inside ? b[r * COLUMNS + c - LEFT] : a[r * WIDE + c]));
        }
    test_tape_end(&t);
    free(a), free(b), free(got);
}

static void converts(void **state)
{
    (void)state;
    static const enum dtype types[][2] = {{DTYPE_F32, DTYPE_BF16},
                                          {DTYPE_BF16, DTYPE_F32},
                                          {DTYPE_F32, DTYPE_F32},
                                          {DTYPE_F32, DTYPE_F16},
                                          {DTYPE_F16, DTYPE_F32},
                                          {DTYPE_F16, DTYPE_F16}};
    static const uint32_t counts[] = {1, 2, 255, 1031};
    for (size_t k = 0; k < sizeof types / sizeof types[0]; k++)
        for (size_t j = 0; j < sizeof counts / sizeof counts[0]; j++) {
            const uint32_t n = counts[j];
            float *x = test_random(n, 5, 100), *want = test_alloc(n, sizeof *want);
            x[0] = 1.00390625f; // a tie between two bf16: to even
            for (uint32_t i = 0; i < n; i++)
                want[i] = test_rounded(types[k][1], test_rounded(types[k][0], x[i]));
            struct tape *t = test_tape(false);
            struct tensor from = test_tensor(types[k][0], 1, n, x);
            struct tensor to = tape_new(t, types[k][1], 1, n, false);
            nn_convert(t, to, from);
            float *got = test_fetch(to);
            test_same_bits("convert", got, want, n);
            guard_check("convert", to);
            test_tape_end(&t);
            free(x), free(want), free(got);
        }
}

static void convert_keeps_the_neighbour_of_an_odd_end(void **state)
{
    (void)state;
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[3] = {-1, -2, -3}, got[8];
    struct tape *t = test_tape(false);
    struct tensor to = test_tensor(DTYPE_BF16, 8, 1, x), from = test_tensor(DTYPE_F32, 3, 1, y);
    nn_convert(t, tensor_row_part(to, 2, 3), from);
    test_read(to, got);
    test_same_bits("odd end", got, (float[]){1, 2, -1, -2, -3, 6, 7, 8}, 8);
    nn_convert(t, from, tensor_row_part(to, 3, 3)); // starts in the upper half of a word
    test_read(from, got);
    test_same_bits("odd start", got, (float[]){-2, -3, 6}, 3);
    test_tape_end(&t);
}

static double silu(double a)
{
    return a / (1 + exp(-a));
}

static void swiglus(void **state)
{
    (void)state;
    // Also whole chunks of the wide kernels and rests of them, and more rows than a group does.
    static const uint32_t sizes[][2] = {{1, 1}, {3, 7}, {1, 257}, {13, 129}, {5, 1031}, {7, 344}, {9, 512}, {3, 1540}, {601, 4}};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const uint32_t rows = sizes[k][0], columns = sizes[k][1];
        const size_t n = (size_t)rows * columns;
        float *x = test_random(2 * n, 1, 8), *g = test_random(n, 2, 1);
        double *z = test_alloc(n, sizeof *z), *dx = test_alloc(2 * n, sizeof *dx);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = 0; c < columns; c++) {
                const size_t i = (size_t)r * columns + c, ia = (size_t)r * 2 * columns + c, ib = ia + columns;
                const double a = x[ia], b = x[ib], s = 1 / (1 + exp(-a));
                z[i] = silu(a) * b;
                dx[ia] = g[i] * b * s * (1 + a * (1 - s));
                dx[ib] = g[i] * silu(a);
                const double h = 1e-5;
                REQUIRE_NEAR(dx[ia], g[i] * b * (silu(a + h) - silu(a - h)) / (2 * h), 1e-7);
            }
        struct tape *t = test_tape(true);
        struct tensor leaf = test_leaf(t, rows, 2 * columns, x), y = nn_swiglu(t, leaf);
        REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, rows, columns, g), &err));
        bool fresh;
        struct tensor d = tape_grad(t, leaf, &fresh);
        float *got = test_fetch(y), *gotd = test_fetch(d);
        test_near("swiglu", got, z, n, 2e-6);
        test_near("swiglu dx", gotd, dx, 2 * n, 2e-6);
        guard_check("swiglu", y);
        guard_check("swiglu dx", d);
        test_tape_end(&t);
        free(x), free(g), free(z), free(dx), free(got), free(gotd);
    }
}

// silu far out: 0 on the left (x e^x), x on the right, no NaN.
static void swiglu_far_out(void **state)
{
    (void)state;
    float x[] = {-200, -90, 90, 200, 1, 1, 1, 1}, got[8];
    double want[8] = {0, -90 * exp(-90), 90, 200};
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, 1, 8, x), y = nn_swiglu(t, leaf);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, 1, 4, (float[]){1, 1, 1, 1}), &err));
    test_read(y, got);
    test_near("far swiglu", got, want, 4, 1e-6);
    bool fresh;
    test_read(tape_grad(t, leaf, &fresh), got);
    test_near("far swiglu da", got, (double[]){0, 0, 1, 1}, 4, 1e-6);
    test_tape_end(&t);
}

static double gelu_of(double x)
{
    return 0.5 * x * (1 + erf(x * 0.70710678118654752));
}

// Over [-6, 6], where the error function's pieces meet and where it is flat.
static void gelus(void **state)
{
    (void)state;
    enum { N = 4099 };
    float *x = test_alloc(N, sizeof *x), *g = test_random(N, 2, 1);
    double *y = test_alloc(N, sizeof *y), *dx = test_alloc(N, sizeof *dx);
    for (int i = 0; i < N; i++) {
        x[i] = -6 + 12.0f * (float)i / (N - 1);
        y[i] = gelu_of(x[i]);
        const double phi = 0.39894228040143268 * exp(-0.5 * x[i] * x[i]);
        dx[i] = g[i] * (0.5 * (1 + erf(x[i] * 0.70710678118654752)) + x[i] * phi);
        const double h = 1e-4;
        REQUIRE_NEAR(dx[i], g[i] * (gelu_of(x[i] + h) - gelu_of(x[i] - h)) / (2 * h), 1e-7);
    }
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, 1, N, x), out = nn_gelu(t, leaf);
    // Twice, so that the second gradient is added.
    struct tensor again = nn_gelu(t, leaf), sum = nn_add(t, out, again);
    REQUIRE_OK(tape_backward(t, sum, test_tensor(DTYPE_F32, 1, N, g), &err));
    bool fresh;
    float *got = test_fetch(out), *gotd = test_fetch(tape_grad(t, leaf, &fresh));
    for (int i = 0; i < N; i++)
        dx[i] *= 2;
    test_near("gelu", got, y, N, 4e-7);
    test_near("gelu dx", gotd, dx, N, 1e-6);
    guard_check("gelu", out);
    test_tape_end(&t);
    free(x), free(g), free(y), free(dx), free(got), free(gotd);
}

static void rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { ROWS = 9, COLUMNS = 77 };
    float *x = test_random(ROWS * 2 * COLUMNS, 1, 4), all[ROWS * COLUMNS], one[COLUMNS];
    struct tape *t = test_tape(false);
    test_read(nn_swiglu(t, test_tensor(DTYPE_F32, ROWS, 2 * COLUMNS, x)), all);
    test_read(nn_swiglu(t, test_tensor(DTYPE_F32, 1, 2 * COLUMNS, x + 6 * 2 * COLUMNS)), one);
    test_same_bits("swiglu alone", one, all + 6 * COLUMNS, COLUMNS);
    test_read(nn_gelu(t, test_tensor(DTYPE_F32, ROWS, COLUMNS, x)), all);
    test_read(nn_gelu(t, test_tensor(DTYPE_F32, 1, COLUMNS, x + 6 * COLUMNS)), one);
    test_same_bits("gelu alone", one, all + 6 * COLUMNS, COLUMNS);
    test_tape_end(&t);
    free(x);
}

const struct CMUnitTest cases_elementwise[] = {
    cmocka_unit_test(adds),
    cmocka_unit_test(adds_to_itself),
    cmocka_unit_test(gradients_stay_apart),
    cmocka_unit_test(views_are_honoured),
    cmocka_unit_test(converts),
    cmocka_unit_test(convert_keeps_the_neighbour_of_an_odd_end),
    cmocka_unit_test(swiglus),
    cmocka_unit_test(swiglu_far_out),
    cmocka_unit_test(gelus),
    cmocka_unit_test(rows_do_not_depend_on_the_batch),
};
const size_t cases_elementwise_count = sizeof cases_elementwise / sizeof cases_elementwise[0];
