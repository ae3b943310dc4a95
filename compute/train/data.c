#include "compute/train/data.h"

#include "compute/base/check.h"
#include "compute/base/file.h"
#include "compute/base/thread.h"
#include "compute/dataset/jsonl.h"
#include "compute/engine/prefix.h"
#include "compute/image/decode.h"

#include <string.h>

const char *data_image_path(const struct job_spec *s, const struct sample_image *image, struct vireo_error *err)
{
    const char *path = json_string_value(json_object_get(s->images, image->id));
    if (!path)
        path = json_string_value(json_object_get(s->images, image->name));
    if (!path)
        vireo_fail_kind(err, VIREO_INVALID, "invalid_value", "training_file",
                        "No image '%.80s' was uploaded for this job.", image->name);
    return path;
}

bool data_load(const struct job_spec *s, const char *path, bool want_target, struct dataset *out,
               struct vireo_error *err)
{
    struct jsonl_options options = {.want = want_target ? JSONL_TARGET : JSONL_PROMPT,
                                    .question_template = s->question_template,
                                    .system_prompt = s->system_prompt};
    if (!jsonl_load(path, &options, out, NULL, err))
        return false;
    for (uint32_t i = 0; i < out->image_count; i++)
        if (out->images[i].form != IMAGE_BYTES && !data_image_path(s, &out->images[i], err)) {
            dataset_finish(out);
            return false;
        }
    if (out->count == 0) {
        dataset_finish(out);
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "training_file", "The file has no rows.");
    }
    return true;
}

// What the threads of one step share. Results and errors are kept by index, so timing never changes them.
struct work {
    const struct model *m;
    const struct job_spec *s;
    const struct dataset *d;
    const uint32_t *image; // [picture_count] indices into d->images
    struct step_data *out;
    struct arena *arenas; // [count], one a row: arenas are not thread-safe
    struct vireo_error *errors;
    bool *failed;
    bool with_target;
};

static bool load_picture(const struct work *w, uint32_t i, struct vireo_error *err)
{
    const struct sample_image *image = &w->d->images[w->image[i]];
    struct file_bytes bytes = {(char *)image->bytes, image->byte_count};
    if (image->form != IMAGE_BYTES) {
        const char *path = data_image_path(w->s, image, err);
        if (!path || !file_read(path, image_default_limits.bytes, &bytes, err))
            return vireo_explain(err, "image %.60s: ", image->name);
    }
    struct image pixels = {0};
    struct picture *p = &w->out->pictures[i];
    struct image_processor processor = w->m->processor;
    if (w->s->min_pixels)
        processor.min_pixels = w->s->min_pixels;
    if (w->s->max_pixels)
        processor.max_pixels = w->s->max_pixels;
    bool done = image_decode((const uint8_t *)bytes.data, bytes.size, NULL, &pixels, err);
    p->width = pixels.width;
    p->height = pixels.height;
    done = done && image_patches(&processor, &pixels, &p->patches, err);
    done = done && (prefix_image_digest(&p->patches, p->digest) || vireo_fail_memory(err, HASH_BYTES));
    image_finish(&pixels);
    if (image->form != IMAGE_BYTES)
        file_bytes_free(&bytes);
    return done || vireo_explain(err, "image %.60s: ", image->name);
}

static void picture_work(void *context, size_t i)
{
    const struct work *w = context;
    w->failed[i] = !load_picture(w, (uint32_t)i, &w->errors[i]);
}

// Files of the same content under different names become one picture. (Equal patches of pictures of different sizes stay
// apart: graders are told the size.)
static void merge_equal(struct step_data *d, uint32_t *place)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < d->picture_count; i++) {
        struct picture *p = &d->pictures[i];
        uint32_t n = 0;
        while (n < kept && (memcmp(d->pictures[n].digest, p->digest, HASH_BYTES) != 0 ||
                            d->pictures[n].width != p->width || d->pictures[n].height != p->height))
            n++;
        place[i] = n;
        if (n < kept) {
            patches_finish(&p->patches);
            continue;
        }
        if (kept != i) {
            d->pictures[kept] = *p;
            *p = (struct picture){0};
        }
        kept++;
    }
    d->picture_count = kept;
    for (uint32_t i = 0; i < d->count; i++)
        for (uint32_t k = 0; k < d->examples[i].sample->image_count; k++)
            d->examples[i].pictures[k] = place[d->examples[i].pictures[k]];
}

// The sample's messages, with the answer as the last one where it is trained on.
static bool chat_of(const struct sample *sample, bool with_target, struct arena *a, struct chat *out,
                    struct vireo_error *err)
{
    *out = sample->prompt;
    if (!with_target)
        return true;
    vireo_assert(sample->target);
    // The dataset is shared and constant: the extra message goes into a copy of the list.
    out->arena = a;
    out->messages = arena_array(a, struct chat_message, sample->prompt.count + 1);
    if (!out->messages)
        return vireo_fail_memory(err, sizeof *out->messages * sample->prompt.count);
    memcpy(out->messages, sample->prompt.messages, sample->prompt.count * sizeof *out->messages);
    out->capacity = sample->prompt.count + 1;
    if (!chat_add(out, "assistant", sample->target, err))
        return false;
    out->messages[out->count - 1].weight = sample->weight;
    return true;
}

