// Who may call what: keys in memory (loaded from the store, replaced when they change), the loopback rule, sessions of
// the web page, and a limit on failed attempts per address. Thread-safe; no call blocks on disk.
#ifndef VIREO_AUTH_POLICY_H
#define VIREO_AUTH_POLICY_H

#include "server/auth/keys.h"

#include <stddef.h>

struct auth_key {
    char id[40];
    char prefix[AUTH_PREFIX + 1];
    uint8_t digest[HASH_BYTES];
    unsigned scopes;
    int64_t expires_at; // 0: never
};

struct auth;
// Without keys: only the loopback rule lets anybody in. NULL + err without memory.
struct auth *auth_create(struct vireo_error *err);
void auth_destroy(struct auth **a);
// Replaces the whole set (copied). Sessions of keys that are gone end.
bool auth_set_keys(struct auth *a, const struct auth_key *keys, size_t count, struct vireo_error *err);
size_t auth_key_count(struct auth *a);

// When the key was last accepted (Unix seconds), since this process began; 0: not yet.
int64_t auth_last_used(struct auth *a, const char *key_id);

struct auth_request {
    const char *authorization; // the header's value; NULL: none
    const char *session;       // cookie; NULL: none
    const char *address;       // peer
    bool loopback;             // the peer is on this machine AND the server is bound to loopback
    unsigned needed;           // one scope bit; 0: none needed
};
struct auth_result {
    char key_id[40]; // "" = the loopback rule or a public route
    unsigned scopes;
};
// Errors: VIREO_UNAUTHORIZED (no or wrong key), VIREO_FORBIDDEN (scope missing), VIREO_RATE_LIMITED (more than 10
// failures a minute from the address). Without any key in the store, loopback callers may do everything.
bool auth_check(struct auth *a, const struct auth_request *req, struct auth_result *out, struct vireo_error *err);

// A session for a valid key: 43 random characters that stand for it for 12 hours.
bool auth_session_create(struct auth *a, const char *key, const char *address, char token[AUTH_KEY_RANDOM + 1],
                         struct vireo_error *err);
void auth_session_end(struct auth *a, const char *token);

#endif
