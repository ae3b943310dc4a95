// One child process: socket pair, frames in and out, signals, how it ended. For one thread.
#ifndef VIREO_JOBS_PROCESS_H
#define VIREO_JOBS_PROCESS_H

#include "compute/wire/frame.h"
#include "compute/wire/message.h"

#include <sys/types.h>

struct process {
    pid_t pid; // 0: none
    int fd;    // -1: closed
    char role[16];
    struct frame_reader reader;
    char *out; // bytes that the socket did not take yet
    size_t out_size, out_start;
    bool killed; // by us
};

// Starts `vireo worker --role ROLE`. `faults` false: without VIREO_FAULT (a fault set from outside strikes once).
bool process_start(struct process *p, const char *role, bool faults, struct vireo_error *err);
// Queues and sends as much as the socket takes. Takes `message` (NULL: out of memory, false). A broken pipe is no failure here: the
// end of the child is noticed by reading.
bool process_send(struct process *p, json_t *message);
bool process_wants_write(const struct process *p);
void process_flush(struct process *p);

// Reads what is there. *message: the next frame (new reference) or NULL when none is complete. False: the child closed its end or
// sent garbage; then process_reap.
bool process_read(struct process *p);
bool process_next(struct process *p, json_t **message);
void process_kill(struct process *p);

// Waits for the end of a child whose socket is closed (killing it if it lingers), frees everything. *status: exit status, or -1
// for a signal. `reason` becomes a sentence for people: "The worker was ended by signal 9 (Killed)."
void process_reap(struct process *p, int *status, char *reason, size_t size);

// A blocking conversation with a fresh worker: it begins with `message` (taken). silence_s: most seconds between two frames; 0: no
// limit. False: there is no process.
bool process_begin(struct process *p, const char *role, json_t *message, int silence_s, struct vireo_error *err);
// Its next frame that is no hello, progress or event, a new reference. False: the worker told an error. NULL and true: it ended,
// fell silent or sent garbage, and process_end says why.
bool process_answer(struct process *p, json_t **answer, struct vireo_error *err);
void process_end(struct process *p, char *reason, size_t size); // reason may be NULL; as process_reap
// The whole of it: sends `message` (taken), returns its first answer that is no hello or progress,
// and ends it. NULL + err; a frame "failed" or "refused" is an error.
json_t *process_ask(const char *role, json_t *message, struct vireo_error *err);

#endif
