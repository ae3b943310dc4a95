// nn_sample, nn_sample_probabilities, nn_edits_build.
#include "tests/kernels/guard.h"

#include "compute/base/json.h"
#include "compute/base/philox.h"
#include "compute/checkpoint/safetensors.h"

static const struct sample_row plain = {
    .temperature = 1, .top_p = 1, .logprob_temperature = 1, .seed_low = 7, .seed_high = 9};

static struct tensor settings(struct tape *t, const struct sample_row *rows, uint32_t n)
{
    return tape_upload_matrix(t, DTYPE_U32, n, sizeof *rows / 4, rows);
}

// The unit number a row draws with.
static double unit(const struct sample_row *r)
{
    const uint64_t key = (uint64_t)r->seed_high << 32 | r->seed_low;
    return philox_unit(philox(key, r->counter[0], r->counter[1], r->counter[2], 0).v[0]);
}

static int descending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

// The distribution in double: temperature, top-k with ties, top-p (mass above is < p), min-p. Done by sorting, which is
// not how the kernels do it. `logits` are after edits and bans.
static void distribution(const float *logits, uint32_t n, const struct sample_row *r, double *p)
{
    double *sorted = test_alloc(n, sizeof *sorted), sum = 0, most = -INFINITY;
    const double temperature = r->temperature < 1e-7 ? 1 : r->temperature;
    for (uint32_t i = 0; i < n; i++) {
        sorted[i] = logits[i] / temperature;
        most = fmax(most, sorted[i]);
    }
    if (r->temperature < 1e-7) {
        bool found = false;
        for (uint32_t i = 0; i < n; i++) {
            p[i] = !found && logits[i] == (float)most;
            found = found || p[i] > 0;
        }
        free(sorted);
        return;
    }
    qsort(sorted, n, sizeof *sorted, descending);
    double threshold = -INFINITY;
    if (r->top_k > 0 && r->top_k < n)
        threshold = sorted[r->top_k - 1];
    double total = 0;
    for (uint32_t i = 0; i < n && sorted[i] >= threshold; i++)
        total += exp(sorted[i] - most);
    double above = 0;
    for (uint32_t i = 0; i < n && r->top_p < 1 && sorted[i] >= threshold; i++) {
        if (i > 0 && sorted[i] != sorted[i - 1] && above >= r->top_p * total) {
            threshold = sorted[i - 1];
            break;
        }
        above += exp(sorted[i] - most);
    }
    if (r->min_p > 0)
        threshold = fmax(threshold, fmin(most, most + log(r->min_p)));
    for (uint32_t i = 0; i < n; i++) {
        const double z = logits[i] / temperature;
        p[i] = z >= threshold ? exp(z - most) : 0;
        sum += p[i];
    }
    for (uint32_t i = 0; i < n; i++)
        p[i] /= sum;
    free(sorted);
}

static void check_probabilities(const char *what, const float *got, const double *want, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if ((got[i] > 0) != (want[i] > 0) && want[i] > 1e-37)
            fail_msg("%s: id %u has %g, expected %g", what, i, got[i], want[i]);
        if (!(fabs(got[i] - want[i]) <= 1e-6))
            fail_msg("%s: id %u has %.9g, expected %.9g", what, i, got[i], want[i]);
    }
}

