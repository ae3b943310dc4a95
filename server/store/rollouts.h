// Groups of completions with their samples, as JSON objects made by the worker and shown by the API.
#ifndef VIREO_STORE_ROLLOUTS_H
#define VIREO_STORE_ROLLOUTS_H

#include "server/store/store.h"

struct store_sample {
    const char *id;   // "smp_…"; NULL on add: made here
    const char *data; // JSON object: completion, reward, sub_rewards, advantage, …
};
struct store_group {
    const char *id; // "grp_…"; NULL on add: made here
    const char *job_id;
    const char *row_id; // of the dataset row; "" none
    const char *data;   // JSON object: prompt, images, item, …
    int64_t step, index; // index: place of the group in its step
    double reward_mean, reward_std;
    int64_t created_at, seq;
    struct store_sample *samples;
    size_t sample_count;
};
// Adds all in one transaction; replaces a group with the same (job, step, index). Fills ids in the arena.
bool store_group_add(struct store *s, struct store_group *groups, size_t count, struct arena *a,
                     struct vireo_error *err);
struct store_group_filter {
    const char *job_id;
    int64_t step;     // -1: any
    const char *sort; // NULL: newest first; "reward_std", "reward_mean" (with page.ascending; highest first by default)
};
bool store_group_list(struct store *s, const struct store_group_filter *filter, const struct store_page *page,
                      struct arena *a, struct store_group **rows, size_t *count, bool *has_more,
                      struct vireo_error *err); // with samples
bool store_group_find(struct store *s, const char *id, struct arena *a, struct store_group *out,
                      struct vireo_error *err);
bool store_sample_find(struct store *s, const char *id, struct arena *a, struct store_sample *out,
                       struct vireo_error *err);

#endif
