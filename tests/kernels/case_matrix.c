// nn_gemm with both operands in 16 bits: fp16 by the "tile" family, fp16 and bf16 by the "coopmat" family
// where the device has matrix units for them (Mesa's CPU driver has from 26 on).
#include "tests/kernels/kernels.h"

#include "compute/nn/gemm_tile.h"

static const char *const product_names[] = {"NT", "NN", "TN"};

struct product {
    enum nn_product kind;
    enum dtype type, c_type;
    uint32_t m, n, k, stride; // of A and B: elements beyond their width
    float *a, *b, *c, *bias, *residual;
    struct tensor ta, tb, tc, tbias, tresidual;
};

// rows x columns of values that `type` holds, in rows of columns + extra.
static float *values_of(enum dtype type, uint32_t rows, uint32_t columns, uint32_t extra, uint32_t seed, struct tensor *out)
{
    const size_t n = (size_t)rows * (columns + extra);
    float *x = malloc((n + 1) * sizeof *x);
    REQUIRE(x);
    test_values(x, n, seed);
    for (size_t i = 0; i < n; i++)
        x[i] = test_rounded(type, x[i]);
    *out = tensor_column_part(test_tensor(type, rows, columns + extra, x), 0, columns);
    return x;
}

static struct product product_new(enum nn_product kind, enum dtype type, uint32_t m, uint32_t n, uint32_t k, uint32_t extra)
{
    struct product p = {.kind = kind, .type = type, .m = m, .n = n, .k = k, .stride = extra};
    p.a = kind == NN_TN ? values_of(type, k, m, extra, 1, &p.ta) : values_of(type, m, k, extra, 1, &p.ta);
    p.b = kind == NN_NT ? values_of(type, n, k, extra, 2, &p.tb) : values_of(type, k, n, extra, 2, &p.tb);
    p.c = values_of(DTYPE_F32, m, n, 0, 3, &p.tc);
    return p;
}

static void product_free(struct product *p)
{
    float *all[] = {p->a, p->b, p->c, p->bias, p->residual};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

// C of a run by these kernels (VIREO_GEMM).
static float *run(const struct product *p, const char *kernels, int beta)
{
    const char *now = getenv("VIREO_GEMM");
    char before[32];
    snprintf(before, sizeof before, "%s", now ? now : "");
    setenv("VIREO_GEMM", kernels, 1);
    struct tape *t = test_tape(false);
    nn_gemm(t, p->kind, p->ta, p->tb, p->tc, beta, p->tbias, p->tresidual);
    test_tape_end(&t);
    setenv("VIREO_GEMM", before, 1);
    float *out = malloc(((size_t)p->m * p->n + 1) * sizeof *out);
    REQUIRE(out);
    test_read(p->tc, out);
    return out;
}

// With the error of k roundings to f32: see case_linear.c.
static void check(const struct product *p, const char *kernels, int beta)
{
    const size_t n = (size_t)p->m * p->n, a_stride = (p->kind == NN_TN ? p->m : p->k) + p->stride,
                 b_stride = (p->kind == NN_NT ? p->k : p->n) + p->stride;
    double *wanted = malloc((n + 1) * sizeof *wanted);
    REQUIRE(wanted);
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->n; j++) {
            double sum = beta ? p->c[i * p->n + j] : 0;
            for (size_t k = 0; k < p->k; k++)
                sum += (double)p->a[p->kind == NN_TN ? k * a_stride + i : i * a_stride + k] *
                       p->b[p->kind == NN_NT ? j * b_stride + k : k * b_stride + j];
            sum += p->bias ? p->bias[j] : 0;
            sum += p->residual ? p->residual[i * p->n + j] : 0;
            wanted[i * p->n + j] = sum;
        }
    char what[128];
    snprintf(what, sizeof what, "%s %s %s m=%u n=%u k=%u stride=+%u", kernels, product_names[p->kind], dtype_name(p->type),
             p->m, p->n, p->k, p->stride);
    float *got = run(p, kernels, beta);
    test_near(what, got, wanted, n, p->tc.dtype == DTYPE_BF16 ? 0x1p-8 : 1e-6 + 2e-8 * p->k);
    free(got);
    free(wanted);
}

// The kernels to test, by number: "tile", then the tiles of "coopmat" where they run. False: no more.
static bool kernels_at(enum dtype type, int i, char out[16])
{
    snprintf(out, 16, i ? "coopmat-%u" : "tile", (uint8_t)(i - 1));
    return i == 0 ? type == DTYPE_F16
                  : i <= GEMM_COOPMATS && gpu_kernel_runs(test_device, type == DTYPE_F16 ? KERNEL_GEMM_COOPMAT_NT_F16
                                                                                         : KERNEL_GEMM_COOPMAT_NT_BF16);
}

