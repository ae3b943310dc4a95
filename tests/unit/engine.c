// The engine: however a generation is computed - alone, among others, in parts, preempted, from kept pages - its tokens
// and log-probs are the same bits, and every page comes back.
#include "tests/check.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/philox.h"
#include "compute/engine/engine.h"

enum { QUESTIONS = 6, SAMPLES = 3, LONGEST = 48, PICTURES = 4 };

struct answer {
    uint32_t ids[LONGEST], count, ends;
    float logprob[LONGEST];
    enum engine_end end;
};

struct question {
    struct prompt prompt;
    const struct patches *images[2];
    const char *scope;
    uint32_t max_tokens;
};

static struct gpu_device *dev;
static struct model *model;
static struct arena host;
static struct patches pictures[PICTURES];
static struct question questions[QUESTIONS];
static struct answer alone[QUESTIONS][SAMPLES];

static void make_picture(uint32_t n, uint32_t width, uint32_t height)
{
    struct vireo_error err;
    struct image im;
    REQUIRE_OK(image_init(&im, width, height, &err));
    for (uint32_t i = 0; i < width * height * 3; i++)
        im.rgb[i] = (uint8_t)(philox(8, n, i / 30, 0, 0).v[0] >> 24);
    REQUIRE_OK(image_patches(&model->processor, &im, &pictures[n], &err));
    image_finish(&im);
}

static void make_question(uint32_t q, const char *text, uint32_t first, uint32_t images, uint32_t max_tokens)
{
    struct vireo_error err;
    struct chat chat;
    struct image_grid grids[2];
    struct prompt_options o = {.add_generation_prompt = true};
    uint32_t unit = model->config.vision.spatial_merge_size * model->config.vision.spatial_merge_size;
    chat_init(&chat, &host);
    REQUIRE_OK(chat_add_message(&chat, "user", &err));
    for (uint32_t i = 0; i < images; i++) {
        const struct patches *p = &pictures[(first + i) % PICTURES];
        grids[i] = (struct image_grid){p->t, p->h, p->w, (uint32_t)(p->rows / unit)};
        questions[q].images[i] = p;
        REQUIRE_OK(chat_add_image(&chat, i, &err));
    }
    REQUIRE_OK(chat_add_text(&chat, text, strlen(text), &err));
    REQUIRE_OK(prompt_build(model, &chat, grids, images, &o, &host, &questions[q].prompt, &err));
    questions[q].max_tokens = max_tokens;
}

static bool may_fail;

static bool on_token(void *user, uint32_t sample, const struct engine_token *token)
{
    struct answer *a = &((struct answer *)user)[sample];
    REQUIRE(a->count < LONGEST);
    a->ids[a->count] = token->id;
    a->logprob[a->count++] = token->logprob;
    return token->id % 31 != 7; // some end early, at whatever place
}

static void on_end(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why)
{
    if (reason == ENGINE_FAILED && !may_fail)
        fail_msg("%s", why->message);
    ((struct answer *)user)[sample].end = reason;
    ((struct answer *)user)[sample].ends++;
}

static struct engine *make_engine(uint32_t kv_tokens, uint32_t sequences, uint32_t batch)
{
    struct vireo_error err;
    struct engine *e = engine_create(
        model, &(struct engine_params){.kv_tokens = kv_tokens, .max_sequences = sequences, .max_batch_tokens = batch},
        &err);
    if (!e)
        fail_msg("%s", err.message);
    return e;
}

