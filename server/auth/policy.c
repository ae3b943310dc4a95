#include "server/auth/policy.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SESSIONS = 256, SESSION_SECONDS = 12 * 3600, ADDRESSES = 1024, FAILURES = 10, WINDOW_SECONDS = 60 };

struct session {
    uint8_t digest[HASH_BYTES]; // of the token
    char key_id[40];
    double expires; // monotonic
};
struct offender {
    char address[64];
    double start; // of the present window
    int failures;
};

struct usage {
    char key_id[40];
    int64_t last;
};

struct auth {
    pthread_mutex_t lock; // guards all; no call blocks inside
    struct auth_key *keys;
    struct usage *usage; // [count], beside keys
    size_t count;
    struct session sessions[SESSIONS];
    struct offender offenders[ADDRESSES];
};

struct auth *auth_create(struct vireo_error *err)
{
    struct auth *a = vireo_calloc(1, sizeof *a);
    if (!a) {
        vireo_fail_memory(err, sizeof *a);
        return NULL;
    }
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void auth_destroy(struct auth **a)
{
    if (!*a)
        return;
    pthread_mutex_destroy(&(*a)->lock);
    free((*a)->keys);
    free((*a)->usage);
    free(*a);
    *a = NULL;
}

static const struct auth_key *key_by_id(const struct auth *a, const char *id)
{
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->keys[i].id, id) == 0)
            return &a->keys[i];
    return NULL;
}

bool auth_set_keys(struct auth *a, const struct auth_key *keys, size_t count, struct vireo_error *err)
{
    struct auth_key *copy = vireo_calloc(count ? count : 1, sizeof *copy);
    struct usage *usage = vireo_calloc(count ? count : 1, sizeof *usage);
    if (!copy || !usage) {
        free(copy);
        free(usage);
        return vireo_fail_memory(err, count * sizeof *copy);
    }
    if (count)
        memcpy(copy, keys, count * sizeof *copy);
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < count; i++) {
        memcpy(usage[i].key_id, copy[i].id, sizeof usage[i].key_id);
        for (size_t k = 0; k < a->count; k++)
            if (strcmp(a->usage[k].key_id, copy[i].id) == 0)
                usage[i].last = a->usage[k].last;
    }
    free(a->keys);
    free(a->usage);
    a->keys = copy;
    a->usage = usage;
    a->count = count;
    for (size_t i = 0; i < SESSIONS; i++)
        if (a->sessions[i].key_id[0] && !key_by_id(a, a->sessions[i].key_id))
            a->sessions[i] = (struct session){0};
    pthread_mutex_unlock(&a->lock);
    return true;
}

size_t auth_key_count(struct auth *a)
{
    pthread_mutex_lock(&a->lock);
    size_t count = a->count;
    pthread_mutex_unlock(&a->lock);
    return count;
}

int64_t auth_last_used(struct auth *a, const char *key_id)
{
    int64_t last = 0;
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->usage[i].key_id, key_id) == 0)
            last = a->usage[i].last;
    pthread_mutex_unlock(&a->lock);
    return last;
}

// --- failures --------------------------------------------------------------------------------------------------------

// The row of an address, or the one to reuse: the oldest.
static struct offender *offender_of(struct auth *a, const char *address)
{
    struct offender *oldest = &a->offenders[0];
    for (size_t i = 0; i < ADDRESSES; i++) {
        if (strcmp(a->offenders[i].address, address) == 0)
            return &a->offenders[i];
        if (a->offenders[i].start < oldest->start)
            oldest = &a->offenders[i];
    }
    return oldest;
}

static bool is_blocked(struct auth *a, const char *address)
{
    struct offender *o = offender_of(a, address);
    return strcmp(o->address, address) == 0 && o->failures >= FAILURES && clock_seconds() - o->start < WINDOW_SECONDS;
}

static void note_failure(struct auth *a, const char *address)
{
    struct offender *o = offender_of(a, address);
    double now = clock_seconds();
    if (strcmp(o->address, address) != 0 || now - o->start >= WINDOW_SECONDS) {
        *o = (struct offender){.start = now};
        snprintf(o->address, sizeof o->address, "%s", address);
    }
    o->failures++;
}

// --- checking --------------------------------------------------------------------------------------------------------

// All keys are compared in full, so that the time tells nothing about where a digest differs.
static const struct auth_key *find_key(const struct auth *a, const char *text)
{
    uint8_t digest[HASH_BYTES];
    char prefix[AUTH_PREFIX + 1];
    const struct auth_key *found = NULL;
    if (!auth_key_digest(text, digest, prefix))
        return NULL;
    for (size_t i = 0; i < a->count; i++)
        if (auth_equal(a->keys[i].digest, digest, HASH_BYTES))
            found = &a->keys[i];
    return found && (!found->expires_at || found->expires_at > clock_unix()) ? found : NULL;
}

