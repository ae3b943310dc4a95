// Kept activations (kept.h) and gather_rows: rows of several runs as one batch, and the backward pass on them.
#include "tests/kernels/guard.h"

#include "compute/base/check.h"
#include "compute/nn/kept.h"
#include "shaders/args/gather_rows.h"

// ---- rows from place to place --------------------------------------------------------------------------------------

// The tensors of a run: type, rows for each row of the run, columns. Words a row odd (the 32-bit kernel) and even, less
// and more than one group moves.
static const struct {
    enum dtype type;
    uint32_t each, columns;
} forms[] = {
    {DTYPE_F32, 1, 5}, {DTYPE_F32, 1, 6},  {DTYPE_BF16, 1, 6},  {DTYPE_BF16, 1, 8},  {DTYPE_F32, 4, 3},
    {DTYPE_F32, 3, 1}, {DTYPE_BF16, 3, 2}, {DTYPE_F32, 1, 1031}, {DTYPE_F32, 1, 1032}, {DTYPE_BF16, 4, 514},
};
enum { FORMS = VIREO_COUNT(forms), MOST_RUNS = 40 };

static uint32_t words_of(size_t form)
{
    return (uint32_t)(forms[form].each * forms[form].columns * dtype_bytes(forms[form].type) / 4);
}

// No two words are equal.
static uint32_t word(uint32_t run, uint32_t form, uint32_t index)
{
    return run << 26 | form << 22 | index;
}

static struct kept_place place_of(const uint32_t *run_rows, uint32_t runs, uint32_t i)
{
    const uint32_t run = (7 * i + 3) % runs;
    return (struct kept_place){run, (11 * i + 5) % run_rows[run]};
}

static struct gpu_arena *small_blocks(void)
{
    struct gpu_arena *a = gpu_arena_create(
        test_device, &(struct gpu_arena_params){.name = "kept", .bytes = 1 << 16, .grows = true}, &err);
    REQUIRE(a);
    return a;
}

static void keep_words(struct kept *k, const uint32_t *run_rows, uint32_t runs)
{
    uint32_t *words = test_alloc(1 << 20, sizeof *words);
    for (uint32_t r = 0; r < runs; r++) {
        struct tape *t = test_tape(false);
        const struct kept_place first = tape_keep_begin(t, k, run_rows[r]);
        REQUIRE_INT(first.run, r);
        REQUIRE_INT(first.row, 0);
        for (uint32_t f = 0; f < FORMS; f++) {
            const uint32_t rows = run_rows[r] * forms[f].each, count = run_rows[r] * words_of(f);
            struct tensor x = tape_new(t, forms[f].type, rows, forms[f].columns, true);
            REQUIRE(x.span.address && tape_wants_grad(t, x));
            for (uint32_t i = 0; i < count; i++)
                words[i] = word(r, f, i);
            REQUIRE_OK(gpu_write(test_device, x.span, words, count * 4, &err));
        }
        tape_keep_end(t);
        REQUIRE(kept_complete(k) && kept_runs(k) == r + 1);
        test_tape_end(&t);
    }
    free(words);
}

// True: nothing was copied.
static bool check_adopted(const struct kept *k, const struct kept_place *places, uint32_t rows)
{
    uint32_t *words = test_alloc((size_t)rows * 2048, sizeof *words);
    const uint64_t before = gpu_arena_used(test_arena);
    struct tape *t = test_tape(true);
    struct tensor made[FORMS];
    tape_adopt_begin(t, k, places, rows);
    for (size_t f = 0; f < FORMS; f++)
        made[f] = tape_new(t, forms[f].type, rows * forms[f].each, forms[f].columns, true);
    tape_adopt_end(t);
    REQUIRE(!tape_failed(t) && !tape_adopts(t));
    for (uint32_t f = 0; f < FORMS; f++) {
        const uint32_t each = words_of(f);
        REQUIRE(tape_wants_grad(t, made[f]));
        REQUIRE_OK(gpu_read(test_device, made[f].span, words, (uint64_t)rows * each * 4, &err));
        for (uint32_t i = 0; i < rows; i++)
            for (uint32_t c = 0; c < each; c++)
                if (words[i * each + c] != word(places[i].run, f, places[i].row * each + c))
                    fail_msg("tensor %u row %u word %u: %08x", f, i, c, words[i * each + c]);
        guard_check("adopted", made[f]);
    }
    const bool whole = gpu_arena_used(test_arena) == before;
    test_tape_end(&t);
    free(words);
    return whole;
}

