#include "compute/base/fault.h"

#include "compute/base/check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_RULES = 16 };
struct rule {
    char action[8], point[48];
    unsigned long at, seen;
};

// rules_lock guards rules and counts; rank: leaf (nothing is taken under it).
static pthread_mutex_t rules_lock = PTHREAD_MUTEX_INITIALIZER;
static struct rule rules[MAX_RULES];
static int rule_count;
static volatile int state; // 0 not read yet, 1 no rules, 2 rules

static void parse(const char *text)
{
    rule_count = 0;
    while (text && *text && rule_count < MAX_RULES) {
        struct rule r = {0};
        if (sscanf(text, "%7[a-z]:%47[a-z_.*0-9]:%lu", r.action, r.point, &r.at) == 3)
            rules[rule_count++] = r;
        else
            fprintf(stderr, "vireo: VIREO_FAULT: '%s' is not ACTION:POINT:N\n", text);
        text = strchr(text, ',');
        if (text)
            text++;
    }
    state = rule_count ? 2 : 1;
}

void vireo_fault_set(const char *text)
{
    pthread_mutex_lock(&rules_lock);
    parse(text ? text : getenv("VIREO_FAULT"));
    pthread_mutex_unlock(&rules_lock);
}

static bool matches(const struct rule *r, const char *point)
{
    size_t length = strlen(r->point);
    if (length && r->point[length - 1] == '*')
        return strncmp(r->point, point, length - 1) == 0;
    return strcmp(r->point, point) == 0;
}

bool vireo_fault(const char *point)
{
    if (state == 1)
        return false;
    if (state == 0)
        vireo_fault_set(NULL);
    bool fail = false;
    pthread_mutex_lock(&rules_lock);
    for (int i = 0; i < rule_count; i++) {
        struct rule *r = &rules[i];
        if (!matches(r, point))
            continue;
        r->seen++;
        if (r->at != 0 && r->seen != r->at)
            continue;
        if (strcmp(r->action, "kill") == 0)
            raise(SIGKILL);
        else if (strcmp(r->action, "segv") == 0)
            raise(SIGSEGV);
        else if (strcmp(r->action, "exit") == 0)
            _exit(3);
        else
            fail = true;
    }
    pthread_mutex_unlock(&rules_lock);
    return fail;
}

void *vireo_alloc(size_t bytes)
{
    return vireo_fault("alloc") ? (errno = ENOMEM, NULL) : malloc(bytes ? bytes : 1);
}

void *vireo_calloc(size_t count, size_t size)
{
    return vireo_fault("alloc") ? (errno = ENOMEM, NULL) : calloc(count ? count : 1, size ? size : 1);
}

void *vireo_realloc(void *old, size_t bytes)
{
    return vireo_fault("alloc") ? (errno = ENOMEM, NULL) : realloc(old, bytes ? bytes : 1);
}

char *vireo_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = vireo_alloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}
