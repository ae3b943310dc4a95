// Everything that runs in workers: fine-tuning jobs, evaluations, chat. One supervisor thread owns the children and all state
// of running work; other threads leave it commands. The store is the memory across restarts: what was acknowledged is there.
//
// Jobs: validating_files -> queued -> running -> succeeded | failed | cancelled, and paused. One training job and one
// evaluation run at a time; models for chat are loaded on demand, kept for a while, and evicted by least recent use where
// the device's memory is short.
#ifndef VIREO_JOBS_JOBS_H
#define VIREO_JOBS_JOBS_H

#include "server/store/jobs.h"
#include "server/store/models.h"

#include <jansson.h>
#include <stdio.h>

struct jobs;
struct jobs_params {
    struct store *store;
    const char *device;    // worker's device choice; NULL: auto
    uint64_t memory_limit; // bytes for all workers together; 0: the device's budget
    int keep_alive_s;      // a model without requests stays loaded so long; 0: 300
    int queue_limit;       // chat requests that may wait or run; 0: 64
    int job_limit;         // jobs that may be unfinished; 0: 64
    // Something that streams show was written: topic is an id of a job. Called on the supervisor thread. May be NULL.
    void (*changed)(void *context, const char *topic);
    void *context;
};
// Recovers the queue (jobs that were running go on from their last durable step) and starts the supervisor. NULL + err.
struct jobs *jobs_start(const struct jobs_params *p, struct vireo_error *err);
// Training jobs write a checkpoint at the next step boundary, chats finish; at most timeout_ms. Nothing new is accepted from now
// on. True: all came to their end.
bool jobs_drain(struct jobs *j, int timeout_ms);
// Ends the supervisor and kills what is left; open requests fail with VIREO_UNAVAILABLE. The functions below may still be called
// (and fail so), for handlers that have not noticed yet; jobs_stop frees.
void jobs_halt(struct jobs *j);
void jobs_stop(struct jobs **j); // NULL is fine

// ---- fine-tuning jobs

// Makes the job durable and queues it. `row` as for store_job_add; resolved holds {"spec": struct job_spec as JSON without
// paths, ...}. Errors: VIREO_UNAVAILABLE while draining, VIREO_RATE_LIMITED (queue_full).
bool jobs_create(struct jobs *j, struct store_job *row, const struct store_idempotency *once, struct arena *a,
                 struct vireo_error *err);
enum job_action { JOB_CANCEL, JOB_PAUSE, JOB_RESUME };
// Durable when it returns. Cancel and pause of a running job take effect at the next step boundary. VIREO_INVALID (kind
// invalid_state) where the state table knows no such transition.
bool jobs_control(struct jobs *j, const char *id, enum job_action action, struct vireo_error *err);
// Place in the queue, from 1; 0: not queued.
int jobs_queue_position(struct jobs *j, const char *id);

// ---- chat

// Called on the supervisor thread, in this order: accepted once, token and end (per choice) in any interleaving, then exactly
// one of done and failed. failed may come at any time. None may block.
struct inference_events {
    void (*accepted)(void *context, const char *fingerprint, int prompt_tokens, int image_tokens);
    void (*token)(void *context, int index, json_t *text, json_t *logprobs); // borrowed; logprobs may be NULL
    // cached_tokens: of the prompt, known from an earlier request; the same in every choice.
    void (*end)(void *context, int index, const char *reason, int completion_tokens, int cached_tokens);
    void (*done)(void *context);
    void (*failed)(void *context, const struct vireo_error *err);
    void *context;
};
uint64_t inference_id(struct jobs *j); // a fresh request id
// Queues a request for `model`. `body` is a "generate" message without kind and id (wire/message.h); taken in either case.
// False: no callback will come.
bool inference_submit(struct jobs *j, uint64_t id, const struct store_model *model, json_t *body,
                      const struct inference_events *events, struct vireo_error *err);
// The client is gone: no callback but `failed` (VIREO_CANCELLED) follows. Unknown ids do nothing. Any thread.
void inference_cancel(void *jobs, uint64_t id);

// True while a worker has it in memory. Any thread.
bool jobs_model_loaded(struct jobs *j, const char *model);
// Unloads it; VIREO_CONFLICT while requests run on it.
bool jobs_model_release(struct jobs *j, const char *model, struct vireo_error *err);

// ---- data work; these block the calling thread

// A PNG of at most side x side; *out is malloc'd.
bool jobs_thumbnail(struct jobs *j, const char *path, int side, uint8_t **out, size_t *count, struct vireo_error *err);
// Makes a base model: {"preset", "seed"} or {"folder": path of a Hugging Face folder}. Fills *out (strings in the arena).
// May be called with `j` NULL and a store of the caller's (commands without a server).
bool jobs_model_add(struct store *store, const char *name, const json_t *source, struct arena *a, struct store_model *out,
                    struct vireo_error *err);

// ---- what others show
void jobs_metrics(struct jobs *j, FILE *out); // Prometheus text
void jobs_system(struct jobs *j, json_t *object); // "devices", "workers"
bool jobs_ready(struct jobs *j, struct vireo_error *err);

#endif
