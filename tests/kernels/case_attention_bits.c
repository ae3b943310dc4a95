// Attention: the promise that the bits of a row depend on nothing but its own keys in their order; storage in 16 bits.
#include "tests/kernels/attention.h"

// The bits of a completion's rows are the same packed behind a shared prompt, alone, split elsewhere into prefix and
// own run, among other rows, and read from a pool, one query a dispatch.
static void same_bits(uint32_t heads, uint32_t kv_heads, uint32_t head_dim)
{
    enum { PROMPT = 29, COMPLETIONS = 5, LENGTH = 21 };
    struct problem p = make_group(heads, kv_heads, head_dim, PROMPT, COMPLETIONS, LENGTH);
    uint32_t out_width = heads * head_dim;
    float *packed = device_forward(&p), *trained = malloc(out_count(&p) * 4);
    free(device_backward(&p, NULL, trained));
    test_same_bits("on a tape with gradients", packed, trained, out_count(&p));

    for (uint32_t c = 0; c < COMPLETIONS; c++) {
        struct sequence s = find_sequence(PROMPT, c, LENGTH);
        uint32_t total = PROMPT + s.length;
        // Alone in its own buffer behind `pad` other rows, split into prefix and own run at `cut`.
        for (uint32_t cut = 0; cut <= PROMPT; cut += c == 1 ? 1 : PROMPT - 3) {
            uint32_t pad = cut % 5;
            struct problem alone = make(heads, kv_heads, head_dim, pad + total);
            for (uint32_t i = 0; i < total; i++) {
                uint32_t from = i < PROMPT ? i : s.own + i - PROMPT, shared = VIREO_MIN(cut, i + 1);
                memcpy(alone.qkv + (size_t)(pad + i) * p.width, p.qkv + (size_t)from * p.width, p.width * 4);
                memcpy(alone.query + 4 * (pad + i), (uint32_t[]){pad, shared, pad + shared, i + 1 - shared}, 16);
            }
            float *o = device_forward(&alone);
            test_same_bits("prompt alone", o + (size_t)pad * out_width, packed, (size_t)PROMPT * out_width);
            test_same_bits("completion alone", o + (size_t)(pad + PROMPT) * out_width,
                           packed + (size_t)s.own * out_width, (size_t)s.length * out_width);
            free(o);
            drop(&alone);
        }
    }

    // Decode: step i asks all completions that are that long for one row each, in an order that changes, with keys in a
    // pool whose slots lie elsewhere; what no sequence owns is NaN.
    uint32_t kv_width = kv_heads * head_dim, slots = 300, prompt_slot = 231, own_slot[COMPLETIONS];
    float *k = malloc((size_t)slots * kv_width * 4), *v = malloc((size_t)slots * kv_width * 4);
    for (size_t i = 0; i < (size_t)slots * kv_width; i++)
        k[i] = v[i] = NAN;
    for (uint32_t c = 0; c <= COMPLETIONS; c++) {
        struct sequence s = find_sequence(PROMPT, VIREO_MIN(c, COMPLETIONS - 1), LENGTH);
        uint32_t n = c < COMPLETIONS ? s.length : PROMPT, first = c < COMPLETIONS ? s.own : 0;
        uint32_t slot = c < COMPLETIONS ? (own_slot[c] = 200 - 40 * c) : prompt_slot;
        for (uint32_t i = 0; i < n; i++) {
            const float *row = p.qkv + (size_t)(first + i) * p.width;
            memcpy(k + (size_t)(slot + i) * kv_width, row + out_width, kv_width * 4);
            memcpy(v + (size_t)(slot + i) * kv_width, row + out_width + kv_width, kv_width * 4);
        }
    }
    struct nn_kv kv = {
        .k = test_tensor(DTYPE_F32, slots, kv_width, k),
        .v = test_tensor(DTYPE_F32, slots, kv_width, v),
    };
    for (uint32_t i = 0; i < LENGTH; i++) {
        struct problem step = make(heads, kv_heads, head_dim, COMPLETIONS);
        uint32_t rows = 0, from[COMPLETIONS];
        for (uint32_t n = 0; n < COMPLETIONS; n++) {
            uint32_t c = (n + i) % COMPLETIONS;
            struct sequence s = find_sequence(PROMPT, c, LENGTH);
            if (i >= s.length)
                continue;
            from[rows] = s.own + i;
            memcpy(step.qkv + (size_t)rows * p.width, p.qkv + (size_t)from[rows] * p.width, out_width * 4);
            memcpy(step.query + 4 * rows, (uint32_t[]){prompt_slot, PROMPT, own_slot[c], i + 1}, 16);
            rows++;
        }
        step.rows = rows;
        struct tape *t = test_tape(false);
        struct nn_spans spans = spans_of(&step);
        struct tensor o = nn_attention(t, test_tensor(DTYPE_F32, rows, p.width, step.qkv), &p.heads, &spans, &kv);
        float *out = malloc((size_t)rows * out_width * 4);
        test_read(o, out);
        test_tape_end(&t);
        for (uint32_t r = 0; r < rows; r++)
            test_same_bits("decode", out + (size_t)r * out_width, packed + (size_t)from[r] * out_width, out_width);
        free(out);
        drop(&step);
    }
    free(k);
    free(v);
    free(packed);
    free(trained);
    drop(&p);
}