static bool try_submit(struct engine *e, uint32_t q, struct answer answers[SAMPLES], struct vireo_error *err)
{
    struct question *k = &questions[q];
    struct generation g = {.id = q + 1,
                           .prompt = &k->prompt,
                           .images = k->images,
                           .scope = k->scope,
                           .n = SAMPLES,
                           .first_sample = q * SAMPLES,
                           .sampling = {.temperature = 1,
                                        .top_p = 1,
                                        .repetition_penalty = 1,
                                        // Penalties look at what was drawn before, also after a preemption.
                                        .frequency_penalty = q == 1 ? 0.5f : 0,
                                        .logprob_temperature = 1,
                                        .seed = 77,
                                        .max_tokens = k->max_tokens,
                                        .ignore_eos = q % 2 == 0},
                           .on_token = on_token,
                           .on_end = on_end,
                           .user = answers};
    memset(answers, 0, SAMPLES * sizeof *answers);
    return engine_submit(e, &g, err);
}

static void submit(struct engine *e, uint32_t q, struct answer answers[SAMPLES])
{
    struct vireo_error err;
    REQUIRE_OK(try_submit(e, q, answers, &err));
}

static void turn(struct engine *e, uint32_t most)
{
    struct vireo_error err;
    bool busy = true;
    for (uint32_t i = 0; busy && i < most; i++)
        REQUIRE_OK(engine_step(e, &busy, &err));
    if (most > 5000)
        REQUIRE(!busy);
}

static void same_as_alone(const char *how, uint32_t q, const struct answer answers[SAMPLES])
{
    for (uint32_t s = 0; s < SAMPLES; s++) {
        const struct answer *a = &answers[s], *b = &alone[q][s];
        if (a->count != b->count || a->end != b->end || memcmp(a->ids, b->ids, a->count * 4) != 0)
            fail_msg("%s: other tokens for question %u, sample %u", how, q, s);
        for (uint32_t i = 0; i < a->count; i++)
            if (memcmp(&a->logprob[i], &b->logprob[i], 4) != 0)
                fail_msg("%s: question %u, sample %u, token %u: %a, alone %a", how, q, s, i, a->logprob[i],
                         b->logprob[i]);
    }
}

// All questions at once; statistics at the end.
static struct engine_stats together(const char *how, uint32_t kv_tokens, uint32_t batch)
{
    static struct answer answers[QUESTIONS][SAMPLES];
    struct engine *e = make_engine(kv_tokens, QUESTIONS * SAMPLES, batch);
    for (uint32_t q = 0; q < QUESTIONS; q++)
        submit(e, q, answers[q]);
    turn(e, 10000);
    for (uint32_t q = 0; q < QUESTIONS; q++)
        same_as_alone(how, q, answers[q]);
    struct engine_stats s = engine_stats(e);
    REQUIRE_INT(s.pages_held, 0);
    REQUIRE_INT(s.running + s.waiting, 0);
    engine_destroy(&e);
    return s;
}

static int set_up(void **state)
{
    (void)state;
    struct vireo_error err;
    arena_init(&host, 1 << 18);
    struct gpu_device_params p = {
        .select = getenv("VIREO_DEVICE"), .cache_folder = getenv("VIREO_CACHE"), .poison = true};
    dev = gpu_device_create(&p, &err);
    if (!dev)
        fail_msg("no device: %s", err.message);
    model = model_load(dev, test_data("fixtures/tiny-qwen2_5_vl"), &(struct model_load_params){.dtype = DTYPE_U32}, &err);
    if (!model)
        fail_msg("%s", err.message);
    make_picture(0, 84, 84);
    make_picture(1, 140, 112);
    make_picture(2, 56, 196);
    make_picture(3, 84, 84); // as large as the first one
    make_question(0, "Where is the small red circle?", 0, 1, LONGEST);
    make_question(1, "Compare the two pictures, then answer with one word.", 1, 2, 31);
    // A prompt of whole pages: its last token is computed all the same.
    for (int words = 1; words == 1 || questions[2].prompt.count % 16 != 0; words++) {
        char text[64];
        snprintf(text, sizeof text, "Say%.*s", 2 * words, " a a a a a a a a a a a a a a a a a a a a");
        make_question(2, text, 0, 0, 5);
    }
    make_question(3, "Where is the small blue square, and what is there beside it?", 0, 1, 40);
    make_question(4, "One.", 2, 1, 1);
    make_question(5, "Where is the small red circle?", 3, 1, 17); // the words of question 0, another picture
    for (uint32_t q = 0; q < QUESTIONS; q++) {
        struct engine *e = make_engine(4096, SAMPLES, 4096);
        submit(e, q, alone[q]);
        turn(e, 10000);
        REQUIRE_INT(engine_stats(e).cached_tokens, 0);
        engine_destroy(&e);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < PICTURES; i++)
        patches_finish(&pictures[i]);
    model_destroy(&model);
    REQUIRE_INT(gpu_device_messages(dev), 0);
    gpu_device_destroy(&dev);
    arena_finish(&host);
    return 0;
}

