// Attention: against a double-precision reference and finite differences, and what it refuses.
#include "tests/kernels/attention.h"

static void check(struct problem *p)
{
    size_t n = (size_t)p->rows * p->width;
    double *x = doubles(p->qkv, n);
    reference(p, x, true);
    float *o = calloc(out_count(p), 4), *again = device_forward(p), *g = device_backward(p, NULL, o);
    // f32 sums of a few hundred terms of size one.
    test_near("o", o, p->o, out_count(p), 3e-6);
    test_same_bits("o with and without gradients", o, again, out_count(p));
    test_near("gradient of qkv", g, p->gqkv, n, 2e-5);

    float *start = malloc(n * 4);
    test_values(start, n, 99);
    for (size_t i = 0; i < n; i++)
        p->gqkv[i] += start[i];
    float *added = device_backward(p, start, NULL);
    test_near("gradient of qkv, added", added, p->gqkv, n, 2e-5);
    for (size_t i = 0; i < n; i++)
        start[i] = g[i] + start[i];
    test_same_bits("fresh + start", added, start, n);
    free(x);
    free(o);
    free(again);
    free(g);
    free(start);
    free(added);
    drop(p);
}

static void sizes(void **state)
{
    (void)state;
    struct problem p;
    p = make_group(1, 1, 8, 1, 0, 1); // one row, one key
    check(&p);
    p = make_group(4, 2, 16, 27, 8, 23); // the demo's text
    check(&p);
    p = make_group(6, 2, 32, 45, 3, 19); // three heads a kv head
    check(&p);
    p = make_group(7, 1, 9, 13, 4, 7); // odd head size, one kv head
    check(&p);
    p = make_group(2, 2, 80, 9, 2, 17);
    check(&p);
    p = make_group(2, 1, 128, 8, 2, 9);
    check(&p);
    p = make_windows(4, 12, (uint32_t[]){4, 4, 16, 1, 7, 8, 9, 36, 36, 0});
    check(&p);
    p = make_windows(2, 12, (uint32_t[]){8, 16, 8, 0}); // whole blocks
    check(&p);
}

static void large(void **state)
{
    (void)state;
    struct problem p = make_group(4, 2, 16, 173, 8, 64);
    check(&p);
    p = make_windows(2, 32, (uint32_t[]){576, 64, 64, 0});
    check(&p);
}

// Rows without keys among others, and key rows nobody sees.
static void rows_without_keys(void **state)
{
    (void)state;
    struct problem p = make(4, 2, 16, 37);
    for (uint32_t i = 0; i < p.rows; i++) {
        uint32_t n = i % 3 == 0 ? 0 : i % 3 == 1 ? 1 : 2; // rows 3m alone, 3m+1 and 3m+2 causal
        memcpy(p.query + 4 * i, (uint32_t[]){i % 2 ? 5 : 0xfffffff0u, 0, i / 3 * 3 + 1, n}, 16);
    }
    invert(&p);
    check(&p);

    p = make(2, 1, 12, 11);
    invert(&p); // nobody sees anything
    float *o = malloc(out_count(&p) * 4), *g = device_backward(&p, NULL, o);
    for (size_t i = 0; i < out_count(&p); i++)
        REQUIRE(o[i] == 0 && !signbit(o[i]));
    for (size_t i = 0; i < (size_t)p.rows * p.width; i++)
        REQUIRE(g[i] == 0);
    free(o);
    free(g);
    drop(&p);
}

// Neighbours whose runs agree in some numbers and differ in others, so that every part of "the same rows" counts: first
// such rows made by hand, then random ones.
static void any_runs(void **state)
{
    (void)state;
    static const uint32_t near[][4] = {
        {0, 10, 20, 3}, {0, 0, 10, 13},  // a block in both runs; the same own rows without a prefix
        {0, 11, 21, 3}, {0, 10, 20, 9},  // the prefix ends elsewhere
        {1, 10, 20, 3}, {0, 10, 21, 3},  // it starts elsewhere; the own run does
        {0, 16, 16, 5}, {0, 0, 0, 21},   // the same rows, split or not
        {0, 16, 24, 5}, {8, 16, 24, 5}, {0, 3, 0, 0}, {5, 0, 7, 1},
    };
    for (uint32_t round = 0; round < 6; round++) {
        struct problem p = make(round % 2 ? 4 : 2, 2, 8, 48);
        for (uint32_t i = 0; i < p.rows; i++) {
            uint32_t *s = p.query + 4 * i;
            if (round < 2) {
                memcpy(s, near[(i + i / 12 * round) % 12], 16);
                continue;
            }
            for (uint32_t k = 0; k < 4; k++)
                s[k] = (uint32_t)((test_value(100 + round, 4 * i + k) + 1) * (round < 4 ? 2 : 12)) * (k == 1 ? 4 : 1);
            s[2] = VIREO_MIN(s[2], p.rows - s[3]);
            s[1] = VIREO_MIN(s[1], p.rows - s[0]);
        }
        double *x = doubles(p.qkv, (size_t)p.rows * p.width);
        reference(&p, x, false);
        float *o = device_forward(&p);
        test_near("o", o, p.o, out_count(&p), 3e-6);
        free(x);
        free(o);
        drop(&p);
    }
}

