// Continuous batching: sequences join and leave at every step; one packed batch of prompts or of single tokens at a
// time. The trainer's rollouts and the API's chat requests run on this same code.
//
// A generation is one prompt with n samples: the prompt (and its images) is computed once, its keys and values are
// shared by the samples. Tokens leave by callback, on the thread that turns the loop. Sampling is keyed by (seed, step,
// sample, position): the result does not depend on what shares the batch.
#ifndef VIREO_ENGINE_ENGINE_H
#define VIREO_ENGINE_ENGINE_H

#include "compute/models/batch.h"

enum { ENGINE_MAX_TOP = 20, ENGINE_MAX_STOP = 16 };

struct sampling {
    float temperature;                                             // 0: greedy
    float top_p, min_p;                                            // 1, 0: off
    uint32_t top_k;                                                // 0: off
    float repetition_penalty, frequency_penalty, presence_penalty; // 1, 0, 0: off
    float logprob_temperature; // recorded log-probs are of logits / this; 1 for the API, the job's for rollouts
    uint64_t seed;
    uint32_t step; // Philox counter word; 0 for the API
    uint32_t max_tokens;
    bool ignore_eos;
    uint32_t top_logprobs;    // 0 to ENGINE_MAX_TOP
    const uint32_t *bias_ids; // logit_bias
    const float *bias_values;
    uint32_t bias_count;
};

struct engine_token {
    uint32_t id;
    float logprob, entropy;
    uint32_t top_count;
    uint32_t top_ids[ENGINE_MAX_TOP];
    float top_logprobs[ENGINE_MAX_TOP];
};

enum engine_end { ENGINE_STOP, ENGINE_LENGTH, ENGINE_CANCELLED, ENGINE_FAILED };

struct generation {
    uint64_t id;                         // caller's; names it in engine_cancel
    const struct prompt *prompt;         // copied
    const struct patches *const *images; // [prompt->image_count]; must live until the first token or the end
    uint32_t n;                          // samples
    uint32_t first_sample;               // Philox counter of sample 0 (rollouts: position in the step)
    struct sampling sampling;
    // An end-of-sequence token is reported like any other, then the end. Return false to end this sample at once (a
    // stop string was completed): it ends with ENGINE_STOP. Neither callback may call into the engine.
    bool (*on_token)(void *user, uint32_t sample, const struct engine_token *token);
    void (*on_end)(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why);
    void *user;
};

struct engine_params {
    uint32_t kv_tokens;        // token slots of the KV pool, over all sequences
    uint32_t max_sequences;    // decoded at once
    uint32_t max_batch_tokens; // of one prompt batch; longer prompts are refused
};

struct engine;
// Allocates the KV pool and starts empty. `m` must outlive it. NULL + err.
struct engine *engine_create(struct model *m, const struct engine_params *p, struct vireo_error *err);
void engine_destroy(struct engine **e); // ends what runs with ENGINE_CANCELLED

// Bytes the KV pool of these parameters takes for this config and type of activations (for plans).
uint64_t engine_kv_bytes(const struct model_config *c, enum dtype type, const struct engine_params *p);

// Queues it. Errors: context_length_exceeded (prompt + max_tokens beyond the pool or the rope table).
bool engine_submit(struct engine *e, const struct generation *g, struct vireo_error *err);
void engine_cancel(struct engine *e, uint64_t id); // on_end(ENGINE_CANCELLED) before the next step
// Admits what fits, computes one batch, emits tokens. *busy: something is left. False: the device failed; every open
// generation has ended with ENGINE_FAILED.
bool engine_step(struct engine *e, bool *busy, struct vireo_error *err);
struct engine_stats {
    uint32_t running, waiting;
    uint64_t prompt_tokens, generated_tokens, image_tokens, steps;
    double kv_used; // share of the pool
};
// What runs now, and totals since creation.
struct engine_stats engine_stats(const struct engine *e);

#endif