static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16};

static void products_match_double_sums(void **state)
{
    (void)state;
    // m, n, k, elements between rows: whole tiles, past one, a rest of k with and without a tile before, every width of load.
    static const uint32_t shapes[][4] = {{128, 128, 64, 0}, {130, 136, 72, 0}, {131, 135, 33, 1}, {1, 200, 100, 4},
                                         {7, 5, 3, 1},      {200, 12, 36, 4},  {3, 5, 0, 0},      {64, 72, 40, 8}};
    char kernels[16];
    for (int ty = 0; ty < 2; ty++)
        for (int i = ty; i <= GEMM_COOPMATS; i++)
            for (int kind = NN_NT; kind <= NN_TN && kernels_at(types[ty], i, kernels); kind++)
                for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
                    const uint32_t *e = shapes[s];
                    struct product p = product_new(kind, types[ty], e[0], e[1], e[2], e[3]);
                    check(&p, kernels, 0);
                    product_free(&p);
                }
}

static void epilogue_adds_bias_residual_and_old_values(void **state)
{
    (void)state;
    char kernels[16];
    for (int ty = 0; ty < 2; ty++)
        for (int i = ty; i <= GEMM_COOPMATS; i++)
            for (int c = 0; c < 2 && kernels_at(types[ty], i, kernels); c++) {
                const uint32_t m = 70, n = c ? 86 : 67;
                struct product p = product_new(NN_NT, types[ty], m, n, 40, 0);
                p.bias = values_of(c ? types[ty] : DTYPE_F32, 1, n, 0, 4, &p.tbias);
                p.residual = values_of(c ? DTYPE_F32 : types[ty], m, n, 0, 5, &p.tresidual);
                if (c) {
                    free(p.c);
                    p.c = values_of(DTYPE_BF16, m, n, 0, 6, &p.tc);
                }
                check(&p, kernels, 1);
                product_free(&p);
            }
}

// A row has the same bits alone, in any batch, wherever it falls in a tile, by every tile of its family and every layout.
static void rows_have_the_same_bits_in_every_batch(void **state)
{
    (void)state;
    static const uint32_t heights[] = {1, 3, 16, 33, 100};
    char kernels[16];
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (int ty = 0; ty < 2; ty++) {
            const uint32_t m = 168, n = 136, k = 104;
            struct product p = product_new(kind, types[ty], m, n, k, 0), odd = product_new(kind, types[ty], m, n, k, 0);
            // The same values in rows that only single loads fit.
            for (int o = 0; o < 2; o++) {
                const uint32_t rows = o ? (kind == NN_NT ? n : k) : (kind == NN_TN ? k : m);
                const uint32_t columns = o ? (kind == NN_NT ? k : n) : (kind == NN_TN ? m : k);
                float *wide = calloc((size_t)rows * (columns + 1), sizeof *wide);
                REQUIRE(wide);
                for (uint32_t r = 0; r < rows; r++)
                    memcpy(wide + (size_t)r * (columns + 1), (o ? p.b : p.a) + (size_t)r * columns, columns * sizeof *wide);
                *(o ? &odd.tb : &odd.ta) = tensor_column_part(test_tensor(types[ty], rows, columns + 1, wide), 0, columns);
                free(wide);
            }
            float *all = NULL;
            for (int i = 1; i <= GEMM_COOPMATS && kernels_at(types[ty], i, kernels); i++) {
                float *now = run(&p, kernels, 0), *again = run(&odd, kernels, 0);
                if (all)
                    test_same_bits("another tile", now, all, (size_t)m * n);
                test_same_bits("another layout", again, now, (size_t)m * n);
                free(again);
                for (size_t h = 0; h < sizeof heights / sizeof heights[0]; h++) {
                    struct product part = p;
                    part.m = heights[h];
                    part.ta = kind == NN_TN ? tensor_column_part(p.ta, 7, part.m) : tensor_row_part(p.ta, 7, part.m);
                    part.tc = tensor_matrix(test_arena, DTYPE_F32, part.m, n, &err);
                    REQUIRE(part.tc.span.address);
                    again = run(&part, kernels, 0);
                    test_same_bits("another batch", again, now + 7 * (size_t)n, (size_t)part.m * n);
                    free(again);
                }
                free(all);
                all = now;
            }
            free(all);
            product_free(&p);
            product_free(&odd);
        }
}

const struct CMUnitTest cases_matrix[] = {
    cmocka_unit_test(products_match_double_sums),
    cmocka_unit_test(epilogue_adds_bias_residual_and_old_values),
    cmocka_unit_test(rows_have_the_same_bits_in_every_batch),
};
const size_t cases_matrix_count = sizeof cases_matrix / sizeof cases_matrix[0];
