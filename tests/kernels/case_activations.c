// Ops on 16-bit activations. All compute in f32 and round once, to nearest even, when they store: on the same (rounded)
// inputs such a result is bit for bit the f32 result rounded, forward and backward. The f32 ops have references and
// finite differences in their own files.
#include "tests/kernels/guard.h"

#include "compute/base/check.h"

static const enum dtype halves[] = {DTYPE_BF16, DTYPE_F16};

// n values of a seed that `half` holds exactly.
static float *exact_random(enum dtype half, size_t n, uint32_t seed, float scale)
{
    float *x = test_random(n, seed, scale);
    test_round_all(half, x, n);
    return x;
}

// One run of an op: what it gave, and the gradients of input and weight.
enum op { NORM, LINEAR, LINEAR_ADD, SWIGLU, GELU, ADD, EMBED, GATHER, OPS };
static const char *const names[OPS] = {"norm", "linear", "linear_add", "swiglu", "gelu", "add", "embed", "gather"};

struct outcome {
    float *y, *dx, *dw;
    size_t n, x_count, w_count;
    enum dtype y_type, dx_type;
};

// What an op reads: its width in and out, and whether its input or its result is of the residual stream (f32 always).
struct form {
    uint32_t in, out;
    bool x_f32, y_f32;
};
static struct form form_of(enum op op, uint32_t width)
{
    switch (op) {
    case NORM: return (struct form){width, width, true, false};
    case LINEAR: return (struct form){width, width + 6, false, false};
    case LINEAR_ADD: return (struct form){width, width + 6, false, true};
    case SWIGLU: return (struct form){2 * width, width, false, false};
    case EMBED: return (struct form){width, width, false, true};
    default: return (struct form){width, width, false, false};
    }
}

// In `type`, on values that `half` holds.
static struct outcome run(enum op op, enum dtype type, enum dtype half, uint32_t rows, uint32_t width)
{
    const struct form f = form_of(op, width);
    struct outcome o = {.x_count = (size_t)rows * f.in};
    float *x = exact_random(half, o.x_count, 1, 3), *w = exact_random(half, (size_t)f.in * (f.out + 5), 2, 1);
    float *residual = test_random((size_t)rows * f.out, 4, 1);
    uint32_t w_rows = op == NORM ? f.in : op == EMBED ? 5 : f.out, w_columns = op == NORM ? 1 : f.in;
    struct weight weight = test_weight(op == NORM ? DTYPE_F32 : type, w_rows, w_columns, w, true);
    struct weight bias = test_weight(DTYPE_F32, f.out, 1, w, true);
    struct tape *t = test_tape_of(type, true);
    struct tensor leaf = test_leaf_of(t, f.x_f32 ? DTYPE_F32 : type, rows, f.in, x), y;
    // Rows of the input in another order, some twice; for `embed` tokens between them.
    uint32_t *index = test_alloc(rows + 3, sizeof *index);
    int32_t *source = test_alloc(rows + 3, sizeof *source);
    for (uint32_t i = 0; i < rows + 3; i++) {
        index[i] = 7 * i % rows;
        source[i] = i % 3 ? -1 - (int32_t)index[i] : (int32_t)(i % 5);
    }
    weight.bias = &bias;
    struct nn_embedding e = {0};
    if (op == EMBED)
        e = nn_embedding_build(t, source, rows + 3);
    switch (op) {
    case NORM: y = nn_rms_norm(t, leaf, &weight, 1e-6f); break;
    case LINEAR: y = nn_linear(t, leaf, &weight); break;
    case LINEAR_ADD: y = nn_linear_add(t, leaf, &weight, test_tensor(DTYPE_F32, rows, f.out, residual)); break;
    case SWIGLU: y = nn_swiglu(t, leaf); break;
    case GELU: y = nn_gelu(t, leaf); break;
    case ADD: y = nn_add(t, leaf, leaf); break; // both halves meet at one gradient
    case EMBED: y = nn_embed(t, &weight, leaf, &e); break;
    default: y = nn_gather(t, leaf, index, rows + 3);
    }
    REQUIRE(!tape_failed(t));
    o.n = tensor_count(y);
    o.y_type = y.dtype;
    float *g = exact_random(half, o.n, 3, 1);
    REQUIRE_OK(tape_backward(t, y, test_tensor(y.dtype, tensor_rows(y), tensor_columns(y), g), &err));
    bool fresh;
    struct tensor dx = tape_grad(t, leaf, &fresh);
    o.dx_type = dx.dtype;
    o.y = test_fetch(y);
    o.dx = test_fetch(dx);
    o.w_count = tensor_count(weight.grad);
    o.dw = test_fetch(weight.grad);
    guard_check(names[op], y);
    guard_check(names[op], dx);
    test_tape_end(&t);
    free(x), free(w), free(g), free(residual), free(index), free(source);
    return o;
}