static void rows_of_many_runs_are_put_together(void **state)
{
    (void)state;
    // Few runs, and more blocks than a dispatch can name.
    static const uint32_t counts[] = {1, 4, MOST_RUNS};
    for (size_t n = 0; n < VIREO_COUNT(counts); n++) {
        enum { ROWS = 67 };
        uint32_t run_rows[MOST_RUNS];
        struct kept_place places[ROWS];
        for (uint32_t r = 0; r < counts[n]; r++)
            run_rows[r] = r % 3 == 1 ? 1 : 5 + 9 * (r % 4);
        struct gpu_arena *memory = small_blocks();
        struct kept *k = kept_create(memory, UINT64_MAX, &err);
        REQUIRE(k);
        keep_words(k, run_rows, counts[n]);
        for (uint32_t i = 0; i < ROWS; i++)
            places[i] = place_of(run_rows, counts[n], i);
        REQUIRE(!check_adopted(k, places, ROWS));
        REQUIRE(!check_adopted(k, places, 1) == (run_rows[places[0].run] > 1));
        kept_destroy(&k);
        gpu_arena_destroy(&memory);
    }
}

static void a_whole_run_is_adopted_without_copies(void **state)
{
    (void)state;
    static const uint32_t run_rows[] = {3, 9, 1};
    struct gpu_arena *memory = small_blocks();
    struct kept *k = kept_create(memory, UINT64_MAX, &err);
    REQUIRE(k);
    keep_words(k, run_rows, 3);
    for (uint32_t r = 0; r < 3; r++) {
        struct kept_place places[9];
        for (uint32_t i = 0; i < run_rows[r]; i++)
            places[i] = (struct kept_place){r, i};
        REQUIRE(check_adopted(k, places, run_rows[r]));
        if (run_rows[r] == 1)
            continue;
        REQUIRE(!check_adopted(k, places, run_rows[r] - 1)); // not all of it
        places[0] = places[1];
        REQUIRE(!check_adopted(k, places, run_rows[r])); // not in order
    }
    kept_destroy(&k);
    gpu_arena_destroy(&memory);
}

// ---- the backward pass ---------------------------------------------------------------------------------------------

enum { WIDTH = 38, INNER = 50, LAYERS = 2, BATCH = 29 };

struct layer {
    struct weight norm, in, out;
};

static struct tensor layer(struct tape *t, const void *data, struct tensor h)
{
    const struct layer *l = *(const struct layer *const *)data;
    struct tensor x = nn_rms_norm(t, h, &l->norm, 1e-6f);
    return nn_linear_add(t, nn_linear_swiglu(t, x, &l->in), &l->out, h);
}

static struct tensor layers(struct tape *t, const struct layer *l, struct tensor h)
{
    for (int i = 0; i < LAYERS; i++) {
        const struct layer *data = &l[i];
        h = tape_part(t, layer, &data, sizeof data, h);
    }
    return h;
}

static struct tape *tape_of(enum dtype type, bool grad, bool reuse)
{
    const struct tape_params p = {
        .arena = test_arena, .upload = test_upload, .grad = grad, .activations = type, .reuse = reuse};
    struct tape *t = tape_create(test_device, &p, &err);
    REQUIRE(t);
    return t;
}

static void model_new(struct layer *l, enum dtype type)
{
    float *w = test_random(2 * INNER * WIDTH, 61, 0.3f);
    for (int i = 0; i < LAYERS; i++) {
        l[i].norm = test_weight(DTYPE_F32, WIDTH, 1, w + i, true);
        l[i].in = test_weight(type, 2 * INNER, WIDTH, w, true);
        l[i].out = test_weight(type, WIDTH, INNER, w + 7 * i, true);
    }
    free(w);
}

// What a backward pass over the batch gives: the gradients of all weights (which depend on those of all activations).
enum { GRADIENTS = LAYERS * (WIDTH + 3 * INNER * WIDTH) };
struct outcome {
    float y[BATCH * WIDTH], dw[GRADIENTS];
};

