#include "compute/dataset/shapes_draw.h"

#include "compute/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_EXTENT = 7, LARGE_EXTENT = 14, DRAWS = 200, PATCH_COLOURS = 4, PATCH_FORMS = 3 };
enum { BASE = 140, LIGHT = 45, NOISE_SIGMA = 12, OFFSET = 15 };

const char *const shapes_form_names[SHAPES_FORMS] = {"circle", "square", "triangle", "diamond"};
const char *const shapes_colour_names[SHAPES_COLOURS] = {"red", "green", "blue", "yellow", "purple", "cyan"};
static const int colours[SHAPES_COLOURS][3] = {{220, 40, 40},  {40, 180, 60},  {50, 80, 220},
                                               {235, 210, 50}, {160, 60, 200}, {60, 200, 210}};

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t splitmix_next(struct splitmix *s)
{
    return mix(s->state += 0x9e3779b97f4a7c15u);
}

struct splitmix splitmix_of(uint64_t seed, uint64_t purpose, uint64_t index)
{
    struct splitmix s = {mix(seed + 0x9e3779b97f4a7c15u) ^ mix(purpose * 0xd1342543de82ef95u)};
    s.state = splitmix_next(&s) + mix(index + 0x632be59bd9b4e019u);
    return s;
}

// Multiply-shift over 32 bits; the bias is below n / 2^32.
uint32_t splitmix_below(struct splitmix *s, uint32_t n)
{
    return (uint32_t)((splitmix_next(s) >> 32) * n >> 32);
}

bool splitmix_chance(struct splitmix *s, uint32_t percent)
{
    return splitmix_below(s, 100) < percent;
}

// Sum of twelve uniform numbers: variance 1, nearly normal, and exact in integers, so that pixels are the same
// everywhere (a normal deviate by logarithm and cosine depends on the C library).
static double deviate(struct splitmix *s)
{
    int64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t bits = splitmix_next(s);
        for (int k = 0; k < 64; k += 16)
            sum += (int64_t)(bits >> k & 0xffff);
    }
    return (double)(2 * sum - 12 * 65535) / (2 * 65536.0);
}

