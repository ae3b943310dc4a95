// Runs the op tests of every family on one device (see kernels.h). Exit 77: no device.
#include "tests/kernels/kernels.h"

#include "compute/base/half.h"
#include "compute/base/philox.h"
#include "tests/nullgpu/created.h"

struct gpu_device *test_device;
struct gpu_arena *test_arena, *test_upload;
struct vireo_error err;

struct tape *test_tape_of(enum dtype activations, bool grad)
{
    const struct tape_params p = {
        .arena = test_arena, .upload = test_upload, .grad = grad, .activations = activations};
    struct tape *t = tape_create(test_device, &p, &err);
    REQUIRE(t);
    return t;
}

struct tape *test_tape(bool grad)
{
    return test_tape_of(DTYPE_F32, grad);
}

void test_tape_end(struct tape **t)
{
    if (!tape_finish(t, &err))
        fail_msg("tape: %s", err.message);
    REQUIRE_OK(gpu_finish(test_device, &err));
}

float test_value(uint32_t seed, uint32_t i)
{
    return 2 * philox_unit(philox(seed, i, 0, 0, 0).v[0]) - 1;
}

float test_rounded(enum dtype type, float x)
{
    return type == DTYPE_BF16  ? bf16_to_float(float_to_bf16(x))
           : type == DTYPE_F16 ? fp16_to_float(float_to_fp16(x))
                               : x;
}

void test_round_all(enum dtype type, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = test_rounded(type, x[i]);
}

void test_values(float *out, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        out[i] = test_value(seed, (uint32_t)i);
}

struct tensor test_tensor(enum dtype type, uint32_t rows, uint32_t columns, const float *values)
{
    struct tensor x = tensor_matrix(test_arena, type, rows, columns, &err);
    if (!x.span.address)
        fail_msg("%s", err.message);
    REQUIRE_OK(tensor_write_floats(test_device, x, values, &err));
    return x;
}

struct tensor test_tensor_u32(uint32_t rows, uint32_t columns, const uint32_t *values)
{
    struct tensor x = tensor_matrix(test_arena, DTYPE_U32, rows, columns, &err);
    if (!x.span.address)
        fail_msg("%s", err.message);
    REQUIRE_OK(gpu_write(test_device, x.span, values, tensor_count(x) * 4, &err));
    return x;
}

void test_read(struct tensor x, float *out)
{
    REQUIRE_OK(tensor_read_floats(test_device, x, out, &err));
}

void test_read_u32(struct tensor x, uint32_t *out)
{
    REQUIRE_OK(gpu_read(test_device, x.span, out, tensor_count(x) * 4, &err));
}

struct weight test_weight(enum dtype type, uint32_t rows, uint32_t columns, const float *values, bool grad)
{
    struct weight w = {.name = "test", .value = test_tensor(type, rows, columns, values)};
    if (grad) {
        w.grad = tensor_matrix(test_arena, DTYPE_F32, rows, columns, &err);
        REQUIRE(w.grad.span.address);
        gpu_fill(test_device, w.grad.span, 0, tensor_bytes(w.grad));
    }
    return w;
}

void test_near(const char *what, const float *a, const double *b, size_t n, double tolerance)
{
    double worst = 0;
    size_t place = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - b[i]) / (1 + fabs(b[i]));
        if (!(e <= worst)) { // NaN lands here too
            worst = e;
            place = i;
            if (isnan(e))
                break;
        }
    }
    if (!(worst <= tolerance))
        fail_msg("%s: element %zu of %zu is %.9g, expected %.9g (error %.3g, tolerance %.3g)", what, place, n, a[place],
                 b[place], worst, tolerance);
}

void test_same_bits(const char *what, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], 4) != 0)
            fail_msg("%s: element %zu of %zu: %a against %a", what, i, n, a[i], b[i]);
}

struct tensor test_leaf(struct tape *t, uint32_t rows, uint32_t columns, const float *values)
{
    return test_leaf_of(t, DTYPE_F32, rows, columns, values);
}

struct tensor test_leaf_of(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns, const float *values)
{
    struct tensor x = tape_new(t, type, rows, columns, true);
    REQUIRE(x.span.address);
    REQUIRE_OK(tensor_write_floats(test_device, x, values, &err));
    return x;
}

#define X(family, part)                                                                                               \
    extern const struct CMUnitTest cases_##part[];                                                                    \
    extern const size_t cases_##part##_count;
#include "tests/kernels/case_list.h"
#undef X

static const struct {
    const char *name;
    const struct CMUnitTest *tests;
    const size_t *count;
} families[] = {
#define X(family, part) {#family, cases_##part, &cases_##part##_count},
#include "tests/kernels/case_list.h"
#undef X
};

static int rewind_arenas(void **state)
{
    (void)state;
    vireo_fail(&err, VIREO_OK, "none");
    if (!gpu_finish(test_device, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    gpu_arena_rewind(test_arena, 0);
    gpu_arena_rewind(test_upload, 0);
    return 0;
}

int main(int argc, char **argv)
{
    struct gpu_device_params p = {.select = getenv("VIREO_DEVICE"), .cache_folder = getenv("VIREO_CACHE"), .poison = true};
    test_device = gpu_device_create(&p, &err);
    if (!test_device) {
        printf("no device: %s\n", err.message);
        return 77;
    }
    printf("device: %s\n", gpu_device_caps(test_device)->name);
    test_arena = gpu_arena_create(test_device, &(struct gpu_arena_params){.name = "test", .grows = true}, &err);
    test_upload = gpu_arena_create(
        test_device, &(struct gpu_arena_params){.name = "upload", .memory = GPU_MEMORY_UPLOAD, .grows = true}, &err);
    if (!test_arena || !test_upload) {
        printf("%s\n", err.message);
        return 1;
    }
    static struct CMUnitTest all[512];
    size_t count = 0;
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++) {
        bool wanted = argc < 2; // arguments name families
        for (int i = 1; i < argc; i++)
            wanted = wanted || strcmp(argv[i], families[f].name) == 0;
        for (size_t i = 0; wanted && i < *families[f].count && count < sizeof all / sizeof all[0]; i++) {
            all[count] = families[f].tests[i];
            all[count].setup_func = rewind_arenas;
            count++;
        }
    }
    int failed = _cmocka_run_group_tests("kernels", all, count, NULL, NULL);
    if (gpu_device_messages(test_device) != 0) {
        printf("validation layers: %llu messages\n", (unsigned long long)gpu_device_messages(test_device));
        failed++;
    }
    failed += created_unknown(test_device);
    gpu_arena_destroy(&test_arena);
    gpu_arena_destroy(&test_upload);
    gpu_device_destroy(&test_device);
    return failed;
}