// `k` NULL: the plain training forward.
static void train(const struct layer *model, enum dtype type, bool reuse, const float *x, const struct kept *k,
                  const struct kept_place *places, uint32_t rows, struct outcome *out)
{
    struct layer l[LAYERS];
    memcpy(l, model, sizeof l);
    struct weight *all[LAYERS * 3];
    for (int i = 0; i < LAYERS; i++) {
        struct weight *of[] = {&l[i].norm, &l[i].in, &l[i].out};
        for (int j = 0; j < 3; j++) {
            gpu_fill(test_device, of[j]->grad.span, 0, tensor_bytes(of[j]->grad));
            all[3 * i + j] = of[j];
        }
    }
    struct tape *t = tape_of(type, true, reuse);
    struct tensor h = test_leaf(t, rows, WIDTH, x);
    float *g = test_random(BATCH * WIDTH, 62, 1);
    const uint64_t used = gpu_arena_used(test_arena);
    if (k)
        tape_adopt_begin(t, k, places, rows);
    struct tensor y = layers(t, l, h);
    tape_pin(t, y);
    if (k)
        tape_adopt_end(t);
    if (k && places[0].run == 1) // a whole run
        REQUIRE(gpu_arena_used(test_arena) == used);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, rows, WIDTH, g), &err));
    test_read(y, out->y);
    float *to = out->dw;
    for (int i = 0; i < LAYERS * 3; i++) {
        test_read(all[i]->grad, to);
        to += tensor_count(all[i]->grad);
    }
    test_tape_end(&t);
    free(g);
}

static void keep_rows(const struct layer *model, enum dtype type, bool reuse, struct kept *k, uint32_t rows,
                      const float *x, float *y)
{
    struct tape *t = tape_of(type, false, reuse);
    struct tensor h = test_tensor(DTYPE_F32, rows, WIDTH, x);
    tape_keep_begin(t, k, rows);
    h = layers(t, model, h);
    tape_keep_end(t);
    test_read(h, y);
    test_tape_end(&t);
}

static void gradients_are_those_of_the_training_forward(void **state)
{
    (void)state;
    static const uint32_t run_rows[] = {6, BATCH, 1, 13};
    static struct outcome want, got;
    static float x[4][BATCH * WIDTH], y[BATCH * WIDTH], batch[BATCH * WIDTH];
    for (int i = 0; i < 4; i++) {
        const enum dtype type = i & 1 ? DTYPE_BF16 : DTYPE_F32;
        const bool reuse = i & 2;
        struct layer model[LAYERS];
        model_new(model, type);
        struct gpu_arena *memory = small_blocks();
        struct kept *k = kept_create(memory, UINT64_MAX, &err);
        REQUIRE(k);
        for (uint32_t r = 0; r < 4; r++) {
            test_values(x[r], (size_t)run_rows[r] * WIDTH, 70 + r);
            keep_rows(model, type, reuse, k, run_rows[r], x[r], y);
        }
        REQUIRE(kept_complete(k) && kept_runs(k) == 4);
        struct kept_place places[BATCH];
        for (uint32_t p = 0; p < BATCH; p++) {
            places[p] = place_of(run_rows, 4, p);
            memcpy(batch + p * WIDTH, x[places[p].run] + places[p].row * WIDTH, WIDTH * sizeof *batch);
        }
        train(model, type, reuse, batch, NULL, NULL, BATCH, &want);
        for (int twice = 0; twice < 2; twice++) { // what is kept stays as it was
            train(model, type, reuse, batch, k, places, BATCH, &got);
            test_same_bits("y", got.y, want.y, BATCH * WIDTH);
            test_same_bits("gradients", got.dw, want.dw, GRADIENTS);
        }
        for (uint32_t p = 0; p < BATCH; p++)
            places[p] = (struct kept_place){1, p};
        train(model, type, reuse, x[1], NULL, NULL, BATCH, &want);
        for (int twice = 0; twice < 2; twice++) {
            train(model, type, reuse, x[1], k, places, BATCH, &got);
            test_same_bits("y of a whole run", got.y, want.y, BATCH * WIDTH);
            test_same_bits("gradients of a whole run", got.dw, want.dw, GRADIENTS);
        }
        kept_destroy(&k);
        gpu_arena_destroy(&memory);
    }
}