static void golden_probabilities(void **state)
{
    (void)state;
    enum { V = 300, HISTORY = 12 };
    struct safetensors *s = NULL;
    REQUIRE_OK(safetensors_open(test_data("fixtures/cases/sampling.safetensors"), &s, &err));
    json_error_t error;
    json_t *root = json_load_file(test_data("fixtures/cases/sampling.json"), 0, &error), *k;
    REQUIRE(root);
    size_t i;
    json_array_foreach(json_object_get(root, "cases"), i, k) {
        float logits[V], wanted[V], got[V];
        double want[V];
        int32_t history[HISTORY];
        char name[64];
        snprintf(name, sizeof name, "%zu.logits", i);
        REQUIRE_OK(safetensors_floats(safetensors_find(s, name), 0, V, logits, &err));
        snprintf(name, sizeof name, "%zu.probabilities", i);
        REQUIRE_OK(safetensors_floats(safetensors_find(s, name), 0, V, wanted, &err));
        snprintf(name, sizeof name, "%zu.history", i);
        REQUIRE_OK(safetensors_integers(safetensors_find(s, name), 0, HISTORY, history, &err));
        struct sample_row row = plain;
        row.temperature = (float)json_number_value(json_object_get(k, "temperature"));
        row.top_k = (uint32_t)json_integer_value(json_object_get(k, "top_k"));
        row.top_p = (float)json_number_value(json_object_get(k, "top_p"));
        row.min_p = (float)json_number_value(json_object_get(k, "min_p")); // 0 for null
        const float penalty = (float)json_number_value(json_object_get(k, "repetition_penalty"));
        struct nn_edit edits[HISTORY];
        uint32_t count = 0, kept = 0;
        for (int h = 0; h < HISTORY; h++) {
            bool seen = false;
            for (uint32_t e = 0; e < count; e++)
                seen = seen || edits[e].token == (uint32_t)history[h];
            if (!seen)
                edits[count++] = (struct nn_edit){.token = (uint32_t)history[h], .penalty = penalty};
        }
        struct tape *t = test_tape(false);
        struct nn_edits list = nn_edits_build(t, (const uint32_t[]){0, count}, 1, edits, count);
        struct tensor in = test_tensor(DTYPE_F32, 1, V, logits);
        struct tensor p = nn_sample_probabilities(t, in, settings(t, &row, 1), (struct tensor){0}, &list);
        test_read(p, got);
        for (int v = 0; v < V; v++) {
            want[v] = wanted[v];
            kept += got[v] > 0;
        }
        check_probabilities(name, got, want, V);
        REQUIRE_INT(kept, json_integer_value(json_object_get(k, "kept")));
        guard_check("probabilities", p);
        test_read(in, got);
        test_same_bits("the logits", got, logits, V); // edits act on a copy
        test_tape_end(&t);
    }
    REQUIRE_INT(i, 7);
    json_decref(root);
    safetensors_close(&s);
}

// Sizes at and past the blocks of the softmax, all filters, against sorting in double.
static void filters_match_sorting(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 31, 333, 4096, 4099, 9001};
    const struct sample_row rows[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.7f, .top_p = 1, .top_k = 1},
        {.temperature = 1.3f, .top_p = 1, .top_k = 20},
        {.temperature = 1, .top_p = 0.9f},
        {.temperature = 0.5f, .top_p = 0.3f},
        {.temperature = 1, .top_p = 0},
        {.temperature = 1.5f, .top_p = 1, .min_p = 0.05f},
        {.temperature = 2, .top_p = 0.8f, .top_k = 50, .min_p = 0.1f},
        {.temperature = 3, .top_p = 0.5f, .top_k = 8}, // the mass is what top-k left
        {.temperature = 0, .top_p = 0.5f, .top_k = 3},
        {.temperature = 1, .top_p = 1, .top_k = 1000000, .min_p = 1},
    };
    enum { ROWS = sizeof rows / sizeof rows[0] };
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const uint32_t n = sizes[k];
        float *logits = test_random((size_t)ROWS * n, 30 + (uint32_t)k, 9);
        double *want = test_alloc(n, sizeof *want);
        struct tape *t = test_tape(false);
        struct tensor p = nn_sample_probabilities(t, test_tensor(DTYPE_F32, ROWS, n, logits), settings(t, rows, ROWS),
                                                  (struct tensor){0}, NULL);
        float *got = test_fetch(p);
        for (uint32_t r = 0; r < ROWS; r++) {
            char what[64];
            snprintf(what, sizeof what, "row %u of %u ids", r, n);
            distribution(logits + (size_t)r * n, n, &rows[r], want);
            check_probabilities(what, got + (size_t)r * n, want, n);
        }
        test_tape_end(&t);
        free(logits), free(want), free(got);
    }
}