static void outcome_free(struct outcome *o)
{
    free(o->y), free(o->dx), free(o->dw);
}

static void results_are_those_of_f32_rounded(enum dtype half)
{
    static const uint32_t shapes[][2] = {{1, 2}, {3, 6}, {7, 130}, {65, 34}, {5, 1026}, {3, 4}, {67, 36}, {9, 260}, {2, 1024}};
    for (int op = 0; op < OPS; op++)
        for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
            struct outcome want = run(op, DTYPE_F32, half, shapes[k][0], shapes[k][1]);
            struct outcome got = run(op, half, half, shapes[k][0], shapes[k][1]);
            const struct form f = form_of(op, shapes[k][1]);
            REQUIRE(got.y_type == (f.y_f32 ? DTYPE_F32 : half));
            REQUIRE(got.dx_type == (f.x_f32 ? DTYPE_F32 : half));
            test_round_all(got.y_type, want.y, want.n);
            test_round_all(got.dx_type, want.dx, want.x_count);
            char what[64];
            snprintf(what, sizeof what, "%s y, %u x %u", names[op], shapes[k][0], shapes[k][1]);
            test_same_bits(what, got.y, want.y, want.n);
            snprintf(what, sizeof what, "%s dx, %u x %u", names[op], shapes[k][0], shapes[k][1]);
            test_same_bits(what, got.dx, want.dx, want.x_count);
            snprintf(what, sizeof what, "%s dw, %u x %u", names[op], shapes[k][0], shapes[k][1]);
            test_same_bits(what, got.dw, want.dw, want.w_count);
            outcome_free(&want);
            outcome_free(&got);
        }
}

static void bf16_is_the_f32_result_rounded(void **state)
{
    (void)state;
    results_are_those_of_f32_rounded(DTYPE_BF16);
}

static void fp16_is_the_f32_result_rounded(void **state)
{
    (void)state;
    results_are_those_of_f32_rounded(DTYPE_F16);
}

// dx += where two ops read one tensor: the sum is rounded as it is stored.
static void gradients_add_up(enum dtype half)
{
    enum { ROWS = 3, C = 70, N = ROWS * C };
    float *x = exact_random(half, 2 * N, 1, 3), *g = exact_random(half, N, 2, 1), once[2 * N], twice[2 * N];
    for (int uses = 1; uses <= 2; uses++) {
        struct tape *t = test_tape_of(half, true);
        struct tensor leaf = test_leaf_of(t, half, ROWS, 2 * C, x), y = nn_swiglu(t, leaf);
        if (uses == 2)
            y = nn_add(t, y, nn_swiglu(t, leaf));
        REQUIRE_OK(tape_backward(t, y, test_tensor(half, ROWS, C, g), &err));
        bool fresh;
        test_read(tape_grad(t, leaf, &fresh), uses == 1 ? once : twice);
        test_tape_end(&t);
    }
    // Doubling is exact but for fp16's subnormals, of which the sum is rounded once and each half was.
    for (int i = 0; i < 2 * N; i++)
        REQUIRE_NEAR(twice[i], 2 * once[i], half == DTYPE_F16 ? 0x1p-24 : 0);
    free(x), free(g);
}

