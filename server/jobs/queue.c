#include "server/jobs/queue.h"

#include "compute/base/check.h"

#include <string.h>

static const char *const names[JOB_STATES] = {
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled",
};

#define NO JOB_STATES
static const enum job_state table[JOB_STATES][JOB_EVENTS] = {
    // VALIDATED  STARTED      LOST            FINISHED       BROKEN      STOPPED     CANCEL         PAUSE       RESUME
    [JOB_VALIDATING] = {JOB_QUEUED, NO, JOB_VALIDATING, NO, JOB_FAILED, NO, JOB_CANCELLED, NO, NO},
    [JOB_QUEUED] = {NO, JOB_RUNNING, JOB_QUEUED, NO, JOB_FAILED, JOB_PAUSED, JOB_CANCELLED, JOB_PAUSED, NO},
    [JOB_RUNNING] = {NO, NO, JOB_QUEUED, JOB_SUCCEEDED, JOB_FAILED, JOB_PAUSED, JOB_CANCELLED, JOB_RUNNING, NO},
    [JOB_PAUSED] = {NO, NO, JOB_PAUSED, NO, NO, NO, JOB_CANCELLED, JOB_PAUSED, JOB_QUEUED},
    [JOB_SUCCEEDED] = {NO, NO, NO, NO, NO, NO, NO, NO, NO},
    [JOB_FAILED] = {NO, NO, NO, NO, NO, NO, NO, NO, NO},
    [JOB_CANCELLED] = {NO, NO, NO, NO, NO, NO, JOB_CANCELLED, NO, NO},
};
#undef NO

enum job_state job_next_state(enum job_state state, enum job_event event)
{
    vireo_assert((int)state >= 0 && state < JOB_STATES && (int)event >= 0 && event < JOB_EVENTS);
    return table[state][event];
}

enum job_state job_state_from_name(const char *name)
{
    int i = 0;
    while (i < JOB_STATES && strcmp(names[i], name) != 0)
        i++;
    return (enum job_state)i;
}

const char *job_state_name(enum job_state state)
{
    vireo_assert((int)state >= 0 && state < JOB_STATES);
    return names[state];
}

bool job_state_is_final(enum job_state state)
{
    return state == JOB_SUCCEEDED || state == JOB_FAILED || state == JOB_CANCELLED;
}

double job_backoff_seconds(int attempt)
{
    if (attempt <= 1)
        return 0;
    if (attempt == 2)
        return 1;
    double wait = 10;
    for (int i = 3; i < attempt && wait < 360; i++)
        wait *= 2;
    return wait < 360 ? wait : 360;
}