static void ties_of_top_k_are_kept(void **state)
{
    (void)state;
    const float logits[] = {1, 5, 3, 5, 3, 3, -2, 4};
    const struct sample_row rows[] = {{.temperature = 1, .top_p = 1, .top_k = 1},
                                      {.temperature = 1, .top_p = 1, .top_k = 4}};
    float both[16], got[16];
    memcpy(both, logits, sizeof logits);
    memcpy(both + 8, logits, sizeof logits);
    struct tape *t = test_tape(false);
    struct tensor in = test_tensor(DTYPE_F32, 2, 8, both);
    test_read(nn_sample_probabilities(t, in, settings(t, rows, 2), (struct tensor){0}, NULL), got);
    const bool one[] = {0, 1, 0, 1, 0, 0, 0, 0}, four[] = {0, 1, 1, 1, 1, 1, 0, 1};
    for (int i = 0; i < 8; i++) {
        REQUIRE_INT(got[i] > 0, one[i]);
        REQUIRE_INT(got[8 + i] > 0, four[i]);
    }
    test_tape_end(&t);
}

// The drawn id is where the cumulative sum passes u, to within rounding.
static void draws_by_the_inverse_of_the_sum(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 31, 333, 4096, 4099, 9001};
    enum { ROWS = 64 };
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const uint32_t n = sizes[k];
        float *logits = test_random((size_t)ROWS * n, 50 + (uint32_t)k, 6);
        double *p = test_alloc(n, sizeof *p);
        struct sample_row rows[ROWS];
        uint32_t token[ROWS];
        for (uint32_t r = 0; r < ROWS; r++) {
            rows[r] = plain;
            rows[r].counter[0] = r;
            rows[r].counter[2] = 5;
            if (r % 4 == 1)
                rows[r].top_p = 0.7f;
            if (r % 4 == 2)
                rows[r].temperature = 0.6f;
        }
        struct tape *t = test_tape(false);
        struct nn_sampled s =
            nn_sample(t, test_tensor(DTYPE_F32, ROWS, n, logits), settings(t, rows, ROWS), (struct tensor){0}, NULL);
        test_read_u32(s.token, token);
        for (uint32_t r = 0; r < ROWS; r++) {
            distribution(logits + (size_t)r * n, n, &rows[r], p);
            const double u = unit(&rows[r]);
            double before = 0;
            REQUIRE(token[r] < n);
            for (uint32_t i = 0; i < token[r]; i++)
                before += p[i];
            if (!(p[token[r]] > 0 && before <= u + 1e-5 && u - 1e-5 <= before + p[token[r]]))
                fail_msg("row %u of %u ids drew %u, which holds [%.7f, %.7f), with %.7f", r, n, token[r], before,
                         before + p[token[r]], u);
        }
        guard_check("sampled", s.all);
        test_tape_end(&t);
        free(logits), free(p);
    }
}

// 20000 draws with a fixed seed from one distribution over 12 ids, two of them cut off: chi-square with 9 degrees of
// freedom stays below its 99.9 % quantile.
static void draws_follow_the_distribution(void **state)
{
    (void)state;
    enum { ROWS = 20000, V = 12 };
    const float logits[V] = {0, 1, -1, 2, -4, 0.5f, 1.5f, -2, 0.2f, -0.3f, 1.1f, -3.5f};
    float *all = test_alloc((size_t)ROWS * V, sizeof *all);
    struct sample_row *rows = test_alloc(ROWS, sizeof *rows);
    uint32_t *token = test_alloc(ROWS, sizeof *token), seen[V] = {0};
    for (uint32_t r = 0; r < ROWS; r++) {
        memcpy(all + (size_t)r * V, logits, sizeof logits);
        rows[r] = plain;
        rows[r].top_k = 10;
        rows[r].counter[0] = r % 100;
        rows[r].counter[1] = r / 100;
    }
    struct tape *t = test_tape(false);
    struct nn_sampled s =
        nn_sample(t, test_tensor(DTYPE_F32, ROWS, V, all), settings(t, rows, ROWS), (struct tensor){0}, NULL);
    test_read_u32(s.token, token);
    double p[V], square = 0;
    distribution(logits, V, &rows[0], p);
    for (uint32_t r = 0; r < ROWS; r++) {
        REQUIRE(token[r] < V);
        seen[token[r]]++;
    }
    for (int i = 0; i < V; i++) {
        if (p[i] == 0)
            REQUIRE_INT(seen[i], 0);
        else
            square += (seen[i] - ROWS * p[i]) * (seen[i] - ROWS * p[i]) / (ROWS * p[i]);
    }
    if (square > 27.9)
        fail_msg("chi-square of %d draws is %g", ROWS, square);
    test_tape_end(&t);
    free(all), free(rows), free(token);
}

