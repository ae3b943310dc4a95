// nn_gemm, nn_column_sum, nn_linear, nn_linear_add.
#include "tests/kernels/kernels.h"

#include "compute/base/check.h"
#include "compute/nn/gemm_tile.h"
#include "shaders/args/gemm.h"

static const char *const product_names[] = {"NT", "NN", "TN"};

// A matrix on host and device: `view` is columns [left, left + columns) of rows [1, 1 + rows) of `whole`, or all of it.
struct matrix {
    uint32_t rows, columns, left, stride, rows_before;
    float *values; // of `whole`, as the device holds them
    struct tensor whole, view;
};

static struct matrix matrix_padded(enum dtype type, uint32_t rows, uint32_t columns, uint32_t left, uint32_t right,
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

static struct matrix matrix_new(enum dtype type, uint32_t rows, uint32_t columns, uint32_t seed)
{
    return matrix_padded(type, rows, columns, 0, 0, seed);
}

static double at(const struct matrix *x, uint32_t row, uint32_t column)
{
    return x->values[(size_t)(row + x->rows_before) * x->stride + x->left + column];
}

// Reads the whole of x, checks that everything outside the view is untouched, returns the view's values (to be freed).
static float *read_view(const char *what, const struct matrix *x)
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

static void matrix_free(struct matrix *x)
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

static double product_element(const struct product *p, uint32_t m, uint32_t n)
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

static void product_run(const struct product *p)
{
    struct tape *t = test_tape(false);
    nn_gemm(t, p->kind, p->a.view, p->b.view, p->c.view, p->beta, p->bias.view, p->residual.view);
    test_tape_end(&t);
}

// Runs it and compares with sums in double. A sum of k products in [-1, 1] is rounded k times by 2^-24 of partial sums
// of about sqrt(k) / 3: 2e-8 k covers it. A bf16 C keeps 8 bits, one in fp16 11.
static void product_check(const struct product *p, const char *label)
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

static void product_free(struct product *p)
{
    struct matrix *all[] = {&p->a, &p->b, &p->c, &p->bias, &p->residual};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        matrix_free(all[i]);
}

static struct product product_new(enum nn_product kind, enum dtype at_, enum dtype bt, uint32_t m, uint32_t n,
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
static bool is_tested(int kind, size_t pair)
{
    enum { FIRST_OF_FP16 = 4 };
    return pair < FIRST_OF_FP16 || pair - FIRST_OF_FP16 == (size_t)kind;
}

static void products_match_double_sums(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {
        {1, 1, 1},    {7, 31, 33},  {16, 16, 4}, {17, 33, 64},  {8, 372, 64}, {33, 48, 101},
        {31, 20, 32}, {2, 1000, 7}, {97, 68, 5}, {130, 96, 13}, {3, 5, 0},    {48, 144, 1000},
    };
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (size_t i = 0; i < VIREO_COUNT(pairs); i++)
            for (size_t s = 0; is_tested(kind, i) && s < sizeof shapes / sizeof shapes[0]; s++) {
                const uint32_t *e = shapes[s];
                struct product p = product_new(kind, pairs[i][0], pairs[i][1], e[0], e[1], e[2]);
                product_check(&p, "plain");
                product_free(&p);
            }
}

// A long sum: more turns than one inner loop of the kernel takes. Mesa 22.3 lets all loops of an invocation together take 65535
// turns, whatever their nesting: there a sum of 262140 terms is the longest.
static void long_sums_are_whole(void **state)
{
    (void)state;
    const uint32_t terms = strstr(gpu_device_caps(test_device)->driver_info, "Mesa 22.") ? 250001 : 300001;
    for (int kind = NN_NT; kind <= NN_TN; kind++) {
        struct product p = product_new(kind, DTYPE_F32, DTYPE_F32, 2, 2, terms);
        // Ones, so that the sum counts the terms exactly.
        const struct matrix *both[] = {&p.a, &p.b};
        for (int i = 0; i < 2; i++) {
            for (size_t e = 0; e < (size_t)both[i]->rows * both[i]->columns; e++)
                both[i]->values[e] = 1;
            REQUIRE_OK(tensor_write_floats(test_device, both[i]->whole, both[i]->values, &err));
        }
        product_run(&p);
        float *got = read_view("long", &p.c);
        for (int i = 0; i < 4; i++)
            REQUIRE_NEAR(got[i], terms, 0);
        free(got);
        product_free(&p);
    }
}

static void epilogue_adds_bias_residual_and_old_values(void **state)
{
    (void)state;
    for (int i = 0; i < 72; i++) {
        const enum dtype c = types[i % 3], extra = types[i / 3 % 3];
        const bool bias = i / 9 & 1, residual = i / 9 >> 1 & 1;
        const uint32_t m = 19, n = 37, k = 24;
        struct product p = {.kind = NN_NT, .beta = i / 9 >> 2 & 1};
        p.a = matrix_new(DTYPE_F32, m, k, 21);
        p.b = matrix_new(DTYPE_F32, n, k, 22);
        p.c = matrix_padded(c, m, n, c == DTYPE_F32 ? 1 : 2, 1, 23); // 16 bits: even stride, whole words
        if (bias)
            p.bias = matrix_padded(extra, 1, n, 3, 2, 24); // an odd first element
        if (residual)
            p.residual = matrix_padded(extra, m, n, 5, 2, 25);
        product_check(&p, "epilogue");
        product_free(&p);
    }
}

// Views with strides, starting at odd elements, and the same layouts through the aligned kernels.
static void strided_views(void **state)
{
    (void)state;
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (size_t i = 0; i < 2 * VIREO_COUNT(pairs); i++) {
            if (!is_tested(kind, i / 2))
                continue;
            const uint32_t m = 21, n = 44, k = 36, left = i & 1 ? 1 : 4, right = i & 1 ? 2 : 4;
            const enum dtype at_ = pairs[i / 2][0], bt = pairs[i / 2][1];
            struct product p = {.kind = kind, .beta = 1};
            p.a = kind == NN_TN ? matrix_padded(at_, k, m, left, right, 31) : matrix_padded(at_, m, k, left, right, 31);
            p.b = kind == NN_NT ? matrix_padded(bt, n, k, left, right, 32) : matrix_padded(bt, k, n, left, right, 32);
            p.c = matrix_padded(DTYPE_F32, m, n, left, right, 33);
            product_check(&p, "strided");
            product_free(&p);
        }
}

// 16-bit C with an odd number of columns: the neighbour in the last word stays.
static void half_result_of_odd_width(void **state)
{
    (void)state;
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (int c = 1; c <= 2; c++)
            for (uint32_t n = 1; n <= 50; n += 7) {
                struct product p = product_new(kind, DTYPE_F32, types[n & 1 ? c : 0], 18, n, 12);
                matrix_free(&p.c);
                p.c = matrix_padded(types[c], 18, n, 2, n % 2 ? 1 : 2, 43);
                product_check(&p, "odd half");
                product_free(&p);
            }
}

static float *product_values(const struct product *p)
{
    product_run(p);
    return read_view("bits", &p->c);
}

// The same with VIREO_GEMM set to `kernels`, which the whole program may be run with.
static float *product_values_by(const struct product *p, const char *kernels)
{
    const char *now = getenv("VIREO_GEMM");
    char before[32] = "";
    snprintf(before, sizeof before, "%s", now ? now : "");
    setenv("VIREO_GEMM", kernels, 1);
    float *out = product_values(p);
    setenv("VIREO_GEMM", before, 1);
    return out;
}

// Beyond the range of fp16 a result is infinite, not clipped; what is halfway to the first value out of it is beyond.
static void fp16_results_overflow_to_infinity(void **state)
{
    (void)state;
    static const float a[] = {65504, 65519.99609375f, 65520, -65520, 1e30f, 2e-8f, 3.1e-8f, NAN};
    static const char *const kernels[] = {"simd", "any", "tile"};
    for (size_t i = 0; i < VIREO_COUNT(kernels); i++) {
        struct product p = product_new(NN_NT, DTYPE_F32, DTYPE_F32, 8, 2, 1);
        matrix_free(&p.c);
        p.c = matrix_new(DTYPE_F16, 8, 2, 5);
        REQUIRE_OK(tensor_write_floats(test_device, p.a.whole, a, &err));
        REQUIRE_OK(tensor_write_floats(test_device, p.b.whole, (float[]){1, 1}, &err));
        float *got = product_values_by(&p, kernels[i]);
        for (int e = 0; e < 8; e++)
            for (int column = 0; column < 2; column++) {
                const float x = got[2 * e + column], wanted = test_rounded(DTYPE_F16, a[e]);
                if (!(isnan(wanted) ? isnan(x) : x == wanted))
                    fail_msg("%s: %.9g in fp16 is %g, not %g", kernels[i], a[e], x, wanted);
            }
        REQUIRE(isinf(got[4]) && isinf(got[6]) && got[0] == 65504);
        free(got);
        product_free(&p);
    }
}

// Row i of op(A) as an operand of its own.
static struct tensor row_of(const struct product *p, uint32_t i)
{
    return p->kind == NN_TN ? tensor_column_part(p->a.view, i, 1) : tensor_row_part(p->a.view, i, 1);
}

// The promise everything rests on: a row has the same bits alone, in a short batch, in a long one, wherever it falls in
// a tile, with any layout's kernel, and whatever columns are computed beside it.
static void rows_have_the_same_bits_in_every_batch(void **state)
{
    (void)state;
    static const uint32_t heights[] = {1, 2, 3, 8, 9, 16, 17, 31, 100};
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (size_t i = 0; i < 2 * VIREO_COUNT(pairs); i++) {
            if (!is_tested(kind, i / 2))
                continue;
            // Aligned for the wide kernels, in both widths of tile, with and without a rest of k.
            const uint32_t m = 200, n = i & 1 ? 48 : 52, k = i & 1 ? 78 : 76;
            struct product p = product_new(kind, pairs[i / 2][0], pairs[i / 2][1], m, n, k);
            float *all = product_values(&p), *again = product_values(&p);
            test_same_bits("twice", again, all, (size_t)m * n);
            free(again);
            again = product_values_by(&p, "any");
            test_same_bits("any layout", again, all, (size_t)m * n);
            free(again);
            for (size_t h = 0; h < sizeof heights / sizeof heights[0]; h++) {
                // Rows from an odd start, so that they fall elsewhere in the tiles.
                const uint32_t first = heights[h] == 100 ? 61 : 5;
                struct product part = p;
                part.a.view = kind == NN_TN ? tensor_column_part(p.a.view, first, heights[h])
                                            : tensor_row_part(p.a.view, first, heights[h]);
                part.c = matrix_new(DTYPE_F32, heights[h], n, 50);
                again = product_values(&part);
                test_same_bits("other batch", again, all + (size_t)first * n, (size_t)heights[h] * n);
                free(again);
                matrix_free(&part.c);
            }
            // One row, one column.
            struct product one = p;
            one.a.view = row_of(&p, 123);
            one.b.view = kind == NN_NT ? tensor_row_part(p.b.view, 47, 1) : tensor_column_part(p.b.view, 47, 1);
            one.c = matrix_new(DTYPE_F32, 1, 1, 51);
            again = product_values(&one);
            test_same_bits("alone", again, all + 123 * (size_t)n + 47, 1);
            free(again);
            matrix_free(&one.c);
            free(all);
            product_free(&p);
        }
}

// The GPUs' kernel, on any device: past one tile in both directions, aligned or not, with a rest of k or a whole number of
// steps, each tile gives the bits of the CPU's kernel. (A CPU driver takes seconds to compile one: two of each.)
static void tiles_have_the_bits_of_the_simd_family(void **state)
{
    (void)state;
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (int i = 0; i < 2; i++) {
            char tile[16];
            snprintf(tile, sizeof tile, "tile-%d", (2 * kind + i) % GEMM_TILES);
            const enum dtype bt = types[i == 0 || kind == NN_TN ? 0 : kind == NN_NT ? 1 : 2];
            struct product p = product_new(kind, DTYPE_F32, bt, 140, i ? 133 : 136, i ? 32 : 52);
            p.bias = matrix_new(DTYPE_F32, 1, p.c.columns, 53);
            float *wanted = product_values_by(&p, "simd"), *got = product_values_by(&p, tile);
            test_same_bits(tile, got, wanted, (size_t)140 * p.c.columns);
            free(got);
            free(wanted);
            product_free(&p);
        }
}

// So does the kernel for few rows: up to one group of them and past it, columns that fill no group, sums with a rest of a tile
// and of a quad, quads that are aligned or not, every pair of types, with bias, residual, old values and a 16-bit C of odd width.
static void few_rows_have_the_bits_of_the_simd_family(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {{1, 64, 128}, {4, 33, 200}, {7, 70, 61}, {2, 31, 3}};
    for (uint32_t i = 0; i < VIREO_COUNT(pairs); i++)
        for (uint32_t s = 0; s < VIREO_COUNT(shapes); s++) {
            const uint32_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            const enum dtype half = pairs[i][0] != DTYPE_F32 ? pairs[i][0] : pairs[i][1] != DTYPE_F32 ? pairs[i][1] : DTYPE_BF16;
            struct product p = product_new(NN_NT, pairs[i][0], pairs[i][1], m, n, k);
            if (s % 2) {
                matrix_free(&p.c);
                p.c = matrix_padded(half, m, n, 0, n % 2, 54);
                p.bias = matrix_new(half, 1, n, 55);
                p.residual = matrix_new(DTYPE_F32, m, n, 56);
                p.beta = 1;
            }
            float *got[2];
            for (int v = 0; v < 2; v++) {
                if (p.beta)
                    REQUIRE_OK(tensor_write_floats(test_device, p.c.whole, p.c.values, &err));
                got[v] = product_values_by(&p, v ? "tile-gemv" : "simd");
            }
            char what[64];
            snprintf(what, sizeof what, "%s %s m=%u n=%u k=%u", dtype_name(pairs[i][0]), dtype_name(pairs[i][1]), m, n, k);
            test_same_bits(what, got[1], got[0], (size_t)m * n);
            free(got[0]);
            free(got[1]);
            product_free(&p);
        }
}

// The tiles for CPU drivers and the general kernel are one product to the last bit, whatever its types, epilogue and
// layout: tiles are chosen by the number of rows, the general kernel by strides.
static void cpu_tiles_have_the_same_bits(void **state)
{
    (void)state;
    static const char *const kernels[] = {"simd-0", "simd-1", "simd-2", "simd-3", "simd-4", "simd-5", "any"};
    // Rows, columns, terms: short of every tile and past the tallest, rests of every kind, blocks of a long TN sum.
    static const uint32_t shapes[][3] = {{7, 5, 3}, {71, 67, 77}, {37, 150, 64}, {9, 34, 1111}};
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (uint32_t i = 0; i < VIREO_COUNT(pairs) + (kind == NN_NT ? 3 : 0); i++) {
            // Each kind has C in f32 and in 16 bits, and each pair of operands meets both. NT of f32 has tiles of its own:
            // there every shape.
            const bool f32 = i >= VIREO_COUNT(pairs);
            if (!f32 && !is_tested(kind, i))
                continue;
            const uint32_t *e = shapes[(i + (uint32_t)kind) % 4];
            const enum dtype at_ = f32 ? DTYPE_F32 : pairs[i][0], bt = f32 ? DTYPE_F32 : pairs[i][1];
            const enum dtype half = i < 4 ? DTYPE_BF16 : DTYPE_F16, ct = (i + (uint32_t)kind) & 1 ? half : DTYPE_F32;
            const enum dtype extra = kind & 1 ? half : DTYPE_F32;
            // Views into wider rows, aligned for loads of 64 bits: there the extent along contiguous memory is a
            // multiple of 4 too, unless it is k. A 16-bit C in whole words.
            const uint32_t m = kind == NN_TN ? (e[0] + 3) / 4 * 4 : e[0], n = kind == NN_NT ? e[1] : (e[1] + 3) / 4 * 4;
            const uint32_t k = e[2], width = kind == NN_TN ? m : k, depth = kind == NN_NT ? k : n;
            struct product p = {.kind = kind, .beta = 1};
            p.a = matrix_padded(at_, kind == NN_TN ? k : m, width, 4, 4 + (4 - width % 4) % 4, 81);
            p.b = matrix_padded(bt, kind == NN_NT ? n : k, depth, 4, 4 + (4 - depth % 4) % 4, 82);
            p.c = matrix_padded(ct, m, n, 2, 2 + n % 2, 83);
            p.bias = matrix_padded(extra, 1, n, 3, 2, 84);
            p.residual = matrix_padded(extra, m, n, 5, 2, 85);
            float *wanted = NULL;
            for (size_t v = 0; v < VIREO_COUNT(kernels); v++) {
                if (p.beta)
                    REQUIRE_OK(tensor_write_floats(test_device, p.c.whole, p.c.values, &err));
                float *got = product_values_by(&p, kernels[v]);
                char what[80];
                snprintf(what, sizeof what, "%s %s %s %s -> %s m=%u n=%u k=%u", kernels[v], product_names[kind],
                         dtype_name(at_), dtype_name(bt), dtype_name(ct), m, n, k);
                if (wanted)
                    test_same_bits(what, got, wanted, (size_t)m * n);
                else
                    wanted = got;
                if (got != wanted)
                    free(got);
            }
            free(wanted);
            product_free(&p);
        }
}

static void column_sums(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {{1, 1}, {0, 3}, {5, 7}, {2047, 9}, {2048, 64}, {2049, 3}, {9001, 33}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            const uint32_t rows = sizes[s][0], columns = sizes[s][1];
            struct matrix x = matrix_padded(DTYPE_F32, rows, columns, 1, 2, 61);
            struct matrix out = matrix_padded(DTYPE_F32, 1, columns, 1, 1, 62);
            double wanted[64];
            for (uint32_t c = 0; c < columns; c++) {
                wanted[c] = accumulate ? at(&out, 0, c) : 0;
                for (uint32_t r = 0; r < rows; r++)
                    wanted[c] += at(&x, r, c);
            }
            struct tape *t = test_tape(false);
            nn_column_sum(t, x.view, out.view, accumulate);
            test_tape_end(&t);
            float *got = read_view("column sum", &out);
            test_near("column sum", got, wanted, columns, 1e-5); // thousands of f32 additions
            free(got);
            matrix_free(&x);
            matrix_free(&out);
        }
}

// Warm-up dispatches every kernel with all arguments zero.
static void zero_arguments_touch_nothing(void **state)
{
    (void)state;
    static const enum gpu_kernel kernels[] = {
        KERNEL_GEMM_NT_F32_F32_TALL, KERNEL_GEMM_NT_F32_F32_LOW, KERNEL_GEMM_NT_F32_BF16_WIDE,
        KERNEL_GEMM_NN_F32_F32_WIDE, KERNEL_GEMM_NN_BF16_BF16_LOW, KERNEL_GEMM_TN_F32_F32_TALL,
        KERNEL_GEMM_NT_F32_F32_ANY, KERNEL_COLUMN_SUM,
    };
    static const struct gemm_args zeros;
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
        if (gpu_kernel_runs(test_device, kernels[i]))
            gpu_dispatch(test_device, kernels[i],
                         &(struct gpu_dispatch){.args = &zeros, .args_bytes = sizeof zeros, .groups = 2});
    uint32_t constants[GEMM_TILE_CONSTANTS];
    gemm_tile_constants(&gemm_tiles[GEMM_TILES - 1], (struct gemm_types){0, 1}, false, constants);
    gpu_dispatch(test_device, KERNEL_GEMM_TILE_NT_F32_F32,
                 &(struct gpu_dispatch){.args = &zeros,
                                        .args_bytes = sizeof zeros,
                                        .constants = constants,
                                        .constant_count = GEMM_TILE_CONSTANTS,
                                        .groups = 2});
    REQUIRE_OK(gpu_finish(test_device, &err));
}

// ---- the op --------------------------------------------------------------------------------------------------------

enum { ROWS = 21, INPUTS = 26, OUTPUTS = 18, WIDER = 40, FIRST = 7 };

// y = [residual +] x[:, FIRST:FIRST+INPUTS] W^T + b as the reference computes it; loss = sum of y * seed.
struct linear_case {
    float x[ROWS * WIDER], w[OUTPUTS * INPUTS], b[OUTPUTS], residual[ROWS * OUTPUTS], seed[ROWS * OUTPUTS];
};

static double case_loss(const struct linear_case *c, double *y)
{
    double loss = 0;
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUTPUTS; o++) {
            double sum = c->b[o] + (double)c->residual[r * OUTPUTS + o];
            for (int i = 0; i < INPUTS; i++)
                sum += (double)c->x[r * WIDER + FIRST + i] * c->w[o * INPUTS + i];
            if (y)
                y[r * OUTPUTS + o] = sum;
            loss += sum * c->seed[r * OUTPUTS + o];
        }
    return loss;
}

// Central difference of the reference's loss by one of its values. The loss is linear in each value: only the rounding
// of the value itself matters, so a wide step is exact.
static double difference(struct linear_case *c, float *value)
{
    const float keep = *value;
    *value = keep + 0.5f;
    const double up = *value, high = case_loss(c, NULL);
    *value = keep - 0.5f;
    const double down = *value, low = case_loss(c, NULL);
    *value = keep;
    return (high - low) / (up - down);
}

static void check_gradient(const char *what, struct linear_case *c, float *values, size_t n, struct tensor grad,
                           double repeats, const float *before)
{
    float got[ROWS * WIDER];
    double wanted[ROWS * WIDER];
    REQUIRE(n <= ROWS * WIDER);
    test_read(grad, got);
    for (size_t i = 0; i < n; i++)
        wanted[i] = repeats * difference(c, &values[i]) + (before ? before[i] : 0);
    test_near(what, got, wanted, n, 1e-5);
}

static void linear_forward_and_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct linear_case c;
        test_values(c.x, ROWS * WIDER, 71);
        test_values(c.w, OUTPUTS * INPUTS, 72);
        test_values(c.b, OUTPUTS, 73);
        test_values(c.residual, ROWS * OUTPUTS, 74);
        test_values(c.seed, ROWS * OUTPUTS, 75);
        test_round_all(types[i], c.w, OUTPUTS * INPUTS);
        struct weight w = test_weight(types[i], OUTPUTS, INPUTS, c.w, true);
        struct weight b = test_weight(DTYPE_F32, 1, OUTPUTS, c.b, true);
        w.bias = &b;

        // Two passes: gradients of parameters add up, those of activations do not.
        for (int pass = 1; pass <= 2; pass++) {
            struct tape *t = test_tape(true);
            struct tensor x = test_leaf(t, ROWS, WIDER, c.x);
            struct tensor residual = test_leaf(t, ROWS, OUTPUTS, c.residual);
            struct tensor y = nn_linear_add(t, tensor_column_part(x, FIRST, INPUTS), &w, residual);
            float got[ROWS * OUTPUTS];
            double wanted[ROWS * OUTPUTS];
            case_loss(&c, wanted);
            test_read(y, got);
            test_near("linear", got, wanted, ROWS * OUTPUTS, 2e-6);

            struct tensor seed = test_tensor(DTYPE_F32, ROWS, OUTPUTS, c.seed);
            REQUIRE_OK(tape_backward(t, y, seed, &err));
            bool fresh;
            struct tensor dx = tape_grad(t, x, &fresh), dr = tape_grad(t, residual, &fresh);
            check_gradient("dx", &c, c.x, ROWS * WIDER, dx, 1, NULL); // zero outside the columns that were used
            check_gradient("dresidual", &c, c.residual, ROWS * OUTPUTS, dr, 1, NULL);
            check_gradient("dw", &c, c.w, OUTPUTS * INPUTS, w.grad, pass, NULL);
            check_gradient("db", &c, c.b, OUTPUTS, b.grad, pass, NULL);
            test_tape_end(&t);
        }
    }
}