static void bits_do_not_depend_on_packing(void **state)
{
    (void)state;
    same_bits(4, 2, 16);
    same_bits(6, 2, 32);
    same_bits(3, 3, 12);
    same_bits(2, 1, 15);
}

// Half of the storage, the same sums: o is the f32 result rounded once, also out of a pool in either type; gradients
// differ from the reference by roundings alone.
static void stored_in(enum dtype half, double gradient_error)
{
    static const uint32_t shapes[][5] = {
        {4, 2, 16, 37, 25}, {3, 1, 6, 13, 9}, {2, 2, 80, 9, 17}, {2, 1, 128, 8, 9}, {4, 4, 12, 29, 21},
    };
    for (size_t i = 0; i < VIREO_COUNT(shapes); i++) {
        const uint32_t *s = shapes[i];
        struct problem p = make_group(s[0], s[1], s[2], s[3], 3, s[4]);
        const size_t n = (size_t)p.rows * p.width, out = out_count(&p);
        const uint32_t out_width = s[0] * s[2], kv_width = s[1] * s[2];
        test_round_all(half, p.qkv, n);
        test_round_all(half, p.go, out);
        float *exact = device_forward(&p), *start = malloc(n * 4);
        test_round_all(half, exact, out);
        storage = half;
        float *o = device_forward(&p), *trained = malloc(out * 4), *g = device_backward(&p, NULL, trained);
        test_same_bits("o in 16 bits", o, exact, out);
        test_same_bits("o in 16 bits with gradients", trained, exact, out);
        double *x = doubles(p.qkv, n);
        reference(&p, x, true);
        test_near("gradient in 16 bits", g, p.gqkv, n, gradient_error);
        test_values(start, n, 99);
        test_round_all(half, start, n);
        for (size_t e = 0; e < n; e++)
            p.gqkv[e] += start[e];
        float *added = device_backward(&p, start, NULL);
        test_near("gradient in 16 bits, added", added, p.gqkv, n, 1.5 * gradient_error);

        // The same key rows in a pool, of either type, beside qkv of either type.
        float *k = malloc((size_t)p.rows * kv_width * 4), *v = malloc((size_t)p.rows * kv_width * 4);
        for (uint32_t r = 0; r < p.rows; r++) {
            memcpy(k + (size_t)r * kv_width, p.qkv + (size_t)r * p.width + out_width, kv_width * 4);
            memcpy(v + (size_t)r * kv_width, p.qkv + (size_t)r * p.width + out_width + kv_width, kv_width * 4);
        }
        for (int c = 0; c < 4; c++) {
            const enum dtype type = c & 1 ? half : DTYPE_F32, pool = c & 2 ? half : DTYPE_F32;
            struct nn_kv kv = {
                .k = test_tensor(pool, p.rows, kv_width, k),
                .v = test_tensor(pool, p.rows, kv_width, v),
            };
            struct tape *t = test_tape(false);
            struct nn_spans spans = spans_of(&p);
            test_read(nn_attention(t, test_tensor(type, p.rows, p.width, p.qkv), &p.heads, &spans, &kv), trained);
            test_tape_end(&t);
            test_round_all(half, trained, out); // f32 results become those of 16 bits
            test_same_bits("o out of a pool", trained, exact, out);
        }
        storage = DTYPE_F32;
        free(k);
        free(v);
        free(x);
        free(exact);
        free(start);
        free(o);
        free(trained);
        free(g);
        free(added);
        drop(&p);
    }
}

