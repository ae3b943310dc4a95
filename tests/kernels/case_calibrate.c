// nn_calibrate_multiply_adds, nn_calibrate_copy: they do the work that they say they do.
#include "tests/kernels/guard.h"

#include "compute/nn/calibrate.h"

static void multiply_adds(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 31, 257}, turns[] = {0, 1, 5};
    const float a = 0.99f, b = 0.125f;
    for (int k = 0; k < 3; k++) {
        const uint32_t n = counts[k];
        double *want = test_alloc(n, sizeof *want), sum = 0;
        for (int chain = 0; chain < 16; chain++) {
            double x = chain / 16.0;
            for (uint32_t i = 0; i < 8 * turns[k]; i++)
                x = x * (double)a + (double)b;
            sum += x;
        }
        for (uint32_t i = 0; i < n; i++)
            want[i] = sum;
        struct tape *t = test_tape(false);
        struct tensor to = tape_new(t, DTYPE_F32, 1, n, false);
        const double flops = nn_calibrate_multiply_adds(t, to, turns[k], a, b);
        test_tape_end(&t);
        REQUIRE(flops == 256.0 * n * turns[k]);
        float *got = test_fetch(to);
        test_near("multiply-adds", got, want, n, 1e-5);
        guard_check("multiply-adds", to);
        free(want), free(got);
    }
}

static void copies(void **state)
{
    (void)state;
    static const uint32_t counts[] = {4, 252, 1028, 40004};
    for (int k = 0; k < 4; k++) {
        const uint32_t n = counts[k];
        float *x = test_random(n, 7, 1);
        struct tape *t = test_tape(false);
        struct tensor from = test_tensor(DTYPE_F32, 1, n, x), to = tape_new(t, DTYPE_F32, 1, n, false);
        const double bytes = nn_calibrate_copy(t, to, from);
        test_tape_end(&t);
        REQUIRE(bytes == 8.0 * n);
        float *got = test_fetch(to);
        test_same_bits("copy", got, x, n);
        guard_check("copy", to);
        free(x), free(got);
    }
}

const struct CMUnitTest cases_calibrate[] = {
    cmocka_unit_test(multiply_adds),
    cmocka_unit_test(copies),
};
const size_t cases_calibrate_count = sizeof cases_calibrate / sizeof cases_calibrate[0];
