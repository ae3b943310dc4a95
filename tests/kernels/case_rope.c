// Rotary embedding: against a double-precision reference, its gradient as the inverse rotation, the store into the
// pool.
#include "tests/kernels/kernels.h"

#include "compute/base/check.h"

#include "shaders/args/rope.h"

struct problem {
    struct nn_heads heads;
    struct nn_rope rope;
    uint32_t rows, width, table_rows;
    uint32_t *positions;
    float *table, *x;
};

static struct problem make(struct nn_heads h, uint32_t rows, const uint32_t section[3], bool restart)
{
    uint32_t half = h.head_dim / 2, widest = VIREO_MAX(VIREO_MAX(section[0], section[1]), section[2]);
    struct problem p = {
        .heads = h,
        .rope = {.frequencies = restart ? widest : half, .restart = restart},
        .rows = rows,
        .width = (h.heads + 2 * h.kv_heads) * h.head_dim,
        .table_rows = 50,
    };
    memcpy(p.rope.section, section, sizeof p.rope.section);
    p.positions = calloc(rows, 16);
    p.table = calloc(p.table_rows, 8 * p.rope.frequencies);
    p.x = calloc((size_t)rows * p.width, 4);
    REQUIRE(p.positions && p.table && p.x);
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t a = 0; a < 4; a++)
            p.positions[4 * i + a] = a == 3 ? 0xffffffffu : (7 * i + 13 * a) % p.table_rows;
    nn_rope_table(10000, 2 * p.rope.frequencies, p.rope.frequencies, p.table_rows, false, p.table);
    test_values(p.x, (size_t)rows * p.width, rows);
    return p;
}

static void upload(struct problem *p)
{
    p->rope.table = test_tensor(DTYPE_F32, p->table_rows, 2 * p->rope.frequencies, p->table);
    p->rope.positions = test_tensor_u32(p->rows, 4, p->positions);
}

static void drop(struct problem *p)
{
    free(p->positions);
    free(p->table);
    free(p->x);
}

// out = x with the q and k columns rotated by `sign` times the angle, in double, angles from the formula itself.
static double *reference(const struct problem *p, const float *x, int sign)
{
    uint32_t half = p->heads.head_dim / 2;
    double *out = calloc((size_t)p->rows * p->width, 8);
    REQUIRE(out);
    for (size_t i = 0; i < (size_t)p->rows * p->width; i++)
        out[i] = x[i];
    for (uint32_t i = 0; i < p->rows; i++)
        for (uint32_t h = 0; h < p->heads.heads + p->heads.kv_heads; h++)
            for (uint32_t k = 0, axis = 0, start = 0; k < half; k++) {
                while (k >= start + p->rope.section[axis])
                    start += p->rope.section[axis++];
                uint32_t f = p->rope.restart ? k - start : k;
                double angle = p->positions[4 * i + axis] * pow(10000, -(double)f / p->rope.frequencies);
                size_t at = (size_t)i * p->width + h * 2 * half + k;
                double a = x[at], b = x[at + half], c = cos(angle), s = sign * sin(angle);
                out[at] = a * c - b * s;
                out[at + half] = b * c + a * s;
            }
    return out;
}

static void check(struct problem p)
{
    size_t n = (size_t)p.rows * p.width;
    upload(&p);
    struct tape *t = test_tape(true);
    struct tensor x = test_leaf(t, p.rows, p.width, p.x);
    struct tensor y = nn_rope_store(t, x, &p.heads, &p.rope, NULL);
    REQUIRE(y.span.address == x.span.address && y.node == x.node);
    float *out = calloc(n, 4), *seed = calloc(n, 4);
    test_read(y, out);
    double *wanted = reference(&p, p.x, 1);
    test_near("rotated", out, wanted, n, 3e-6); // angles up to 49 in f32
    free(wanted);

    test_values(seed, n, 5);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, p.rows, p.width, seed), &err));
    bool fresh;
    test_read(tape_grad(t, x, &fresh), out);
    wanted = reference(&p, seed, -1);
    test_near("gradient", out, wanted, n, 3e-6);
    test_tape_end(&t);
    free(wanted);
    free(out);
    free(seed);
    drop(&p);
}