// ---- what does not fit ---------------------------------------------------------------------------------------------

static void memory_used_up_in_a_run_ends_the_keeping(void **state)
{
    (void)state;
    enum { ROWS = 9 };
    static float x[ROWS * WIDTH], want[ROWS * WIDTH], got[ROWS * WIDTH];
    for (int reuse = 0; reuse < 2; reuse++) {
        struct layer model[LAYERS];
        model_new(model, DTYPE_BF16);
        test_values(x, ROWS * WIDTH, 80);
        keep_rows(model, DTYPE_BF16, reuse, NULL, ROWS, x, want);
        struct gpu_arena *memory = small_blocks();
        struct kept *k = kept_create(memory, UINT64_MAX, &err);
        REQUIRE(k);
        keep_rows(model, DTYPE_BF16, reuse, k, ROWS, x, got);
        const uint64_t bytes = gpu_arena_used(memory);
        kept_destroy(&k);
        gpu_arena_rewind(memory, 0);
        // From the first tensor of the first run to the last of the second.
        for (uint64_t most = 0; most <= 2 * bytes; most += bytes / 8) {
            k = kept_create(memory, most, &err);
            REQUIRE(k);
            for (int run = 0; run < 3; run++) {
                memset(got, 0, sizeof got);
                keep_rows(model, DTYPE_BF16, reuse, k, ROWS, x, got);
                test_same_bits("y", got, want, ROWS * WIDTH);
                REQUIRE(gpu_arena_used(memory) <= most);
                REQUIRE(kept_complete(k) == ((uint64_t)run + 1 <= most / bytes));
            }
            struct tape *t = test_tape(false);
            REQUIRE_INT(tape_keep_begin(t, k, ROWS).run, KEPT_NOWHERE);
            REQUIRE(!tape_saves(t));
            tape_keep_end(t);
            test_tape_end(&t);
            kept_clear(k);
            gpu_arena_rewind(memory, 0);
            REQUIRE(kept_complete(k) && kept_runs(k) == 0);
            kept_destroy(&k);
        }
        gpu_arena_destroy(&memory);
    }
}

// The second run makes these, the first {f32 [4, 6], bf16 [8, 4]}.
static bool matches(uint32_t rows, uint32_t count, const struct tensor *made)
{
    struct kept *k = kept_create(test_arena, UINT64_MAX, &err);
    REQUIRE(k);
    static const struct tensor first[] = {{.dtype = DTYPE_F32, .shape = {4, 6}},
                                          {.dtype = DTYPE_BF16, .shape = {8, 4}}};
    for (int run = 0; run < 2; run++) {
        struct tape *t = test_tape(false);
        tape_keep_begin(t, k, run ? rows : 4);
        for (uint32_t i = 0; i < (run ? count : 2); i++) {
            const struct tensor *x = run ? &made[i] : &first[i];
            struct tensor y = tape_new(t, x->dtype, x->shape[0], x->shape[1], true);
            REQUIRE(y.span.address && tensor_rows(y) == x->shape[0] && tensor_columns(y) == x->shape[1]);
        }
        tape_keep_end(t);
        REQUIRE(run || kept_complete(k));
        test_tape_end(&t);
    }
    const bool complete = kept_complete(k);
    kept_destroy(&k);
    return complete;
}

static void runs_that_do_not_match_are_not_kept(void **state)
{
    (void)state;
#define F32(r, c) {.dtype = DTYPE_F32, .shape = {r, c}}
#define BF16(r, c) {.dtype = DTYPE_BF16, .shape = {r, c}}
    REQUIRE(matches(3, 2, (struct tensor[]){F32(3, 6), BF16(6, 4)}));
    REQUIRE(!matches(3, 1, (struct tensor[]){F32(3, 6)}));
    REQUIRE(!matches(3, 3, (struct tensor[]){F32(3, 6), BF16(6, 4), F32(3, 6)}));
    REQUIRE(!matches(3, 2, (struct tensor[]){F32(3, 5), BF16(6, 4)}));  // columns
    REQUIRE(!matches(3, 2, (struct tensor[]){F32(3, 6), F32(6, 4)}));   // type
    REQUIRE(!matches(3, 2, (struct tensor[]){F32(3, 6), BF16(3, 4)}));  // rows for each
    REQUIRE(!matches(3, 2, (struct tensor[]){F32(3, 6), BF16(7, 4)}));  // no whole number of them
    REQUIRE(!matches(3, 2, (struct tensor[]){F32(3, 6), BF16(6, 3)}));  // rows share words
    struct kept *k = kept_create(test_arena, UINT64_MAX, &err);
    struct tape *t = test_tape(false);
    tape_keep_begin(t, k, 4);
    REQUIRE(tape_new(t, DTYPE_BF16, 4, 3, true).span.address);
    tape_keep_end(t);
    REQUIRE(!kept_complete(k));
    test_tape_end(&t);
    kept_destroy(&k);
}

