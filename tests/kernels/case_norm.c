// nn_rms_norm.
#include "tests/kernels/guard.h"

#include "compute/base/check.h"

static const float eps = 1e-6f;

struct norm_case {
    uint32_t rows, columns;
    enum dtype type;
    float scale;
};

// y of one row.
static void norm_row(const double *x, const double *w, uint32_t columns, double *y)
{
    double sum = 0;
    for (uint32_t c = 0; c < columns; c++)
        sum += x[c] * x[c];
    const double r = 1 / sqrt(sum / columns + eps);
    for (uint32_t c = 0; c < columns; c++)
        y[c] = x[c] * r * w[c];
}

// Adds to dx and dw.
static void norm_row_backward(const double *x, const double *w, const double *g, uint32_t columns, double *dx,
                              double *dw)
{
    double sum = 0, mean = 0;
    for (uint32_t c = 0; c < columns; c++)
        sum += x[c] * x[c];
    const double r = 1 / sqrt(sum / columns + eps);
    for (uint32_t c = 0; c < columns; c++)
        mean += g[c] * w[c] * x[c] * r / columns;
    for (uint32_t c = 0; c < columns; c++) {
        dx[c] += r * (g[c] * w[c] - x[c] * r * mean);
        dw[c] += g[c] * x[c] * r;
    }
}

static double *doubles(const float *x, size_t n)
{
    double *y = test_alloc(n, sizeof *y);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i];
    return y;
}

static void check(struct norm_case k)
{
    const size_t n = (size_t)k.rows * k.columns;
    float *x = test_random(n, 1, k.scale), *w = test_random(k.columns, 2, 1), *g = test_random(n, 3, 1);
    test_round_all(k.type, w, k.columns);
    double *dx_ = doubles(x, n), *dw_ = doubles(w, k.columns), *dg = doubles(g, n);
    double *y = test_alloc(n, sizeof *y), *dx = test_alloc(n, sizeof *dx), *dw = test_alloc(k.columns, sizeof *dw);
    for (uint32_t r = 0; r < k.rows; r++) {
        const size_t at = (size_t)r * k.columns;
        norm_row(dx_ + at, dw_, k.columns, y + at);
        norm_row_backward(dx_ + at, dw_, dg + at, k.columns, dx + at, dw);
    }
    struct weight weight = test_weight(k.type, k.columns, 1, w, true);
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, k.rows, k.columns, x), out = nn_rms_norm(t, leaf, &weight, eps);
    REQUIRE_OK(tape_backward(t, out, test_tensor(DTYPE_F32, k.rows, k.columns, g), &err));
    bool fresh;
    struct tensor d = tape_grad(t, leaf, &fresh);
    float *got = test_fetch(out), *gotd = test_fetch(d), *gotw = test_fetch(weight.grad);
    test_near("norm", got, y, n, 1e-6);
    test_near("norm dx", gotd, dx, n, k.scale < 1 ? 1e-5 : 3e-6);
    test_near("norm dw", gotw, dw, k.columns, 1e-5);
    guard_check("norm", out);
    guard_check("norm dx", d);
    test_tape_end(&t);
    free(x), free(w), free(g), free(dx_), free(dw_), free(dg), free(y), free(dx), free(dw);
    free(got), free(gotd), free(gotw);
}

