#include "compute/rewards/reward.h"

#include <utf8proc.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define X(name) extern const struct reward_rule reward_##name;
#include "compute/rewards/reward_list.h"
#undef X

#define X(name) &reward_##name,
const struct reward_rule *const reward_rules[] = {
#include "compute/rewards/reward_list.h"
    NULL,
};
#undef X

const struct reward_rule *reward_find(const char *name)
{
    for (size_t i = 0; reward_rules[i]; i++)
        if (strcmp(reward_rules[i]->name, name) == 0)
            return reward_rules[i];
    return NULL;
}

const char *reward_names(char *buffer, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; reward_rules[i] && used < size; i++) {
        int n = snprintf(buffer + used, size - used, "%s%s", i ? ", " : "", reward_rules[i]->name);
        used += n > 0 ? (size_t)n : 0;
    }
    return buffer;
}

bool reward_check_none(const json_t *params, const char *path, struct vireo_error *err)
{
    if (!params || json_object_size(params) == 0)
        return true;
    const char *key = json_object_iter_key(json_object_iter((json_t *)params));
    char full[128];
    snprintf(full, sizeof full, "%s.%s", path, key);
    return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", full,
                           "Unknown parameter '%.60s': this rule takes no parameters.", key);
}

// Reasons quote what models write, may cut a character in two, and go out as JSON: what is not UTF-8 becomes '?'.
void reward_mend_utf8(char *text)
{
    for (size_t i = 0, size = strlen(text); i < size;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t length =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(size - i), &c);
        if (length < 1)
            text[i++] = '?';
        else
            i += (size_t)length;
    }
}

bool reward_give(struct reward_result *out, enum reward_status status, double value, const char *fmt, ...)
{
    out->status = status;
    out->value = value;
    va_list args;
    va_start(args, fmt);
    vsnprintf(out->reason, sizeof out->reason, fmt, args);
    va_end(args);
    reward_mend_utf8(out->reason);
    return true;
}
