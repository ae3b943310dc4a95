#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/dataset/jsonl.h"
#include "compute/dataset/shapes_draw.h"
#include "compute/image/png.h"

#include <jansson.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// One dataset while it is written.
struct job {
    const struct shapes_dataset *config;
    const char *folder;
    struct file_writer rows;
    uint8_t *written; // [scenes] 1 = the picture of this scene is on disk; NULL where every scene is drawn once
    uint32_t row;     // rows so far
};

static bool check(const struct shapes_dataset *c, struct vireo_error *err)
{
    if (c->count < 1 || c->count > JSONL_TRAIN_ROWS)
        return vireo_fail_param(err, "count", "Invalid value for 'count': expected 1 to %d, got %u.", JSONL_TRAIN_ROWS,
                                c->count);
    if (c->objects_min < 1 || c->objects_max < c->objects_min || c->objects_max > SHAPES_MAX_OBJECTS)
        return vireo_fail_param(err, "objects",
                                "Invalid value for 'objects': expected 1 <= first <= last <= %d, got %d..%d.",
                                SHAPES_MAX_OBJECTS, c->objects_min, c->objects_max);
    if (c->scenes > JSONL_TRAIN_ROWS)
        return vireo_fail_param(err, "scenes", "Invalid value for 'scenes': expected 0 to %d, got %u.",
                                JSONL_TRAIN_ROWS,
                                c->scenes);
    if (c->kind != SHAPES_SFT && c->kind != SHAPES_RFT)
        return vireo_fail_param(err, "kind", "Invalid value for 'kind': expected sft or rft.");
    if (c->sloppy && c->kind != SHAPES_SFT)
        return vireo_fail_param(err, "sloppy",
                                "Invalid value for 'sloppy': only supervised rows have labels to be loose.");
    return true;
}

// Unique over seeds and numbers of objects, so that several sets may be uploaded side by side.
static void image_name(const struct shapes_dataset *c, uint32_t scene, char *out, size_t size)
{
    snprintf(out, size, "shapes-%dto%d-%" PRIu64 "-%06" PRIu32 ".png", c->objects_min, c->objects_max, c->seed, scene);
}

// Plain writes: two flushes a picture would make thousands of pictures take minutes, and a generator can be run again.
static bool write_bytes(const char *path, const uint8_t *bytes, size_t count, struct vireo_error *err)
{
    FILE *f = vireo_fault("file.open") ? NULL : fopen(path, "wb");
    if (!f)
        return vireo_fail_errno(err, "cannot write %s", path);
    bool ok = fwrite(bytes, 1, count, f) == count && !vireo_fault("file.write");
    ok = fclose(f) == 0 && ok;
    return ok ? true : vireo_fail_errno(err, "cannot write %s", path);
}

static bool write_image(struct job *j, uint32_t index, const struct shapes_scene *scene, struct vireo_error *err)
{
    char name[96], path[600];
    struct image im = {.width = SHAPES_SIDE, .height = SHAPES_SIDE, .rgb = (uint8_t *)scene->pixels};
    uint8_t *png = NULL;
    size_t count;
    if (j->written && j->written[index])
        return true;
    image_name(j->config, index, name, sizeof name);
    if (snprintf(path, sizeof path, "%s/%s", j->folder, name) >= (int)sizeof path)
        return vireo_fail(err, VIREO_INVALID, "The folder's path is too long.");
    bool ok = image_write_png(&im, &png, &count, err) && write_bytes(path, png, count, err);
    free(png);
    if (ok && j->written)
        j->written[index] = 1;
    return ok;
}

static json_t *box_json(const int box[4])
{
    return json_pack("[i,i,i,i]", box[0], box[1], box[2], box[3]);
}

static json_t *objects_json(const struct shapes_scene *scene)
{
    json_t *list = json_array();
    for (int i = 0; i < scene->object_count; i++) {
        char name[SHAPES_QUESTION_BYTES];
        shapes_describe(&scene->objects[i], name);
        json_array_append_new(list, json_pack("{s:o, s:s}", "bbox_2d", box_json(scene->objects[i].box), "label", name));
    }
    return list;
}

