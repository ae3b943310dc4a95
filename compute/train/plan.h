// Sizes that plan and trainer must agree on.
#ifndef VIREO_TRAIN_PLAN_H
#define VIREO_TRAIN_PLAN_H

#include "compute/models/model.h"
#include "compute/wire/spec.h"

// The type of the weights that a job asks for; DTYPE_U32: as they are stored.
enum dtype job_weight_type(const struct job_spec *s);
// Rows (SFT) or groups (GRPO) computed at once, for rows of `row_tokens` tokens: the job's own number, else as many as
// make about 8192 tokens, never more than a leaf has.
uint32_t plan_micro_batch(const struct job_spec *s, uint32_t row_tokens);
// Whether the layers of the frozen reference stay in their file.
bool plan_streams_reference(const struct job_spec *s, bool cpu);
// A rollout's activations are kept only where so much stays free beside them.
#define PLAN_KEEP_SLACK ((uint64_t)64 << 20)
// The output of frozen vision towers is kept for so much at most (pictures.c).
#define PLAN_FEATURES_MOST ((uint64_t)256 << 20)
// The trainer's arena of host-written arrays begins with so much at least.
#define PLAN_UPLOAD_LEAST ((uint64_t)4 << 20)
// The trainer's arena of activations begins with so much at least.
#define PLAN_ACTIVATIONS_LEAST ((uint64_t)16 << 20)
// One packed batch. targets: rows of the head; type: of activations; checkpoint: layers are computed again in the backward
// pass; adopt: put together there from what a rollout kept.
struct plan_batch {
    uint64_t tokens, patches, targets;
    enum dtype type;
    bool gradients, checkpoint, adopt;
};
// Most bytes of activations and their gradients at one time.
uint64_t plan_activation_bytes(const struct model_config *c, const struct plan_batch *b);
// Bytes of the output of a vision tower for so many pictures of up to so many tokens, within PLAN_FEATURES_MOST.
uint64_t plan_features_bytes(const struct model_config *c, enum dtype type, uint64_t pictures, uint64_t tokens);
// Bytes of the activations that a backward pass over the batch reads, without the head's: what a rollout keeps for it.
uint64_t plan_kept_bytes(const struct model_config *c, const struct plan_batch *b);

// Bytes of the host-written arrays of a packed batch: pixels, and some words a token.
uint64_t plan_upload_bytes(const struct model_config *c, const struct plan_batch *b);

#endif
