// Checkpoints of jobs: the folder is complete and synced before its row is written.
#ifndef VIREO_STORE_CHECKPOINTS_H
#define VIREO_STORE_CHECKPOINTS_H

#include "server/store/store.h"

struct store_event;
struct store_checkpoint {
    const char *id; // "ftckpt_…"; NULL on add: made here
    const char *job_id;
    const char *model;   // servable name "ft:…:ckpt-step-50"; "" none
    const char *folder;  // relative to DIR
    const char *metrics; // JSON object
    const char *sha256;  // of its manifest
    int64_t step, bytes, created_at, seq;
};
// In one transaction: the row, the job's checkpoint_step with attempts = 0, and the event (may be NULL).
// Fault point: checkpoint.commit.
bool store_checkpoint_add(struct store *s, struct store_checkpoint *c, struct store_event *event, struct arena *a,
                          struct vireo_error *err);
bool store_checkpoint_list(struct store *s, const char *job_id, const struct store_page *page, struct arena *a,
                           struct store_checkpoint **rows, size_t *count, bool *has_more, struct vireo_error *err);
bool store_checkpoint_find(struct store *s, const char *id, struct arena *a, struct store_checkpoint *out,
                           struct vireo_error *err);
// Marks the row deleted; the caller removes the folder after.
bool store_checkpoint_delete(struct store *s, const char *id, struct vireo_error *err);

#endif
