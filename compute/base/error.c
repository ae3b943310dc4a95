#include "compute/base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const code_names[] = {
    [VIREO_OK] = "ok",
    [VIREO_INVALID] = "invalid",
    [VIREO_UNSUPPORTED] = "unsupported",
    [VIREO_UNAUTHORIZED] = "unauthorized",
    [VIREO_FORBIDDEN] = "forbidden",
    [VIREO_NOT_FOUND] = "not_found",
    [VIREO_CONFLICT] = "conflict",
    [VIREO_TOO_LARGE] = "too_large",
    [VIREO_RATE_LIMITED] = "rate_limited",
    [VIREO_UNAVAILABLE] = "unavailable",
    [VIREO_NO_SPACE] = "no_space",
    [VIREO_NO_MEMORY] = "no_memory",
    [VIREO_DEVICE_MEMORY] = "device_memory",
    [VIREO_DEVICE_LOST] = "device_lost",
    [VIREO_IO] = "io",
    [VIREO_CORRUPT] = "corrupt",
    [VIREO_DIVERGED] = "diverged",
    [VIREO_CANCELLED] = "cancelled",
    [VIREO_INTERNAL] = "internal",
};

static void set(struct vireo_error *err, enum vireo_code code, const char *kind, const char *param, const char *fmt,
                va_list args)
{
    // Formatted aside first: the arguments may point into err itself.
    char message[sizeof err->message];
    vsnprintf(message, sizeof message, fmt, args);
    char where[sizeof err->param];
    snprintf(where, sizeof where, "%s", param ? param : "");
    err->code = code;
    snprintf(err->kind, sizeof err->kind, "%s", kind ? kind : "");
    memcpy(err->param, where, sizeof where);
    memcpy(err->message, message, sizeof message);
}

bool vireo_fail(struct vireo_error *err, enum vireo_code code, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        set(err, code, NULL, NULL, fmt, args);
        va_end(args);
    }
    return false;
}

bool vireo_fail_param(struct vireo_error *err, const char *param, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        set(err, VIREO_INVALID, NULL, param, fmt, args);
        va_end(args);
    }
    return false;
}

bool vireo_fail_kind(struct vireo_error *err, enum vireo_code code, const char *kind, const char *param, const char *fmt,
                     ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        set(err, code, kind, param, fmt, args);
        va_end(args);
    }
    return false;
}

bool vireo_fail_errno(struct vireo_error *err, const char *fmt, ...)
{
    int number = errno;
    if (err) {
        bool full = number == ENOSPC || number == EDQUOT || number == EFBIG;
        va_list args;
        va_start(args, fmt);
        set(err, full ? VIREO_NO_SPACE : VIREO_IO, NULL, NULL, fmt, args);
        va_end(args);
        size_t used = strlen(err->message);
        snprintf(err->message + used, sizeof err->message - used, ": %s", strerror(number));
    }
    return false;
}

bool vireo_fail_memory(struct vireo_error *err, unsigned long long bytes)
{
    return vireo_fail(err, VIREO_NO_MEMORY, "out of host memory: %llu bytes wanted", bytes);
}

bool vireo_explain(struct vireo_error *err, const char *fmt, ...)
{
    if (err) {
        char text[sizeof err->message];
        va_list args;
        va_start(args, fmt);
        int used = vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        if (used >= 0 && (size_t)used < sizeof text)
            snprintf(text + used, sizeof text - (size_t)used, "%s", err->message);
        memcpy(err->message, text, sizeof text);
    }
    return false;
}

const char *vireo_code_name(enum vireo_code code)
{
    size_t count = sizeof code_names / sizeof code_names[0];
    return (size_t)code < count && code_names[code] ? code_names[code] : "internal";
}

enum vireo_code vireo_code_from_name(const char *name)
{
    for (size_t i = 0; name && i < sizeof code_names / sizeof code_names[0]; i++)
        if (code_names[i] && strcmp(code_names[i], name) == 0)
            return (enum vireo_code)i;
    return VIREO_INTERNAL;
}
