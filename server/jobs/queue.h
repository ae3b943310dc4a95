// States of a job, as a table: what may follow what.
#ifndef VIREO_JOBS_QUEUE_H
#define VIREO_JOBS_QUEUE_H

#include "compute/base/error.h"

#include <stddef.h>

// In the order of store_job_statuses.
enum job_state {
    JOB_VALIDATING, JOB_QUEUED, JOB_RUNNING, JOB_PAUSED, JOB_SUCCEEDED, JOB_FAILED, JOB_CANCELLED, JOB_STATES,
};
enum job_event {
    JOB_VALIDATED, // files are in order
    JOB_STARTED,   // a worker runs it
    JOB_LOST,      // its worker or the server went away; it goes on from its last checkpoint
    JOB_FINISHED,
    JOB_BROKEN,    // failed for good
    JOB_STOPPED,   // the worker paused it (asked for, or the disk is full)
    JOB_ASKED_CANCEL,
    JOB_ASKED_PAUSE,  // of a job that does not run; a running one is paused by JOB_STOPPED
    JOB_ASKED_RESUME,
    JOB_EVENTS,
};
// The state after `event`; JOB_STATES: the event is not allowed in this state.
enum job_state job_next_state(enum job_state state, enum job_event event);
enum job_state job_state_from_name(const char *name); // JOB_STATES: unknown
const char *job_state_name(enum job_state state);
bool job_state_is_final(enum job_state state);

// Seconds to wait before attempt `attempt` (from 1: the first has no wait): 1, 10, 20, 40 ... 360. Six attempts without a new
// checkpoint are the end.
enum { JOB_ATTEMPTS = 6 };
double job_backoff_seconds(int attempt);

#endif
