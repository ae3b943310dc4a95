// nn_gemm_swiglu, nn_linear_swiglu: one product that ends in SwiGLU, against the product and the op behind it, bit for bit.
#include "tests/kernels/guard.h"

#include "compute/base/check.h"

static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

// Operands of a product: x [rows, k], w [2 * width, k], and the type of its results.
struct form {
    enum dtype x, w, y;
    uint32_t rows, width, k;
    int bias; // 0 none, 1 f32, 2 of w's type
};

struct operands {
    struct tensor x, w, bias;
};

// Gates come from far below 0, where exp overflows, to far above, and near 0 as well.
static struct operands operands_of(const struct form *f)
{
    struct operands o;
    memset(&o, 0, sizeof o);
    float *x = test_random((size_t)f->rows * f->k, 1, 3), *w = test_random(2 * (size_t)f->width * f->k, 2, 1);
    float *b = test_random(2 * f->width, 3, 2);
    for (uint32_t i = 0; i < f->k; i++) {
        w[i] *= 60;
        x[i] *= 1e-3f;
    }
    o.x = test_tensor(f->x, f->rows, f->k, x);
    o.w = test_tensor(f->w, 2 * f->width, f->k, w);
    if (f->bias)
        o.bias = test_tensor(f->bias == 1 ? DTYPE_F32 : f->w, 2 * f->width, 1, b);
    free(x), free(w), free(b);
    return o;
}

static const char *label(const struct form *f, const char *what)
{
    static char text[200];
    snprintf(text, sizeof text, "%s %s, %s x %s -> %s, rows %u, width %u, k %u, bias %d", getenv("VIREO_GEMM"), what,
             dtype_name(f->x), dtype_name(f->w), dtype_name(f->y), f->rows, f->width, f->k, f->bias);
    return text;
}

// Returns whether the device has the product in one.
static bool compare(const struct form *f)
{
    const struct operands o = operands_of(f);
    const size_t n = (size_t)f->rows * f->width;
    struct tape *t = test_tape_of(f->y, false);
    if (!nn_gemm_takes_swiglu(t, o.x, o.w, f->y)) {
        test_tape_end(&t);
        return false;
    }
    struct tensor y = tape_new(t, f->y, f->rows, 2 * f->width, false);
    nn_gemm(t, NN_NT, o.x, o.w, y, 0, o.bias, (struct tensor){0});
    struct tensor z = nn_swiglu(t, y);
    float *wanted_y = test_fetch(y), *wanted = test_fetch(z);
    for (int stores = 0; stores < 2; stores++) {
        struct tensor c = tape_new(t, f->y, f->rows, 2 * f->width, false), h = tape_new(t, f->y, f->rows, f->width, false);
        const struct tensor shape = {.dtype = f->y, .rank = 2, .shape = {f->rows, 2 * f->width}, .stride = 2 * f->width};
        nn_gemm_swiglu(t, o.x, o.w, o.bias, stores ? c : shape, h);
        float *got = test_fetch(h), *got_y = test_fetch(c);
        test_same_bits(label(f, stores ? "h beside C" : "h alone"), got, wanted, n);
        guard_check("h", h);
        guard_check("C", c);
        if (stores)
            test_same_bits(label(f, "C"), got_y, wanted_y, 2 * n);
        free(got), free(got_y);
    }
    free(wanted_y), free(wanted);
    test_tape_end(&t);
    return true;
}

// Widths that fill no tile, fill one, and go past it, of both families; rows that take each tile of a CPU driver.
static void by_shape(const char *kernels, const enum dtype of[3], const uint32_t *rows, size_t row_count, bool wanted)
{
    static const uint32_t sizes[][2] = {{2, 4}, {32, 12}, {50, 36}, {66, 8}, {130, 20}};
    char before[32];
    const char *now = getenv("VIREO_GEMM");
    snprintf(before, sizeof before, "%s", now ? now : "");
    setenv("VIREO_GEMM", kernels, 1);
    for (size_t r = 0; r < row_count; r++)
        for (size_t s = 0; s < VIREO_COUNT(sizes); s++)
            for (int bias = 0; bias < 3; bias++) {
                const struct form f = {of[0], of[1], of[2], rows[r], sizes[s][0], sizes[s][1], bias};
                if (compare(&f) != wanted)
                    fail_msg("%s", label(&f, wanted ? "is not one product" : "is one product"));
            }
    setenv("VIREO_GEMM", before, 1);
}

static bool runs_tiles(void)
{
    const char *now = getenv("VIREO_GEMM");
    return now && strncmp(now, "tile", 4) == 0;
}