static void norms(void **state)
{
    (void)state;
    static const struct norm_case cases[] = {
        {1, 1, DTYPE_F32, 2},   {3, 31, DTYPE_F32, 2},    {7, 64, DTYPE_BF16, 2},     {65, 33, DTYPE_F32, 2},
        {7, 64, DTYPE_F16, 2},
        {5, 1031, DTYPE_F32, 2}, {201, 48, DTYPE_BF16, 2}, {3, 70, DTYPE_F32, 1e-3f}, // eps counts
        {130, 192, DTYPE_F32, 2}, {66, 36, DTYPE_F32, 2},  {17, 200, DTYPE_BF16, 2}, // whole turns, and a rest
        {5, 1024, DTYPE_F32, 2},  {3, 1028, DTYPE_F32, 2}, // the widest row held, and one wider
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check(cases[i]);
}

// The reference's own derivative against central differences of its forward.
static void reference_is_the_derivative(void **state)
{
    (void)state;
    enum { C = 5 };
    double x[C] = {0.3, -0.8, 1.1, 0.05, -0.4}, w[C] = {1, 0.5, -2, 0.7, 1.3}, g[C] = {0.2, -1, 0.6, 0.9, -0.3};
    double dx[C] = {0}, dw[C] = {0}, up[C], down[C];
    norm_row_backward(x, w, g, C, dx, dw);
    for (int i = 0; i < C; i++) {
        for (int which = 0; which < 2; which++) {
            double *v = which ? w : x, kept = v[i], h = 1e-5, slope = 0;
            v[i] = kept + h;
            norm_row(x, w, C, up);
            v[i] = kept - h;
            norm_row(x, w, C, down);
            v[i] = kept;
            for (int c = 0; c < C; c++)
                slope += g[c] * (up[c] - down[c]) / (2 * h);
            REQUIRE_NEAR(which ? dw[i] : dx[i], slope, 1e-8);
        }
    }
}

static void gradients_add_up(void **state)
{
    (void)state;
    enum { ROWS = 70, C = 17 }; // more rows than one block of the weight's sum
    float x[ROWS * C], w[C], g[ROWS * C], once[ROWS * C], twice[ROWS * C], w1[C], w2[C];
    test_values(x, ROWS * C, 1);
    test_values(w, C, 2);
    test_values(g, ROWS * C, 3);
    for (int uses = 1; uses <= 2; uses++) {
        struct weight weight = test_weight(DTYPE_F32, C, 1, w, true);
        struct tape *t = test_tape(true);
        struct tensor leaf = test_leaf(t, ROWS, C, x), y = nn_rms_norm(t, leaf, &weight, eps);
        if (uses == 2)
            y = nn_add(t, y, nn_rms_norm(t, leaf, &weight, eps));
        REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, ROWS, C, g), &err));
        bool fresh;
        test_read(tape_grad(t, leaf, &fresh), uses == 1 ? once : twice);
        test_read(weight.grad, uses == 1 ? w1 : w2);
        test_tape_end(&t);
    }
    for (int i = 0; i < ROWS * C; i++)
        REQUIRE_NEAR(twice[i], 2 * once[i], 3e-6);
    for (int i = 0; i < C; i++)
        REQUIRE_NEAR(w2[i], 2 * w1[i], 2e-5);
}

// A row has the same bits alone, in a batch, and as a row of a wider matrix.
static void rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { ROWS = 11, C = 203, WIDE = 300 };
    float *x = test_random(ROWS * WIDE, 1, 1), w[C], *rows = test_alloc(ROWS * C, sizeof *rows);
    float *all = test_alloc(ROWS * C, sizeof *all), one[C];
    test_values(w, C, 2);
    for (int r = 0; r < ROWS; r++)
        memcpy(rows + r * C, x + r * WIDE + 50, C * sizeof *rows);
    struct weight weight = test_weight(DTYPE_F32, C, 1, w, false);
    struct tape *t = test_tape(false);
    test_read(nn_rms_norm(t, test_tensor(DTYPE_F32, ROWS, C, rows), &weight, eps), all);
    for (int r = 0; r < ROWS; r += 5) {
        test_read(nn_rms_norm(t, test_tensor(DTYPE_F32, 1, C, rows + r * C), &weight, eps), one);
        test_same_bits("norm alone", one, all + r * C, C);
    }
    float *view = test_alloc(ROWS * C, sizeof *view);
    test_read(nn_rms_norm(t, tensor_column_part(test_tensor(DTYPE_F32, ROWS, WIDE, x), 50, C), &weight, eps), view);
    test_same_bits("norm of a view", view, all, ROWS * C);
    test_tape_end(&t);
    free(x), free(rows), free(all), free(view);
}

// The sum of lib/reduce.glsl: 32 strided partials and a tree, every addition rounded.
static float documented_sum(const float *x, uint32_t n)
{
    float part[32] = {0};
    for (uint32_t i = 0; i < n; i++)
        part[i % 32] += x[i];
    for (uint32_t d = 16; d >= 1; d /= 2)
        for (uint32_t i = 0; i < d; i++)
            part[i] += part[i + d];
    return part[0];
}

