// Shared by the files of the golden runner.
#ifndef VIREO_TESTS_GOLDEN_H
#define VIREO_TESTS_GOLDEN_H

#include "compute/base/arena.h"
#include "compute/checkpoint/safetensors.h"
#include "compute/engine/engine.h"
#include "compute/models/batch.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

struct golden {
    const char *dir; // holds cases/, tiny-*/, images/
    struct gpu_device *dev;
    struct gpu_arena *arena, *upload;
    uint32_t checked, missed, skipped;
    const char *name; // of the present case
    bool fp16;        // also with weights and activations in fp16, at tolerances measured on this project's fixtures
    struct arena host;
};

// One line a quantity; counts it. `value` must be <= tolerance (NaN is a miss).
void golden_report(struct golden *g, const char *quantity, double value, double tolerance);
void golden_fail(struct golden *g, const char *fmt, ...) VIREO_PRINTF(2, 3);
void golden_skip(struct golden *g, const char *name, const char *why);
const char *golden_path(struct golden *g, const char *fmt, ...) VIREO_PRINTF(2, 3);
// rel = |x - ref| / |ref| and abs = largest difference, as fixtures/README.md defines them.
void golden_compare(struct golden *g, const char *quantity, const float *x, const float *ref, size_t n, double rel,
                    double abs);

// A tensor of a file as floats (or integers); NULL + count 0 when absent. Memory: g->host.
const float *golden_floats(struct golden *g, const struct safetensors *f, const char *name, size_t *n);
const int32_t *golden_integers(struct golden *g, const struct safetensors *f, const char *name, size_t *n);

struct model *golden_model(struct golden *g, const char *folder, enum dtype type);
// pixel_values and image_grid_thw of a case as patches of each image. *count images.
struct patches *golden_patches(struct golden *g, const struct safetensors *f, uint32_t *count);

void golden_tables(struct golden *g);
void golden_forward(struct golden *g, const char *name, const json_t *c);
void golden_sft(struct golden *g, const char *name, const json_t *c);
void golden_adamw(struct golden *g, const char *name, const json_t *c, const json_t *all);
void golden_grpo(struct golden *g, const char *name, const json_t *c);

struct golden_tape {
    struct tape *t;
};
struct tape *golden_tape(struct golden *g, bool grad); // f32 activations
struct tape *golden_tape_of(struct golden *g, enum dtype activations, bool grad);
bool golden_tape_end(struct golden *g, struct tape **t); // reports failure, waits, rewinds the arenas

#endif
