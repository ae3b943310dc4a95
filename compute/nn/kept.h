// Activations of forward passes that a later backward pass reads: a rollout computes them anyway, and since it is bit
// for bit the training forward, training need not compute them again.
//
// A run is one forward pass over packed rows (the prompts, then every decode step): its tensors in order of creation.
// A model's forward makes its tensors in the same order for every batch, so tensor number i is the same activation in
// every run. tape_keep_begin .. tape_keep_end makes a run; tape_adopt_begin .. tape_adopt_end puts rows of several
// runs together as the activations of one packed batch. The rows of a part (tape_part) are put together when the
// backward walk reaches it, so that no second copy of everything ever stands beside what is kept. What costs no more to
// compute than to copy (norms, SwiGLU: tape_again_begin) is not kept.
#ifndef VIREO_NN_KEPT_H
#define VIREO_NN_KEPT_H

#include "compute/nn/tape.h"

// A row of a run. A tensor may have several rows (r) for each of the run's: then rows [row * r, row * r + r).
struct kept_place {
    uint32_t run, row; // run KEPT_NOWHERE: not kept
};
enum { KEPT_NOWHERE = 0xffffffff };

struct kept;
// Tensors come from `memory` (owned by the caller, shared with others if need be; rewound by the caller after
// kept_clear) until that arena has `most_bytes` in use. NULL without memory.
struct kept *kept_create(struct gpu_arena *memory, uint64_t most_bytes, struct vireo_error *err);
void kept_destroy(struct kept **k);
void kept_clear(struct kept *k); // no runs, complete
// False: memory ran out, or runs do not match each other; what there is must not be adopted.
bool kept_complete(const struct kept *k);
uint32_t kept_runs(const struct kept *k);

// ---- While a tape keeps: every tensor it makes belongs to the run (also those that only a backward pass reads, as with
// gradients on). Rows are the run's, as places count them. Returns the place of row 0. `k` NULL or incomplete: the tape
// goes on as before, nothing is kept.
struct kept_place tape_keep_begin(struct tape *t, struct kept *k, uint32_t rows);
void tape_keep_end(struct tape *t);

// ---- While a tape adopts: ops compute nothing, push their backward halves, and get the kept rows as their results:
// row i is places[i]. All rows of one run, in order: the kept tensors themselves, else copies in the tape's own memory.
// Of a part only its result can be read before the walk. `places` is copied. The kept tensors must live until the
// backward pass is done.
void tape_adopt_begin(struct tape *t, const struct kept *k, const struct kept_place *places, uint32_t rows);
// Fails the tape if the ops in between made other tensors than the runs have.
void tape_adopt_end(struct tape *t);

// ---- For tape.c and ops.
// The next tensor of the open run; address 0 when the memory is used up.
struct tensor kept_new(struct kept *k, enum dtype type, uint32_t rows, uint32_t columns);
struct adoption;
struct adoption *adoption_begin(struct tape *t, const struct kept *k, const struct kept_place *places, uint32_t rows);
// The next activation; *own: it was put together in `memory`.
struct tensor adoption_next(struct tape *t, struct adoption *a, struct gpu_arena *memory, enum dtype type,
                            uint32_t rows, uint32_t columns, bool *own);
// A part that is not walked yet: from `hold` on adoption_next gives shapes whose addresses mean nothing, until `release`,
// which puts the part's result (one of them) together and returns it. *part is what adoption_enter goes back to.
struct adoption_part {
    uint32_t first, result; // numbers of its first tensor and of its result
    struct tensor made;     // the result
};
// The tensors of the part that begins now are shapes.
void adoption_hold(struct adoption *a, struct adoption_part *part);
// Ends it. `result`: what the part gave.
struct tensor adoption_release(struct tape *t, struct adoption *a, struct gpu_arena *memory, struct tensor result,
                               struct adoption_part *part, bool *own);
// The part's tensors come once more, put together now, its result as it was made.
void adoption_enter(struct adoption *a, const struct adoption_part *part);
bool adoption_holds(const struct adoption *a);
bool adoption_all(const struct adoption *a); // every tensor was taken
void adoption_destroy(struct adoption *a);
uint32_t kept_begin(struct kept *k, uint32_t rows);
void kept_end(struct kept *k);

#endif