static void gradients_add_up_in_halves(void **state)
{
    (void)state;
    gradients_add_up(DTYPE_BF16);
    gradients_add_up(DTYPE_F16);
}

// Rotation in place, back again on the gradient, and rows stored in a pool of 16 bits.
static void rope_in(enum dtype half)
{
    enum { ROWS = 13, HEADS = 3, KV = 1, D = 20, WIDTH = (HEADS + 2 * KV) * D, P = 40, SLOTS = 16 };
    const struct nn_heads h = {.heads = HEADS, .kv_heads = KV, .head_dim = D};
    float *x = exact_random(half, ROWS * WIDTH, 1, 2), *g = exact_random(half, ROWS * WIDTH, 2, 1);
    float table[P * D], zero[SLOTS * D] = {0};
    float y[2][ROWS * WIDTH], dx[2][ROWS * WIDTH], k[SLOTS * D], v[SLOTS * D];
    uint32_t positions[ROWS * 4], slot[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        slot[i] = i == 4 ? 0xffffffffu : (5 * i + 2) % SLOTS;
        for (uint32_t a = 0; a < 4; a++)
            positions[4 * i + a] = (3 * i + 11 * a) % P;
    }
    nn_rope_table(10000, D, D / 2, P, false, table);
    for (int b = 0; b < 2; b++) {
        const enum dtype type = b ? half : DTYPE_F32;
        struct nn_rope rope = {.table = test_tensor(DTYPE_F32, P, D, table), .frequencies = D / 2, .section = {2, 5, 3}};
        rope.positions = test_tensor_u32(ROWS, 4, positions);
        struct nn_kv kv = {.k = test_tensor(half, SLOTS, D, zero), .v = test_tensor(half, SLOTS, D, zero)};
        kv.slot = test_tensor_u32(ROWS, 1, slot);
        struct tape *t = test_tape_of(type, true);
        struct tensor leaf = test_leaf_of(t, type, ROWS, WIDTH, x), out = nn_rope_store(t, leaf, &h, &rope, &kv);
        REQUIRE(!tape_failed(t));
        test_read(out, y[b]);
        REQUIRE_OK(tape_backward(t, out, test_tensor(type, ROWS, WIDTH, g), &err));
        bool fresh;
        test_read(tape_grad(t, leaf, &fresh), dx[b]);
        test_round_all(half, y[b], ROWS * WIDTH);
        test_round_all(half, dx[b], ROWS * WIDTH);
        // Both pools hold the rounded values of their rows.
        test_read(kv.k, k);
        test_read(kv.v, v);
        for (uint32_t i = 0; i < ROWS; i++)
            if (slot[i] != 0xffffffffu) {
                test_same_bits("stored k", k + slot[i] * D, y[b] + i * WIDTH + HEADS * D, D);
                test_same_bits("stored v", v + slot[i] * D, y[b] + i * WIDTH + (HEADS + KV) * D, D);
            }
        test_tape_end(&t);
    }
    test_same_bits("rope", y[1], y[0], ROWS * WIDTH);
    test_same_bits("rope dx", dx[1], dx[0], ROWS * WIDTH);
    free(x), free(g);
}

static void rope_in_halves(void **state)
{
    (void)state;
    for (size_t i = 0; i < VIREO_COUNT(halves); i++)
        rope_in(halves[i]);
}

// Vector i of a matrix [2, n]: the second starts in the middle of 8 bytes when n is odd.
static struct tensor vector_part(struct tensor x, uint32_t first, uint32_t n)
{
    struct tensor v = {.dtype = x.dtype, .rank = 1, .shape = {n}, .stride = 1};
    v.span = gpu_span_part(x.span, (uint64_t)first * dtype_bytes(x.dtype), (uint64_t)n * dtype_bytes(x.dtype));
    return v;
}

