// The engine's parts, between the files of this folder only: engine.c (queue, steps), schedule.c (who computes what
// next, and in which pages), batch.c (rows of one step on the device), draw.c (tokens).
#ifndef VIREO_ENGINE_INTERNAL_H
#define VIREO_ENGINE_INTERNAL_H

#include "compute/engine/pictures.h"
#include "compute/engine/sequence.h"

struct engine {
    struct model *m;
    struct engine_params p;
    struct gpu_arena *kv_memory, *activations, *upload;
    struct nn_kv *kv; // [num_hidden_layers]
    struct pages *pages;
    uint32_t page_total;
    struct features *features;
    uint32_t feature_rows;
    struct job *waiting, *running; // lists in order of arrival
    struct engine_stats stats;
    struct engine_keep keep;  // text NULL: nothing is kept
    struct kept_place *place; // [page_total * PAGE_TOKENS], while kept: of the row whose keys lie in the slot
    struct arena step; // host arrays of one step
};

// ---- schedule.c

// Decides what the next batch computes (take of jobs and sequences) and gives it pages: first one token of every running
// sample (the youngest give way where pages run out), then prompts, preempted samples and waiting generations in order
// of arrival, up to max_batch_tokens of those. False: no host memory.
bool schedule(struct engine *e, struct vireo_error *err);
// Gives back the pages of samples that ended, and of a job that is gone.
void schedule_release_ended(struct engine *e, struct job *j);
void schedule_release(struct engine *e, struct job *j);
// Offers whole pages of computed prompts to the prefix cache. After their work has passed.
void schedule_keep_prefixes(struct engine *e);

// ---- batch.c

// One row of the sampled batch.
struct row {
    struct job *job;
    struct sequence *sequence;
};
// Everything that is computed at once. Arrays live in the engine's step arena.
struct batch {
    struct tape *t;
    struct text_rows text;
    uint32_t *pages; // page lists of all sequences, one after the other
    uint32_t page_count, page_room;
    struct row *rows; // those that draw a token, and the row of the batch that each draws from
    uint32_t *hidden_row;
    uint32_t row_count, row_room;
    struct tensor pictures; // what image rows are embedded from
    bool fresh;             // it is the vision tower's output of this batch; else the pool
    struct vision_batch vision;
};
// Records the vision tower and the text model for what was scheduled. *hidden: [rows, hidden_size]; address 0: nothing
// was scheduled.
bool batch_run(struct engine *e, struct batch *b, struct tensor *hidden, struct vireo_error *err);
// Tells e->keep where the rows of an ended sample are. False: no host memory.
bool batch_tell_places(struct engine *e, const struct job *j, const struct sequence *s);

// ---- draw.c

// Host copies of what was drawn, kept in the step's arena.
struct drawn {
    const uint32_t *token;
    const float *logprob, *entropy;
    const float *logits; // [rows, V]; only where some row wants top_logprobs
};
// Last hidden states -> logits -> tokens on the host: one submit and one reading.
bool draw(struct engine *e, struct batch *b, struct tensor hidden, struct drawn *out, struct vireo_error *err);
// The token of row i as its caller hears of it.
struct engine_token drawn_token(const struct engine *e, const struct batch *b, const struct drawn *d, uint32_t i);

#endif
