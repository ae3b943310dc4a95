// nn_gemm and nn_column_sum: what they compute, in every type and layout.
#include "tests/kernels/product.h"

#include "shaders/args/gemm.h"

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

const struct CMUnitTest cases_linear_products[] = {
    cmocka_unit_test(products_match_double_sums),
    cmocka_unit_test(long_sums_are_whole),
    cmocka_unit_test(epilogue_adds_bias_residual_and_old_values),
    cmocka_unit_test(strided_views),
    cmocka_unit_test(half_result_of_odd_width),
    cmocka_unit_test(fp16_results_overflow_to_infinity),
    cmocka_unit_test(column_sums),
    cmocka_unit_test(zero_arguments_touch_nothing),
};
const size_t cases_linear_products_count = VIREO_COUNT(cases_linear_products);