static void greedy_takes_the_lowest_of_the_best(void **state)
{
    (void)state;
    enum { V = 8300, ROWS = 5 };
    float *logits = test_random(ROWS * V, 1, 1);
    logits[4200] = logits[8200] = logits[4090] = 2;
    logits[V + 0] = logits[V + V - 1] = 2;
    logits[2 * V + 3000] = 7;
    logits[2 * V + 3001] = 6;
    // The best by order of ids, whichever lane or partial maximum holds them.
    for (int i = 8; i < 256; i += 24)
        logits[3 * V + i] = 2;
    for (int i = 31; i < 8300; i += 19)
        logits[4 * V + i] = 2;
    struct sample_row rows[ROWS];
    for (int i = 0; i < ROWS; i++) {
        rows[i] = plain;
        rows[i].temperature = 0;
    }
    uint32_t token[ROWS], banned[] = {3000, 100000};
    struct tape *t = test_tape(false);
    struct nn_sampled s = nn_sample(t, test_tensor(DTYPE_F32, ROWS, V, logits), settings(t, rows, ROWS),
                                    test_tensor_u32(2, 1, banned), NULL);
    test_read_u32(s.token, token);
    REQUIRE_INT(token[0], 4090);
    REQUIRE_INT(token[1], 0);
    REQUIRE_INT(token[2], 3001); // the best is banned
    REQUIRE_INT(token[3], 8);
    REQUIRE_INT(token[4], 31);
    test_tape_end(&t);
    free(logits);
}

// Edits and bans act on the draw, not on the recorded log-prob and entropy.
static void edits_and_bans(void **state)
{
    (void)state;
    enum { V = 40, ROWS = 3 };
    float *logits = test_random(ROWS * V, 3, 3), changed[ROWS * V], got[ROWS * V], logprob[ROWS], entropy[ROWS];
    const uint32_t starts[] = {0, 2, 2, 5}, banned[] = {11, 39};
    const struct nn_edit edits[] = {{5, 1.3f, 0}, {6, 1.3f, -0.5f}, {0, 1, 2}, {39, 1, 100}, {11, 1, -INFINITY}};
    logits[5] = 2; // a penalty divides what is positive and multiplies what is not
    logits[6] = -1;
    memcpy(changed, logits, sizeof changed);
    for (int r = 0; r < ROWS; r++) {
        for (uint32_t k = starts[r]; k < starts[r + 1]; k++) {
            float *x = &changed[r * V + edits[k].token];
            *x = (*x < 0 ? *x * edits[k].penalty : *x / edits[k].penalty) + edits[k].bias;
        }
        for (int k = 0; k < 2; k++)
            changed[r * V + banned[k]] = -INFINITY;
    }
    struct sample_row rows[ROWS] = {plain, plain, plain};
    rows[1].top_p = 0.8f;
    rows[2].logprob_temperature = 0.5f;
    struct tape *t = test_tape(false);
    struct nn_edits list = nn_edits_build(t, starts, ROWS, edits, 5);
    struct tensor in = test_tensor(DTYPE_F32, ROWS, V, logits), off = test_tensor_u32(2, 1, banned);
    struct tensor p = nn_sample_probabilities(t, in, settings(t, rows, ROWS), off, &list);
    struct nn_sampled s = nn_sample(t, in, settings(t, rows, ROWS), off, &list);
    uint32_t token[ROWS];
    test_read(p, got);
    test_read_u32(s.token, token);
    test_read(s.logprob, logprob);
    test_read(s.entropy, entropy);
    for (int r = 0; r < ROWS; r++) {
        double want[V], raw[V], h = 0;
        distribution(changed + r * V, V, &rows[r], want);
        check_probabilities("edited", got + r * V, want, V);
        struct sample_row recorded = {.temperature = rows[r].logprob_temperature, .top_p = 1};
        distribution(logits + r * V, V, &recorded, raw);
        for (int v = 0; v < V; v++)
            h -= raw[v] > 0 ? raw[v] * log(raw[v]) : 0;
        REQUIRE_NEAR(logprob[r], log(raw[token[r]]), 2e-6 * (1 + fabs(log(raw[token[r]]))));
        REQUIRE_NEAR(entropy[r], h, 5e-6);
        REQUIRE(want[token[r]] > 0);
    }
    guard_check("sampled", s.all); // tokens, log-probs and entropies stand one after the other
    test_tape_end(&t);
    free(logits);
}

