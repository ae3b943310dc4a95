// Continuous batching: sequences join and leave at every step; one packed batch of prompts or of single tokens at a
// time. The trainer's rollouts and the API's chat requests run on this same code.
//
// A generation is one prompt with n samples: the prompt (and its images) is computed once, its keys and values are
// shared by the samples. Tokens leave by callback, on the thread that turns the loop. Sampling is keyed by (seed, step,
// sample, position): the result does not depend on what shares the batch.
//
// Keys and values lie in pages of a pool, taken one by one as a sequence grows. When none is left the youngest sequence
// gives its pages back and is computed again later. A prompt longer than a batch is computed in parts, between which
// the others go on. Pages of finished prompts and answers and the vision tower's output are kept as long as nothing else needs the
// room: a later prompt of the same scope with the same beginning, pictures included, starts behind it. None of this
// changes a bit of the result.
#ifndef VIREO_ENGINE_ENGINE_H
#define VIREO_ENGINE_ENGINE_H

#include "compute/base/hash.h"
#include "compute/models/batch.h"
#include "compute/nn/kept.h"

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
    uint32_t cached_tokens; // of the prompt, whose pages were kept from an earlier one
    float logprob, entropy;
    uint32_t top_count;
    uint32_t top_ids[ENGINE_MAX_TOP];
    float top_logprobs[ENGINE_MAX_TOP];
};

enum engine_end { ENGINE_STOP, ENGINE_LENGTH, ENGINE_CANCELLED, ENGINE_FAILED };

struct generation {
    uint64_t id;                         // caller's; names it in engine_cancel
    const struct prompt *prompt;         // copied
    const struct patches *const *images; // [prompt->image_count]; must live until the end
    const uint8_t (*digests)[HASH_BYTES]; // [image_count]: SHA-256 of each, as prefix_image_digest gives it; NULL: made
                                          // here
    const char *scope;                   // who may find its pages and pictures again: the same scope (API key); NULL: ""
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
    uint32_t kv_tokens;        // of the KV pool, over all sequences; prompt + max_tokens of one sequence must fit
    uint32_t max_sequences;    // decoded at once
    uint32_t max_batch_tokens; // of prompts in one batch, beside the one token of each sequence that decodes; longer
                               // prompts are computed in parts
};

struct engine;
// Allocates the KV pool and starts empty. `m` must outlive it. NULL + err.
struct engine *engine_create(struct model *m, const struct engine_params *p, struct vireo_error *err);
void engine_destroy(struct engine **e); // ends what runs with ENGINE_CANCELLED

// Its activations and its host-written arrays begin with so much each.
enum { ENGINE_BLOCK_BYTES = 4 << 20 };
// Bytes the pools of keys, values and image features of these parameters take for this config and type of activations
// (for plans).
uint64_t engine_kv_bytes(const struct model_config *c, enum dtype type, const struct engine_params *p);

// The most kv_tokens that n samples of a prompt of up to so many tokens take: whole pages.
uint64_t engine_tokens(uint32_t prompt_tokens, uint32_t n, uint32_t max_tokens);

// Queues it. Refused is only what can never run. Errors: context_length_exceeded (prompt + max_tokens beyond the pool or
// the rope table), invalid_value (n), image_too_large.
bool engine_submit(struct engine *e, const struct generation *g, struct vireo_error *err);
void engine_cancel(struct engine *e, uint64_t id); // on_end(ENGINE_CANCELLED) before the next step
// Admits what fits, computes one batch, emits tokens. *busy: something is left. False: the device failed; every open
// generation has ended with ENGINE_FAILED.
bool engine_step(struct engine *e, bool *busy, struct vireo_error *err);
// Drops what was kept of earlier prompts and pictures: to be called whenever the weights have changed. Nothing runs.
void engine_forget(struct engine *e);

// Keeps the activations of everything computed from now on, for the backward pass of training (nn/kept.h).
struct engine_keep {
    struct kept *text, *vision; // vision NULL: the vision tower's are not kept
    // A prompt shows this image: its merged tokens are rows [first.row, first.row + tokens) of the run, in window order
    // (vision_batch). Told anew for every prompt.
    void (*on_image)(void *user, const struct patches *image, struct kept_place first);
    // A sample ended by itself: the row of each token, the prompt's and then its own but the last, which was never fed.
    // `sample_user`: its generation's.
    void (*on_sample)(void *sample_user, uint32_t sample, const struct kept_place *places, uint32_t count);
    void *user;
};
// `k` is copied; NULL: ends. Nothing runs, and nothing of earlier prompts is there (engine_forget). False: no host
// memory.
bool engine_keep_activations(struct engine *e, const struct engine_keep *k, struct vireo_error *err);

struct engine_stats {
    uint32_t running, waiting;
    uint64_t prompt_tokens, generated_tokens, steps;
    uint64_t cached_tokens; // of the prompt tokens: not computed, since their pages were kept
    uint64_t image_tokens;  // that came out of the vision tower
    uint64_t image_hits;    // pictures whose features were there already
    uint64_t preemptions;   // sequences that gave their pages back
    uint32_t pages, pages_held, pages_kept; // of the pool; held by sequences; kept for later prompts
    double kv_used;                         // pages_held / pages
};
// What runs now, and totals since creation.
struct engine_stats engine_stats(const struct engine *e);

#endif
