// Synthetic referring-expression scenes: coloured shapes on a lit background, boxes on a 14-pixel grid.
//
// Image 84 x 84 RGB, that is 6 x 6 patches of 14. Objects do not overlap; half extent 7 (small) or 14 (large); circle,
// square or triangle; red, green, blue or yellow with one brightness offset an object. The background is lit from a
// corner (red grows with x, green with y, so that a patch can tell where it is), three times in ten with grey noise on
// top. Every scene follows from (seed, index) by splitmix64 alone: the same bytes on every machine, in any order. CPU
// only, pure.
#ifndef VIREO_DATASET_SHAPES_H
#define VIREO_DATASET_SHAPES_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { SHAPES_SIDE = 84, SHAPES_GRID = 14, SHAPES_MAX_OBJECTS = 6, SHAPES_MAX_QUESTIONS = 4 * SHAPES_MAX_OBJECTS };
enum { SHAPES_QUESTION_BYTES = 48, SHAPES_ANSWER_BYTES = 128 };

enum shapes_form { SHAPES_CIRCLE, SHAPES_SQUARE, SHAPES_TRIANGLE, SHAPES_DIAMOND, SHAPES_FORMS };
enum shapes_colour {
    SHAPES_RED, SHAPES_GREEN, SHAPES_BLUE, SHAPES_YELLOW, SHAPES_PURPLE, SHAPES_CYAN, SHAPES_COLOURS
};

struct shapes_object {
    enum shapes_form form;
    enum shapes_colour colour;
    bool large;
    int box[4]; // x1, y1, x2, y2 in pixels, corners in {0, 14, …, 84}; x2, y2 exclusive
};

// A question that fits exactly one object of its scene.
struct shapes_question {
    char text[SHAPES_QUESTION_BYTES]; // "the small red circle"
    int target;                       // index of the object
};

struct shapes_scene {
    uint8_t pixels[SHAPES_SIDE * SHAPES_SIDE * 3]; // RGB, rows from the top
    int object_count;
    struct shapes_object objects[SHAPES_MAX_OBJECTS];
    int question_count; // >= 1
    struct shapes_question questions[SHAPES_MAX_QUESTIONS];
};

// Scene `index` of `seed` with objects_min to objects_max objects (1 to SHAPES_MAX_OBJECTS; a crowded scene may end
// with fewer). A draw in which no question fits exactly one object is thrown away and the scene is drawn again.
void shapes_scene(uint64_t seed, uint64_t index, int objects_min, int objects_max, struct shapes_scene *out);

// <think>small red circle</think><answer>{"bbox_2d": [14,28,28,42]}</answer>. `box` is what is written; the think part
// is always the target's own size, colour and form.
void shapes_answer(const struct shapes_object *target, const int box[4], char out[SHAPES_ANSWER_BYTES]);

// What a hasty annotator writes for `target`: with chance 0.25 the box of another object (where there is one), then
// each edge 14 pixels outward with chance 0.5, clipped to the image. Follows from (seed, row).
void shapes_sloppy_box(const struct shapes_scene *scene, int target, uint64_t seed, uint64_t row, int box[4]);

enum shapes_kind {
    SHAPES_SFT, // rows with the answer as assistant message
    SHAPES_RFT, // rows that end with the question; item fields solution, image_size, objects
};

struct shapes_dataset {
    enum shapes_kind kind;
    uint64_t seed;
    uint32_t count;               // rows, 1 to 50000
    uint32_t scenes;              // pool the rows draw from, with repeats; 0: a new scene for each draw
    int objects_min, objects_max; // 1 to SHAPES_MAX_OBJECTS
    // after each drawn question one about another object of the picture, where there is one
    bool pairs;
    bool sloppy;                  // SFT only: labels by shapes_sloppy_box
};

// Writes `folder` (made if absent): a PNG for every scene used, and train.jsonl that names them by file name; the
// names differ between seeds and object counts, so that sets can be uploaded side by side. The two
// rows of a pair stand next to each other and share the member "group", which the loader keeps together. VIREO_INVALID
// names a wrong option ("count", "objects", "scenes", "sloppy").
bool shapes_write(const struct shapes_dataset *config, const char *folder, struct vireo_error *err);

// Text to train a tokenizer on: `lines` records `user\n{question}\nassistant\n{size} {colour} {form}{"bbox_2d":
// [..]}\n` with all six colours, four forms and also the kinds of question by place and size ("the leftmost circle").
// *out [lines] points to C strings in the same allocation: free(*out) frees all.
bool shapes_corpus(uint64_t seed, size_t lines, char ***out, struct vireo_error *err);

#endif
