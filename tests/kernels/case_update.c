// nn_update_*: norm, clipping, AdamW.
#include "tests/kernels/guard.h"

#include "compute/base/half.h"

// Below, at and past a chunk of 32768; odd; one; two-dimensional ones decay.
static const uint32_t sizes[] = {1, 7, 32768, 32769, 70001, 333};
enum { ITEMS = sizeof sizes / sizeof sizes[0] };

struct model {
    struct nn_update_item items[ITEMS];
    float *g[ITEMS];
    double *w[ITEMS], *m[ITEMS], *v[ITEMS]; // the reference
};

static struct model model_new(float scale)
{
    struct model k = {0};
    for (uint32_t i = 0; i < ITEMS; i++) {
        const uint32_t n = sizes[i];
        float *w = test_random(n, 10 + i, 1), *zero = test_alloc(n, sizeof *zero);
        k.g[i] = test_random(n, 20 + i, scale);
        k.w[i] = test_alloc(n, sizeof(double));
        k.m[i] = test_alloc(n, sizeof(double));
        k.v[i] = test_alloc(n, sizeof(double));
        for (uint32_t j = 0; j < n; j++)
            k.w[i][j] = w[j];
        k.items[i] = (struct nn_update_item){
            .master = test_tensor(DTYPE_F32, n, 1, w),
            .grad = test_tensor(DTYPE_F32, n, 1, k.g[i]),
            .m = test_tensor(DTYPE_F32, n, 1, zero),
            .v = test_tensor(DTYPE_F32, n, 1, zero),
            .decay = i % 2 == 0,
        };
        if (i != 2)
            k.items[i].copy = test_tensor(DTYPE_BF16, n, 1, zero);
        free(w), free(zero);
    }
    return k;
}

static void model_free(struct model *k)
{
    for (int i = 0; i < ITEMS; i++)
        free(k->g[i]), free(k->w[i]), free(k->m[i]), free(k->v[i]);
}

static double reference_step(struct model *k, const struct nn_update_params *p)
{
    double sum = 0;
    for (int i = 0; i < ITEMS; i++)
        for (uint32_t j = 0; j < sizes[i]; j++)
            sum += (double)k->g[i][j] * k->g[i][j];
    const double norm = sqrt(sum);
    double scale = p->max_grad_norm > 0 ? p->max_grad_norm / (norm + 1e-6) : 1;
    scale = scale < 1 ? scale : 1;
    for (int i = 0; i < ITEMS; i++)
        for (uint32_t j = 0; j < sizes[i]; j++) {
            const double g = k->g[i][j] * scale;
            if (k->items[i].decay)
                k->w[i][j] *= 1 - (double)p->lr * p->weight_decay;
            k->m[i][j] = p->beta1 * k->m[i][j] + (1 - (double)p->beta1) * g;
            k->v[i][j] = p->beta2 * k->v[i][j] + (1 - (double)p->beta2) * g * g;
            const double m = k->m[i][j] / (1 - pow(p->beta1, p->step)), v = k->v[i][j] / (1 - pow(p->beta2, p->step));
            k->w[i][j] -= p->lr * m / (sqrt(v) + p->eps);
        }
    return norm;
}

static void compare(const struct model *k)
{
    for (int i = 0; i < ITEMS; i++) {
        float *got = test_fetch(k->items[i].master);
        test_near("weights", got, k->w[i], sizes[i], 1e-6);
        guard_check("weights", k->items[i].master);
        if (k->items[i].copy.span.address) {
            float *copy = test_fetch(k->items[i].copy);
            for (uint32_t j = 0; j < sizes[i]; j++)
                if (copy[j] != bf16_to_float(float_to_bf16(got[j])))
                    fail_msg("copy of item %d at %u: %g from %g", i, j, copy[j], got[j]);
            guard_check("copy", k->items[i].copy);
            free(copy);
        }
        test_read(k->items[i].m, got);
        test_near("first moments", got, k->m[i], sizes[i], 1e-6);
        test_read(k->items[i].v, got);
        test_near("second moments", got, k->v[i], sizes[i], 1e-6);
        free(got);
    }
}