static const struct auth_key *find_session(struct auth *a, const char *token)
{
    uint8_t digest[HASH_BYTES];
    const struct auth_key *found = NULL;
    if (strlen(token) != AUTH_KEY_RANDOM || !hash_bytes(token, AUTH_KEY_RANDOM, digest))
        return NULL;
    for (size_t i = 0; i < SESSIONS; i++) {
        struct session *s = &a->sessions[i];
        if (s->key_id[0] && auth_equal(s->digest, digest, HASH_BYTES) && s->expires > clock_seconds())
            found = key_by_id(a, s->key_id);
    }
    return found && (!found->expires_at || found->expires_at > clock_unix()) ? found : NULL;
}

static bool missing_scope(unsigned needed, struct vireo_error *err)
{
    return vireo_fail_kind(err, VIREO_FORBIDDEN, "insufficient_scope", NULL,
                           "The API key lacks the scope '%s' that this call needs.", auth_scope_name(needed));
}

static bool check(struct auth *a, const struct auth_request *req, struct auth_result *out, struct vireo_error *err)
{
    if (a->count == 0 && req->loopback) {
        *out = (struct auth_result){.scopes = AUTH_ALL};
        return true;
    }
    if (!req->needed) {
        *out = (struct auth_result){0};
        return true;
    }
    if (is_blocked(a, req->address))
        return vireo_fail_kind(err, VIREO_RATE_LIMITED, "rate_limit_exceeded", NULL,
                               "Too many wrong API keys from this address; try again in a minute.");
    const struct auth_key *key = NULL;
    if (req->authorization) {
        bool bearer = strncasecmp(req->authorization, "Bearer ", 7) == 0;
        const char *text = req->authorization + 7;
        key = bearer ? find_key(a, text + strspn(text, " ")) : NULL;
        if (!key) {
            note_failure(a, req->address);
            return vireo_fail_kind(err, VIREO_UNAUTHORIZED, "invalid_api_key", NULL,
                                   bearer ? "The API key is not known to this server."
                                          : "The Authorization header must be 'Bearer <API key>'.");
        }
    } else if (req->session) {
        key = find_session(a, req->session); // an old cookie is no attack: not counted
    }
    if (!key)
        return vireo_fail_kind(err, VIREO_UNAUTHORIZED, "invalid_api_key", NULL,
                               "This server needs an API key: send 'Authorization: Bearer <API key>'.");
    if (!(key->scopes & req->needed))
        return missing_scope(req->needed, err);
    a->usage[key - a->keys].last = clock_unix();
    snprintf(out->key_id, sizeof out->key_id, "%s", key->id);
    out->scopes = key->scopes;
    return true;
}

bool auth_check(struct auth *a, const struct auth_request *req, struct auth_result *out, struct vireo_error *err)
{
    pthread_mutex_lock(&a->lock);
    bool ok = check(a, req, out, err);
    pthread_mutex_unlock(&a->lock);
    return ok;
}

// --- sessions --------------------------------------------------------------------------------------------------------

bool auth_session_create(struct auth *a, const char *key, const char *address, char token[AUTH_KEY_RANDOM + 1],
                         struct vireo_error *err)
{
    char text[AUTH_KEY_RANDOM + 1];
    pthread_mutex_lock(&a->lock);
    bool ok = !is_blocked(a, address) || vireo_fail_kind(err, VIREO_RATE_LIMITED, "rate_limit_exceeded", NULL,
                                                         "Too many wrong API keys from this address; try again in a "
                                                         "minute.");
    const struct auth_key *found = ok ? find_key(a, key) : NULL;
    if (ok && !found) {
        note_failure(a, address);
        ok = vireo_fail_kind(err, VIREO_UNAUTHORIZED, "invalid_api_key", "key",
                             "The API key is not known to this server.");
    }
    if (ok) {
        struct session *oldest = &a->sessions[0];
        for (size_t i = 0; i < SESSIONS; i++)
            if (a->sessions[i].expires < oldest->expires)
                oldest = &a->sessions[i];
        random_id(text, sizeof text, "", AUTH_KEY_RANDOM);
        ok = hash_bytes(text, AUTH_KEY_RANDOM, oldest->digest) || vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
        if (ok) {
            snprintf(oldest->key_id, sizeof oldest->key_id, "%s", found->id);
            oldest->expires = clock_seconds() + SESSION_SECONDS;
            memcpy(token, text, sizeof text);
        }
    }
    pthread_mutex_unlock(&a->lock);
    return ok;
}

void auth_session_end(struct auth *a, const char *token)
{
    uint8_t digest[HASH_BYTES];
    if (strlen(token) != AUTH_KEY_RANDOM || !hash_bytes(token, AUTH_KEY_RANDOM, digest))
        return;
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < SESSIONS; i++)
        if (a->sessions[i].key_id[0] && auth_equal(a->sessions[i].digest, digest, HASH_BYTES))
            a->sessions[i] = (struct session){0};
    pthread_mutex_unlock(&a->lock);
}