// Few bans are left out while drawing, many in a copy of the logits: the same draws, and the same words recorded.
static void few_bans_and_many(void **state)
{
    (void)state;
    enum { V = 5000, ROWS = 24 };
    float *logits = test_random(ROWS * V, 4, 5);
    const uint32_t banned[] = {17, 4999, 4100, V, V + 1}; // the last two are no ids
    uint32_t all[3][3 * ROWS];
    struct sample_row rows[ROWS];
    for (uint32_t r = 0; r < ROWS; r++) {
        rows[r] = plain;
        rows[r].counter[1] = r;
        rows[r].temperature = r % 3 == 0 ? 0 : r % 3 == 1 ? 1 : 0.8f;
        for (int b = 0; b < 3; b++)
            logits[r * V + banned[b]] = 40; // else they would all be drawn
    }
    struct tape *t = test_tape(false);
    struct tensor in = test_tensor(DTYPE_F32, ROWS, V, logits);
    for (int few = 0; few < 2; few++)
        test_read_u32(nn_sample(t, in, settings(t, rows, ROWS), test_tensor_u32(few ? 3 : 5, 1, banned), NULL).all, all[few]);
    test_read_u32(nn_sample(t, in, settings(t, rows, ROWS), (struct tensor){0}, NULL).all, all[2]);
    for (uint32_t i = 0; i < 3 * ROWS; i++)
        REQUIRE_INT(all[1][i], all[0][i]);
    for (uint32_t r = 0; r < ROWS; r++) {
        REQUIRE(all[0][r] != 17 && all[0][r] != 4999 && all[0][r] != 4100);
        REQUIRE(all[2][r] == 17 || all[2][r] == 4999 || all[2][r] == 4100);
        REQUIRE_INT(all[2][2 * ROWS + r], all[0][2 * ROWS + r]); // the entropy knows no bans
    }
    test_tape_end(&t);
    free(logits);
}