// Three steps, with clipping and without, with new gradients each.
static void steps(void **state)
{
    (void)state;
    static const float clips[] = {0, 1.5f, 1e6f}; // off, in force, not reached
    for (int clip = 0; clip < 3; clip++) {
        struct model k = model_new(0.5f);
        struct nn_update *u = nn_update_create(test_device, test_arena, k.items, ITEMS, &err);
        REQUIRE(u);
        for (uint32_t step = 1; step <= 3; step++) {
            const struct nn_update_params p = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
                                               .weight_decay = 0.1f, .max_grad_norm = clips[clip], .step = step};
            for (int i = 0; i < ITEMS; i++) {
                for (uint32_t j = 0; j < sizes[i]; j++)
                    k.g[i][j] = 0.5f * test_value(100 * step + (uint32_t)i, j);
                REQUIRE_OK(tensor_write_floats(test_device, k.items[i].grad, k.g[i], &err));
            }
            const double want = reference_step(&k, &p);
            double norm;
            struct tape *t = test_tape(false);
            REQUIRE_OK(nn_update_step(t, u, &p, &norm, &err));
            test_tape_end(&t);
            REQUIRE_NEAR(norm / want, 1, 1e-6);
            compare(&k);
        }
        nn_update_destroy(&u);
        model_free(&k);
    }
}

// One NaN or infinity anywhere: nothing changes, and the norm says so.
static void a_norm_that_is_no_number_changes_nothing(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        struct model k = model_new(0.5f);
        struct nn_update *u = nn_update_create(test_device, test_arena, k.items, ITEMS, &err);
        REQUIRE(u);
        k.g[4][70000] = bad[b];
        REQUIRE_OK(tensor_write_floats(test_device, k.items[4].grad, k.g[4], &err));
        double norm = 0;
        struct tape *t = test_tape(false);
        REQUIRE_OK(nn_update_step(t, u,
                                  &(struct nn_update_params){.lr = 1, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
                                                             .weight_decay = 0.1f, .max_grad_norm = 1, .step = 1},
                                  &norm, &err));
        test_tape_end(&t);
        REQUIRE(!isfinite(norm));
        for (int i = 0; i < ITEMS; i++) { // the reference took no step either
            float *got = test_fetch(k.items[i].master);
            test_near("untouched weights", got, k.w[i], sizes[i], 0);
            test_read(k.items[i].m, got);
            test_near("untouched moments", got, k.m[i], sizes[i], 0);
            test_read(k.items[i].v, got);
            test_near("untouched moments", got, k.v[i], sizes[i], 0);
            if (k.items[i].copy.span.address) {
                test_read(k.items[i].copy, got);
                test_near("untouched copy", got, k.m[i], sizes[i], 0);
            }
            free(got);
        }
        nn_update_destroy(&u);
        model_free(&k);
    }
}

static void zeroes_gradients(void **state)
{
    (void)state;
    struct model k = model_new(1);
    struct nn_update *u = nn_update_create(test_device, test_arena, k.items, ITEMS, &err);
    REQUIRE(u);
    struct tape *t = test_tape(false);
    nn_update_zero_grad(t, u);
    test_tape_end(&t);
    for (int i = 0; i < ITEMS; i++) {
        float *got = test_fetch(k.items[i].grad);
        for (uint32_t j = 0; j < sizes[i]; j++)
            REQUIRE(got[j] == 0);
        guard_check("zeroed gradient", k.items[i].grad);
        free(got);
    }
    nn_update_destroy(&u);
    model_free(&k);
}

// The same step twice gives the same bits; nothing to train is fine.
static void corners(void **state)
{
    (void)state;
    float *first = NULL;
    for (int run = 0; run < 2; run++) {
        struct model k = model_new(3);
        struct nn_update *u = nn_update_create(test_device, test_arena, k.items, ITEMS, &err);
        REQUIRE(u);
        struct tape *t = test_tape(false);
        REQUIRE_OK(nn_update_step(t, u,
                                  &(struct nn_update_params){.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f,
                                                             .max_grad_norm = 1, .step = 5},
                                  NULL, &err));
        test_tape_end(&t);
        float *got = test_fetch(k.items[4].master);
        if (first)
            test_same_bits("the same step", got, first, sizes[4]);
        free(first);
        first = got;
        nn_update_destroy(&u);
        model_free(&k);
    }
    free(first);
    struct nn_update *none = nn_update_create(test_device, test_arena, NULL, 0, &err);
    REQUIRE(none);
    struct tape *t = test_tape(false);
    double norm = 1;
    nn_update_zero_grad(t, none);
    REQUIRE_OK(nn_update_step(t, none, &(struct nn_update_params){.step = 1}, &norm, &err));
    REQUIRE(norm == 0);
    test_tape_end(&t);
    nn_update_destroy(&none);
    REQUIRE(!none);
}

const struct CMUnitTest cases_update[] = {
    cmocka_unit_test(steps),
    cmocka_unit_test(a_norm_that_is_no_number_changes_nothing),
    cmocka_unit_test(zeroes_gradients),
    cmocka_unit_test(corners),
};
const size_t cases_update_count = sizeof cases_update / sizeof cases_update[0];
