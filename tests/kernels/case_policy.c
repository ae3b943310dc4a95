// nn_policy_loss.
#include "tests/kernels/guard.h"

#include "compute/checkpoint/safetensors.h"

struct token {
    double logprob, old, ref, advantage, weight;
};

static double loss_of(const struct token *k, double low, double high, double beta)
{
    const double w = exp(k->logprob - k->old), clipped = w < low ? low : w > high ? high : w;
    const double d = k->ref - k->logprob;
    const double a = w * k->advantage, b = clipped * k->advantage;
    return (-(a < b ? a : b) + beta * (exp(d) - d - 1)) * k->weight;
}

static struct tensor column(const float *values, uint32_t n)
{
    return test_tensor(DTYPE_F32, n, 1, values);
}

static void losses_and_slopes(void **state)
{
    (void)state;
    enum { N = 1031 };
    const struct nn_policy_params p = {.epsilon_low = 0.2f, .epsilon_high = 0.28f, .beta = 0.04f};
    float *v[5];
    double *loss = test_alloc(N, sizeof *loss), *grad = test_alloc(N, sizeof *grad);
    for (int i = 0; i < 5; i++)
        v[i] = test_random(N, (uint32_t)i, i == 3 ? 2.0f : 0.5f); // ratios from e^-1 to e
    for (int i = 0; i < N; i++) {
        struct token k = {v[0][i], v[1][i], v[2][i], v[3][i], v[4][i]};
        loss[i] = loss_of(&k, 0.8, 1.28, p.beta);
        const double h = 1e-6;
        struct token up = k, down = k;
        up.logprob += h;
        down.logprob -= h;
        grad[i] = (loss_of(&up, 0.8, 1.28, p.beta) - loss_of(&down, 0.8, 1.28, p.beta)) / (2 * h);
    }
    struct tape *t = test_tape(false);
    struct nn_policy out = nn_policy_loss(t, column(v[0], N), column(v[1], N), column(v[2], N), column(v[3], N),
                                          column(v[4], N), &p);
    float *got = test_fetch(out.loss);
    test_near("policy loss", got, loss, N, 1e-6);
    test_read(out.grad, got);
    test_near("policy slope", got, grad, N, 1e-5);
    guard_check("loss", out.loss);
    guard_check("grad", out.grad);
    guard_check("kl", out.kl);
    guard_check("ratio", out.ratio);
    test_tape_end(&t);
    for (int i = 0; i < 5; i++)
        free(v[i]);
    free(loss), free(grad), free(got);
}

// At a ratio of exactly the bound the slope is still there; past it, on the side where it hurts, it is not.
static void bounds(void **state)
{
    (void)state;
    // exp(0) = 1 is exactly the upper bound with epsilon_high 0, the lower one with epsilon_low 0.
    const float logprob[] = {0, 0, 0.5f, 0.5f, -0.5f, -0.5f, 0, 0.25f}, old[8] = {0};
    const float advantage[] = {1, -1, 1, -1, 1, -1, 0, 0}, weight[] = {1, 1, 1, 1, 1, 1, 1, 2};
    const double w = exp(0.5), u = exp(-0.5), want[] = {-1, 1, 0, w, -u, 0, 0, 0};
    struct tape *t = test_tape(false);
    struct nn_policy out = nn_policy_loss(t, column(logprob, 8), column(old, 8), (struct tensor){0},
                                          column(advantage, 8), column(weight, 8), &(struct nn_policy_params){0});
    float got[8];
    test_read(out.grad, got);
    test_near("slope at the bounds", got, want, 8, 1e-6);
    test_read(out.kl, got);
    for (int i = 0; i < 8; i++)
        REQUIRE(got[i] == 0); // no reference
    test_tape_end(&t);
}

