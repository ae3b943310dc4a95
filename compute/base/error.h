// What went wrong, for a person and for the API.
//
// A function that can fail returns bool (or a pointer) and takes `struct vireo_error *err` last. On failure its
// results are untouched; on success `err` is. The struct lives on the caller's stack; nothing is allocated.
// `err` may be NULL where the caller does not care.
#ifndef VIREO_BASE_ERROR_H
#define VIREO_BASE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>

enum vireo_code {
    VIREO_OK = 0,
    VIREO_INVALID,       // the caller's input is wrong (400); `param` names the field
    VIREO_UNSUPPORTED,   // well-formed, but not built or not possible here (400)
    VIREO_UNAUTHORIZED,  // no or wrong key (401)
    VIREO_FORBIDDEN,     // key lacks the scope (403)
    VIREO_NOT_FOUND,     // (404)
    VIREO_CONFLICT,      // wrong state of a resource (409, or 400 where the API says so)
    VIREO_TOO_LARGE,     // over a limit (413)
    VIREO_RATE_LIMITED,  // per-caller limit reached (429)
    VIREO_UNAVAILABLE,   // try again later: worker missing, queue full, shutting down (503)
    VIREO_NO_SPACE,      // disk full (507)
    VIREO_NO_MEMORY,     // host allocation failed (500)
    VIREO_DEVICE_MEMORY, // device allocation failed (500; the message holds wanted and available bytes)
    VIREO_DEVICE_LOST,   // the GPU or its driver went away; the process must be replaced (exit 70)
    VIREO_IO,            // file or socket failed (500)
    VIREO_CORRUPT,       // a file of ours or of a model fails its checks
    VIREO_DIVERGED,      // training produced non-finite values beyond the allowed number
    VIREO_CANCELLED,
    VIREO_INTERNAL,      // only our own bug can cause it (500)
};

struct vireo_error {
    enum vireo_code code;
    char kind[48];     // API error code such as "invalid_value"; empty: derived from `code`
    char param[128];   // field in the client's notation, e.g. "messages[0].content"; empty: none
    char message[512]; // one sentence: what, where, and what would help
};

#if defined(__GNUC__)
#define VIREO_PRINTF(fmt_index, first) __attribute__((format(printf, fmt_index, first)))
#define VIREO_MUST_CHECK __attribute__((warn_unused_result))
#else
#define VIREO_PRINTF(fmt_index, first)
#define VIREO_MUST_CHECK
#endif

// Sets code and message, clears kind and param. Always returns false, so that `return vireo_fail(...)` reads as one step.
bool vireo_fail(struct vireo_error *err, enum vireo_code code, const char *fmt, ...) VIREO_PRINTF(3, 4);

// VIREO_INVALID with the field that is wrong. `param` is copied. Returns false.
bool vireo_fail_param(struct vireo_error *err, const char *param, const char *fmt, ...) VIREO_PRINTF(3, 4);

// As vireo_fail, with the API error code (kind) and the field (param, may be NULL). Returns false.
bool vireo_fail_kind(struct vireo_error *err, enum vireo_code code, const char *kind, const char *param, const char *fmt,
                     ...) VIREO_PRINTF(5, 6);

// VIREO_IO (or VIREO_NO_SPACE for ENOSPC, EDQUOT, EFBIG) with strerror(errno) appended. Returns false.
bool vireo_fail_errno(struct vireo_error *err, const char *fmt, ...) VIREO_PRINTF(2, 3);

// VIREO_NO_MEMORY for an allocation of `bytes`. Returns false.
bool vireo_fail_memory(struct vireo_error *err, unsigned long long bytes);

// Puts context in front of the present message: "loading layer 3: " + message. Returns false.
bool vireo_explain(struct vireo_error *err, const char *fmt, ...) VIREO_PRINTF(2, 3);

// Short stable name of a code, e.g. "device_lost"; used in logs, frames and exit reasons.
const char *vireo_code_name(enum vireo_code code);

// Inverse of vireo_code_name; VIREO_INTERNAL for an unknown name.
enum vireo_code vireo_code_from_name(const char *name);

#endif