static void bf16_storage(void **state)
{
    (void)state;
    stored_in(DTYPE_BF16, 8e-3);
}

static void fp16_storage(void **state)
{
    (void)state;
    stored_in(DTYPE_F16, 1e-3); // three more bits
}

static void bits_do_not_depend_on_the_tile(void **state)
{
    (void)state;
    static const char *const kinds[] = {"any", "simd-1", "simd-2", "simd-3", "simd-4"};
    const char *kept = getenv("VIREO_ATTENTION");
    // Where the other family is the device's own (GPUs, and lavapipe before Mesa 25), "simd" has to be asked for.
    const struct gpu_caps *caps = gpu_device_caps(test_device);
    unsigned mesa = 0;
    const bool old = sscanf(caps->driver_info, "Mesa %u", &mesa) == 1 && mesa < 25;
    const bool tiles = kept && kept[0] ? strcmp(kept, "tile") == 0 : caps->type != GPU_CPU || old;
    char before[32], whole[32];
    snprintf(whole, sizeof whole, "%s", kept ? kept : "");
    snprintf(before, sizeof before, "%s", tiles ? "simd-1" : whole);
    setenv("VIREO_ATTENTION", before, 1);
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (size_t b = 0; b < VIREO_COUNT(types); b++) {
        struct problem p = make_group(6, 2, 16, 37, 3, 25);
        storage = types[b];
        float *o = device_forward(&p), *g = device_backward(&p, NULL, NULL);
        for (size_t i = 0; i < VIREO_COUNT(kinds); i++) {
            setenv("VIREO_ATTENTION", kinds[i], 1);
            float *other_o = device_forward(&p), *other_g = device_backward(&p, NULL, NULL);
            test_same_bits("o", other_o, o, out_count(&p));
            test_same_bits("gradient", other_g, g, (size_t)p.rows * p.width);
            free(other_o);
            free(other_g);
            setenv("VIREO_ATTENTION", before, 1);
        }
        pairs_scale = 0;
        float *short_o = device_forward(&p);
        pairs_scale = 1;
        test_same_bits("o, short rows", short_o, o, out_count(&p));
        free(short_o);
        free(o);
        free(g);
        drop(&p);
    }
    storage = DTYPE_F32;
    setenv("VIREO_ATTENTION", whole, 1);
}