// What is masked counts nothing, whatever it holds.
static void masked_tokens_are_silent(void **state)
{
    (void)state;
    const float logprob[] = {NAN, 200, -1}, old[] = {0, -200, -1}, ref[] = {0, 0, -1}, advantage[] = {1, -1, 1};
    const float weight[] = {0, 0, 0.5f};
    struct tape *t = test_tape(false);
    struct nn_policy out =
        nn_policy_loss(t, column(logprob, 3), column(old, 3), column(ref, 3), column(advantage, 3), column(weight, 3),
                       &(struct nn_policy_params){.epsilon_low = 0.2f, .epsilon_high = 0.2f, .beta = 0.1f});
    float loss[3], grad[3];
    test_read(out.loss, loss);
    test_read(out.grad, grad);
    REQUIRE(loss[0] == 0 && loss[1] == 0 && grad[0] == 0 && grad[1] == 0);
    REQUIRE(loss[2] == -0.5f && grad[2] == -0.5f);
    test_tape_end(&t);
}

static uint64_t read_floats(const struct safetensors *s, const char *name, float *out, uint64_t most)
{
    const struct safetensor *x = safetensors_find(s, name);
    if (!x || x->count > most)
        fail_msg("%s is not in the file", name);
    if (x->dtype == SAFETENSORS_I32) {
        int32_t *whole = test_alloc(x->count, sizeof *whole);
        REQUIRE_OK(safetensors_integers(x, 0, x->count, whole, &err));
        for (uint64_t i = 0; i < x->count; i++)
            out[i] = (float)whole[i];
        free(whole);
    } else {
        REQUIRE_OK(safetensors_floats(x, 0, x->count, out, &err));
    }
    return x->count;
}

// The golden batch: per token, and the sums of two loss types.
static void golden_batch(void **state)
{
    (void)state;
    enum { B = 8, T = 25, N = B * T };
    float logprob[N], old[N], ref[N], advantages[B], advantage[N], mask[N], weight[N], ratio[N], kl[N], loss[N], got[N];
    struct safetensors *s = NULL;
    REQUIRE_OK(safetensors_open(test_data("fixtures/cases/grpo_batch.safetensors"), &s, &err));
    read_floats(s, "policy_logprobs", logprob, N);
    read_floats(s, "old_logprobs", old, N);
    read_floats(s, "ref_logprobs", ref, N);
    read_floats(s, "advantages", advantages, B);
    read_floats(s, "completion_mask", mask, N);
    read_floats(s, "ratio", ratio, N);
    read_floats(s, "per_token_kl", kl, N);
    read_floats(s, "per_token_loss", loss, N);
    safetensors_close(&s);
    const struct nn_policy_params p = {.epsilon_low = 0.2f, .epsilon_high = 0.2f, .beta = 0.04f};
    // The log-probs, about -13, are given as floats: half a unit in the last place of two of them is 1e-6.
    for (int type = 0; type < 3; type++) { // per token; grpo; dapo
        for (int b = 0; b < B; b++) {
            float active = 0;
            for (int i = 0; i < T; i++)
                active += mask[b * T + i];
            for (int i = 0; i < T; i++) {
                const int k = b * T + i;
                advantage[k] = advantages[b];
                weight[k] = type == 0 ? 1 : mask[k] / (type == 1 ? B * (active > 1 ? active : 1) : 137);
            }
        }
        struct tape *t = test_tape(false);
        struct nn_policy out = nn_policy_loss(t, column(logprob, N), column(old, N), column(ref, N),
                                              column(advantage, N), column(weight, N), &p);
        test_read(out.loss, got);
        double sum = 0;
        for (int i = 0; i < N; i++) {
            sum += got[i];
            if (type == 0 && mask[i] != 0)
                REQUIRE_NEAR(got[i], loss[i], 3e-6);
        }
        if (type > 0)
            REQUIRE_NEAR(sum, type == 1 ? 0.03696226624426166 : 0.032053605756032846, 2e-6);
        test_read(out.kl, got);
        for (int i = 0; i < N; i++)
            if (mask[i] != 0)
                REQUIRE_NEAR(got[i], kl[i], 3e-6);
        test_read(out.ratio, got);
        for (int i = 0; i < N; i++)
            if (mask[i] != 0)
                REQUIRE_NEAR(got[i], ratio[i], 3e-6);
        test_tape_end(&t);
    }
}

const struct CMUnitTest cases_policy[] = {
    cmocka_unit_test(losses_and_slopes),
    cmocka_unit_test(bounds),
    cmocka_unit_test(masked_tokens_are_silent),
    cmocka_unit_test(golden_batch),
};
const size_t cases_policy_count = sizeof cases_policy / sizeof cases_policy[0];
