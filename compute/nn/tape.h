// The tape remembers what to run backward.
//
// An op is a pair of functions: forward records dispatches at once and, when the tape takes gradients, pushes a record;
// tape_backward runs the records in reverse. A failed tape ignores further ops, so that a model's forward has no error
// branches; tape_finish reports the first failure. One thread, the one that owns the device.
//
// Memory: activations come from `arena`, small host-written arrays from `upload`. Neither is rewound by the tape: the
// caller marks before and rewinds after (activations at once, since the recorder orders reuse; uploads once the work has
// passed, gpu_wait). A tape with `reuse` gives activations and gradients back to the arena as soon as no op reads them
// any more: the insides of a part (tape_part) after a forward without gradients, and behind the backward walk
// everything that was made since the record before. With `checkpoint` a part keeps its input alone and is computed
// again, by the same code and to the same bits, when the walk arrives.
//
// Gradients: each tensor made by tape_new(..., true) has a slot (node). Parameters accumulate (+=) into weight.grad, so
// that micro-batches add up; activations are written on the first contribution and added to on later ones.
#ifndef VIREO_NN_TAPE_H
#define VIREO_NN_TAPE_H

#include "compute/nn/weight.h"

struct tape;
struct tape_params {
    struct gpu_arena *arena, *upload;
    bool grad;              // false: inference; nothing is kept
    enum dtype activations; // DTYPE_F32, DTYPE_BF16 or DTYPE_F16: how ops store their results (nn.h)
    bool reuse;             // memory is given back early: only results and what tape_pin holds may be read after a walk
    bool checkpoint;        // parts are forgotten and computed again in the backward walk
};

// An empty tape on a device. NULL without memory.
struct tape *tape_create(struct gpu_device *dev, const struct tape_params *p, struct vireo_error *err);
// Frees the tape. False + err when it had failed.
bool tape_finish(struct tape **t, struct vireo_error *err);

// The device its ops run on.
struct gpu_device *tape_device(struct tape *t);
// False: nothing is recorded for a backward pass.
bool tape_takes_gradients(const struct tape *t);
// How ops store their results: f32, bf16 or f16.
enum dtype tape_activations(const struct tape *t);
// What a backward pass will read is wanted: with gradients, or while the tape keeps (kept.h).
bool tape_saves(const struct tape *t);
// It will read the very tensors that are made now: not those of a part that is forgotten and computed again.
bool tape_stores(const struct tape *t);
// Results are adopted, not computed (kept.h): ops dispatch nothing.
bool tape_adopts(const struct tape *t);
// What is made between begin and end costs no more to compute than to copy: it is neither kept nor adopted, the op that
// makes it dispatches whenever its operands are there.
void tape_again_begin(struct tape *t);
void tape_again_end(struct tape *t);
// True once an op failed; everything after is ignored.
bool tape_failed(const struct tape *t);
// Where an op reports failure; the first one sticks.
struct vireo_error *tape_error(struct tape *t);
void tape_fail(struct tape *t, enum vireo_code code, const char *fmt, ...) VIREO_PRINTF(3, 4);

// A fresh activation [rows, columns] (f32 unless said). `grad`: it can take a gradient (when the tape takes them).
struct tensor tape_new(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns, bool grad);
// One of the tape's activation type. Two halves share a word, so rows of an odd width are refused there.
struct tensor tape_activation(struct tape *t, uint32_t rows, uint32_t columns, bool grad);
// x stays readable until the arena is rewound, also where the tape reuses memory: for what the caller reads afterwards.
void tape_pin(struct tape *t, struct tensor x);

// A copy that lives as long as the tape; NULL on a failed tape.
const void *tape_copy(struct tape *t, const void *data, size_t bytes);

// out = fn(t, data, in): one layer of a model, the unit of reuse and of checkpointing. `data` (bytes, at most
// TAPE_PART_BYTES) is copied; what it points to outlives the tape (tape_copy). fn makes its result with the ops of nn.h from `in`,
// the data and weights alone. `in` must not be read afterwards by anything else.
enum { TAPE_PART_BYTES = 64 };
typedef struct tensor (*tape_part_fn)(struct tape *t, const void *data, struct tensor in);
struct tensor tape_part(struct tape *t, tape_part_fn fn, const void *data, size_t bytes, struct tensor in);

// A vector in upload memory filled from `data` (count elements of the type's size); NULL: the caller writes span.host.
struct tensor tape_upload(struct tape *t, enum dtype type, uint32_t count, const void *data);
struct tensor tape_upload_matrix(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns, const void *data);

// Records the backward half of an op. `data` (bytes) is copied into the tape. Ignored when gradients are off.
typedef void (*tape_backward_fn)(struct tape *t, const void *data);
void tape_push(struct tape *t, const char *label, tape_backward_fn fn, const void *data, size_t bytes);

// For backward functions.
// True if x has a slot and something wrote its gradient: only then must an op's backward run.
bool tape_has_grad(const struct tape *t, struct tensor x);
// True if x has a slot: a contribution to its gradient is wanted.
bool tape_wants_grad(const struct tape *t, struct tensor x);
// The gradient of x, allocated on first use (same type and shape; of the full tensor when x is a column view, and then the
// matching view). *fresh: nothing was written yet, the caller must overwrite every element of the FULL tensor;
// else it must add.
struct tensor tape_grad(struct tape *t, struct tensor x, bool *fresh);
// Lets x share `g` as its gradient (residual connections): only if x has none yet, the types are equal and `g` is not
// needed otherwise afterwards; returns false otherwise (then the caller must add).
bool tape_grad_share(struct tape *t, struct tensor x, struct tensor g);

// Runs all records backward from d(loss)/d(of) = grad (same shape and type).
bool tape_backward(struct tape *t, struct tensor of, struct tensor grad, struct vireo_error *err);

#endif