// The question comes before the picture: so the picture's tokens can attend to the words.
static json_t *row_json(const struct job *j, const struct shapes_scene *scene, uint32_t index, int question,
                        int64_t group)
{
    const struct shapes_dataset *c = j->config;
    const struct shapes_question *q = &scene->questions[question];
    const struct shapes_object *target = &scene->objects[q->target];
    char name[96], id[64], answer[SHAPES_ANSWER_BYTES];
    image_name(c, index, name, sizeof name);
    snprintf(id, sizeof id, "shapes-%" PRIu64 "-%" PRIu32, c->seed, j->row);
    json_t *messages = json_pack("[{s:s, s:[{s:s, s:s}, {s:s, s:{s:s}}]}]", "role", "user", "content", "type", "text",
                                 "text", q->text, "type", "image_url", "image_url", "url", name);
    json_t *row = json_pack("{s:s, s:O}", "id", id, "messages", messages);
    if (c->kind == SHAPES_SFT) {
        int box[4];
        memcpy(box, target->box, sizeof box);
        if (c->sloppy)
            shapes_sloppy_box(scene, q->target, c->seed, j->row, box);
        shapes_answer(target, box, answer);
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "assistant", "content", answer));
    } else {
        json_object_set_new(row, "solution", box_json(target->box));
        json_object_set_new(row, "target", json_integer(q->target));
        json_object_set_new(row, "objects", objects_json(scene));
        json_object_set_new(row, "image_size", json_pack("[i,i]", SHAPES_SIDE, SHAPES_SIDE));
    }
    if (group >= 0)
        json_object_set_new(row, "group", json_integer(group));
    json_decref(messages);
    return row;
}

static bool write_row(struct job *j, const struct shapes_scene *scene, uint32_t index, int question, int64_t group,
                      struct vireo_error *err)
{
    json_t *row = row_json(j, scene, index, question, group);
    char *text = row ? json_dumps(row, JSON_COMPACT) : NULL;
    json_decref(row);
    if (!text)
        return vireo_fail_memory(err, 1024);
    bool ok = file_writer_write(&j->rows, text, strlen(text), err) && file_writer_write(&j->rows, "\n", 1, err);
    free(text);
    j->row++;
    return ok;
}

// A question of the scene about another object than `target`, drawn uniformly; -1 if there is none.
static int other_question(struct splitmix *s, const struct shapes_scene *scene, int target)
{
    int found[SHAPES_MAX_QUESTIONS], count = 0;
    for (int i = 0; i < scene->question_count; i++)
        if (scene->questions[i].target != target)
            found[count++] = i;
    return count ? found[splitmix_below(s, (uint32_t)count)] : -1;
}

static bool write_rows(struct job *j, struct vireo_error *err)
{
    const struct shapes_dataset *c = j->config;
    struct splitmix s = splitmix_of(c->seed, PURPOSE_ROWS, 0);
    struct shapes_scene scene;
    for (uint32_t draw = 0; j->row < c->count; draw++) {
        uint32_t index = c->scenes ? splitmix_below(&s, c->scenes) : draw;
        shapes_scene(c->seed, index, c->objects_min, c->objects_max, &scene);
        int first = (int)splitmix_below(&s, (uint32_t)scene.question_count);
        int second = c->pairs ? other_question(&s, &scene, scene.questions[first].target) : -1;
        bool pair = second >= 0 && j->row + 1 < c->count;
        int64_t group = pair ? (int64_t)j->row : -1;
        if (!write_image(j, index, &scene, err) || !write_row(j, &scene, index, first, group, err))
            return false;
        if (pair && !write_row(j, &scene, index, second, group, err))
            return false;
    }
    return true;
}

bool shapes_write(const struct shapes_dataset *config, const char *folder, struct vireo_error *err)
{
    struct job j = {.config = config, .folder = folder};
    char path[600];
    if (!check(config, err))
        return false;
    if (snprintf(path, sizeof path, "%s/train.jsonl", folder) >= 440)
        return vireo_fail_param(err, "out", "The folder's path is too long.");
    if (config->scenes) {
        j.written = vireo_calloc(config->scenes, 1);
        if (!j.written)
            return vireo_fail_memory(err, config->scenes);
    }
    bool ok = file_make_folders(folder, err) && file_writer_open(&j.rows, path, err);
    if (ok) {
        ok = write_rows(&j, err) && file_writer_commit(&j.rows, err);
        file_writer_abandon(&j.rows);
    }
    free(j.written);
    return ok;
}

// Questions by place and size, "the leftmost circle", for the tokenizer's text only: the object whose key is smallest
// by a margin among those the noun names.
enum extreme { LEFTMOST, RIGHTMOST, TOP, BOTTOM, LARGEST, SMALLEST, EXTREMES };
static const char *const extreme_words[EXTREMES] = {"leftmost", "rightmost", "top", "bottom", "largest", "smallest"};

