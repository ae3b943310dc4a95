// memory MODEL_DIR: the same packed batch forward and backward with the tape's memory kept, reused, and with layers
// computed again. Log-probs and every gradient must be the same bytes; the arena's peak must fall each time. Run it with
// VIREO_GPU_DEBUG=poison: memory given back too early then holds NaN.
#include "compute/base/check.h"
#include "compute/base/philox.h"
#include "compute/models/batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 40, SAMPLES = 3, ANSWER = 30, ROWS = SAMPLES * ANSWER };

struct test {
    struct gpu_device *dev;
    struct model *m;
    struct gpu_arena *upload;
    struct arena host;
    struct patches patches;
    uint64_t gradient_bytes;
};

static _Noreturn void stop(const char *what, const struct vireo_error *err)
{
    printf("%s: %s\n", what, err->message);
    exit(1);
}

static void make_image(struct test *x, uint32_t width, uint32_t height)
{
    struct vireo_error err;
    struct image im;
    if (!image_init(&im, width, height, &err))
        stop("image", &err);
    for (uint32_t i = 0; i < width * height * 3; i++)
        im.rgb[i] = (uint8_t)(philox(7, 1, i / 40, 0, 0).v[0] >> 24);
    if (!image_patches(&x->m->processor, &im, &x->patches, &err))
        stop("patches", &err);
    image_finish(&im);
}

static void make_prompt(struct test *x, struct prompt *out)
{
    static const char text[] = "Where is the small red circle? Answer with one word.";
    struct vireo_error err;
    struct chat chat;
    const struct patches *p = &x->patches;
    uint32_t unit = x->m->config.vision.spatial_merge_size * x->m->config.vision.spatial_merge_size;
    struct image_grid grid = {p->t, p->h, p->w, (uint32_t)(p->rows / unit)};
    struct prompt_options o = {.add_generation_prompt = true};
    chat_init(&chat, &x->host);
    if (!chat_add_message(&chat, "user", &err) || !chat_add_image(&chat, 0, &err) ||
        !chat_add_text(&chat, text, strlen(text), &err) ||
        !prompt_build(x->m, &chat, &grid, 1, &o, &x->host, out, &err))
        stop("prompt", &err);
}

// Forward and backward; log-probs and then all gradients into `out`. The peak of the activations in bytes.
static uint64_t pass(struct test *x, bool reuse, bool checkpoint, float *out)
{
    struct vireo_error err;
    struct gpu_arena *memory =
        gpu_arena_create(x->dev, &(struct gpu_arena_params){.name = "activations", .grows = true}, &err);
    if (!memory)
        stop("arena", &err);
    for (size_t i = 0; i < x->m->weight_count; i++)
        if (x->m->weights[i]->grad.span.address)
            gpu_fill(x->dev, x->m->weights[i]->grad.span, 0, tensor_bytes(x->m->weights[i]->grad));
    const struct tape_params params = {
        .arena = memory, .upload = x->upload, .grad = true, .activations = x->m->activations,
        .reuse = reuse, .checkpoint = checkpoint};
    struct tape *t = tape_create(x->dev, &params, &err);
    const struct patches *image = &x->patches;
    struct vision_batch vision;
    if (!t || !vision_batch_build(x->m, t, &image, 1, &x->host, &vision, &err))
        stop("vision", &err);
    struct tensor features = x->m->family->vision(t, x->m, &vision);
    struct prompt prompt;
    struct text_rows rows;
    make_prompt(x, &prompt);
    text_rows_init(&rows, &x->host);
    uint32_t hidden[ROWS], target[ROWS], n = 0, index = 0;
    float seed[ROWS];
    uint32_t at = text_rows_prompt(&rows, &prompt, &vision, &index);
    for (uint32_t s = 0; s < SAMPLES; s++) {
        uint32_t ids[ANSWER];
        for (uint32_t i = 0; i < ANSWER; i++)
            ids[i] = philox(9, s, i, 0, 0).v[0] % 200;
        uint32_t row = text_rows_completion(&rows, at, prompt.count, ids, ANSWER - 1, prompt.next_position);
        for (uint32_t i = 0; i < ANSWER; i++, n++) {
            hidden[n] = i ? row + i - 1 : at + prompt.count - 1;
            target[n] = ids[i];
            seed[n] = (float)(int)(n % 7) - 3;
        }
    }
    struct text_batch batch;
    if (!text_batch_build(x->m, t, &rows, NULL, &batch, &err))
        stop("batch", &err);
    struct tensor h = x->m->family->text(t, x->m, &batch, features);
    memset(&batch, 0xee, sizeof batch); // the walk must not read them
    memset(&vision, 0xee, sizeof vision);
    struct nn_logprob lp =
        nn_logprob(t, nn_gather(t, h, hidden, n), x->m->head, tape_upload(t, DTYPE_U32, n, target), 1);
    if (!tape_failed(t) && !tape_backward(t, lp.logprob, tape_upload(t, DTYPE_F32, n, seed), &err))
        stop("backward", &err);
    if (!tape_failed(t) && !gpu_read(x->dev, lp.logprob.span, out, n * 4, &err))
        stop("read", &err);
    if (!tape_finish(&t, &err) || !gpu_finish(x->dev, &err))
        stop("tape", &err);
    out += ROWS;
    for (size_t i = 0; i < x->m->weight_count; i++) {
        struct tensor g = x->m->weights[i]->grad;
        if (g.span.address && !gpu_read(x->dev, g.span, out, tensor_bytes(g), &err))
            stop("gradient", &err);
        out += g.span.address ? tensor_count(g) : 0;
    }
    uint64_t peak = gpu_arena_peak(memory);
    gpu_arena_destroy(&memory);
    gpu_arena_rewind(x->upload, 0);
    return peak;
}