static void company_changes_no_bit(void **state)
{
    (void)state;
    REQUIRE_INT(together("together", 4096, 4096).preemptions, 0);
}

static void prompts_in_parts_give_the_same_bits(void **state)
{
    (void)state;
    // 1 and odd sizes: parts end inside pages and inside pictures.
    static const uint32_t sizes[] = {1, 7, 33};
    for (uint32_t i = 0; i < VIREO_COUNT(sizes); i++) {
        struct engine_stats s = together("in parts", 4096, sizes[i]);
        REQUIRE_INT(s.preemptions, 0);
    }
}

static void preempted_samples_go_on_with_the_same_bits(void **state)
{
    (void)state;
    uint32_t need = 0;
    for (uint32_t q = 0; q < QUESTIONS; q++)
        need = VIREO_MAX(need, questions[q].prompt.count + questions[q].max_tokens);
    // The smallest pool that is not refused, and larger ones; whole batches and small ones.
    REQUIRE(together("the smallest pool", need, 4096).preemptions > 0);
    REQUIRE(together("the smallest pool, in parts", need, 13).preemptions > 0);
    REQUIRE(together("a small pool", need + need / 2, 4096).preemptions > 0);
}

static void pools_of_every_size_come_to_an_end(void **state)
{
    (void)state;
    uint32_t need = 0;
    for (uint32_t q = 0; q < QUESTIONS; q++)
        need = VIREO_MAX(need, questions[q].prompt.count + questions[q].max_tokens);
    for (uint32_t i = 0; i < 12; i++)
        together("pools of every size", need + 13 * i, 1 + philox(3, i, 0, 0, 0).v[0] % 100);
}

static void a_known_prefix_gives_the_same_bits(void **state)
{
    (void)state;
    struct answer answers[SAMPLES];
    struct engine *e = make_engine(4096, SAMPLES, 4096);
    uint64_t cached = 0;
    for (uint32_t q = 0; q < QUESTIONS; q++) { // fills
        submit(e, q, answers);
        turn(e, 10000);
        same_as_alone("first time", q, answers);
    }
    // Questions 0 and 3 share a picture at the same place, so the second one starts behind it.
    REQUIRE(engine_stats(e).cached_tokens > 0);
    for (uint32_t q = 0; q < QUESTIONS; q++) {
        cached = engine_stats(e).cached_tokens;
        uint64_t before = engine_stats(e).image_tokens;
        submit(e, q, answers);
        turn(e, 10000);
        same_as_alone("second time", q, answers);
        REQUIRE_INT(engine_stats(e).cached_tokens - cached, (questions[q].prompt.count - 1) / 16 * 16);
        REQUIRE_INT(engine_stats(e).image_tokens, before);
    }
    // Another scope finds neither pages nor pictures.
    cached = engine_stats(e).cached_tokens;
    uint64_t tower = engine_stats(e).image_tokens;
    questions[0].scope = "another key";
    submit(e, 0, answers);
    turn(e, 10000);
    questions[0].scope = NULL;
    same_as_alone("another scope", 0, answers);
    REQUIRE_INT(engine_stats(e).cached_tokens, cached);
    REQUIRE(engine_stats(e).image_tokens > tower);
    // Nothing is found after engine_forget.
    tower = engine_stats(e).image_tokens;
    engine_forget(e);
    REQUIRE_INT(engine_stats(e).pages_kept, 0);
    submit(e, 0, answers);
    turn(e, 10000);
    same_as_alone("forgotten", 0, answers);
    REQUIRE_INT(engine_stats(e).cached_tokens, cached);
    REQUIRE(engine_stats(e).image_tokens > tower);
    engine_destroy(&e);
}