static void rotates_and_back(void **state)
{
    (void)state;
    check(make((struct nn_heads){1, 1, 2, 1}, 1, (uint32_t[]){1, 0, 0}, false));
    check(make((struct nn_heads){4, 2, 16, 1}, 37, (uint32_t[]){2, 3, 3}, false));
    check(make((struct nn_heads){4, 4, 12, 1}, 36, (uint32_t[]){3, 3, 0}, true));
    check(make((struct nn_heads){2, 2, 80, 1}, 7, (uint32_t[]){20, 20, 0}, true));
    check(make((struct nn_heads){6, 2, 128, 1}, 5, (uint32_t[]){16, 24, 24}, false));
    check(make((struct nn_heads){4, 2, 16, 1}, 700, (uint32_t[]){8, 0, 0}, false));
    check(make((struct nn_heads){3, 1, 10, 1}, 9, (uint32_t[]){0, 0, 5}, false));
}

// The gradient of sum(seed * y) by central differences of the device's own forward pass.
static void finite_differences(void **state)
{
    (void)state;
    struct problem p = make((struct nn_heads){1, 1, 4, 1}, 3, (uint32_t[]){1, 1, 0}, false);
    size_t n = (size_t)p.rows * p.width;
    upload(&p);
    float *seed = calloc(n, 4), *gradient = calloc(n, 4), *out = calloc(n, 4);
    double *numeric = calloc(n, 8);
    test_values(seed, n, 6);
    struct tape *t = test_tape(true);
    struct tensor y = nn_rope_store(t, test_leaf(t, p.rows, p.width, p.x), &p.heads, &p.rope, NULL);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, p.rows, p.width, seed), &err));
    bool fresh;
    test_read(tape_grad(t, y, &fresh), gradient);
    test_tape_end(&t);
    for (size_t i = 0; i < n; i++) {
        float at = p.x[i];
        for (int side = -1; side <= 1; side += 2) {
            p.x[i] = at + (float)side; // linear: any step
            t = test_tape(false);
            test_read(nn_rope_store(t, test_tensor(DTYPE_F32, p.rows, p.width, p.x), &p.heads, &p.rope, NULL), out);
            test_tape_end(&t);
            for (size_t e = 0; e < n; e++)
                numeric[i] += side * 0.5 * (double)seed[e] * (double)out[e];
        }
        p.x[i] = at;
    }
    test_near("gradient against differences", gradient, numeric, n, 2e-6);
    free(seed);
    free(gradient);
    free(out);
    free(numeric);
    drop(&p);
}

static void stores_keys_and_values(void **state)
{
    (void)state;
    struct problem p = make((struct nn_heads){4, 2, 16, 1}, 21, (uint32_t[]){2, 3, 3}, false);
    uint32_t kv_width = 32, slots = 40, slot[21];
    for (uint32_t i = 0; i < p.rows; i++)
        slot[i] = i % 4 == 1 ? ROPE_SKIP : (11 * i + 3) % slots;
    upload(&p);
    float *before = calloc((size_t)slots * kv_width, 4), *k = calloc((size_t)slots * kv_width, 4),
          *v = calloc((size_t)slots * kv_width, 4), *out = calloc((size_t)p.rows * p.width, 4),
          *plain = calloc((size_t)p.rows * p.width, 4);
    test_values(before, (size_t)slots * kv_width, 3);
    // Fences of a row or two around the pools: where a skipped row would land.
    struct nn_kv kv = {.slot = test_tensor_u32(p.rows, 1, slot)};
    struct tensor fence[3];
    fence[0] = test_tensor(DTYPE_F32, 2, kv_width, before);
    kv.k = test_tensor(DTYPE_F32, slots, kv_width, before);
    fence[1] = test_tensor(DTYPE_F32, 2, kv_width, before);
    kv.v = test_tensor(DTYPE_F32, slots, kv_width, before);
    fence[2] = test_tensor(DTYPE_F32, 2, kv_width, before);
    struct tape *t = test_tape(false);
    test_read(nn_rope_store(t, test_tensor(DTYPE_F32, p.rows, p.width, p.x), &p.heads, &p.rope, NULL), plain);
    test_read(nn_rope_store(t, test_tensor(DTYPE_F32, p.rows, p.width, p.x), &p.heads, &p.rope, &kv), out);
    test_same_bits("rotated with and without a store", out, plain, (size_t)p.rows * p.width);
    test_read(kv.k, k);
    test_read(kv.v, v);
    for (int i = 0; i < 3; i++) {
        float kept[64];
        test_read(fence[i], kept);
        test_same_bits("fence", kept, before, 64);
    }
    test_tape_end(&t);
    for (uint32_t s = 0; s < slots; s++) {
        const float *wanted_k = before + s * kv_width, *wanted_v = wanted_k;
        for (uint32_t i = 0; i < p.rows; i++)
            if (slot[i] == s) {
                wanted_k = out + (size_t)i * p.width + 64;
                wanted_v = p.x + (size_t)i * p.width + 96;
            }
        test_same_bits("k of the slot", k + s * kv_width, wanted_k, kv_width);
        test_same_bits("v of the slot", v + s * kv_width, wanted_v, kv_width);
    }
    free(before);
    free(k);
    free(v);
    free(out);
    free(plain);
    drop(&p);
}

