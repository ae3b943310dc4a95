// The random scenes behind shapes.h, shared by its two sources.
#ifndef VIREO_DATASET_SHAPES_DRAW_H
#define VIREO_DATASET_SHAPES_DRAW_H

#include "compute/dataset/shapes.h"

// splitmix64 (Steele, Lea, Flood, OOPSLA 2014): one 64-bit state, any seed is fine.
struct splitmix {
    uint64_t state;
};
// A stream of its own for each (seed, purpose, index).
struct splitmix splitmix_of(uint64_t seed, uint64_t purpose, uint64_t index);
uint64_t splitmix_next(struct splitmix *s);
uint32_t splitmix_below(struct splitmix *s, uint32_t n);    // uniform in [0, n)
bool splitmix_chance(struct splitmix *s, uint32_t percent); // true with percent / 100

enum { PURPOSE_SCENE = 1, PURPOSE_ROWS = 2, PURPOSE_LABELS = 3, PURPOSE_CORPUS = 4 };

// Objects only, from the first `colours` colours and `forms` forms; fills object_count and objects.
void shapes_draw_objects(struct splitmix *s, int objects_min, int objects_max, int colours, int forms,
                         struct shapes_scene *out);
// "small red circle" into out [SHAPES_QUESTION_BYTES].
void shapes_describe(const struct shapes_object *o, char out[SHAPES_QUESTION_BYTES]);
// The four kinds of question by colour, form and size that fit exactly one object.
void shapes_find_questions(struct shapes_scene *scene);

extern const char *const shapes_form_names[SHAPES_FORMS];
extern const char *const shapes_colour_names[SHAPES_COLOURS];

#endif
