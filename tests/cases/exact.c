// exact MODEL_DIR [--dtype float32|bfloat16|float16] [--break]: samples groups through the engine with images and several
// lengths, then compares every recorded log-prob, bit for bit, with the training forward: all groups packed, each group
// alone, each sequence alone. Also the engine itself: each prompt generated alone must give the same tokens and log-
// probs as among the others. Exit 0 only if the largest difference is 0. Weights and activations are of the stored type
// unless --dtype says otherwise. --break forces a kernel whose sums depend on the batch; then it must fail.
#include "compute/base/check.h"
#include "compute/base/philox.h"
#include "compute/engine/engine.h"
#include "tests/nullgpu/created.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPTS = 5, SAMPLES = 4, LONGEST = 40 };

struct answer {
    uint32_t ids[LONGEST], count;
    float logprob[LONGEST];
};

struct question {
    struct prompt prompt;
    const struct patches *images[4];
    uint32_t max_tokens;
    struct answer answers[SAMPLES];
};

struct test {
    struct gpu_device *dev;
    struct model *m;
    struct gpu_arena *memory, *upload;
    struct arena host;
    struct patches patches[3];
    struct question questions[PROMPTS];
    double largest;
    uint32_t compared;
};

static _Noreturn void stop(const char *what, const struct vireo_error *err)
{
    printf("%s: %s\n", what, err->message);
    exit(1);
}

static void make_image(struct test *x, uint32_t n, uint32_t width, uint32_t height)
{
    struct vireo_error err;
    struct image im;
    if (!image_init(&im, width, height, &err))
        stop("image", &err);
    for (uint32_t i = 0; i < width * height * 3; i++)
        im.rgb[i] = (uint8_t)(philox(7, n, i / 40, 0, 0).v[0] >> 24);
    if (!image_patches(&x->m->processor, &im, &x->patches[n], &err))
        stop("patches", &err);
    image_finish(&im);
}

static void make_question(struct test *x, uint32_t q, const char *text, uint32_t images, uint32_t max_tokens)
{
    struct vireo_error err;
    struct chat chat;
    struct image_grid grids[4];
    uint32_t unit = x->m->config.vision.spatial_merge_size * x->m->config.vision.spatial_merge_size;
    chat_init(&chat, &x->host);
    if (!chat_add_message(&chat, "user", &err))
        stop("chat", &err);
    for (uint32_t i = 0; i < images; i++) {
        const struct patches *p = &x->patches[(q + i) % 3];
        grids[i] = (struct image_grid){p->t, p->h, p->w, (uint32_t)(p->rows / unit)};
        x->questions[q].images[i] = p;
        if (!chat_add_image(&chat, i, &err))
            stop("chat", &err);
    }
    struct prompt_options o = {.add_generation_prompt = true};
    if (!chat_add_text(&chat, text, strlen(text), &err) ||
        !prompt_build(x->m, &chat, grids, images, &o, &x->host, &x->questions[q].prompt, &err))
        stop("prompt", &err);
    x->questions[q].max_tokens = max_tokens;
}

static bool on_token(void *user, uint32_t sample, const struct engine_token *token)
{
    struct answer *a = &((struct answer *)user)[sample];
    a->ids[a->count] = token->id;
    a->logprob[a->count++] = token->logprob;
    return true;
}

static void on_end(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why)
{
    if (reason == ENGINE_FAILED)
        stop("engine", why);
}

// Questions [first, end) in one engine, answers into `out` [(end - first) * SAMPLES].
static void generate(struct test *x, uint32_t first, uint32_t end, uint32_t sequences, struct answer *out)
{
    struct vireo_error err;
    struct engine_params p = {.kv_tokens = 8192, .max_sequences = sequences, .max_batch_tokens = 4096};
    struct engine *e = engine_create(x->m, &p, &err);
    if (!e)
        stop("engine", &err);
    for (uint32_t q = first; q < end; q++) {
        struct question *k = &x->questions[q];
        struct generation g = {.id = q + 1,
                               .prompt = &k->prompt,
                               .images = k->images,
                               .n = SAMPLES,
                               .first_sample = q * SAMPLES,
                               .sampling = {.temperature = 1,
                                            .top_p = 1,
                                            .repetition_penalty = 1,
                                            .logprob_temperature = 1,
                                            .seed = 99,
                                            .step = 3,
                                            .max_tokens = k->max_tokens},
                               .on_token = on_token,
                               .on_end = on_end,
                               .user = out + (q - first) * SAMPLES};
        if (!engine_submit(e, &g, &err))
            stop("submit", &err);
    }
    for (bool busy = true; busy;)
        if (!engine_step(e, &busy, &err))
            stop("step", &err);
    engine_destroy(&e);
}