// Image parts of a row's chat index the dataset's images; the prompt wants 0, 1, ... in order of appearance.
static bool build_prompt(const struct work *w, uint32_t row, struct vireo_error *err)
{
    struct example *e = &w->out->examples[row];
    struct arena *a = &w->arenas[row];
    const struct sample *sample = e->sample;
    struct image_grid *grids = arena_array(a, struct image_grid, sample->image_count + 1);
    if (!grids)
        return vireo_fail_memory(err, sizeof *grids);
    uint32_t unit = w->m->config.vision.spatial_merge_size * w->m->config.vision.spatial_merge_size;
    for (uint32_t i = 0; i < sample->image_count; i++) {
        const struct patches *p = &w->out->pictures[e->pictures[i]].patches;
        grids[i] = (struct image_grid){p->t, p->h, p->w, (uint32_t)(p->rows / unit)};
    }
    struct chat chat;
    struct prompt_options options = {.add_generation_prompt = !w->with_target};
    if (!chat_of(sample, w->with_target, a, &chat, err) ||
        !prompt_build(w->m, &chat, grids, sample->image_count, &options, a, &e->prompt, err))
        return vireo_explain(err, "line %u: ", sample->line);
    if (w->s->max_prompt_length && e->prompt.count > w->s->max_prompt_length)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "training_file",
                               "line %u: the prompt has %u tokens, max_prompt_length is %u.", sample->line,
                               e->prompt.count, w->s->max_prompt_length);
    return true;
}

static void prompt_work(void *context, size_t i)
{
    const struct work *w = context;
    w->failed[i] = !build_prompt(w, (uint32_t)i, &w->errors[i]);
}

static bool first_error(const struct work *w, uint32_t count, struct vireo_error *err)
{
    for (uint32_t i = 0; i < count; i++)
        if (w->failed[i]) {
            if (err)
                *err = w->errors[i];
            return false;
        }
    return true;
}

bool step_data_build(const struct model *m, const struct job_spec *s, const struct dataset *d, const uint32_t *rows,
                     uint32_t count, bool with_target, struct arena *a, struct step_data *out, struct vireo_error *err)
{
    uint32_t images = 0;
    for (uint32_t i = 0; i < count; i++)
        images += d->samples[rows[i]].image_count;
    uint32_t most = VIREO_MAX(images, count) + 1;
    struct step_data data = {.count = count, .examples = arena_array(a, struct example, count)};
    data.pictures = arena_array(a, struct picture, images + 1);
    data.patches = (const struct patches **)arena_array(a, struct patches *, images + 1);
    uint32_t *image = arena_array(a, uint32_t, images + 1);
    struct work w = {.m = m, .s = s, .d = d, .image = image, .out = &data, .with_target = with_target};
    w.arenas = arena_array(a, struct arena, count);
    w.errors = arena_array(a, struct vireo_error, most);
    w.failed = arena_array(a, bool, most);
    if (!data.examples || !data.pictures || !data.patches || !image || !w.arenas || !w.errors || !w.failed)
        return vireo_fail_memory(err, most * sizeof *w.errors);
    for (uint32_t i = 0; i < count; i++) {
        struct example *e = &data.examples[i];
        e->sample = &d->samples[rows[i]];
        e->pictures = arena_array(a, uint32_t, e->sample->image_count + 1);
        if (!e->pictures)
            return vireo_fail_memory(err, 64);
        for (uint32_t k = 0; k < e->sample->image_count; k++) {
            uint32_t n = 0;
            while (n < data.picture_count && image[n] != e->sample->images[k])
                n++;
            if (n == data.picture_count) {
                data.patches[n] = &data.pictures[n].patches;
                image[data.picture_count++] = e->sample->images[k];
            }
            e->pictures[k] = n;
        }
    }
    thread_for(data.picture_count, 0, picture_work, &w);
    bool done = first_error(&w, data.picture_count, err);
    if (done) {
        merge_equal(&data, image); // the indices into the dataset have served
        memset(w.failed, 0, most * sizeof *w.failed);
        for (uint32_t i = 0; i < count; i++)
            arena_init(&w.arenas[i], 1 << 14);
        thread_for(count, 0, prompt_work, &w);
        done = first_error(&w, count, err);
        // The rows' prompts move into the caller's arena, the threads' arenas end here.
        for (uint32_t i = 0; i < count; i++) {
            struct prompt *p = &data.examples[i].prompt;
            if (done) {
                p->ids = (uint32_t *)arena_copy_bytes(a, p->ids, p->count * sizeof *p->ids);
                p->positions = (uint32_t(*)[3])arena_copy_bytes(a, p->positions, p->count * sizeof *p->positions);
                p->image = (int32_t *)arena_copy_bytes(a, p->image, p->count * sizeof *p->image);
                p->image_row = (uint32_t *)arena_copy_bytes(a, p->image_row, p->count * sizeof *p->image_row);
                p->trained_first =
                    (uint32_t *)arena_copy_bytes(a, p->trained_first, p->trained_count * sizeof(uint32_t));
                p->trained_end = (uint32_t *)arena_copy_bytes(a, p->trained_end, p->trained_count * sizeof(uint32_t));
                done = (p->ids && p->positions && p->image && p->image_row && p->trained_first && p->trained_end) ||
                       vireo_fail_memory(err, p->count * 32);
            }
            arena_finish(&w.arenas[i]);
        }
    }
    if (!done) {
        step_data_finish(&data);
        return false;
    }
    *out = data;
    return true;
}

void step_data_finish(struct step_data *s)
{
    for (uint32_t i = 0; i < s->picture_count; i++)
        patches_finish(&s->pictures[i].patches);
    *s = (struct step_data){0};
}
