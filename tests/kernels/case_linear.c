// nn_linear, nn_linear_add.
#include "tests/kernels/product.h"

enum { ROWS = 21, INPUTS = 26, OUTPUTS = 18, WIDER = 40, FIRST = 7 };

// y = [residual +] x[:, FIRST:FIRST+INPUTS] W^T + b as the reference computes it; loss = sum of y * seed.
struct linear_case {
    float x[ROWS * WIDER], w[OUTPUTS * INPUTS], b[OUTPUTS], residual[ROWS * OUTPUTS], seed[ROWS * OUTPUTS];
};

static double case_loss(const struct linear_case *c, double *y)
{
    double loss = 0;
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUTPUTS; o++) {
            double sum = c->b[o] + (double)c->residual[r * OUTPUTS + o];
            for (int i = 0; i < INPUTS; i++)
                sum += (double)c->x[r * WIDER + FIRST + i] * c->w[o * INPUTS + i];
            if (y)
                y[r * OUTPUTS + o] = sum;
            loss += sum * c->seed[r * OUTPUTS + o];
        }
    return loss;
}

// Central difference of the reference's loss by one of its values. The loss is linear in each value: only the rounding
// of the value itself matters, so a wide step is exact.
static double difference(struct linear_case *c, float *value)
{
    const float keep = *value;
    *value = keep + 0.5f;
    const double up = *value, high = case_loss(c, NULL);
    *value = keep - 0.5f;
    const double down = *value, low = case_loss(c, NULL);
    *value = keep;
    return (high - low) / (up - down);
}

static void check_gradient(const char *what, struct linear_case *c, float *values, size_t n, struct tensor grad,
                           double repeats, const float *before)
{
    float got[ROWS * WIDER];
    double wanted[ROWS * WIDER];
    REQUIRE(n <= ROWS * WIDER);
    test_read(grad, got);
    for (size_t i = 0; i < n; i++)
        wanted[i] = repeats * difference(c, &values[i]) + (before ? before[i] : 0);
    test_near(what, got, wanted, n, 1e-5);
}

static void linear_forward_and_gradients(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct linear_case c;
        test_values(c.x, ROWS * WIDER, 71);
        test_values(c.w, OUTPUTS * INPUTS, 72);
        test_values(c.b, OUTPUTS, 73);
        test_values(c.residual, ROWS * OUTPUTS, 74);
        test_values(c.seed, ROWS * OUTPUTS, 75);
        test_round_all(types[i], c.w, OUTPUTS * INPUTS);
        struct weight w = test_weight(types[i], OUTPUTS, INPUTS, c.w, true);
        struct weight b = test_weight(DTYPE_F32, 1, OUTPUTS, c.b, true);
        w.bias = &b;

        // Two passes: gradients of parameters add up, those of activations do not.
        for (int pass = 1; pass <= 2; pass++) {
            struct tape *t = test_tape(true);
            struct tensor x = test_leaf(t, ROWS, WIDER, c.x);
            struct tensor residual = test_leaf(t, ROWS, OUTPUTS, c.residual);
            struct tensor y = nn_linear_add(t, tensor_column_part(x, FIRST, INPUTS), &w, residual);
            float got[ROWS * OUTPUTS];
            double wanted[ROWS * OUTPUTS];
            case_loss(&c, wanted);
            test_read(y, got);
            test_near("linear", got, wanted, ROWS * OUTPUTS, 2e-6);

            struct tensor seed = test_tensor(DTYPE_F32, ROWS, OUTPUTS, c.seed);
            REQUIRE_OK(tape_backward(t, y, seed, &err));
            bool fresh;
            struct tensor dx = tape_grad(t, x, &fresh), dr = tape_grad(t, residual, &fresh);
            check_gradient("dx", &c, c.x, ROWS * WIDER, dx, 1, NULL); // zero outside the columns that were used
            check_gradient("dresidual", &c, c.residual, ROWS * OUTPUTS, dr, 1, NULL);
            check_gradient("dw", &c, c.w, OUTPUTS * INPUTS, w.grad, pass, NULL);
            check_gradient("db", &c, c.b, OUTPUTS, b.grad, pass, NULL);
            test_tape_end(&t);
        }
    }
}

