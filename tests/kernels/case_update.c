// nn_update_*: norm, clipping, AdamW.
#include "tests/kernels/guard.h"

// Below, at and past a chunk of 32768; odd; one; two-dimensional ones decay.
static const uint32_t sizes[] = {1, 7, 32768, 32769, 70001, 333};
enum { ITEMS = sizeof sizes / sizeof sizes[0] };

struct model {
    struct nn_update_item items[ITEMS];
    float *g[ITEMS];
    double *w[ITEMS], *m[ITEMS], *v[ITEMS]; // the reference
};

static struct model model_new(float scale, enum dtype half)
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
            k.items[i].copy = test_tensor(half, n, 1, zero);
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
                if (copy[j] != test_rounded(k->items[i].copy.dtype, got[j]))
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
        struct model k = model_new(0.5f, clip == 1 ? DTYPE_F16 : DTYPE_BF16);
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

// Gradients of a loss that was scaled by a power of two make the very step of those that were not, clipped or not; the norm
// is the true one.
static void a_loss_scale_changes_no_bits(void **state)
{
    (void)state;
    for (int clip = 0; clip < 2; clip++) {
        struct model k[2] = {model_new(0.5f, DTYPE_F16), model_new(0.5f, DTYPE_F16)};
        double norm[2];
        for (int scaled = 0; scaled < 2; scaled++) {
            struct nn_update_params p = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f,
                                         .max_grad_norm = clip ? 1.5f : 0, .step = 1, .loss_scale = scaled ? 65536 : 0};
            struct nn_update *u = nn_update_create(test_device, test_arena, k[scaled].items, ITEMS, &err);
            REQUIRE(u);
            for (int i = 0; i < ITEMS && scaled; i++) {
                for (uint32_t j = 0; j < sizes[i]; j++)
                    k[1].g[i][j] *= 65536;
                REQUIRE_OK(tensor_write_floats(test_device, k[1].items[i].grad, k[1].g[i], &err));
            }
            struct tape *t = test_tape(false);
            REQUIRE_OK(nn_update_step(t, u, &p, &norm[scaled], &err));
            test_tape_end(&t);
            nn_update_destroy(&u);
        }
        REQUIRE(norm[0] == norm[1] && norm[0] > 1.5);
        for (int i = 0; i < ITEMS; i++)
            for (int what = 0; what < 4; what++) {
                struct tensor both[2];
                for (int s = 0; s < 2; s++) {
                    const struct nn_update_item *x = &k[s].items[i];
                    both[s] = what == 0 ? x->master : what == 1 ? x->m : what == 2 ? x->v : x->copy;
                }
                if (!both[0].span.address)
                    continue;
                float *a = test_fetch(both[0]), *b = test_fetch(both[1]);
                test_same_bits("scaled and not", b, a, sizes[i]);
                free(a), free(b);
            }
        model_free(&k[0]);
        model_free(&k[1]);
    }
}

