// Matrices and products with a reference in double: what the cases of nn_gemm share.
#ifndef VIREO_TESTS_KERNELS_PRODUCT_H
#define VIREO_TESTS_KERNELS_PRODUCT_H

#include "tests/kernels/kernels.h"

#include "compute/base/check.h"
#include "compute/nn/gemm_tile.h"

static const char *const product_names[] = {"NT", "NN", "TN"};

// A matrix on host and device: `view` is columns [left, left + columns) of rows [1, 1 + rows) of `whole`, or all of it.
struct matrix {
    uint32_t rows, columns, left, stride, rows_before;
    float *values; // of `whole`, as the device holds them
    struct tensor whole, view;
};

static inline struct matrix matrix_padded(enum dtype type, uint32_t rows, uint32_t columns, uint32_t left, uint32_t right,
                                   uint32_t seed)
{
    struct matrix x = {.rows = rows, .columns = columns, .left = left, .stride = left + columns + right};
    x.rows_before = left + right > 0;
    const uint32_t all_rows = rows + 2 * x.rows_before;
    const size_t n = (size_t)all_rows * x.stride;
    x.values = malloc((n + 1) * sizeof *x.values);
    REQUIRE(x.values);
    test_values(x.values, n, seed);
    test_round_all(type, x.values, n);
    x.whole = x.view = test_tensor(type, all_rows, x.stride, x.values);
    if (x.rows_before)
        x.view = tensor_column_part(tensor_row_part(x.whole, 1, rows), left, columns);
    return x;
}

static inline struct matrix matrix_new(enum dtype type, uint32_t rows, uint32_t columns, uint32_t seed)
{
    return matrix_padded(type, rows, columns, 0, 0, seed);
}

static inline double at(const struct matrix *x, uint32_t row, uint32_t column)
{
    return x->values[(size_t)(row + x->rows_before) * x->stride + x->left + column];
}

// Reads the whole of x, checks that everything outside the view is untouched, returns the view's values (to be freed).
static inline float *read_view(const char *what, const struct matrix *x)
{
    const uint32_t all_rows = x->rows + 2 * x->rows_before;
    float *now = malloc(((size_t)all_rows * x->stride + 1) * sizeof *now);
    float *out = malloc(((size_t)x->rows * x->columns + 1) * sizeof *out);
    REQUIRE(now && out);
    test_read(x->whole, now);
    size_t n = 0;
    for (uint32_t r = 0; r < all_rows; r++)
        for (uint32_t c = 0; c < x->stride; c++) {
            const size_t i = (size_t)r * x->stride + c;
            const bool inside = r >= x->rows_before && r < x->rows_before + x->rows && c >= x->left &&
                                c < x->left + x->columns;
            if (inside)
                out[n++] = now[i];
            else if (memcmp(&now[i], &x->values[i], 4) != 0)
                fail_msg("%s: wrote outside at row %u column %u: %g was %g", what, r, c, now[i], x->values[i]);
        }
    free(now);
    return out;
}

static inline void matrix_free(struct matrix *x)
{
    free(x->values);
    x->values = NULL;
}

// Everything one product takes; entries that are absent have no values.
struct product {
    enum nn_product kind;
    int beta;
    struct matrix a, b, c, bias, residual;
};

static inline double product_element(const struct product *p, uint32_t m, uint32_t n)
{
    const uint32_t k = p->kind == NN_TN ? p->a.rows : p->a.columns;
    double sum = 0;
    for (uint32_t i = 0; i < k; i++)
        sum += (p->kind == NN_TN ? at(&p->a, i, m) : at(&p->a, m, i)) *
               (p->kind == NN_NT ? at(&p->b, n, i) : at(&p->b, i, n));
    if (p->bias.values)
        sum += at(&p->bias, 0, n);
    if (p->residual.values)
        sum += at(&p->residual, m, n);
    if (p->beta)
        sum += at(&p->c, m, n);
    return sum;
}