// Whole numbers about one that is 2^24 times as large: what is left of them in a sum tells its order. The large one is
// taken away again, by eps forward and by its opposite backward, so that a wrong order is not a matter of a last bit.
// Products and quotients are exact, so that contraction changes nothing.
static void sums_run_as_documented(uint32_t columns)
{
    enum { ROWS = 64 };
    const float large = 0x1p24f;
    const size_t n = (size_t)ROWS * columns;
    float *x = test_alloc(n, sizeof *x), *g = test_alloc(n, sizeof *g), *got = test_alloc(n, sizeof *got);
    float *w = test_alloc(columns, sizeof *w), *terms = test_alloc(columns, sizeof *terms);
    double *y = test_alloc(n, sizeof *y), *dx = test_alloc(n, sizeof *dx);
    for (uint32_t c = 0; c < columns; c++)
        w[c] = 1;
    struct weight weight = test_weight(DTYPE_F32, columns, 1, w, true);
    char what[64];
    // Forward: squares of 1 and 2. The mean is exact where the width is a power of two.
    for (uint32_t r = 0; r < ROWS; r++) {
        float *row = x + (size_t)r * columns;
        for (uint32_t c = 0; c < columns; c++)
            row[c] = test_value(1, r * columns + c) > 0 ? 2 : 1;
        row[5 * r % columns] = sqrtf(large);
        for (uint32_t c = 0; c < columns; c++)
            terms[c] = row[c] * row[c];
        const double rms = sqrt(((double)documented_sum(terms, columns) - (double)large) / columns);
        for (uint32_t c = 0; c < columns; c++)
            y[(size_t)r * columns + c] = row[c] / rms;
    }
    struct tape *t = test_tape(true);
    test_read(nn_rms_norm(t, test_tensor(DTYPE_F32, ROWS, columns, x), &weight, -large / (float)columns), got);
    test_tape_end(&t);
    snprintf(what, sizeof what, "norm of %u columns", columns);
    if ((columns & (columns - 1)) == 0)
        test_near(what, got, y, n, 1e-6);
    // Backward: g w x r, where w, x and r are 1.
    for (uint32_t r = 0; r < ROWS; r++) {
        float *row = g + (size_t)r * columns;
        for (uint32_t c = 0; c < columns; c++) {
            x[(size_t)r * columns + c] = 1;
            row[c] = (float)(int)(8 * test_value(2, r * columns + c));
        }
        row[5 * r % columns] = large;
        row[(11 * r + 1) % columns] -= large;
        const double mean = (double)documented_sum(row, columns) / columns;
        for (uint32_t c = 0; c < columns; c++)
            dx[(size_t)r * columns + c] = row[c] - mean;
    }
    t = test_tape(true);
    struct tensor leaf = test_leaf(t, ROWS, columns, x), out = nn_rms_norm(t, leaf, &weight, 0);
    REQUIRE_OK(tape_backward(t, out, test_tensor(DTYPE_F32, ROWS, columns, g), &err));
    bool fresh;
    test_read(tape_grad(t, leaf, &fresh), got);
    test_tape_end(&t);
    snprintf(what, sizeof what, "norm dx of %u columns", columns);
    test_near(what, got, dx, n, 1e-6);
    free(x), free(g), free(got), free(w), free(terms), free(y), free(dx);
}

static void sums_run_in_the_documented_order(void **state)
{
    (void)state;
    static const uint32_t widths[] = {31, 36, 64, 65, 76, 128, 200, 1024};
    for (size_t i = 0; i < VIREO_COUNT(widths); i++)
        sums_run_as_documented(widths[i]);
}

const struct CMUnitTest cases_norm[] = {
    cmocka_unit_test(norms),
    cmocka_unit_test(reference_is_the_derivative),
    cmocka_unit_test(gradients_add_up),
    cmocka_unit_test(sums_run_in_the_documented_order),
    cmocka_unit_test(rows_do_not_depend_on_the_batch),
};
const size_t cases_norm_count = sizeof cases_norm / sizeof cases_norm[0];
