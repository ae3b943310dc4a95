// What the files of server/jobs share. All of it belongs to the supervisor thread but for what `lock` guards.
#ifndef VIREO_JOBS_INTERNAL_H
#define VIREO_JOBS_INTERNAL_H

#include "server/jobs/jobs.h"
#include "server/jobs/process.h"
#include "server/jobs/queue.h"

#include <pthread.h>

struct child;
struct child {
    struct process p;
    void (*on_frame)(struct jobs *j, struct child *c, json_t *message); // borrowed
    void (*on_exit)(struct jobs *j, struct child *c, int status, const char *reason); // frees the owner, not the child
    void *owner;
    double kill_at; // clock; 0: never
    struct child *next;
};

enum run_kind { RUN_CHECK, RUN_TRAIN, RUN_EVALUATE };
enum run_end { END_NONE, END_DONE, END_CANCELLED, END_PAUSED, END_FAILED };

// A job or evaluation that has a worker now.
struct run {
    enum run_kind kind;
    char id[64];
    struct child *child;
    struct arena arena; // lives as long as the run
    const char *model_name; // what it makes: "ft:…"
    json_t *resolved;       // of the job
    uint64_t granted;       // device bytes
    enum run_end end;
    struct vireo_error error;
    json_t *issues, *result;
    int64_t attempts, total_steps;
    bool cancelled, pause_asked, draining;
};

// A model for chat, loaded or loading.
struct model_worker {
    char name[256];
    struct child *child;
    bool loaded;
    char fingerprint[32];
    uint64_t bytes;  // granted or reported
    double used_at;  // clock of the last request's end
    struct chat_request *requests; // sent or waiting for the load
    int open;
    json_t *stats;
    bool failed;
    struct vireo_error error;
    struct model_worker *next;
};
struct chat_request {
    uint64_t id;
    struct inference_events events;
    json_t *body; // until it is sent
    int choices, ended;
    bool accepted;
    double submitted_at, accepted_at, first_token_at;
    struct chat_request *next;
};

struct command {
    void (*run)(struct jobs *j, void *context);
    void *context;
    bool waited, done;
    struct command *next;
};

// When a job may start again.
struct back_off {
    char id[64];
    double until;
    struct back_off *next;
};

struct jobs {
    struct jobs_params p;
    pthread_t thread;
    int wake[2]; // self-pipe
    pthread_mutex_t lock; // guards commands, stopping, next_id, the snapshot, evaluation_*; rank 5: nothing is taken under it
    pthread_cond_t command_done;
    struct command *commands, **commands_tail;
    bool stopping, running;
    uint64_t next_id;
    json_t *snapshot;       // of workers, for other threads: {"models": {name: {...}}, "devices": [...]}
    char snapshot_ready[256]; // "" or what is missing
    char evaluation_id[64];   // the one that runs, and how far it is
    double evaluation_share;
    // Supervisor thread only.
    struct child *children;
    struct run *runs[3]; // by kind
    struct model_worker *models;
    struct back_off *back_offs;
    json_t *devices;
    uint64_t budget;    // device bytes for all workers; 0: unknown yet
    uint32_t cpu_lanes; // of the device's vectors; 0: it is no CPU
    bool devices_asked, devices_failed;
    bool dirty;         // the queue must be looked at
    double look_at;     // clock: look at the queue again
    bool draining;
    int open_chats;
    struct {
        uint64_t success[4], errors, prompt_tokens, generated_tokens, image_tokens;
        double first_token_sum, latency_sum;
        uint64_t first_token_count, latency_count;
    } served; // copied into the snapshot
};

// supervisor.c
struct child *child_start(struct jobs *j, const char *role, bool faults, struct vireo_error *err);
void child_kill(struct child *c, double seconds); // SIGKILL after so long; 0 at once
// Runs fn(j, context) on the supervisor thread: _call waits for it, _post does not (context must be heap memory or NULL).
bool supervisor_call(struct jobs *j, void (*fn)(struct jobs *, void *), void *context, struct vireo_error *err);
bool supervisor_post(struct jobs *j, void (*fn)(struct jobs *, void *), void *context);
void supervisor_look(struct jobs *j); // the queue may have changed (supervisor thread)
void jobs_publish(struct jobs *j);    // renews the snapshot

// run.c
enum { JOB_TEXT = 640 }; // of a message
void job_changed(struct jobs *j, const char *id);
void job_log(struct jobs *j, const char *id, const char *level, const char *fmt, ...) VIREO_PRINTF(4, 5);
const char *job_cache_folder(struct jobs *j, struct arena *a);
// One transition with its event, atomically. False: the store refused (for instance because the job was cancelled meanwhile).
bool job_move(struct jobs *j, struct store_job *job, unsigned mask, enum job_event event, const char *level, const char *message);
void job_fail(struct jobs *j, struct store_job *job, const struct vireo_error *err, struct arena *a);
double job_waits_until(const struct jobs *j, const char *id); // clock; 0: it does not wait
void job_wait(struct jobs *j, const char *id, double seconds);
struct run *run_create(struct jobs *j, enum run_kind kind, const char *id); // NULL without memory
void run_free(struct jobs *j, struct run *r);
// Hands `spec` (taken) to the run's child to be checked against the memory there is; its answers go to the handlers set.
void run_check(struct jobs *j, struct run *r, json_t *spec);
bool run_open(struct jobs *j, struct run *r, const struct store_job *job, struct vireo_error *err); // reads job->resolved
// The job's struct job_spec as JSON with ids turned into paths; a new reference.
json_t *run_spec(struct jobs *j, struct run *r, const struct store_job *job, struct vireo_error *err);
const char *run_images_file(struct jobs *j, const char *id, struct arena *a);
void run_order(struct run *r, const char *what); // "pause", "cancel"

// validation.c
void validation_start(struct jobs *j, struct store_job *job);

// training.c
void training_tick(struct jobs *j);
bool training_recover(struct jobs *j, struct vireo_error *err);
void training_drain(struct jobs *j);

// finish.c: what follows the end of a training worker
void training_succeeded(struct jobs *j, struct run *r);
void checkpoint_reported(struct jobs *j, struct run *r, const json_t *message);
void checkpoint_restore(struct jobs *j, struct run *r, int64_t step); // its frame was lost with the server
json_t *metrics_event(const struct run *r, const json_t *metrics); // data of the API's metrics event
char *metrics_message(const json_t *metrics, char *buffer, size_t size);

// evaluation.c
void evaluation_tick(struct jobs *j);
bool evaluation_recover(struct jobs *j, struct vireo_error *err);

// references.c: images of a job's rows
bool references_resolve(struct jobs *j, const json_t *references, json_t **out, struct vireo_error *err); // name -> sha256
json_t *references_paths(struct jobs *j, const json_t *digests); // name -> path

// inference.c
void inference_tick(struct jobs *j);
void inference_end_all(struct jobs *j, const struct vireo_error *why);
// Device bytes taken by chat models; evict_idle unloads the least recently used one without requests, false when there is none.
uint64_t inference_bytes(const struct jobs *j);
bool inference_evict_idle(struct jobs *j);

#endif