// Exact rollouts: the sampler's log-prob is the training pass's, bit for bit, in any batch, with bans and filters.
static void same_bits_as_nn_logprob(void **state)
{
    (void)state;
    static const uint32_t vocabularies[] = {37, 1024, 9001};
    enum { ROWS = 21, C = 16 };
    for (size_t k = 0; k < sizeof vocabularies / sizeof vocabularies[0]; k++)
        for (int warm = 0; warm < 2; warm++) {
            const uint32_t V = vocabularies[k], banned[] = {3};
            float *x = test_random(ROWS * C, 1, 2), *w = test_random((size_t)V * C, 2, 1), drawn[ROWS], trained[ROWS];
            uint32_t token[ROWS], one_token;
            struct sample_row rows[ROWS];
            for (uint32_t r = 0; r < ROWS; r++) {
                rows[r] = plain;
                rows[r].counter[1] = r;
                rows[r].temperature = rows[r].logprob_temperature = warm ? 0.7f : 1;
                if (r % 3 == 1)
                    rows[r].top_k = 5;
            }
            struct weight head = test_weight(DTYPE_F32, V, C, w, true);
            struct tape *t = test_tape(false);
            struct tensor off = test_tensor_u32(1, 1, banned);
            struct tensor logits = nn_linear(t, test_tensor(DTYPE_F32, ROWS, C, x), &head);
            struct nn_sampled s = nn_sample(t, logits, settings(t, rows, ROWS), off, NULL);
            test_read_u32(s.token, token);
            test_read(s.logprob, drawn);
            float *entropy = test_fetch(s.entropy);
            // Alone, the row draws the same token with the same bits.
            logits = nn_linear(t, test_tensor(DTYPE_F32, 1, C, x + 7 * C), &head);
            struct nn_sampled alone = nn_sample(t, logits, settings(t, rows + 7, 1), off, NULL);
            test_read_u32(alone.token, &one_token);
            REQUIRE_INT(one_token, token[7]);
            test_read(alone.logprob, trained);
            test_same_bits("a row drawn alone", trained, drawn + 7, 1);
            test_tape_end(&t);
            t = test_tape(true);
            struct nn_logprob l = nn_logprob(t, test_leaf(t, ROWS, C, x), &head, test_tensor_u32(ROWS, 1, token),
                                             warm ? 0.7f : 1);
            test_read(l.logprob, trained);
            test_same_bits("log-prob of a draw and of training", drawn, trained, ROWS);
            test_read(l.entropy, trained);
            test_same_bits("entropy of a draw and of training", entropy, trained, ROWS);
            test_tape_end(&t);
            free(x), free(w), free(entropy);
        }
}

// Broken numbers give a token of the vocabulary and a log-prob that shows it.
static void broken_logits(void **state)
{
    (void)state;
    enum { V = 50, ROWS = 4 };
    float logits[ROWS * V], logprob[ROWS], entropy[ROWS];
    uint32_t token[ROWS];
    struct sample_row rows[ROWS] = {plain, plain, plain, plain};
    for (int i = 0; i < V; i++) {
        logits[i] = NAN;
        logits[V + i] = i == 20 ? NAN : 0;
        logits[2 * V + i] = -INFINITY;
        logits[3 * V + i] = i == 33 ? 0 : -INFINITY;
    }
    rows[0].top_p = 0.5f;
    struct tape *t = test_tape(false);
    struct nn_sampled s =
        nn_sample(t, test_tensor(DTYPE_F32, ROWS, V, logits), settings(t, rows, ROWS), (struct tensor){0}, NULL);
    test_read_u32(s.token, token);
    test_read(s.logprob, logprob);
    for (int r = 0; r < ROWS; r++)
        REQUIRE(token[r] < V);
    REQUIRE(isnan(logprob[0]) && isnan(logprob[1]) && isnan(logprob[2]));
    REQUIRE_INT(token[3], 33);
    test_read(s.entropy, entropy);
    REQUIRE(logprob[3] == 0 && entropy[3] == 0);
    test_tape_end(&t);
}

const struct CMUnitTest cases_sample[] = {
    cmocka_unit_test(golden_probabilities),
    cmocka_unit_test(filters_match_sorting),
    cmocka_unit_test(ties_of_top_k_are_kept),
    cmocka_unit_test(draws_by_the_inverse_of_the_sum),
    cmocka_unit_test(draws_follow_the_distribution),
    cmocka_unit_test(greedy_takes_the_lowest_of_the_best),
    cmocka_unit_test(edits_and_bans),
    cmocka_unit_test(few_bans_and_many),
    cmocka_unit_test(same_bits_as_nn_logprob),
    cmocka_unit_test(broken_logits),
};
const size_t cases_sample_count = sizeof cases_sample / sizeof cases_sample[0];