static inline void product_run(const struct product *p)
{
    struct tape *t = test_tape(false);
    nn_gemm(t, p->kind, p->a.view, p->b.view, p->c.view, p->beta, p->bias.view, p->residual.view);
    test_tape_end(&t);
}

// Runs it and compares with sums in double. A sum of k products in [-1, 1] is rounded k times by 2^-24 of partial sums
// of about sqrt(k) / 3: 2e-8 k covers it. A bf16 C keeps 8 bits, one in fp16 11.
static inline void product_check(const struct product *p, const char *label)
{
    const uint32_t k = p->kind == NN_TN ? p->a.rows : p->a.columns;
    char what[160];
    snprintf(what, sizeof what, "%s %s m=%u n=%u k=%u a=%s b=%s c=%s beta=%d%s%s", label, product_names[p->kind],
             p->c.rows, p->c.columns, k, dtype_name(p->a.view.dtype), dtype_name(p->b.view.dtype),
             dtype_name(p->c.view.dtype), p->beta, p->bias.values ? " bias" : "",
             p->residual.values ? " residual" : "");
    const size_t n = (size_t)p->c.rows * p->c.columns;
    double *wanted = malloc((n + 1) * sizeof *wanted);
    REQUIRE(wanted);
    for (uint32_t i = 0; i < p->c.rows; i++)
        for (uint32_t j = 0; j < p->c.columns; j++)
            wanted[(size_t)i * p->c.columns + j] = product_element(p, i, j);
    product_run(p);
    float *got = read_view(what, &p->c);
    const double half = p->c.view.dtype == DTYPE_BF16 ? 0x1p-8 : p->c.view.dtype == DTYPE_F16 ? 0x1p-11 : 0;
    test_near(what, got, wanted, n, half + 1e-6 + 2e-8 * k);
    free(got);
    free(wanted);
}

static inline void product_free(struct product *p)
{
    struct matrix *all[] = {&p->a, &p->b, &p->c, &p->bias, &p->residual};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        matrix_free(all[i]);
}

static inline struct product product_new(enum nn_product kind, enum dtype at_, enum dtype bt, uint32_t m, uint32_t n,
                                  uint32_t k)
{
    struct product p = {.kind = kind};
    p.a = kind == NN_TN ? matrix_new(at_, k, m, 11) : matrix_new(at_, m, k, 11);
    p.b = kind == NN_NT ? matrix_new(bt, n, k, 12) : matrix_new(bt, k, n, 12);
    p.c = matrix_new(DTYPE_F32, m, n, 13);
    return p;
}

static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
// Of A and B. 16-bit operands of a product have one type.
static const enum dtype pairs[][2] = {{DTYPE_F32, DTYPE_F32},   {DTYPE_F32, DTYPE_BF16}, {DTYPE_BF16, DTYPE_F32},
                                      {DTYPE_BF16, DTYPE_BF16}, {DTYPE_F32, DTYPE_F16},  {DTYPE_F16, DTYPE_F32},
                                      {DTYPE_F16, DTYPE_F16}};

// fp16 is a constant of the kernels that take bf16, and each compiles for seconds: a pair of it is tested with one kind.
static inline bool is_tested(int kind, size_t pair)
{
    enum { FIRST_OF_FP16 = 4 };
    return pair < FIRST_OF_FP16 || pair - FIRST_OF_FP16 == (size_t)kind;
}

static inline float *product_values(const struct product *p)
{
    product_run(p);
    return read_view("bits", &p->c);
}

// The same with VIREO_GEMM set to `kernels`, which the whole program may be run with.
static inline float *product_values_by(const struct product *p, const char *kernels)
{
    const char *now = getenv("VIREO_GEMM");
    char before[32] = "";
    snprintf(before, sizeof before, "%s", now ? now : "");
    setenv("VIREO_GEMM", kernels, 1);
    float *out = product_values(p);
    setenv("VIREO_GEMM", before, 1);
    return out;
}

#endif
