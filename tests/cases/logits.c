// logits MODEL_DIR CASE.safetensors OUT: the model's logits of a case's input_ids (and pixel_values, image_grid_thw) as
// raw float32 [tokens, vocab_size], for comparison with transformers (tests/python/load_saved.py); activations in the type
// of the weights, or with a last argument `f32` in that. `logits MODEL_DIR --save FOLDER`: loads the model and saves it again.
#include "compute/base/file.h"
#include "compute/models/batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct vireo_error err;

static int stop(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, err.message);
    return 1;
}

static bool forward(struct gpu_device *dev, struct model *m, enum dtype activations, const char *file,
                    const char *out_path)
{
    struct safetensors *f = NULL;
    if (!safetensors_open(file, &f, &err))
        return false;
    struct arena a;
    arena_init(&a, 1 << 20);
    const struct safetensor *ids = safetensors_find(f, "input_ids"), *grid = safetensors_find(f, "image_grid_thw");
    const struct safetensor *pixels = safetensors_find(f, "pixel_values");
    uint32_t n = (uint32_t)ids->count, images = grid ? (uint32_t)grid->count / 3 : 0;
    int32_t *list = arena_array(&a, int32_t, n), *thw = arena_array(&a, int32_t, 3 * images + 1);
    float *values = arena_array(&a, float, pixels ? pixels->count : 1);
    bool done = safetensors_integers(ids, 0, n, list, &err) &&
                (!grid || safetensors_integers(grid, 0, 3 * images, thw, &err)) &&
                (!pixels || safetensors_floats(pixels, 0, pixels->count, values, &err));
    struct patches *p = arena_array(&a, struct patches, images + 1);
    const struct patches **patches = (const struct patches **)arena_array(&a, struct patches *, images + 1);
    struct image_grid *grids = arena_array(&a, struct image_grid, images + 1);
    uint32_t *index = arena_array(&a, uint32_t, images + 1),
             unit = m->config.vision.spatial_merge_size * m->config.vision.spatial_merge_size;
    for (uint32_t i = 0; i < images; i++) {
        p[i] =
            (struct patches){.t = (uint32_t)thw[3 * i], .h = (uint32_t)thw[3 * i + 1], .w = (uint32_t)thw[3 * i + 2]};
        p[i].rows = (size_t)p[i].t * p[i].h * p[i].w;
        p[i].columns = (size_t)pixels->shape[1];
        p[i].values = values;
        values += p[i].rows * p[i].columns;
        patches[i] = &p[i];
        index[i] = i;
        grids[i] = (struct image_grid){p[i].t, p[i].h, p[i].w, (uint32_t)(p[i].rows / unit)};
    }
    struct gpu_arena *memory = gpu_arena_create(dev, &(struct gpu_arena_params){.name = "logits", .grows = true}, &err);
    struct gpu_arena *upload = gpu_arena_create(
        dev, &(struct gpu_arena_params){.name = "upload", .memory = GPU_MEMORY_UPLOAD, .grows = true}, &err);
    const struct tape_params how = {.arena = memory, .upload = upload, .activations = activations};
    struct tape *t = memory && upload ? tape_create(dev, &how, &err) : NULL;
    struct vision_batch vision = {0};
    struct tensor features = {0};
    struct prompt prompt;
    done = done && t && prompt_from_ids(m, (const uint32_t *)list, n, grids, images, &a, &prompt, &err);
    if (done && images) {
        done = vision_batch_build(m, t, patches, images, &a, &vision, &err);
        if (done)
            features = m->family->vision(t, m, &vision);
    }
    struct text_rows rows;
    struct text_batch batch;
    text_rows_init(&rows, &a);
    if (done) {
        text_rows_prompt(&rows, &prompt, &vision, index);
        done = text_batch_build(m, t, &rows, NULL, &batch, &err);
    }
    if (done) {
        struct tensor logits = nn_linear_f32(t, m->family->text(t, m, &batch, features), m->head);
        size_t count = (size_t)n * m->config.text.vocab_size;
        float *out = arena_array(&a, float, count);
        done = !tape_failed(t) && gpu_read(dev, logits.span, out, count * 4, &err) &&
               file_write_atomic(out_path, out, count * 4, &err);
    }
    done = tape_finish(&t, done ? &err : NULL) && done;
    gpu_arena_destroy(&memory);
    gpu_arena_destroy(&upload);
    safetensors_close(&f);
    arena_finish(&a);
    return done;
}

int main(int argc, char **argv)
{
    const bool exact = argc == 5 && strcmp(argv[4], "f32") == 0;
    if (argc != 4 && !exact) {
        fprintf(stderr, "usage: logits MODEL_DIR CASE.safetensors OUT | logits MODEL_DIR --save FOLDER\n");
        return 64;
    }
    struct gpu_device_params p = {.select = getenv("VIREO_DEVICE"), .cache_folder = getenv("VIREO_CACHE")};
    struct gpu_device *dev = gpu_device_create(&p, &err);
    if (!dev) {
        printf("no device: %s\n", err.message);
        return 77;
    }
    struct model *m = model_load(dev, argv[1], &(struct model_load_params){.dtype = DTYPE_U32}, &err);
    if (!m)
        return stop(argv[1]);
    bool save = strcmp(argv[2], "--save") == 0;
    if (!(save ? model_save(m, argv[3], &err) : forward(dev, m, exact ? DTYPE_F32 : m->activations, argv[2], argv[3])))
        return stop(argv[2]);
    model_destroy(&m);
    gpu_device_destroy(&dev);
    return 0;
}