// Where starts or strides leave no room for 64-bit accesses another variant runs: with the same bits.
static void layout_changes_no_bits(void **state)
{
    (void)state;
    enum { ROWS = 37, C = 76, WIDE = 2 * C + 3, N = ROWS * C };
    float *x = test_random(ROWS * WIDE, 1, 3), w[C + 1], *packed = test_alloc(2 * N, sizeof *packed), *g = test_random(N, 3, 1);
    float y[2][N], dx[2][N], dw[2][C], z[2][N], sums[2][C];
    test_values(w, C + 1, 2);
    for (int r = 0; r < ROWS; r++)
        memcpy(packed + r * 2 * C, x + r * WIDE + 1, 2 * C * sizeof *x);
    for (int odd = 0; odd < 2; odd++) {
        struct tape *t = test_tape(true);
        struct tensor values = test_tensor(DTYPE_F32, 1, C + 1, w);
        REQUIRE_OK(tensor_write_floats(test_device, vector_part(values, odd, C), w, &err));
        struct tensor grads = test_tensor(DTYPE_F32, 1, C + 1, (float[C + 1]){0});
        struct weight weight = {.name = "w", .value = vector_part(values, odd, C), .grad = vector_part(grads, odd, C)};
        struct tensor leaf = test_leaf(t, ROWS, C, packed), out = nn_rms_norm(t, leaf, &weight, 1e-6f);
        test_read(out, y[odd]);
        REQUIRE_OK(tape_backward(t, out, test_tensor(DTYPE_F32, ROWS, C, g), &err));
        bool fresh;
        test_read(tape_grad(t, leaf, &fresh), dx[odd]);
        test_read(weight.grad, dw[odd]);
        struct tensor wide = test_tensor(DTYPE_F32, ROWS, WIDE, x), tight = test_tensor(DTYPE_F32, ROWS, 2 * C, packed);
        struct tensor both = odd ? tensor_column_part(wide, 1, 2 * C) : tight;
        test_read(nn_swiglu(t, both), z[odd]);
        struct tensor to = test_tensor(DTYPE_F32, 1, C + 1, w);
        nn_column_sum(t, tensor_column_part(both, 0, C), vector_part(to, odd, C), false);
        test_read(vector_part(to, odd, C), sums[odd]);
        test_tape_end(&t);
    }
    test_same_bits("norm", y[1], y[0], N);
    test_same_bits("norm dx", dx[1], dx[0], N);
    test_same_bits("norm dw", dw[1], dw[0], C);
    test_same_bits("swiglu", z[1], z[0], N);
    test_same_bits("column sum", sums[1], sums[0], C);
    free(x), free(packed), free(g);
}

static void refuses_by_name(void **state)
{
    (void)state;
    float x[24] = {0};
    struct weight w = test_weight(DTYPE_F32, 3, 1, x, false);
    struct tape *t = test_tape_of(DTYPE_U32, false);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    REQUIRE(strstr(err.message, "u32"));
    for (size_t i = 0; i < VIREO_COUNT(halves); i++) {
        t = test_tape_of(halves[i], false); // rows of three share words with each other
        nn_rms_norm(t, test_tensor(DTYPE_F32, 4, 3, x), &w, 1e-6f);
        REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
        REQUIRE(strstr(err.message, dtype_name(halves[i])));
        t = test_tape_of(halves[i], false);
        nn_swiglu(t, test_tensor(halves[i], 4, 6, x));
        REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
        REQUIRE(strstr(err.message, dtype_name(halves[i])));
    }
}

const struct CMUnitTest cases_activations[] = {
    cmocka_unit_test(bf16_is_the_f32_result_rounded),
    cmocka_unit_test(fp16_is_the_f32_result_rounded),
    cmocka_unit_test(gradients_add_up_in_halves),
    cmocka_unit_test(rope_in_halves),
    cmocka_unit_test(layout_changes_no_bits),
    cmocka_unit_test(refuses_by_name),
};
const size_t cases_activations_count = sizeof cases_activations / sizeof cases_activations[0];