static void compare(struct test *x, const char *how, float mine, float theirs)
{
    x->compared++;
    if (memcmp(&mine, &theirs, 4) == 0)
        return;
    double d = fabs((double)mine - theirs);
    if (!(d <= x->largest) || d == 0) {
        printf("%s: %a against %a\n", how, mine, theirs);
        x->largest = isnan(d) ? INFINITY : fmax(d, 1e-45);
    }
}

// The training forward of questions [first, end), samples [s0, s1) of each, with gradients on as in training.
static void train_forward(struct test *x, const char *how, uint32_t first, uint32_t end, uint32_t s0, uint32_t s1)
{
    struct vireo_error err;
    struct tape *t = tape_create(
        x->dev,
        &(struct tape_params){.arena = x->memory, .upload = x->upload, .grad = true, .activations = x->m->activations}, &err);
    const struct patches *distinct[3] = {&x->patches[0], &x->patches[1], &x->patches[2]};
    struct vision_batch vision;
    if (!t || !vision_batch_build(x->m, t, distinct, 3, &x->host, &vision, &err))
        stop("vision", &err);
    struct tensor features = x->m->family->vision(t, x->m, &vision);
    struct text_rows rows;
    text_rows_init(&rows, &x->host);
    uint32_t *hidden = arena_array(&x->host, uint32_t, PROMPTS * SAMPLES * LONGEST), n = 0;
    uint32_t *target = arena_array(&x->host, uint32_t, PROMPTS * SAMPLES * LONGEST);
    for (uint32_t q = first; q < end; q++) {
        struct question *k = &x->questions[q];
        uint32_t index[4];
        for (uint32_t i = 0; i < 4; i++)
            index[i] = (q + i) % 3;
        uint32_t at = text_rows_prompt(&rows, &k->prompt, &vision, index);
        for (uint32_t s = s0; s < s1; s++) {
            const struct answer *a = &k->answers[s];
            uint32_t row =
                text_rows_completion(&rows, at, k->prompt.count, a->ids, a->count - 1, k->prompt.next_position);
            for (uint32_t i = 0; i < a->count; i++) {
                hidden[n] = i ? row + i - 1 : at + k->prompt.count - 1;
                target[n++] = a->ids[i];
            }
        }
    }
    struct text_batch batch;
    if (!text_batch_build(x->m, t, &rows, NULL, &batch, &err))
        stop("batch", &err);
    struct tensor h = x->m->family->text(t, x->m, &batch, features);
    struct nn_logprob lp =
        nn_logprob(t, nn_gather(t, h, hidden, n), x->m->head, tape_upload(t, DTYPE_U32, n, target), 1);
    float *got = arena_array(&x->host, float, n);
    if (!tape_failed(t) && !gpu_read(x->dev, lp.logprob.span, got, n * 4, &err))
        stop("read", &err);
    if (!tape_finish(&t, &err) || !gpu_finish(x->dev, &err))
        stop("forward", &err);
    gpu_arena_rewind(x->memory, 0);
    gpu_arena_rewind(x->upload, 0);
    n = 0;
    for (uint32_t q = first; q < end; q++)
        for (uint32_t s = s0; s < s1; s++)
            for (uint32_t i = 0; i < x->questions[q].answers[s].count; i++)
                compare(x, how, got[n++], x->questions[q].answers[s].logprob[i]);
}