static void other_tensors_than_the_kept_fail_the_tape(void **state)
{
    (void)state;
    struct kept *k = kept_create(test_arena, UINT64_MAX, &err);
    REQUIRE(k);
    struct tape *t = test_tape(false);
    tape_keep_begin(t, k, 4);
    tape_new(t, DTYPE_F32, 4, 6, true);
    tape_new(t, DTYPE_BF16, 8, 4, true);
    tape_keep_end(t);
    test_tape_end(&t);
    static const struct kept_place places[] = {{0, 0}, {0, 1}, {0, 2}, {0, 3}};
    static const struct {
        uint32_t count;
        struct tensor made[3];
        const char *words;
    } wrong[] = {
        {1, {F32(4, 6)}, "fewer activations"},
        {3, {F32(4, 6), BF16(8, 4), F32(4, 6)}, "kept activation 2 of 2"},
        {2, {F32(4, 6), F32(8, 4)}, "kept activation 1 of 2"},
        {2, {F32(4, 6), BF16(4, 4)}, "kept activation 1 of 2"},
        {2, {F32(4, 5), BF16(8, 4)}, "kept activation 0 of 2"},
        {2, {F32(4, 6), BF16(8, 4)}, NULL},
    };
    for (uint32_t rows = 3; rows <= 4; rows++) // copies, and the whole run
        for (size_t i = 0; i < VIREO_COUNT(wrong); i++) {
            t = test_tape(true);
            tape_adopt_begin(t, k, places, rows);
            for (uint32_t j = 0; j < wrong[i].count; j++) {
                const struct tensor *x = &wrong[i].made[j];
                tape_new(t, x->dtype, x->shape[0] / 4 * rows, x->shape[1], true);
            }
            tape_adopt_end(t);
            REQUIRE(tape_failed(t) == (wrong[i].words != NULL));
            struct vireo_error e;
            REQUIRE(tape_finish(&t, &e) == !wrong[i].words);
            if (wrong[i].words && (e.code != VIREO_INTERNAL || !strstr(e.message, wrong[i].words)))
                fail_msg("%s", e.message);
            REQUIRE_OK(gpu_finish(test_device, &err));
        }
    kept_destroy(&k);
#undef F32
#undef BF16
}

// Warm-up dispatches every kernel with all arguments zero.
static void zero_arguments_touch_nothing(void **state)
{
    (void)state;
    static const struct gather_rows_args zeros;
    const enum gpu_kernel kernels[] = {KERNEL_GATHER_ROWS, KERNEL_GATHER_ROWS_WIDE};
    for (size_t i = 0; i < VIREO_COUNT(kernels); i++)
        if (gpu_kernel_runs(test_device, kernels[i]))
            gpu_dispatch(test_device, kernels[i],
                         &(struct gpu_dispatch){.args = &zeros, .args_bytes = sizeof zeros, .groups = 2});
    REQUIRE_OK(gpu_finish(test_device, &err));
}

const struct CMUnitTest cases_kept[] = {
    cmocka_unit_test(rows_of_many_runs_are_put_together),
    cmocka_unit_test(a_whole_run_is_adopted_without_copies),
    cmocka_unit_test(gradients_are_those_of_the_training_forward),
    cmocka_unit_test(memory_used_up_in_a_run_ends_the_keeping),
    cmocka_unit_test(runs_that_do_not_match_are_not_kept),
    cmocka_unit_test(other_tensors_than_the_kept_fail_the_tape),
    cmocka_unit_test(zero_arguments_touch_nothing),
};
const size_t cases_kept_count = sizeof cases_kept / sizeof cases_kept[0];
