// Fine-tuning jobs and what hangs on them. Statuses are text as in the API: validating_files, queued, running, paused,
// succeeded, failed, cancelled.
#ifndef VIREO_STORE_JOBS_H
#define VIREO_STORE_JOBS_H

#include "server/store/store.h"

struct store_job {
    const char *id; // "ftjob-…"
    const char *status;
    const char *model;           // base model as asked for
    const char *training_file;
    const char *validation_file; // NULL: none
    const char *spec;            // JSON as the client sent it (cleaned)
    const char *resolved;        // JSON: every value decided; NULL until resolved
    const char *metadata;        // JSON object
    const char *error;           // JSON {"code","message","param"}; NULL unless failed
    const char *fine_tuned_model; // NULL until succeeded
    const char *result_file;      // NULL: none yet
    const char *progress;         // JSON object: whatever else the API shows (alerts, best_step, device …); NULL = {}
    const char *key_id;           // who made it; "" = loopback rule
    int64_t created_at, started_at, finished_at, paused_at; // 0: not yet
    int64_t step, total_steps, trained_tokens;
    int64_t checkpoint_step; // last durable one
    int64_t attempts;        // starts without progress since the last checkpoint
    int64_t priority;
    double eta_seconds; // < 0: unknown
    int64_t seq;        // row number: order of creation; filled by find and list
};

// Which fields an update writes.
enum store_job_field {
    STORE_JOB_STATUS = 1,
    STORE_JOB_RESOLVED = 2,
    STORE_JOB_ERROR = 4,
    STORE_JOB_MODEL = 8, // fine_tuned_model
    STORE_JOB_RESULT = 16,
    STORE_JOB_PROGRESS = 32, // step, total_steps, trained_tokens, eta_seconds, progress
    STORE_JOB_STARTED = 64,
    STORE_JOB_FINISHED = 128,
    STORE_JOB_PAUSED = 256,
    STORE_JOB_CHECKPOINT = 512, // checkpoint_step
    STORE_JOB_ATTEMPTS = 1024,
    STORE_JOB_PRIORITY = 2048,
};

// An answer kept for a repeated request with the same Idempotency-Key, written in the same transaction as the row.
struct store_idempotency {
    const char *key_id, *route, *key, *body_sha256;
};

// Fills id (where NULL), created_at, seq. `first` events (may be 0) are appended in the same transaction.
struct store_event;
bool store_job_add(struct store *s, struct store_job *j, struct store_event *first, size_t first_count,
                   const struct store_idempotency *once, struct arena *a, struct vireo_error *err);
bool store_job_find(struct store *s, const char *id, struct arena *a, struct store_job *out, struct vireo_error *err);

struct store_job_filter {
    const char *status;                    // NULL: any
    const char *metadata_key, *metadata_value; // key NULL: any
    bool metadata_null;                    // only jobs without metadata
};
// A page of jobs, newest first by default; filter NULL: all.
bool store_job_list(struct store *s, const struct store_page *page, const struct store_job_filter *filter,
                    struct arena *a, struct store_job **rows, size_t *count, bool *has_more, struct vireo_error *err);
// All jobs that are not succeeded, failed or cancelled, oldest first, by priority; for the queue and for recovery.
bool store_job_unfinished(struct store *s, struct arena *a, struct store_job **rows, size_t *count,
                          struct vireo_error *err);
// Writes the fields in `mask`, and appends `events` (may be none) in the same transaction. If expected is not NULL the
// job must still have that status (VIREO_CONFLICT otherwise): this is how transitions stay atomic.
bool store_job_update(struct store *s, const struct store_job *j, unsigned mask, const char *expected,
                      struct store_event *events, size_t event_count, struct vireo_error *err);
bool store_job_counts(struct store *s, int64_t counts[7], struct vireo_error *err); // in order of store_job_statuses
extern const char *const store_job_statuses[8]; // NULL-terminated
bool store_status_is_final(const char *status);

// A resumed job starts again after `step`: removes its metrics, metrics events, groups, samples and checkpoint rows of
// later steps, in one transaction with the events given.
bool store_job_rewind(struct store *s, const char *job_id, int64_t step, struct store_event *events,
                      size_t event_count, struct vireo_error *err);

// The id an earlier request with this key made, or NULL in *resource (then go on). VIREO_CONFLICT
// (idempotency_mismatch) for another body. Entries older than 24 h do not count.
bool store_idempotency_find(struct store *s, const struct store_idempotency *once, struct arena *a,
                            const char **resource, struct vireo_error *err);

#endif