// A row's bits do not depend on its place or its neighbours.
static void bits_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    struct problem p = make((struct nn_heads){4, 2, 12, 1}, 31, (uint32_t[]){2, 2, 2}, false);
    upload(&p);
    float *all = calloc((size_t)p.rows * p.width, 4), *one = calloc(p.width, 4);
    struct tape *t = test_tape(false);
    test_read(nn_rope_store(t, test_tensor(DTYPE_F32, p.rows, p.width, p.x), &p.heads, &p.rope, NULL), all);
    for (uint32_t i = 0; i < p.rows; i++) {
        struct nn_rope rope = p.rope;
        rope.positions = test_tensor_u32(1, 4, p.positions + 4 * i);
        struct tensor x = test_tensor(DTYPE_F32, 1, p.width, p.x + (size_t)i * p.width);
        test_read(nn_rope_store(t, x, &p.heads, &rope, NULL), one);
        test_same_bits("row alone", one, all + (size_t)i * p.width, p.width);
    }
    test_tape_end(&t);
    free(all);
    free(one);
    drop(&p);
}

// The table follows the formula in float32 operations.
static void table(void **state)
{
    (void)state;
    float out[5 * 8];
    nn_rope_table(1e6f, 8, 4, 5, false, out);
    for (uint32_t p = 0; p < 5; p++)
        for (uint32_t f = 0; f < 4; f++) {
            float inverse = 1.0f / powf(1e6f, (float)f / 4);
            REQUIRE_NEAR(out[8 * p + f], cos((double)((float)p * inverse)), 1e-7);
            REQUIRE_NEAR(out[8 * p + 4 + f], sin((double)((float)p * inverse)), 1e-7);
        }
}

static void refuses(void **state)
{
    (void)state;
    struct problem p = make((struct nn_heads){2, 1, 8, 1}, 3, (uint32_t[]){1, 1, 2}, false);
    upload(&p);
    struct tensor x = test_tensor(DTYPE_F32, p.rows, p.width, p.x);
    struct nn_rope wrong = p.rope;
    wrong.section[2] = 1;
    struct tape *t = test_tape(false);
    nn_rope_store(t, x, &p.heads, &wrong, NULL);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_INVALID);
    struct nn_kv kv = {
        .k = test_tensor(DTYPE_F32, 3, 8, p.x),
        .v = test_tensor(DTYPE_F32, 3, 8, p.x),
        .slot = test_tensor_u32(3, 1, (uint32_t[]){0, 1, 2}),
    };
    kv.k.dtype = kv.v.dtype = DTYPE_U32;
    t = test_tape(false);
    nn_rope_store(t, x, &p.heads, &p.rope, &kv);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    drop(&p);
}

static void warms_up(void **state)
{
    (void)state;
    REQUIRE_OK(gpu_warm_up(test_device, &(struct gpu_warm){.kernel = KERNEL_ROPE}, 1, &err));
}

const struct CMUnitTest cases_rope[] = {
    cmocka_unit_test(warms_up),
    cmocka_unit_test(rotates_and_back),
    cmocka_unit_test(finite_differences),
    cmocka_unit_test(stores_keys_and_values),
    cmocka_unit_test(bits_do_not_depend_on_the_batch),
    cmocka_unit_test(table),
    cmocka_unit_test(refuses),
};
const size_t cases_rope_count = VIREO_COUNT(cases_rope);