// x feeds two layers and is the residual of the second: three contributions to one gradient.
static void gradients_of_a_shared_input_add_up(void **state)
{
    (void)state;
    enum { N = 9, C = 12 };
    float x[N * C], w1[C * C], w2[C * C], g[N * C], got[C * C]; // got: C > N
    double wanted[N * C], h[N * C], dh[N * C];
    test_values(x, N * C, 81);
    test_values(w1, C * C, 82);
    test_values(w2, C * C, 83);
    test_values(g, N * C, 84);
    struct weight a = test_weight(DTYPE_F32, C, C, w1, true), b = test_weight(DTYPE_F32, C, C, w2, false);
    struct tape *t = test_tape(true);
    struct tensor tx = test_leaf(t, N, C, x);
    struct tensor th = nn_linear_add(t, tx, &a, tx);  // h = x + x W1^T
    struct tensor ty = nn_linear_add(t, th, &b, tx);  // y = x + h W2^T; W2 is frozen
    REQUIRE_OK(tape_backward(t, ty, test_tensor(DTYPE_F32, N, C, g), &err));
    for (int r = 0; r < N; r++)
        for (int i = 0; i < C; i++) {
            dh[r * C + i] = 0;
            h[r * C + i] = x[r * C + i];
            for (int o = 0; o < C; o++) {
                dh[r * C + i] += (double)g[r * C + o] * w2[o * C + i];
                h[r * C + i] += (double)x[r * C + o] * w1[i * C + o];
            }
        }
    for (int r = 0; r < N; r++)
        for (int i = 0; i < C; i++) {
            wanted[r * C + i] = g[r * C + i] + dh[r * C + i];
            for (int o = 0; o < C; o++)
                wanted[r * C + i] += dh[r * C + o] * w1[o * C + i];
        }
    bool fresh;
    test_read(tape_grad(t, tx, &fresh), got);
    test_near("dx", got, wanted, N * C, 1e-5);
    double dw[C * C];
    for (int o = 0; o < C; o++)
        for (int i = 0; i < C; i++) {
            dw[o * C + i] = 0;
            for (int r = 0; r < N; r++)
                dw[o * C + i] += dh[r * C + o] * x[r * C + i];
        }
    test_read(a.grad, got);
    test_near("dw1", got, dw, C * C, 1e-5);
    REQUIRE(b.grad.span.address == 0);
    test_tape_end(&t);
}

// Nothing above takes a gradient: the output has no slot and nothing is recorded.
static void frozen_linear_takes_no_gradient(void **state)
{
    (void)state;
    float x[6] = {1, 2, 3, 4, 5, 6}, w[3] = {1, 0, -1};
    struct weight frozen = test_weight(DTYPE_F32, 1, 3, w, false);
    struct tape *t = test_tape(true);
    struct tensor y = nn_linear(t, test_tensor(DTYPE_F32, 2, 3, x), &frozen);
    REQUIRE(!tape_wants_grad(t, y));
    float got[2];
    test_read(y, got);
    REQUIRE_NEAR(got[0], -2, 0);
    REQUIRE_NEAR(got[1], -2, 0);
    test_tape_end(&t);
}

// A row of a layer's output has the same bits in a training batch and in a decode step of any size.
static void linear_rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { N = 300, I = 48, O = 144 };
    static float x[N * I], w[O * I], b[O], all[N * O], part[N * O];
    test_values(x, N * I, 91);
    test_values(w, O * I, 92);
    test_values(b, O, 93);
    for (int i = 0; i < 3; i++) {
        struct weight weight = test_weight(types[i], O, I, w, true), bias = test_weight(DTYPE_F32, 1, O, b, true);
        weight.bias = &bias;
        struct tape *t = test_tape(true);
        struct tensor tx = test_leaf(t, N, I, x);
        test_read(nn_linear(t, tx, &weight), all);
        static const uint32_t parts[][2] = {{0, 1}, {299, 1}, {8, 8}, {13, 7}, {100, 32}, {3, 128}, {1, 299}};
        for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
            struct tape *decode = test_tape(false);
            test_read(nn_linear(decode, tensor_row_part(tx, parts[p][0], parts[p][1]), &weight), part);
            test_same_bits("rows", part, all + parts[p][0] * O, parts[p][1] * O);
            test_tape_end(&decode);
        }
        test_tape_end(&t);
    }
}

const struct CMUnitTest cases_linear[] = {
    cmocka_unit_test(linear_forward_and_gradients),
    cmocka_unit_test(gradients_of_a_shared_input_add_up),
    cmocka_unit_test(frozen_linear_takes_no_gradient),
    cmocka_unit_test(linear_rows_do_not_depend_on_the_batch),
};
const size_t cases_linear_count = VIREO_COUNT(cases_linear);