// The next turn of a conversation: a question with pictures, the longest answer there is, and some words more.
static void the_next_turn_starts_behind_the_answer(void **state)
{
    (void)state;
    struct vireo_error err;
    uint32_t q = 0;
    const struct answer *said = &alone[0][0];
    for (uint32_t k = 0; k < QUESTIONS; k++)
        for (uint32_t s = 0; s < SAMPLES; s++)
            if (questions[k].prompt.image_count > 0 && alone[k][s].count > said->count) {
                q = k;
                said = &alone[k][s];
            }
    const struct prompt *p = &questions[q].prompt;
    uint32_t *ids = arena_array(&host, uint32_t, p->count + LONGEST + 5), unit = model->config.vision.spatial_merge_size;
    uint32_t count = p->count + said->count + 5;
    REQUIRE(ids && said->count >= 16);
    memcpy(ids, p->ids, p->count * sizeof *ids);
    memcpy(ids + p->count, said->ids, said->count * sizeof *ids);
    for (uint32_t i = 0; i < 5; i++)
        ids[count - 5 + i] = 100 + i;
    struct image_grid grids[2];
    for (uint32_t i = 0; i < p->image_count; i++) {
        const struct patches *x = questions[q].images[i];
        grids[i] = (struct image_grid){x->t, x->h, x->w, (uint32_t)(x->rows / (unit * unit))};
    }
    struct question kept = questions[q];
    struct answer answers[2][SAMPLES];
    for (int known = 0; known < 2; known++) {
        struct engine *e = make_engine(4096, SAMPLES, 4096);
        questions[q] = kept;
        if (known) {
            submit(e, q, answers[1]);
            turn(e, 10000);
        }
        uint64_t cached = engine_stats(e).cached_tokens;
        REQUIRE_OK(prompt_from_ids(model, ids, count, grids, kept.prompt.image_count, &host, &questions[q].prompt, &err));
        submit(e, q, answers[known]);
        turn(e, 10000);
        // All whole pages whose keys were stored: the answer's last token was never fed.
        REQUIRE_INT(engine_stats(e).cached_tokens - cached, known ? (kept.prompt.count + said->count - 1) / 16 * 16 : 0);
        engine_destroy(&e);
    }
    questions[q] = kept;
    for (uint32_t s = 0; s < SAMPLES; s++) {
        REQUIRE_INT(answers[1][s].count, answers[0][s].count);
        REQUIRE(memcmp(answers[1][s].ids, answers[0][s].ids, answers[0][s].count * 4) == 0);
        REQUIRE(memcmp(answers[1][s].logprob, answers[0][s].logprob, answers[0][s].count * 4) == 0);
    }
}

static void cancelled_generations_give_their_pages_back(void **state)
{
    (void)state;
    static struct answer answers[QUESTIONS][SAMPLES];
    struct engine *e = make_engine(4096, QUESTIONS * SAMPLES, 40);
    for (uint32_t steps = 1; steps < 12; steps += 3) {
        for (uint32_t q = 0; q < QUESTIONS; q++)
            submit(e, q, answers[q]);
        turn(e, steps);
        engine_cancel(e, 1);
        engine_cancel(e, 4);
        turn(e, 10000);
        REQUIRE_INT(engine_stats(e).pages_held, 0);
        REQUIRE_INT(answers[0][0].end, ENGINE_CANCELLED);
        same_as_alone("beside cancelled ones", 1, answers[1]);
        same_as_alone("beside cancelled ones", 5, answers[5]);
    }
    engine_destroy(&e);
}

