// API keys as rows: digest and prefix only.
#ifndef VIREO_STORE_KEYS_H
#define VIREO_STORE_KEYS_H

#include "server/store/store.h"

struct store_key {
    const char *id; // "key_…"; NULL on add: made here
    const char *name, *prefix;
    uint8_t digest[32];
    unsigned scopes;
    int64_t created_at, last_used_at, expires_at; // 0: never
};
bool store_key_add(struct store *s, struct store_key *k, struct arena *a, struct vireo_error *err);
bool store_key_list(struct store *s, struct arena *a, struct store_key **rows, size_t *count,
                    struct vireo_error *err); // all that are not revoked, oldest first
bool store_key_delete(struct store *s, const char *id, struct vireo_error *err);
bool store_key_used(struct store *s, const char *id, int64_t when, struct vireo_error *err);

#endif