static uint8_t clip(double value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

// u and v run from -1 to 1 over pixel centres: red grows with x, green with y.
static void paint_background(struct splitmix *s, uint8_t *pixels)
{
    bool noisy = splitmix_chance(s, 30);
    for (int y = 0; y < SHAPES_SIDE; y++)
        for (int x = 0; x < SHAPES_SIDE; x++) {
            double u = (2 * x + 1 - SHAPES_SIDE) / (double)SHAPES_SIDE;
            double v = (2 * y + 1 - SHAPES_SIDE) / (double)SHAPES_SIDE;
            double noise = noisy ? NOISE_SIGMA * deviate(s) : 0;
            uint8_t *p = pixels + 3 * (y * SHAPES_SIDE + x);
            p[0] = clip(BASE + LIGHT * u + noise);
            p[1] = clip(BASE + LIGHT * v + noise);
            p[2] = clip(BASE + noise);
        }
}

static bool covers(enum shapes_form form, int dx, int dy, int r)
{
    switch (form) {
    case SHAPES_CIRCLE: return dx * dx + dy * dy <= r * r;
    case SHAPES_SQUARE: return abs(dx) <= r && abs(dy) <= r;
    case SHAPES_TRIANGLE: return abs(dy) <= r && 2 * abs(dx) <= dy + r;
    default: return abs(dx) + abs(dy) <= r;
    }
}

static void paint_object(struct splitmix *s, const struct shapes_object *o, uint8_t *pixels)
{
    int r = o->large ? LARGE_EXTENT : SMALL_EXTENT, cx = o->box[0] + r, cy = o->box[1] + r;
    int offset = (int)splitmix_below(s, 2 * OFFSET + 1) - OFFSET;
    for (int y = VIREO_MAX(0, cy - r); y <= VIREO_MIN(SHAPES_SIDE - 1, cy + r); y++)
        for (int x = VIREO_MAX(0, cx - r); x <= VIREO_MIN(SHAPES_SIDE - 1, cx + r); x++)
            for (int c = 0; c < 3 && covers(o->form, x - cx, y - cy, r); c++)
                pixels[3 * (y * SHAPES_SIDE + x) + c] = clip(colours[o->colour][c] + offset);
}

static bool overlaps(const int a[4], const int b[4])
{
    return VIREO_MIN(a[2], b[2]) > VIREO_MAX(a[0], b[0]) && VIREO_MIN(a[3], b[3]) > VIREO_MAX(a[1], b[1]);
}

static bool fits(const struct shapes_scene *scene, const int box[4])
{
    for (int i = 0; i < scene->object_count; i++)
        if (overlaps(scene->objects[i].box, box))
            return false;
    return true;
}

void shapes_draw_objects(struct splitmix *s, int objects_min, int objects_max, int colour_count, int forms,
                         struct shapes_scene *out)
{
    int wanted = objects_min + (int)splitmix_below(s, (uint32_t)(objects_max - objects_min + 1));
    out->object_count = 0;
    for (int draw = 0; draw < DRAWS && out->object_count < wanted; draw++) {
        struct shapes_object o = {.large = splitmix_chance(s, 50)};
        int side = o.large ? 2 * LARGE_EXTENT : 2 * SMALL_EXTENT;
        uint32_t places = (uint32_t)((SHAPES_SIDE - side) / SHAPES_GRID + 1);
        o.box[0] = (int)splitmix_below(s, places) * SHAPES_GRID;
        o.box[1] = (int)splitmix_below(s, places) * SHAPES_GRID;
        o.box[2] = o.box[0] + side;
        o.box[3] = o.box[1] + side;
        if (!fits(out, o.box))
            continue;
        o.colour = (enum shapes_colour)splitmix_below(s, (uint32_t)colour_count);
        o.form = (enum shapes_form)splitmix_below(s, (uint32_t)forms);
        out->objects[out->object_count++] = o;
    }
}

void shapes_describe(const struct shapes_object *o, char out[SHAPES_QUESTION_BYTES])
{
    snprintf(out, SHAPES_QUESTION_BYTES, "%s %s %s", o->large ? "large" : "small", shapes_colour_names[o->colour],
             shapes_form_names[o->form]);
}

// Objects like `o` in what a question names.
static int count_like(const struct shapes_scene *scene, const struct shapes_object *o, bool colour, bool form,
                      bool size)
{
    int count = 0;
    for (int i = 0; i < scene->object_count; i++) {
        const struct shapes_object *p = &scene->objects[i];
        bool alike = !colour || p->colour == o->colour;
        alike &= !form || p->form == o->form;
        alike &= !size || p->large == o->large;
        count += alike;
    }
    return count;
}

void shapes_find_questions(struct shapes_scene *scene)
{
    scene->question_count = 0;
    for (int i = 0; i < scene->object_count; i++) {
        const struct shapes_object *o = &scene->objects[i];
        const char *colour = shapes_colour_names[o->colour], *form = shapes_form_names[o->form];
        struct shapes_question *q = scene->questions;
        if (count_like(scene, o, true, true, false) == 1) {
            snprintf(q[scene->question_count].text, SHAPES_QUESTION_BYTES, "the %s %s", colour, form);
            q[scene->question_count++].target = i;
        }
        if (count_like(scene, o, true, true, true) == 1) {
            snprintf(q[scene->question_count].text, SHAPES_QUESTION_BYTES, "the %s %s %s", o->large ? "large" : "small",
                     colour, form);
            q[scene->question_count++].target = i;
        }
        if (count_like(scene, o, true, false, false) == 1) {
            snprintf(q[scene->question_count].text, SHAPES_QUESTION_BYTES, "the %s shape", colour);
            q[scene->question_count++].target = i;
        }
        if (count_like(scene, o, false, true, false) == 1) {
            snprintf(q[scene->question_count].text, SHAPES_QUESTION_BYTES, "the %s", form);
            q[scene->question_count++].target = i;
        }
    }
}

void shapes_scene(uint64_t seed, uint64_t index, int objects_min, int objects_max, struct shapes_scene *out)
{
    vireo_assert(objects_min >= 1 && objects_min <= objects_max && objects_max <= SHAPES_MAX_OBJECTS);
    struct splitmix s = splitmix_of(seed, PURPOSE_SCENE, index);
    memset(out, 0, sizeof *out);
    do {
        shapes_draw_objects(&s, objects_min, objects_max, PATCH_COLOURS, PATCH_FORMS, out);
        shapes_find_questions(out);
    } while (out->question_count == 0);
    paint_background(&s, out->pixels);
    for (int i = 0; i < out->object_count; i++)
        paint_object(&s, &out->objects[i], out->pixels);
}

void shapes_answer(const struct shapes_object *target, const int box[4], char out[SHAPES_ANSWER_BYTES])
{
    char name[SHAPES_QUESTION_BYTES];
    shapes_describe(target, name);
    snprintf(out, SHAPES_ANSWER_BYTES, "<think>%s</think><answer>{\"bbox_2d\": [%d,%d,%d,%d]}</answer>", name, box[0],
             box[1], box[2], box[3]);
}

void shapes_sloppy_box(const struct shapes_scene *scene, int target, uint64_t seed, uint64_t row, int box[4])
{
    struct splitmix s = splitmix_of(seed, PURPOSE_LABELS, row);
    int labelled = target;
    if (scene->object_count > 1 && splitmix_chance(&s, 25)) {
        labelled = (int)splitmix_below(&s, (uint32_t)scene->object_count - 1);
        labelled += labelled >= target;
    }
    for (int i = 0; i < 4; i++) {
        int edge = scene->objects[labelled].box[i];
        if (splitmix_chance(&s, 50))
            edge = i < 2 ? VIREO_MAX(0, edge - SHAPES_GRID) : VIREO_MIN(SHAPES_SIDE, edge + SHAPES_GRID);
        box[i] = edge;
    }
}