// Whatever allocation fails: each sample of what was taken in ends once, nothing is lost, and the next generations run.
static void failures_end_what_runs_and_nothing_else(void **state)
{
    (void)state;
    static const char *const points[] = {"alloc", "gpu.allocate"};
    static struct answer answers[2][SAMPLES];
    struct vireo_error err;
    uint32_t failures = 0;
    for (uint32_t point = 0; point < VIREO_COUNT(points); point++) {
        struct engine *e = make_engine(256, 2 * SAMPLES, 64);
        bool past = false;
        for (int n = 1; !past; n += point ? 1 : 1 + n / 8) {
            char rule[64];
            snprintf(rule, sizeof rule, "fail:%s:%d", points[point], n);
            may_fail = true;
            bool taken[2], busy = true, fine = true;
            engine_forget(e);
            vireo_fault_set(rule);
            taken[0] = try_submit(e, 4, answers[0], &err);
            taken[1] = try_submit(e, 2, answers[1], &err);
            while (busy)
                fine = engine_step(e, &busy, &err) && fine;
            failures += !(fine && taken[0] && taken[1]);
            past = point == 1 && fine && taken[0] && taken[1];
            for (int i = 0; point == 0 && !past && i < n; i++) { // the rule still waits: there were fewer than n
                void *p = vireo_alloc(1);
                past = p == NULL;
                free(p);
            }
            vireo_fault_set("");
            may_fail = false;
            for (uint32_t q = 0; q < 2; q++)
                for (uint32_t s = 0; s < SAMPLES; s++)
                    REQUIRE_INT(answers[q][s].ends, taken[q]);
            REQUIRE_INT(engine_stats(e).pages_held, 0);
            REQUIRE_INT(engine_stats(e).running + engine_stats(e).waiting, 0);
            submit(e, 4, answers[0]);
            submit(e, 2, answers[1]);
            turn(e, 10000);
            same_as_alone("after a failure", 4, answers[0]);
            same_as_alone("after a failure", 2, answers[1]);
        }
        engine_destroy(&e);
    }
    REQUIRE(failures > 10);
}

static void only_what_can_never_run_is_refused(void **state)
{
    (void)state;
    struct vireo_error err;
    const struct prompt *p = &questions[2].prompt;
    struct engine *e = make_engine(p->count + 8, 2, 4096);
    struct answer a[SAMPLES] = {0};
    struct generation g = {.prompt = p,
                           .n = 2,
                           .sampling = {.repetition_penalty = 1, .top_p = 1, .logprob_temperature = 1, .max_tokens = 8,
                                        .ignore_eos = true},
                           .on_token = on_token,
                           .on_end = on_end,
                           .user = a};
    REQUIRE_OK(engine_submit(e, &g, &err)); // the two take turns
    turn(e, 10000);
    REQUIRE_INT(a[0].count, 8);
    REQUIRE_INT(a[1].count, 8);
    g.sampling.max_tokens = 9;
    REQUIRE_FAIL(engine_submit(e, &g, &err), VIREO_INVALID);
    REQUIRE_STRING(err.kind, "context_length_exceeded");
    g.sampling.max_tokens = 8;
    g.n = 3;
    REQUIRE_FAIL(engine_submit(e, &g, &err), VIREO_INVALID);
    REQUIRE_STRING(err.param, "n");
    engine_destroy(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(prompts_in_parts_give_the_same_bits),
        cmocka_unit_test(preempted_samples_go_on_with_the_same_bits),
        cmocka_unit_test(pools_of_every_size_come_to_an_end),
        cmocka_unit_test(a_known_prefix_gives_the_same_bits),
        cmocka_unit_test(the_next_turn_starts_behind_the_answer),
        cmocka_unit_test(cancelled_generations_give_their_pages_back),
        cmocka_unit_test(failures_end_what_runs_and_nothing_else),
        cmocka_unit_test(only_what_can_never_run_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