// As models have them: all of one type, and f32 beside weights of 16 bits.
static const enum dtype forms[][3] = {{DTYPE_F32, DTYPE_F32, DTYPE_F32},
                                      {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
                                      {DTYPE_F16, DTYPE_F16, DTYPE_F16},
                                      {DTYPE_F32, DTYPE_BF16, DTYPE_F32}};

static void same_bits_in_every_tile(void **state)
{
    (void)state;
    static const char *const simd[] = {"simd-0", "simd-1", "simd-2", "simd-3", "simd-4", "simd-5"};
    static const char *const tile[] = {"tile-0", "tile-1", "tile-2"};
    static const char *const coopmat[] = {"coopmat-0", "coopmat-1", "coopmat-2"};
    static const uint32_t rows[] = {7, 121, 67, 1};
    for (size_t i = 0; i < VIREO_COUNT(forms); i++) {
        // A tile compiles for seconds: of fp16, a constant of bf16's kernels, and of mixed types not every one is tested.
        const size_t count = i < 2 ? VIREO_COUNT(rows) : i == 2 ? 2 : 1;
        if (i > 0 && i < 3 && gpu_kernel_runs(test_device, i == 1 ? KERNEL_GEMM_COOPMAT_NT_BF16 : KERNEL_GEMM_COOPMAT_NT_F16))
            for (size_t k = 0; k < VIREO_COUNT(coopmat); k++)
                by_shape(coopmat[k], forms[i], rows, count, true);
        if (runs_tiles()) {
            by_shape("tile-gemv", forms[i], rows, count, true);
            for (size_t k = 0; k < (i == 0 ? VIREO_COUNT(tile) : 1); k++)
                by_shape(tile[k], forms[i], rows, count, true);
        } else if (gpu_kernel_runs(test_device, KERNEL_GEMM_NT_F32_F32_TALL)) {
            for (size_t k = 0; i == 0 && k < VIREO_COUNT(simd); k++)
                by_shape(simd[k], forms[i], rows, count, true);
            by_shape("simd", forms[i], rows, count, true); // by the number of rows, each tile at least once
            by_shape("any", forms[i], rows, 1, false);
        }
    }
}

// What one product cannot be is two ops, with the same results: odd widths, rows of any layout.
static void refused_where_it_cannot_be(void **state)
{
    (void)state;
    const struct form odd = {DTYPE_F32, DTYPE_F32, DTYPE_F32, 5, 33, 8, 0}, narrow = {DTYPE_F32, DTYPE_F32, DTYPE_F32, 5, 32, 7, 0};
    REQUIRE(!compare(&odd));
    REQUIRE(compare(&narrow) == runs_tiles()); // their loads take any layout
}

// ---- the op --------------------------------------------------------------------------------------------------------

enum { ROWS = 23, WIDTH = 36, DEEP = 20 };
struct outcome {
    float z[ROWS * WIDTH], dx[ROWS * DEEP], dw[2 * WIDTH * DEEP], db[2 * WIDTH];
};

static void run_op(enum dtype type, bool fused, bool with_bias, uint32_t width, uint32_t deep, struct outcome *out)
{
    float *x = test_random(ROWS * DEEP, 11, 2), *v = test_random(2 * WIDTH * DEEP, 12, 1), *g = test_random(ROWS * WIDTH, 13, 1);
    struct weight w = test_weight(type, 2 * width, deep, v, true), bias = test_weight(type, 2 * width, 1, v, true);
    if (with_bias)
        w.bias = &bias;
    struct tape *t = test_tape_of(type, true);
    struct tensor leaf = test_leaf_of(t, type, ROWS, deep, x);
    struct tensor z = fused ? nn_linear_swiglu(t, leaf, &w) : nn_swiglu(t, nn_linear(t, leaf, &w));
    REQUIRE(!tape_failed(t));
    test_read(z, out->z);
    REQUIRE_OK(tape_backward(t, z, test_tensor(type, ROWS, width, g), &err));
    bool fresh;
    test_read(tape_grad(t, leaf, &fresh), out->dx);
    test_read(w.grad, out->dw);
    test_read(bias.grad, out->db);
    test_tape_end(&t);
    free(x), free(v), free(g);
}

static void gradients_are_those_of_two_ops(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {{WIDTH, DEEP}, {WIDTH, 7}, {34, 9}, {30, 16}, {2, 4}};
    for (size_t i = 0; i < VIREO_COUNT(types) * 2 * VIREO_COUNT(sizes); i++) {
        const enum dtype type = types[i % 3];
        const uint32_t *size = sizes[i / 6];
        if (type != DTYPE_F32 && size[1] % 2 != 0)
            continue; // activations of 16 bits
        static struct outcome two, one;
        memset(&two, 0, sizeof two);
        memset(&one, 0, sizeof one);
        run_op(type, false, i / 3 % 2, size[0], size[1], &two);
        run_op(type, true, i / 3 % 2, size[0], size[1], &one);
        test_same_bits("z", one.z, two.z, ROWS * WIDTH);
        test_same_bits("dx", one.dx, two.dx, ROWS * DEEP);
        test_same_bits("dw", one.dw, two.dw, 2 * WIDTH * DEEP);
        test_same_bits("db", one.db, two.db, 2 * WIDTH);
        float sum = 0;
        for (int e = 0; e < 2 * WIDTH * DEEP; e++)
            sum += fabsf(one.dw[e]);
        REQUIRE(sum > 0);
    }
}

static uint64_t bytes_taken(bool grad, uint32_t width, struct tensor x, const struct weight *w)
{
    const uint64_t before = gpu_arena_used(test_arena);
    struct tape *t = test_tape(grad);
    REQUIRE(tensor_columns(nn_linear_swiglu(t, x, w)) == width);
    test_tape_end(&t);
    return gpu_arena_used(test_arena) - before;
}

// Without a backward pass gate and up take no memory.
static void gate_and_up_are_stored_for_gradients_alone(void **state)
{
    (void)state;
    enum { N = 64, I = 256, K = 32 };
    float *x = test_random(N * K, 1, 1), *v = test_random(2 * I * K, 2, 1);
    struct weight w = test_weight(DTYPE_F32, 2 * I, K, v, true);
    struct tensor input = test_tensor(DTYPE_F32, N, K, x);
    REQUIRE_INT(bytes_taken(false, I, input, &w), N * I * 4);
    REQUIRE_INT(bytes_taken(true, I, input, &w), 3 * N * I * 4);
    free(x), free(v);
}

const struct CMUnitTest cases_linear_swiglu[] = {
    cmocka_unit_test(same_bits_in_every_tile),
    cmocka_unit_test(refused_where_it_cannot_be),
    cmocka_unit_test(gradients_are_those_of_two_ops),
    cmocka_unit_test(gate_and_up_are_stored_for_gradients_alone),
};
const size_t cases_linear_swiglu_count = sizeof cases_linear_swiglu / sizeof cases_linear_swiglu[0];
