// The trainer's inside, shared by the files of this folder.
#ifndef VIREO_TRAIN_INTERNAL_H
#define VIREO_TRAIN_INTERNAL_H

#include "compute/engine/engine.h"
#include "compute/engine/pictures.h"
#include "compute/rewards/grader.h"
#include "compute/train/feed.h"
#include "compute/train/loss_scale.h"
#include "compute/train/optimizer.h"
#include "compute/train/trainer.h"

struct trainer {
    const struct job_spec *spec;
    struct gpu_device *dev;
    const struct train_hooks *hooks;
    struct model *model, *reference; // reference NULL: beta is 0
    struct engine *engine;           // rollouts and sampled validation; NULL for SFT without it
    struct optimizer *optimizer;
    struct grader *grader;
    struct gpu_arena *activations, *upload;
    struct gpu_arena *kept_memory; // of the two below; NULL: the training forward is computed (keep.c)
    struct kept *kept_text, *kept_vision; // the rollout's activations; vision NULL: frozen
    struct gpu_arena *feature_memory;
    struct features *features; // of frozen vision towers (pictures.c); NULL: computed whenever needed
    struct dataset data, validation;
    struct order *order;
    struct feed *feed; // the steps' data; it uses model, data and order
    struct arena step_arena; // host memory of one step
    uint32_t micro_batch;    // rows or groups computed at once
    uint32_t longest_row;    // tokens of a row (GRPO: of a prompt), of a sample of rows spread over the file
    bool checkpointing;      // layers are computed again in the backward pass

    // What a resume continues from.
    uint32_t step, total_steps, updates; // done; in all; optimiser steps that took place
    uint32_t skipped_in_a_row;
    struct loss_scale loss_scale;
    uint64_t num_tokens;
    double started_at, seconds_of_steps; // for the estimate of time left
    uint32_t steps_here;
};

// One method of training: computes gradients of a step, accumulating leaf by leaf, and fills metrics.
struct train_method {
    enum job_method method;
    bool (*open)(struct trainer *t, struct vireo_error *err);
    // `d`: the rows of this step (batch_size of them). Adds to `metrics` (deterministic values) and `timing`.
    // *trained: false when the step has no gradient (every group without signal): no update takes place.
    bool (*step)(struct trainer *t, const struct step_data *d, json_t *metrics, json_t *timing, bool *trained,
                 struct vireo_error *err);
    // Adds the values of a validation run to `metrics`.
    bool (*validate)(struct trainer *t, json_t *metrics, struct vireo_error *err);
};
extern const struct train_method method_sft, method_grpo;

// ---- trainer.c
void metric_set(json_t *metrics, const char *name, double value); // NaN and infinity become null
// Wall and CPU seconds (all threads) of a step's phases, added up under timing.NAME and timing.cpu.NAME.
struct stopwatch {
    double wall, cpu;
};
struct stopwatch stopwatch_start(void);
void stopwatch_lap(struct stopwatch *w, json_t *timing, const char *phase); // and starts anew
// A tape on the trainer's arenas, which reuses memory (what is read after the backward pass must be pinned), with
// activations in the type of the weights.
struct tape *trainer_tape(struct trainer *t, bool grad, struct vireo_error *err);
void trainer_progress(struct trainer *t, const char *phase, double share);

// ---- rollout.c: sampling groups through the engine
struct completion {
    uint32_t *ids;
    float *logprobs, *entropies;
    uint32_t count, room;
    struct kept_place *places; // [places_count] of the prompt's rows and its own but the last, while kept
    uint32_t places_count;
    enum engine_end end;
    char *text; // without special tokens, NUL-terminated
    size_t text_bytes;
    struct grade grade;
};
struct grading;
struct rollout {
    struct completion *completions; // [examples * n], by example, then sample; text and grade after rollout_score
    struct grading *grading;        // until then
    uint32_t examples, n;
    struct kept_place *pictures; // [picture_count] first row of each in the vision tower's run, while kept
};
struct rollout_params {
    uint32_t n, max_tokens, step;
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
    bool ignore_eos;
    bool keep; // activations, where keep_open made room
};
// Samples n completions of each example; results live in `a`. Texts and rewards of those that have ended are computed
// on other threads while the device decodes the rest: after success rollout_score must follow.
bool rollout_generate(struct trainer *t, const struct step_data *d, const struct rollout_params *p, struct arena *a,
                      struct rollout *out, struct vireo_error *err);