int main(int argc, char **argv)
{
    const char *folder = NULL;
    enum dtype type = DTYPE_U32; // as stored
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--break") == 0)
            nn_break_batch_invariance = true;
        else if (strcmp(argv[i], "--dtype") == 0 && i + 1 < argc)
            type = strcmp(argv[++i], "bfloat16") == 0  ? DTYPE_BF16
                   : strcmp(argv[i], "float16") == 0 ? DTYPE_F16
                                                     : DTYPE_F32;
        else
            folder = argv[i];
    }
    if (!folder) {
        fprintf(stderr, "usage: exact MODEL_DIR [--dtype float32|bfloat16|float16] [--break]\n");
        return 64;
    }
    struct vireo_error err;
    struct test x = {0};
    arena_init(&x.host, 1 << 20);
    struct gpu_device_params p = {
        .select = getenv("VIREO_DEVICE"), .cache_folder = getenv("VIREO_CACHE"), .poison = true};
    x.dev = gpu_device_create(&p, &err);
    if (!x.dev) {
        printf("no device: %s\n", err.message);
        return 77;
    }
    x.m = model_load(x.dev, folder, &(struct model_load_params){.dtype = type}, &err);
    if (!x.m)
        stop("model", &err);
    x.memory = gpu_arena_create(x.dev, &(struct gpu_arena_params){.name = "exact", .grows = true}, &err);
    x.upload = gpu_arena_create(
        x.dev, &(struct gpu_arena_params){.name = "upload", .memory = GPU_MEMORY_UPLOAD, .grows = true}, &err);
    if (!x.memory || !x.upload || !model_take_gradients(x.m, false, &err))
        stop("memory", &err);
    make_image(&x, 0, 84, 84);
    make_image(&x, 1, 140, 112);
    make_image(&x, 2, 56, 196);
    make_question(&x, 0, "Where is the small red circle?", 1, 23);
    make_question(&x, 1, "Compare the two pictures, then answer with one word.", 2, LONGEST);
    make_question(&x, 2, "Say hello.", 0, 5);
    make_question(&x, 3, "How many things of any kind can be seen in this picture? Think first, then say a number.", 1,
                  31);
    make_question(&x, 4, "One.", 1, 1);

    static struct answer together[PROMPTS * SAMPLES], alone[SAMPLES];
    generate(&x, 0, PROMPTS, PROMPTS * SAMPLES, together);
    uint32_t lengths[LONGEST + 1] = {0}, distinct = 0;
    for (uint32_t q = 0; q < PROMPTS; q++)
        for (uint32_t s = 0; s < SAMPLES; s++) {
            x.questions[q].answers[s] = together[q * SAMPLES + s];
            distinct += lengths[together[q * SAMPLES + s].count]++ == 0;
        }
    for (uint32_t q = 0; q < PROMPTS; q++) {
        memset(alone, 0, sizeof alone);
        generate(&x, q, q + 1, SAMPLES, alone);
        for (uint32_t s = 0; s < SAMPLES; s++) {
            const struct answer *a = &x.questions[q].answers[s];
            if (alone[s].count != a->count || memcmp(alone[s].ids, a->ids, a->count * 4) != 0) {
                printf("engine alone: other tokens for prompt %u, sample %u\n", q, s);
                x.largest = INFINITY;
            } else {
                for (uint32_t i = 0; i < a->count; i++)
                    compare(&x, "engine alone", alone[s].logprob[i], a->logprob[i]);
            }
        }
    }
    train_forward(&x, "training, all groups packed", 0, PROMPTS, 0, SAMPLES);
    for (uint32_t q = 0; q < PROMPTS; q++) {
        train_forward(&x, "training, one group", q, q + 1, 0, SAMPLES);
        for (uint32_t s = 0; s < SAMPLES; s++)
            train_forward(&x, "training, one sequence", q, q + 1, s, s + 1);
    }
    printf(
        "exact: %s, %d sequences, %u distinct lengths, 3 images of 3 sizes, %u log-probs compared, largest difference %g\n",
        dtype_name(x.m->dtype), PROMPTS * SAMPLES, distinct, x.compared, x.largest);
    const int unknown = created_unknown(x.dev);
    for (int i = 0; i < 3; i++)
        patches_finish(&x.patches[i]);
    gpu_arena_destroy(&x.memory);
    gpu_arena_destroy(&x.upload);
    model_destroy(&x.m);
    gpu_device_destroy(&x.dev);
    arena_finish(&x.host);
    return x.largest == 0 && x.compared > 0 && unknown == 0 ? 0 : 1;
}
