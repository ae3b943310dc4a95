// Metrics: one JSON object a job and optimiser step.
#ifndef VIREO_STORE_METRICS_H
#define VIREO_STORE_METRICS_H

#include "server/store/store.h"

struct store_event;
struct store_metric {
    int64_t step;
    const char *values; // JSON object, name -> number or null
    int64_t created_at;
};
// Writes step's row (replacing it) and, in the same transaction, the job's step/total_steps/trained_tokens/eta
// (negative: leave) and the metrics event (may be NULL).
struct store_progress {
    int64_t step, total_steps, trained_tokens;
    double eta_seconds;
};
bool store_metric_add(struct store *s, const char *job_id, const struct store_metric *m,
                      const struct store_progress *progress, struct store_event *event, struct vireo_error *err);
// Steps in [from, to], ascending.
bool store_metric_list(struct store *s, const char *job_id, int64_t from, int64_t to, struct arena *a,
                       struct store_metric **rows, size_t *count, struct vireo_error *err);
bool store_metric_last(struct store *s, const char *job_id, struct arena *a, struct store_metric *out,
                       struct vireo_error *err); // VIREO_NOT_FOUND when there is none

#endif