// x feeds two layers and is the residual of the second: three contributions to one gradient.
static void gradients_of_a_shared_input_add_up(void **state)
{
    (void)state;
    enum { N = 9, C = 12 };
    float x[N * C], w1[C * C], w2[C * C], g[N * C], got[C * C]; // got: C > N
    double wanted[N * C], h[N * C], dh[N * C];
    test_values(x, N * C, 81);
    test_values(w1, C * C, 82);
    test_values(w2, C * C, 83);
    test_values(g, N * C, 84);
    struct weight a = test_weight(DTYPE_F32, C, C, w1, true), b = test_weight(DTYPE_F32, C, C, w2, false);
    struct tape *t = test_tape(true);
    struct tensor tx = test_leaf(t, N, C, x);
    struct tensor th = nn_linear_add(t, tx, &a, tx);  // h = x + x W1^T
    struct tensor ty = nn_linear_add(t, th, &b, tx);  // y = x + h W2^T; W2 is frozen
    REQUIRE_OK(tape_backward(t, ty, test_tensor(DTYPE_F32, N, C, g), &err));
    for (int r = 0; r < N; r++)
        for (int i = 0; i < C; i++) {
            dh[r * C + i] = 0;
            h[r * C + i] = x[r * C + i];
            for (int o = 0; o < C; o++) {
                dh[r * C + i] += (double)g[r * C + o] * w2[o * C + i];
                h[r * C + i] += (double)x[r * C + o] * w1[i * C + o];
            }
        }
    for (int r = 0; r < N; r++)
        for (int i = 0; i < C; i++) {
            wanted[r * C + i] = g[r * C + i] + dh[r * C + i];
            for (int o = 0; o < C; o++)
                wanted[r * C + i] += dh[r * C + o] * w1[o * C + i];
        }
    bool fresh;
    test_read(tape_grad(t, tx, &fresh), got);
    test_near("dx", got, wanted, N * C, 1e-5);
    double dw[C * C];
    for (int o = 0; o < C; o++)
        for (int i = 0; i < C; i++) {
            dw[o * C + i] = 0;
            for (int r = 0; r < N; r++)
                dw[o * C + i] += dh[r * C + o] * x[r * C + i];
        }
    test_read(a.grad, got);
    test_near("dw1", got, dw, C * C, 1e-5);
    REQUIRE(b.grad.span.address == 0);
    test_tape_end(&t);
}

