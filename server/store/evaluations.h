// Evaluations: a model, a file of rows, a grader; the result and its rows. Statuses: queued, running, succeeded, failed,
// cancelled.
#ifndef VIREO_STORE_EVALUATIONS_H
#define VIREO_STORE_EVALUATIONS_H

#include "server/store/store.h"

struct store_evaluation {
    const char *id; // "eval_…"; NULL on add: made here
    const char *status, *model, *file_id;
    const char *spec;   // JSON: {"spec": struct job_spec without paths, ...}
    const char *result; // JSON: n, mean_reward, ...; NULL until succeeded
    const char *error;  // JSON; NULL unless failed
    const char *key_id;
    int64_t created_at, started_at, finished_at, attempts;
};
// Fills id and created_at.
bool store_evaluation_add(struct store *s, struct store_evaluation *e, struct arena *a, struct vireo_error *err);
bool store_evaluation_find(struct store *s, const char *id, struct arena *a, struct store_evaluation *out,
                           struct vireo_error *err);
bool store_evaluation_list(struct store *s, const struct store_page *page, struct arena *a, struct store_evaluation **rows,
                           size_t *count, bool *has_more, struct vireo_error *err);
// Those that are queued or running, oldest first.
bool store_evaluation_unfinished(struct store *s, struct arena *a, struct store_evaluation **rows, size_t *count,
                                 struct vireo_error *err);
// Writes status, result, error, started_at, finished_at, attempts; with `rows` (JSON texts) also the rows of the result, in
// one transaction. expected as in store_job_update.
bool store_evaluation_update(struct store *s, const struct store_evaluation *e, const char *expected,
                             const char *const *rows, size_t row_count, struct vireo_error *err);
// Rows of a result from place `first` (from 0) on, at most `limit`.
bool store_evaluation_rows(struct store *s, const char *id, int64_t first, int limit, struct arena *a, const char ***rows,
                           size_t *count, bool *has_more, struct vireo_error *err);

#endif