static int key_of(const struct shapes_object *o, enum extreme e)
{
    int x = (o->box[0] + o->box[2]) / 2, y = (o->box[1] + o->box[3]) / 2, r = (o->box[2] - o->box[0]) / 2;
    switch (e) {
    case LEFTMOST: return x;
    case RIGHTMOST: return -x;
    case TOP: return y;
    case BOTTOM: return -y;
    case LARGEST: return -r;
    default: return r;
    }
}

// Noun 0 "shape", then the forms, then the colours.
static bool is_named(const struct shapes_object *o, int noun)
{
    return noun == 0 || (noun <= SHAPES_FORMS ? (int)o->form == noun - 1 : (int)o->colour == noun - 1 - SHAPES_FORMS);
}

// The object that `e` singles out among those of `noun`, or -1.
static int find_extreme(const struct shapes_scene *scene, int noun, enum extreme e)
{
    int best = -1, best_key = 0, second_key = 0, count = 0;
    for (int i = 0; i < scene->object_count; i++) {
        if (!is_named(&scene->objects[i], noun))
            continue;
        int key = key_of(&scene->objects[i], e);
        if (count == 0 || key < best_key) {
            second_key = best_key;
            best_key = key;
            best = i;
        } else if (count == 1 || key < second_key) {
            second_key = key;
        }
        count++;
    }
    return count > 1 && second_key - best_key >= (e >= LARGEST ? 3 : 8) ? best : -1;
}

enum { MAX_EXTREMES = (1 + SHAPES_FORMS + SHAPES_COLOURS) * 4 };

// All unambiguous questions with the words [from, to) into out.
static int find_extremes(const struct shapes_scene *scene, int from, int to, struct shapes_question out[MAX_EXTREMES])
{
    int count = 0;
    for (int noun = 0; noun <= SHAPES_FORMS + SHAPES_COLOURS; noun++)
        for (int e = from; e < to; e++) {
            int target = find_extreme(scene, noun, (enum extreme)e);
            if (target < 0)
                continue;
            bool colour = noun > SHAPES_FORMS;
            const char *word = noun == 0 ? "shape"
                               : colour  ? shapes_colour_names[noun - 1 - SHAPES_FORMS]
                                         : shapes_form_names[noun - 1];
            snprintf(out[count].text, SHAPES_QUESTION_BYTES, "the %s %s%s", extreme_words[e], word,
                     colour ? " shape" : "");
            out[count++].target = target;
        }
    return count;
}

// One kind of the three is drawn, then a question of it; where the scene has none of that kind, one by attributes.
static struct shapes_question draw_question(struct splitmix *s, const struct shapes_scene *scene)
{
    struct shapes_question found[MAX_EXTREMES];
    uint32_t kind = splitmix_below(s, 3);
    int count = kind == 0 ? 0 : kind == 1 ? find_extremes(scene, LEFTMOST, LARGEST, found)
                                          : find_extremes(scene, LARGEST, EXTREMES, found);
    if (count)
        return found[splitmix_below(s, (uint32_t)count)];
    return scene->questions[splitmix_below(s, (uint32_t)scene->question_count)];
}

bool shapes_corpus(uint64_t seed, size_t lines, char ***out, struct vireo_error *err)
{
    enum { LINE = 192 };
    size_t bytes;
    if (lines == 0 || !vireo_mul_size(lines, LINE + sizeof(char *), &bytes))
        return vireo_fail(err, VIREO_INVALID, "Invalid number of corpus lines: %zu.", lines);
    char **list = vireo_alloc(bytes);
    if (!list)
        return vireo_fail_memory(err, bytes);
    char *text = (char *)(list + lines);
    for (size_t i = 0; i < lines; i++, text += LINE) {
        struct splitmix s = splitmix_of(seed, PURPOSE_CORPUS, i);
        struct shapes_scene scene;
        char name[SHAPES_QUESTION_BYTES];
        do {
            shapes_draw_objects(&s, 1, 3, SHAPES_COLOURS, SHAPES_FORMS, &scene);
            shapes_find_questions(&scene);
        } while (scene.question_count == 0);
        struct shapes_question q = draw_question(&s, &scene);
        const struct shapes_object *o = &scene.objects[q.target];
        shapes_describe(o, name);
        snprintf(text, LINE, "user\n%s\nassistant\n%s{\"bbox_2d\": [%d,%d,%d,%d]}\n", q.text, name, o->box[0],
                 o->box[1],
                 o->box[2], o->box[3]);
        list[i] = text;
    }
    *out = list;
    return true;
}
