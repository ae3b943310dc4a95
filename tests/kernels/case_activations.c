// Ops on bf16 activations. All compute in f32 and round once, to nearest even, when they store: on the same (rounded)
// inputs a bf16 result is bit for bit the f32 result rounded, forward and backward. The f32 ops have references and
// finite differences in their own files.
#include "tests/kernels/guard.h"

#include "compute/base/half.h"

static float rounded(float x)
{
    return bf16_to_float(float_to_bf16(x));
}

// n values of a seed that bf16 holds exactly.
static float *exact_random(size_t n, uint32_t seed, float scale)
{
    float *x = test_random(n, seed, scale);
    for (size_t i = 0; i < n; i++)
        x[i] = rounded(x[i]);
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

static struct outcome run(enum op op, enum dtype type, uint32_t rows, uint32_t width)
{
    const struct form f = form_of(op, width);
    struct outcome o = {.x_count = (size_t)rows * f.in};
    float *x = exact_random(o.x_count, 1, 3), *w = exact_random((size_t)f.in * (f.out + 5), 2, 1);
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
    float *g = exact_random(o.n, 3, 1);
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

static void round_all(float *x, size_t n, enum dtype type)
{
    for (size_t i = 0; type == DTYPE_BF16 && i < n; i++)
        x[i] = rounded(x[i]);
}

static void bf16_is_the_f32_result_rounded(void **state)
{
    (void)state;
    static const uint32_t shapes[][2] = {{1, 2}, {3, 6}, {7, 130}, {65, 34}, {5, 1026}};
    for (int op = 0; op < OPS; op++)
        for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
            struct outcome want = run(op, DTYPE_F32, shapes[k][0], shapes[k][1]);
            struct outcome got = run(op, DTYPE_BF16, shapes[k][0], shapes[k][1]);
            const struct form f = form_of(op, shapes[k][1]);
            REQUIRE(got.y_type == (f.y_f32 ? DTYPE_F32 : DTYPE_BF16));
            REQUIRE(got.dx_type == (f.x_f32 ? DTYPE_F32 : DTYPE_BF16));
            round_all(want.y, want.n, got.y_type);
            round_all(want.dx, want.x_count, got.dx_type);
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

// dx += where two ops read one tensor: the sum is rounded as it is stored.
static void gradients_add_up_in_bf16(void **state)
{
    (void)state;
    enum { ROWS = 3, C = 70, N = ROWS * C };
    float *x = exact_random(2 * N, 1, 3), *g = exact_random(N, 2, 1), once[2 * N], twice[2 * N];
    for (int uses = 1; uses <= 2; uses++) {
        struct tape *t = test_tape_of(DTYPE_BF16, true);
        struct tensor leaf = test_leaf_of(t, DTYPE_BF16, ROWS, 2 * C, x), y = nn_swiglu(t, leaf);
        if (uses == 2)
            y = nn_add(t, y, nn_swiglu(t, leaf));
        REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_BF16, ROWS, C, g), &err));
        bool fresh;
        test_read(tape_grad(t, leaf, &fresh), uses == 1 ? once : twice);
        test_tape_end(&t);
    }
    for (int i = 0; i < 2 * N; i++)
        REQUIRE(twice[i] == 2 * once[i]);
    free(x), free(g);
}

// Rotation in place, back again on the gradient, and rows stored in a bf16 pool.
static void rope_in_bf16(void **state)
{
    (void)state;
    enum { ROWS = 13, HEADS = 3, KV = 1, D = 20, WIDTH = (HEADS + 2 * KV) * D, P = 40, SLOTS = 16 };
    const struct nn_heads h = {.heads = HEADS, .kv_heads = KV, .head_dim = D};
    float *x = exact_random(ROWS * WIDTH, 1, 2), *g = exact_random(ROWS * WIDTH, 2, 1), table[P * D], zero[SLOTS * D] = {0};
    float y[2][ROWS * WIDTH], dx[2][ROWS * WIDTH], k[SLOTS * D], v[SLOTS * D];
    uint32_t positions[ROWS * 4], slot[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        slot[i] = i == 4 ? 0xffffffffu : (5 * i + 2) % SLOTS;
        for (uint32_t a = 0; a < 4; a++)
            positions[4 * i + a] = (3 * i + 11 * a) % P;
    }
    nn_rope_table(10000, D, D / 2, P, false, table);
    for (int b = 0; b < 2; b++) {
        const enum dtype type = b ? DTYPE_BF16 : DTYPE_F32;
        struct nn_rope rope = {.table = test_tensor(DTYPE_F32, P, D, table), .frequencies = D / 2, .section = {2, 5, 3}};
        rope.positions = test_tensor_u32(ROWS, 4, positions);
        struct nn_kv kv = {.k = test_tensor(DTYPE_BF16, SLOTS, D, zero), .v = test_tensor(DTYPE_BF16, SLOTS, D, zero)};
        kv.slot = test_tensor_u32(ROWS, 1, slot);
        struct tape *t = test_tape_of(type, true);
        struct tensor leaf = test_leaf_of(t, type, ROWS, WIDTH, x), out = nn_rope_store(t, leaf, &h, &rope, &kv);
        REQUIRE(!tape_failed(t));
        test_read(out, y[b]);
        REQUIRE_OK(tape_backward(t, out, test_tensor(type, ROWS, WIDTH, g), &err));
        bool fresh;
        test_read(tape_grad(t, leaf, &fresh), dx[b]);
        round_all(y[b], ROWS * WIDTH, DTYPE_BF16);
        round_all(dx[b], ROWS * WIDTH, DTYPE_BF16);
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

static void refuses_by_name(void **state)
{
    (void)state;
    float x[24] = {0};
    struct weight w = test_weight(DTYPE_F32, 3, 1, x, false);
    struct tape *t = test_tape_of(DTYPE_F16, false);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    REQUIRE(strstr(err.message, "f16"));
    t = test_tape_of(DTYPE_BF16, false); // rows of three share words with each other
    nn_rms_norm(t, test_tensor(DTYPE_F32, 4, 3, x), &w, 1e-6f);
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
    t = test_tape_of(DTYPE_BF16, false);
    nn_swiglu(t, test_tensor(DTYPE_BF16, 4, 6, x));
    REQUIRE_FAIL(tape_finish(&t, &err), VIREO_UNSUPPORTED);
}

const struct CMUnitTest cases_activations[] = {
    cmocka_unit_test(bf16_is_the_f32_result_rounded),
    cmocka_unit_test(gradients_add_up_in_bf16),
    cmocka_unit_test(rope_in_bf16),
    cmocka_unit_test(refuses_by_name),
};
const size_t cases_activations_count = sizeof cases_activations / sizeof cases_activations[0];
