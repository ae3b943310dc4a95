// Events of jobs. Row numbers rise for ever (never reused), so a stream resumes by them.
#ifndef VIREO_STORE_EVENTS_H
#define VIREO_STORE_EVENTS_H

#include "server/store/store.h"

struct store_event {
    const char *id; // "ftevent-…"; NULL on add: made here (then not filled back)
    const char *job_id;
    const char *level; // info, warn, error
    const char *type;  // message, metrics; native: status, alert, sample, checkpoint
    const char *message;
    const char *data; // JSON; NULL: none
    int64_t step;     // for metrics events, so that a resume can truncate; -1: none
    int64_t created_at; // 0: now
    int64_t seq;        // filled: the row number
};
// Appends in one transaction; fills seq and created_at of each.
bool store_event_add(struct store *s, struct store_event *events, size_t count, struct vireo_error *err);
// Newest first by page (after = event id).
bool store_event_list(struct store *s, const char *job_id, const struct store_page *page, struct arena *a,
                      struct store_event **rows, size_t *count, bool *has_more, struct vireo_error *err);
// For streams: events of a job with seq > after_seq, oldest first, at most `limit`. job_id NULL: of all jobs.
bool store_event_since(struct store *s, const char *job_id, int64_t after_seq, int limit, struct arena *a,
                       struct store_event **rows, size_t *count, struct vireo_error *err);

#endif