// The same packed rows in a batch of several groups, at other places.
static void bits_do_not_depend_on_neighbours(void **state)
{
    (void)state;
    struct problem one = make_group(4, 2, 16, 11, 3, 9);
    float *wanted = device_forward(&one), *gradient = device_backward(&one, NULL, NULL);
    for (uint32_t before = 1; before < 20; before += 6) {
        struct problem many = make(4, 2, 16, before + one.rows + 13);
        lay_group(&many, 0, before, 0, 1);
        lay_group(&many, before + one.rows, 5, 1, 8);
        uint32_t at = lay_group(&many, before, 11, 3, 9);
        REQUIRE_INT(at, before + one.rows);
        invert(&many);
        memcpy(many.qkv + (size_t)before * one.width, one.qkv, (size_t)one.rows * one.width * 4);
        memcpy(many.go + (size_t)before * 64, one.go, (size_t)one.rows * 64 * 4);
        float *o = device_forward(&many), *g = device_backward(&many, NULL, NULL);
        test_same_bits("o among others", o + (size_t)before * 64, wanted, out_count(&one));
        test_same_bits("gradient among others", g + (size_t)before * one.width, gradient, (size_t)one.rows * one.width);
        free(o);
        free(g);
        drop(&many);
    }
    free(wanted);
    free(gradient);
    drop(&one);
}

// What is not finite reaches the rows that see it, all of them, and nobody else: forward and backward.
static void broken_keys_stay_where_they_are_seen(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct problem p = make_group(4, 2, 16, 10, 3, 9);
    float *wanted = device_forward(&p), *gradient = device_backward(&p, NULL, NULL);
    struct sequence s = find_sequence(10, 1, 9);
    for (uint32_t place = 0; place < 2; place++) // a value, a key
        for (uint32_t b = 0; b < 3; b++) {
            uint32_t row = s.own + 1, column = place ? 64 + 3 : 64 + 32 + 5; // kv head 0: query heads 0 and 1
            float *x = &p.qkv[(size_t)row * p.width + column], kept = *x;
            *x = bad[b];
            float *o = device_forward(&p), *g = device_backward(&p, NULL, NULL);
            for (uint32_t i = 0; i < p.rows; i++) {
                bool sees = i >= row && i < s.own + s.length;
                if (!sees)
                    test_same_bits("o that does not see it", o + 64 * i, wanted + 64 * i, 64);
                test_same_bits("heads that do not use it", o + 64 * i + 32, wanted + 64 * i + 32, 32);
                bool broken = false;
                for (uint32_t d = 0; d < 16; d++)
                    broken = broken || !isfinite(o[64 * i + d]);
                // An infinite key may also win or lose the softmax outright.
                REQUIRE(broken == sees || (place == 1 && bad[b] == bad[b] && sees));
                size_t at = (size_t)i * p.width;
                if (!sees)
                    test_same_bits("gradient of q that does not see it", g + at, gradient + at, 64);
                if (i < s.own && i >= 10) // another completion
                    test_same_bits("gradient that does not see it", g + at, gradient + at, p.width);
            }
            free(o);
            free(g);
            *x = kept;
        }
    // A gradient or a query that is not finite: later rows of the completion do not feed it.
    for (uint32_t b = 0; b < 6; b++) {
        uint32_t row = s.own + 1;
        float *x = b < 3 ? &p.go[64 * row + 3] : &p.qkv[(size_t)row * p.width + 3], kept = *x;
        *x = bad[b % 3];
        float *g = device_backward(&p, NULL, NULL);
        for (uint32_t i = row + 1; i < s.own + s.length; i++)
            test_same_bits("gradient of keys it does not see", g + (size_t)i * p.width, gradient + (size_t)i * p.width,
                           p.width);
        REQUIRE(!isfinite(g[(size_t)row * p.width]));
        free(g);
        *x = kept;
    }
    free(wanted);
    free(gradient);
    drop(&p);
}

const struct CMUnitTest cases_attention_bits[] = {
    cmocka_unit_test(bits_do_not_depend_on_packing),
    cmocka_unit_test(bf16_storage),
    cmocka_unit_test(fp16_storage),
    cmocka_unit_test(bits_do_not_depend_on_the_tile),
    cmocka_unit_test(bits_do_not_depend_on_neighbours),
    cmocka_unit_test(broken_keys_stay_where_they_are_seen),
};
const size_t cases_attention_bits_count = VIREO_COUNT(cases_attention_bits);