// The device's gradient against central differences of the reference's forward pass.
static void finite_differences(void **state)
{
    (void)state;
    struct problem p = make_group(2, 1, 8, 3, 2, 4);
    size_t n = (size_t)p.rows * p.width;
    float *g = device_backward(&p, NULL, NULL);
    double *x = doubles(p.qkv, n), *numeric = calloc(n, 8), step = 1e-5;
    for (size_t i = 0; i < n; i++) {
        double at = x[i], sum[2] = {0, 0};
        for (int side = 0; side < 2; side++) {
            x[i] = at + (side ? step : -step);
            reference(&p, x, false);
            for (size_t e = 0; e < out_count(&p); e++)
                sum[side] += p.go[e] * p.o[e];
        }
        x[i] = at;
        numeric[i] = (sum[1] - sum[0]) / (2 * step);
    }
    test_near("gradient against differences", g, numeric, n, 1e-6);
    free(g);
    free(x);
    free(numeric);
    drop(&p);
}

// Gradients of a shared prompt are the sum over its completions as if each had its own copy.
static void prompt_gradient_is_the_sum(void **state)
{
    (void)state;
    enum { PROMPT = 14, COMPLETIONS = 4, LENGTH = 11 };
    struct problem p = make_group(4, 2, 16, PROMPT, COMPLETIONS, LENGTH);
    memset(p.go, 0, (size_t)PROMPT * 64 * 4); // the prompt's own rows would count once a copy
    float *packed = device_backward(&p, NULL, NULL);
    double *sum = calloc((size_t)PROMPT * p.width, 8);
    for (uint32_t c = 0; c < COMPLETIONS; c++) {
        struct sequence s = find_sequence(PROMPT, c, LENGTH);
        struct problem alone = make_group(4, 2, 16, PROMPT, 1, s.length);
        memcpy(alone.qkv, p.qkv, (size_t)PROMPT * p.width * 4);
        memcpy(alone.qkv + (size_t)PROMPT * p.width, p.qkv + (size_t)s.own * p.width, (size_t)s.length * p.width * 4);
        memset(alone.go, 0, (size_t)PROMPT * 64 * 4);
        memcpy(alone.go + PROMPT * 64, p.go + (size_t)s.own * 64, (size_t)s.length * 64 * 4);
        float *g = device_backward(&alone, NULL, NULL);
        for (size_t i = 0; i < (size_t)PROMPT * p.width; i++)
            sum[i] += g[i];
        test_same_bits("gradient of the completion", packed + (size_t)s.own * p.width, g + (size_t)PROMPT * p.width,
                       (size_t)s.length * p.width);
        free(g);
        drop(&alone);
    }
    test_near("gradient of the prompt", packed, sum, (size_t)PROMPT * p.width, 5e-6);
    free(packed);
    free(sum);
    drop(&p);
}

static void refuses(void **state)
{
    (void)state;
    struct problem p = make_group(2, 1, 8, 4, 0, 1);
    struct nn_spans s = spans_of(&p);
    struct tensor qkv = test_tensor(DTYPE_F32, p.rows, p.width, p.qkv);
    struct nn_kv kv = {.k = test_tensor(DTYPE_F32, p.rows, 8, p.qkv), .v = test_tensor(DTYPE_F32, p.rows, 8, p.qkv)};
    kv.k.dtype = kv.v.dtype = DTYPE_U32;
    struct tape *t = test_tape(false);
    nn_attention(t, qkv, &p.heads, &s, &kv);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    t = test_tape(false);
    nn_attention(t, qkv, &(struct nn_heads){3, 2, 8, 1}, &s, NULL);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    t = test_tape(false);
    nn_attention(t, qkv, &(struct nn_heads){1, 1, 256, 1}, &s, NULL);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    for (int f16 = 0; f16 < 2; f16++) {
        t = test_tape(false); // two halves share a word
        nn_attention(t, test_tensor(f16 ? DTYPE_F16 : DTYPE_BF16, 2, 9, p.qkv), &(struct nn_heads){1, 1, 3, 1}, &s, NULL);
        REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
        REQUIRE(strstr(err.message, f16 ? "attention over f16" : "attention over bf16"));
    }
    drop(&p);
}

// How kernels are compiled ahead of time: all push constants zero.
static void warms_up(void **state)
{
    (void)state;
    const struct gpu_warm list[] = {
        {.kernel = KERNEL_ATTENTION_FWD, .constants = {16, 2}, .constant_count = 2},
        {.kernel = KERNEL_ATTENTION_FWD, .constants = {16, 1, 1, 1, 1, 1}, .constant_count = 6},
        {.kernel = KERNEL_ATTENTION_FWD, .constants = {16, 1, 1, 2, 2, 2}, .constant_count = 6},
        {.kernel = KERNEL_ATTENTION_BWD_QUERY, .constants = {16, 2}, .constant_count = 2},
        {.kernel = KERNEL_ATTENTION_BWD_KEY, .constants = {16, 2}, .constant_count = 2},
    };
    REQUIRE_OK(gpu_warm_up(test_device, list, VIREO_COUNT(list), &err));
}

const struct CMUnitTest cases_attention[] = {
    cmocka_unit_test(warms_up),
    cmocka_unit_test(sizes),
    cmocka_unit_test(rows_without_keys),
    cmocka_unit_test(any_runs),
    cmocka_unit_test(finite_differences),
    cmocka_unit_test(prompt_gradient_is_the_sum),
    cmocka_unit_test(large),
    cmocka_unit_test(refuses),
};
const size_t cases_attention_count = VIREO_COUNT(cases_attention);