// Drops what rollout_generate kept.
void rollout_forget(struct trainer *t);
// Waits for the last texts and rewards.
bool rollout_score(struct rollout *r, struct arena *a, struct vireo_error *err);
// The engine for `sequences` at once with this context.
bool trainer_open_engine(struct trainer *t, uint32_t rows, uint32_t n, uint32_t max_tokens, struct vireo_error *err);

// ---- grading.c: texts and rewards of completions, while others are still decoded
// Starts threads that grade what grading_add names; d and r stay where they are until grading_end. NULL + err.
struct grading *grading_begin(const struct trainer *t, const struct step_data *d, const struct rollout *r,
                              struct vireo_error *err);
void grading_add(struct grading *g, struct completion *c); // of r; its tokens are all there
// Waits for all that was added; texts move to `a` (NULL: they are dropped). The error is that of the first completion, in
// the rollout's order, that has one.
bool grading_end(struct grading **g, struct arena *a, struct vireo_error *err);

// ---- pictures.c: the vision tower's output, from a pool where the tower is frozen
// Makes the pool: bytes for every picture of the data, within PLAN_FEATURES_MOST and what the device has left; none where
// that does not hold one prompt. After keep_open.
bool pictures_open(struct trainer *t, uint32_t longest_prompt, struct vireo_error *err);
void pictures_close(struct trainer *t);
void pictures_begin_step(struct trainer *t); // the pictures of the step before may make room from here on
// Distinct pictures of one packed batch.
struct picture_list {
    const struct picture **pictures;
    uint32_t count;
};
// The output of m's vision tower for the list, count > 0: *features, whose rows first[] and row[] of *out name (other
// members only where nothing came from the pool). Computes what the pool does not have, and puts it there.
bool pictures_compute(struct trainer *t, struct tape *tape, const struct model *m, const struct picture_list *list,
                      struct vision_batch *out, struct tensor *features, struct vireo_error *err);

// ---- keep.c: the training forward taken from the rollout
// Decides whether a step's activations fit into what the device has left, and makes room for them.
bool keep_open(struct trainer *t, uint32_t longest_prompt, struct vireo_error *err);
void keep_close(struct trainer *t);
// Bytes that steps will take beside what is held at the start: a micro-batch, and the activations that are kept.
uint64_t keep_reserved(const struct trainer *t, uint32_t longest_prompt);
// True if everything of the last rollout was kept.
bool keep_is_complete(const struct trainer *t);

// ---- evaluate.c: greedy or sampled answers to a dataset, graded. *rows (may be NULL): one JSON object a row.
struct evaluation {
    uint32_t n;
    double mean, std, ci95, mean_length, parse_errors;
    double parts[GRADER_MAX_PARTS];
};
bool evaluate_dataset(struct trainer *t, const struct dataset *d, uint32_t rows, struct evaluation *out, json_t *list,
                      struct vireo_error *err);

// ---- state.c
// Writes work_folder/checkpoints/step-N: a model folder that transformers loads, optimiser state, position.
bool state_save(struct trainer *t, char *folder, size_t size, struct vireo_error *err);
// Finds the newest valid checkpoint: *path its folder ("" when there is none) and fills the counters of `t`; *micro,
// *leaves as recorded there.
bool state_find(struct trainer *t, char *path, size_t size, struct vireo_error *err);
// Loads optimiser state and fp32 masters from the folder found.
bool state_load_optimizer(struct trainer *t, const char *path, struct vireo_error *err);

#endif
