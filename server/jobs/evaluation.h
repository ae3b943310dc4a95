// Evaluations as other layers see them.
#ifndef VIREO_JOBS_EVALUATION_H
#define VIREO_JOBS_EVALUATION_H

#include "server/jobs/jobs.h"
#include "server/store/evaluations.h"

// Makes it durable and queues it; spec holds {"spec": struct job_spec as JSON without paths, ...}.
bool evaluation_create(struct jobs *j, struct store_evaluation *row, struct arena *a, struct vireo_error *err);
// VIREO_INVALID (invalid_state) for one that has ended otherwise.
bool evaluation_cancel(struct jobs *j, const char *id, struct vireo_error *err);
double evaluation_progress(struct jobs *j, const char *id); // share of rows answered, 0 to 1

#endif