// Nothing above takes a gradient: the output has no slot and nothing is recorded.
static void frozen_linear_takes_no_gradient(void **state)
{
    (void)state;
    float x[6] = {1, 2, 3, 4, 5, 6}, w[3] = {1, 0, -1};
    struct weight frozen = test_weight(DTYPE_F32, 1, 3, w, false);
    struct tape *t = test_tape(true);
    struct tensor y = nn_linear(t, test_tensor(DTYPE_F32, 2, 3, x), &frozen);
    REQUIRE(!tape_wants_grad(t, y));
    float got[2];
    test_read(y, got);
    REQUIRE_NEAR(got[0], -2, 0);
    REQUIRE_NEAR(got[1], -2, 0);
    test_tape_end(&t);
}

// A row of a layer's output has the same bits in a training batch and in a decode step of any size.
static void linear_rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { N = 300, I = 48, O = 144 };
    static float x[N * I], w[O * I], b[O], all[N * O], part[N * O];
    test_values(x, N * I, 91);
    test_values(w, O * I, 92);
    test_values(b, O, 93);
    for (int i = 0; i < 3; i++) {
        struct weight weight = test_weight(types[i], O, I, w, true), bias = test_weight(DTYPE_F32, 1, O, b, true);
        weight.bias = &bias;
        struct tape *t = test_tape(true);
        struct tensor tx = test_leaf(t, N, I, x);
        test_read(nn_linear(t, tx, &weight), all);
        static const uint32_t parts[][2] = {{0, 1}, {299, 1}, {8, 8}, {13, 7}, {100, 32}, {3, 128}, {1, 299}};
        for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
            struct tape *decode = test_tape(false);
            test_read(nn_linear(decode, tensor_row_part(tx, parts[p][0], parts[p][1]), &weight), part);
            test_same_bits("rows", part, all + parts[p][0] * O, parts[p][1] * O);
            test_tape_end(&decode);
        }
        test_tape_end(&t);
    }
}

const struct CMUnitTest cases_linear[] = {
    cmocka_unit_test(products_match_double_sums),
    cmocka_unit_test(long_sums_are_whole),
    cmocka_unit_test(epilogue_adds_bias_residual_and_old_values),
    cmocka_unit_test(strided_views),
    cmocka_unit_test(half_result_of_odd_width),
    cmocka_unit_test(fp16_results_overflow_to_infinity),
    cmocka_unit_test(rows_have_the_same_bits_in_every_batch),
    cmocka_unit_test(tiles_have_the_bits_of_the_simd_family),
    cmocka_unit_test(few_rows_have_the_bits_of_the_simd_family),
    cmocka_unit_test(cpu_tiles_have_the_same_bits),
    cmocka_unit_test(column_sums),
    cmocka_unit_test(zero_arguments_touch_nothing),
    cmocka_unit_test(linear_forward_and_gradients),
    cmocka_unit_test(gradients_of_a_shared_input_add_up),
    cmocka_unit_test(frozen_linear_takes_no_gradient),
    cmocka_unit_test(linear_rows_do_not_depend_on_the_batch),
};
const size_t cases_linear_count = sizeof cases_linear / sizeof cases_linear[0];