// Every mode against the plain pass, with or without a frozen vision tower.
static bool compare(struct test *x, const char *what)
{
    static const struct mode {
        const char *name;
        bool reuse, checkpoint;
    } modes[] = {{"kept", false, false}, {"recomputed", false, true}, {"reused", true, false},
                 {"reused and recomputed", true, true}};
    uint64_t count = ROWS, peaks[VIREO_COUNT(modes)];
    for (size_t i = 0; i < x->m->weight_count; i++)
        count += x->m->weights[i]->grad.span.address ? tensor_count(x->m->weights[i]->value) : 0;
    float *plain = calloc(count, 4), *mine = calloc(count, 4);
    bool fine = plain && mine;
    for (size_t k = 0; fine && k < VIREO_COUNT(modes); k++) {
        memset(mine, 0xee, count * 4);
        peaks[k] = pass(x, modes[k].reuse, modes[k].checkpoint, k ? mine : plain);
        bool same = k == 0 || memcmp(plain, mine, count * 4) == 0;
        for (uint64_t i = 0, shown = 0; !same && i < count && shown < 8; i++)
            if (memcmp(&plain[i], &mine[i], 4) != 0) {
                printf("  value %llu: %.9g, not %.9g\n", (unsigned long long)i, mine[i], plain[i]);
                shown++;
            }
        double sum = 0;
        for (uint64_t i = 0; i < count; i++)
            sum += plain[i] * plain[i];
        bool lower = k < 2 || peaks[k] < (k == 3 ? peaks[2] : peaks[0]); // without reuse nothing is given back
        printf("%s, %s: %llu values, %s, norm %g, peak %.2f MiB%s\n", what, modes[k].name, (unsigned long long)count,
               same ? "same bytes" : "OTHER BYTES", sum, (double)peaks[k] / 0x1p20, lower ? "" : ", NOT LOWER");
        fine = same && lower && sum > 0 && sum < 1e30;
    }
    free(plain);
    free(mine);
    return fine;
}

int main(int argc, char **argv)
{
    struct vireo_error err;
    struct test x = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: memory MODEL_DIR\n");
        return 64;
    }
    arena_init(&x.host, 1 << 16);
    struct gpu_device_params p = {
        .select = getenv("VIREO_DEVICE"), .cache_folder = getenv("VIREO_CACHE"), .poison = true};
    x.dev = gpu_device_create(&p, &err);
    if (!x.dev) {
        printf("no device: %s\n", err.message);
        return 77;
    }
    x.upload = gpu_arena_create(
        x.dev, &(struct gpu_arena_params){.name = "upload", .memory = GPU_MEMORY_UPLOAD, .grows = true}, &err);
    if (!x.upload)
        stop("memory", &err);
    bool fine = true;
    for (int freeze = 0; fine && freeze < 2; freeze++) {
        x.m = model_load(x.dev, argv[1], &(struct model_load_params){.dtype = DTYPE_U32}, &err);
        if (!x.m || !model_take_gradients(x.m, freeze, &err))
            stop("model", &err);
        make_image(&x, 140, 112);
        fine = compare(&x, freeze ? "vision frozen" : "all trained");
        patches_finish(&x.patches);
        model_destroy(&x.m);
    }
    gpu_arena_destroy(&x.upload);
    gpu_device_destroy(&x.dev);
    arena_finish(&x.host);
    return fine ? 0 : 1;
}