// One NaN or infinity anywhere: nothing changes, and the norm says so.
static void a_norm_that_is_no_number_changes_nothing(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        struct model k = model_new(0.5f, DTYPE_BF16);
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
    struct model k = model_new(1, DTYPE_BF16);
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
        struct model k = model_new(3, DTYPE_BF16);
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

// A store in host memory, which notes how far it is written and fails at a wish.
struct host_store {
    uint8_t *bytes;
    uint64_t end, most; // first byte never written; largest piece
    int fail_in;        // calls until one fails; 0: never
};
static bool store_fails(struct host_store *s, struct vireo_error *e)
{
    return s->fail_in > 0 && --s->fail_in == 0 && !vireo_fail(e, VIREO_NO_SPACE, "the store is full");
}
static bool store_read(void *context, uint64_t at, void *to, size_t bytes, struct vireo_error *e)
{
    struct host_store *s = context;
    if (store_fails(s, e))
        return false;
    if (at + bytes > s->end)
        return vireo_fail(e, VIREO_IO, "read past the end");
    s->most = bytes > s->most ? bytes : s->most;
    memcpy(to, s->bytes + at, bytes);
    return true;
}
static bool store_write(void *context, uint64_t at, const void *from, size_t bytes, struct vireo_error *e)
{
    struct host_store *s = context;
    if (store_fails(s, e))
        return false;
    memcpy(s->bytes + at, from, bytes);
    s->end = at + bytes > s->end ? at + bytes : s->end;
    return true;
}

// All values of an item's part to the store or back.
static void move_part(struct host_store *s, const struct nn_update *u, uint32_t item, uint32_t part, float *values,
                      bool in)
{
    uint64_t run;
    for (uint64_t at = 0; at < sizes[item]; at += run) {
        const uint64_t place = nn_update_place(u, item, part, at, &run);
        REQUIRE(run > 0 && at + run <= sizes[item]);
        if (in)
            REQUIRE(store_write(s, place, values + at, run * 4, &err));
        else
            memcpy(values + at, s->bytes + place, run * 4);
    }
}

static void same_part(const char *what, struct tensor want, struct host_store *s, const struct nn_update *u,
                      uint32_t item, uint32_t part)
{
    float *a = test_fetch(want), *b = test_alloc(sizes[item], sizeof *b);
    move_part(s, u, item, part, b, false);
    test_same_bits(what, b, a, sizes[item]);
    free(a), free(b);
}

// The state in a store, window by window, against the state on the device: the same bits after every step, also after
// one that is skipped.
static void a_store_gives_the_same_bits(void **state)
{
    (void)state;
    struct model k = model_new(0.5f, DTYPE_BF16), there = model_new(0.5f, DTYPE_BF16);
    struct host_store s = {.bytes = test_alloc(4 << 20, 1)};
    const struct nn_update_store store = {&s, store_read, store_write};
    for (uint32_t i = 0; i < ITEMS; i++) {
        there.items[i].m.span = there.items[i].v.span = (struct gpu_span){0};
        if (there.items[i].copy.span.address)
            there.items[i].master.span = (struct gpu_span){0};
    }
    struct nn_update *u = nn_update_create(test_device, test_arena, k.items, ITEMS, &err);
    struct nn_update *w = nn_update_create_stored(test_device, test_arena, there.items, ITEMS, &store, &err);
    REQUIRE(u && w);
    float *zero = test_alloc(70001, sizeof *zero);
    for (uint32_t i = 0; i < ITEMS; i++) {
        move_part(&s, w, i, 0, zero, true);
        move_part(&s, w, i, 1, zero, true);
        if (there.items[i].copy.span.address) {
            float *values = test_fetch(k.items[i].master);
            move_part(&s, w, i, 2, values, true);
            free(values);
        }
    }
    free(zero);
    for (uint32_t step = 1; step <= 4; step++) {
        const struct nn_update_params p = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f,
                                           .weight_decay = 0.1f, .max_grad_norm = 1.5f, .step = step};
        for (uint32_t i = 0; i < ITEMS; i++) {
            for (uint32_t j = 0; j < sizes[i]; j++)
                k.g[i][j] = 0.5f * test_value(100 * step + i, j);
            if (step == 3 && i == 4)
                k.g[i][5] = NAN;
            REQUIRE_OK(tensor_write_floats(test_device, k.items[i].grad, k.g[i], &err));
            REQUIRE_OK(tensor_write_floats(test_device, there.items[i].grad, k.g[i], &err));
        }
        double norm[2];
        struct tape *t = test_tape(false);
        REQUIRE_OK(nn_update_step(t, u, &p, &norm[0], &err));
        REQUIRE_OK(nn_update_step(t, w, &p, step == 4 ? NULL : &norm[1], &err));
        test_tape_end(&t);
        REQUIRE(step == 4 || memcmp(&norm[0], &norm[1], sizeof norm[0]) == 0);
        for (uint32_t i = 0; i < ITEMS; i++) {
            same_part("m", k.items[i].m, &s, w, i, 0);
            same_part("v", k.items[i].v, &s, w, i, 1);
            if (there.items[i].copy.span.address)
                same_part("master", k.items[i].master, &s, w, i, 2);
            const bool bf16 = there.items[i].copy.span.address != 0;
            float *a = test_fetch(bf16 ? k.items[i].copy : k.items[i].master);
            float *b = test_fetch(bf16 ? there.items[i].copy : there.items[i].master);
            test_same_bits("weights", b, a, sizes[i]);
            free(a), free(b);
        }
    }
    REQUIRE(s.most <= nn_update_window_bytes(s.end) && s.end > 3 * s.most); // four windows at least
    // Whichever call fails, the step says so.
    for (int call = 1; call <= 6; call++) {
        s.fail_in = call;
        struct tape *t = test_tape(false);
        REQUIRE(!nn_update_step(t, w, &(struct nn_update_params){.lr = 1e-2f, .eps = 1e-8f, .step = 5}, NULL, &err));
        REQUIRE_INT(err.code, VIREO_NO_SPACE);
        test_tape_end(&t);
    }
    nn_update_destroy(&u);
    nn_update_destroy(&w);
    model_free(&k);
    model_free(&there);
    free(s.bytes);
}

const struct CMUnitTest cases_update[] = {
    cmocka_unit_test(steps),
    cmocka_unit_test(a_loss_scale_changes_no_bits),
    cmocka_unit_test(a_norm_that_is_no_number_changes_nothing),
    cmocka_unit_test(zeroes_gradients),
    cmocka_unit_test(a_store_gives_the_same_bits),
    cmocka_unit_test(corners),
};
const size_t cases_update_count = sizeof cases_update / sizeof cases_update[0];
