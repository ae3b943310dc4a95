// The thread that owns the children: polls their sockets, hands frames to their owners, reaps, runs commands of other threads.
#include "server/jobs/internal.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_MODULE "jobs"
#include "compute/base/log.h"

enum { TICK_MS = 500, MAX_CHILDREN = 64 };

struct child *child_start(struct jobs *j, const char *role, bool faults, struct vireo_error *err)
{
    size_t count = 0;
    for (struct child *c = j->children; c; c = c->next)
        count++;
    struct child *c = vireo_calloc(1, sizeof *c);
    if (!c) {
        vireo_fail_memory(err, sizeof *c);
        return NULL;
    }
    if (count >= MAX_CHILDREN || !process_start(&c->p, role, faults, err)) {
        if (count >= MAX_CHILDREN)
            vireo_fail(err, VIREO_UNAVAILABLE, "%d workers run already.", MAX_CHILDREN);
        free(c);
        return NULL;
    }
    c->next = j->children;
    j->children = c;
    return c;
}

void child_kill(struct child *c, double seconds)
{
    if (seconds <= 0)
        process_kill(&c->p);
    else if (c->kill_at == 0)
        c->kill_at = clock_seconds() + seconds;
}

void supervisor_look(struct jobs *j)
{
    j->dirty = true;
}

static void wake(struct jobs *j)
{
    while (write(j->wake[1], "", 1) < 0 && errno == EINTR) {
    }
}

static bool leave_command(struct jobs *j, struct command *c, struct vireo_error *err)
{
    pthread_mutex_lock(&j->lock);
    bool running = j->running;
    if (running) {
        *j->commands_tail = c;
        j->commands_tail = &c->next;
    }
    pthread_mutex_unlock(&j->lock);
    if (running)
        wake(j);
    return running || vireo_fail(err, VIREO_UNAVAILABLE, "The server is shutting down.");
}

bool supervisor_call(struct jobs *j, void (*fn)(struct jobs *, void *), void *context, struct vireo_error *err)
{
    struct command c = {.run = fn, .context = context, .waited = true};
    if (!leave_command(j, &c, err))
        return false;
    pthread_mutex_lock(&j->lock);
    while (!c.done)
        pthread_cond_wait(&j->command_done, &j->lock);
    pthread_mutex_unlock(&j->lock);
    return true;
}

bool supervisor_post(struct jobs *j, void (*fn)(struct jobs *, void *), void *context)
{
    struct command *c = vireo_calloc(1, sizeof *c);
    if (!c)
        return false;
    *c = (struct command){.run = fn, .context = context};
    if (leave_command(j, c, NULL))
        return true;
    free(c);
    return false;
}

static void run_commands(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    struct command *c = j->commands;
    j->commands = NULL;
    j->commands_tail = &j->commands;
    pthread_mutex_unlock(&j->lock);
    while (c) {
        struct command *next = c->next;
        c->run(j, c->context);
        if (c->waited) {
            pthread_mutex_lock(&j->lock);
            c->done = true;
            pthread_cond_broadcast(&j->command_done);
            pthread_mutex_unlock(&j->lock);
        } else {
            free(c);
        }
        c = next;
    }
}

static void end_child(struct jobs *j, struct child *c)
{
    char reason[128];
    int status;
    for (struct child **at = &j->children; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    int pid = (int)c->p.pid;
    bool killed = c->p.killed;
    char role[16];
    memcpy(role, c->p.role, sizeof role);
    process_reap(&c->p, &status, reason, sizeof reason);
    if (status != 0 && !killed)
        log_warn("worker=%d role=%s: %s", pid, role, reason);
    c->on_exit(j, c, status, reason);
    free(c);
    supervisor_look(j);
}

static void read_child(struct jobs *j, struct child *c)
{
    bool alive = process_read(&c->p);
    json_t *message;
    bool fine;
    while ((fine = process_next(&c->p, &message)) && message) {
        c->on_frame(j, c, message);
        json_decref(message);
    }
    if (!fine)
        process_kill(&c->p);
    if (!alive || !fine)
        end_child(j, c);
}

// ---- devices

static void devices_frame(struct jobs *j, struct child *c, json_t *message)
{
    if (message_kind_of(message) == MESSAGE_FAILED) {
        struct vireo_error err;
        message_read_error(json_object_get(message, "error"), &err);
        log_error("no Vulkan device: %s", err.message);
    }
    if (message_kind_of(message) != MESSAGE_DEVICES)
        return;
    json_decref(j->devices);
    j->devices = json_incref(json_object_get(message, "devices"));
    size_t i;
    json_t *device;
    j->budget = 0;
    json_array_foreach (j->devices, i, device) {
        if (json_is_string(json_object_get(device, "missing")))
            continue;
        json_t *memory = json_object_get(device, "memory");
        uint64_t bytes = (uint64_t)json_integer_value(json_object_get(memory, "budget_bytes"));
        // Devices come best first; a chosen one is found by its index, UUID or a part of its name.
        const char *name = json_string_value(json_object_get(device, "name")), *want = j->p.device;
        const char *uuid = json_string_value(json_object_get(device, "uuid"));
        char index[16];
        snprintf(index, sizeof index, "%d", (int)json_integer_value(json_object_get(device, "index")));
        bool chosen = !want || strcmp(want, "auto") == 0 || strcmp(want, index) == 0 || (uuid && strcmp(want, uuid) == 0) ||
                      (name && strstr(name, want));
        if (chosen && !j->budget) {
            const char *type = json_string_value(json_object_get(device, "type"));
            j->budget = bytes;
            const json_t *lanes = type && strcmp(type, "cpu") == 0 ? json_object_get(device, "subgroup_size") : NULL;
            j->cpu_lanes = (uint32_t)json_integer_value(lanes);
        }
    }
    if (j->p.memory_limit && (j->p.memory_limit < j->budget || !j->budget))
        j->budget = j->p.memory_limit;
    log_info("%zu Vulkan device(s), %.2f GiB for workers", json_array_size(j->devices), (double)j->budget / (1 << 30));
}

static void devices_exit(struct jobs *j, struct child *c, int status, const char *reason)
{
    j->devices_failed = j->devices == NULL;
    j->look_at = clock_seconds() + 10;
    if (j->devices_failed)
        log_error("the list of Vulkan devices could not be read: %s", reason);
}

static void ask_devices(struct jobs *j)
{
    struct vireo_error err;
    if (j->devices || j->devices_asked)
        return;
    struct child *c = child_start(j, "devices", false, &err);
    j->devices_asked = true;
    if (!c) {
        j->devices_failed = true;
        log_error("%s", err.message);
        return;
    }
    c->on_frame = devices_frame;
    c->on_exit = devices_exit;
    child_kill(c, 60);
}

// ---- the loop

static void tick(struct jobs *j)
{
    double now = clock_seconds();
    for (struct child *c = j->children; c; c = c->next)
        if (c->kill_at && now >= c->kill_at && !c->p.killed) {
            log_warn("worker=%d role=%s did not end in time", (int)c->p.pid, c->p.role);
            process_kill(&c->p);
        }
    inference_tick(j);
    if (j->dirty || (j->look_at && now >= j->look_at)) {
        j->dirty = false;
        j->look_at = 0;
        if (j->devices_failed && !j->draining) { // a driver may come back (an update, a container's start order)
            j->devices_failed = j->devices_asked = false;
            j->look_at = now + 10;
        }
        ask_devices(j);
        training_tick(j);
        evaluation_tick(j);
    }
}

static void *supervise(void *context)
{
    struct jobs *j = context;
    for (;;) {
        struct pollfd fds[MAX_CHILDREN + 1] = {{.fd = j->wake[0], .events = POLLIN}};
        struct child *children[MAX_CHILDREN + 1];
        nfds_t count = 1;
        for (struct child *c = j->children; c && count <= MAX_CHILDREN; c = c->next) {
            children[count] = c;
            fds[count++] = (struct pollfd){.fd = c->p.fd, .events = (short)(POLLIN | (process_wants_write(&c->p) ? POLLOUT : 0))};
        }
        int got = poll(fds, count, TICK_MS);
        if (got > 0 && fds[0].revents) {
            char drop[64];
            while (read(j->wake[0], drop, sizeof drop) > 0) {
            }
        }
        run_commands(j);
        pthread_mutex_lock(&j->lock);
        bool stopping = j->stopping;
        pthread_mutex_unlock(&j->lock);
        if (stopping)
            return NULL;
        for (nfds_t i = 1; got > 0 && i < count; i++) {
            if (fds[i].revents & POLLOUT)
                process_flush(&children[i]->p);
            if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
                read_child(j, children[i]);
        }
        tick(j);
        jobs_publish(j);
    }
}

struct jobs *jobs_start(const struct jobs_params *p, struct vireo_error *err)
{
    struct jobs *j = vireo_calloc(1, sizeof *j);
    if (!j) {
        vireo_fail_memory(err, sizeof *j);
        return NULL;
    }
    j->p = *p;
    j->p.keep_alive_s = p->keep_alive_s ? p->keep_alive_s : 300;
    j->p.queue_limit = p->queue_limit ? p->queue_limit : 64;
    j->p.job_limit = p->job_limit ? p->job_limit : 64;
    j->next_id = 1;
    j->commands_tail = &j->commands;
    j->dirty = true;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->command_done, NULL);
    bool done = pipe(j->wake) == 0;
    if (!done) {
        vireo_fail_errno(err, "cannot make a pipe");
        free(j);
        return NULL;
    }
    for (int i = 0; i < 2; i++) {
        fcntl(j->wake[i], F_SETFD, FD_CLOEXEC);
        fcntl(j->wake[i], F_SETFL, O_NONBLOCK);
    }
    done = training_recover(j, err) && evaluation_recover(j, err);
    if (done && pthread_create(&j->thread, NULL, supervise, j) != 0)
        done = vireo_fail(err, VIREO_NO_MEMORY, "cannot start a thread");
    if (!done) {
        close(j->wake[0]);
        close(j->wake[1]);
        free(j);
        return NULL;
    }
    pthread_mutex_lock(&j->lock);
    j->running = true;
    pthread_mutex_unlock(&j->lock);
    return j;
}

static void begin_drain(struct jobs *j, void *context)
{
    j->draining = true;
    training_drain(j);
}

struct idle {
    bool yes;
};
static void is_idle(struct jobs *j, void *context)
{
    ((struct idle *)context)->yes = !j->runs[RUN_CHECK] && !j->runs[RUN_TRAIN] && !j->runs[RUN_EVALUATE] && j->open_chats == 0;
}

bool jobs_drain(struct jobs *j, int timeout_ms)
{
    double until = clock_seconds() + timeout_ms / 1000.0;
    struct idle idle = {0};
    if (!supervisor_call(j, begin_drain, NULL, NULL))
        return false;
    while (supervisor_call(j, is_idle, &idle, NULL) && !idle.yes && clock_seconds() < until) {
        struct timespec pause = {.tv_nsec = 50000000};
        nanosleep(&pause, NULL);
    }
    return idle.yes;
}

void jobs_halt(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    bool running = j->running;
    j->stopping = true;
    pthread_mutex_unlock(&j->lock);
    if (!running)
        return;
    wake(j);
    pthread_join(j->thread, NULL);
    pthread_mutex_lock(&j->lock);
    j->running = false;
    pthread_mutex_unlock(&j->lock);
    run_commands(j); // nobody waits for ever
    struct vireo_error why;
    vireo_fail(&why, VIREO_UNAVAILABLE, "The server is shutting down.");
    j->draining = true;
    inference_end_all(j, &why);
    for (struct child *c = j->children; c; c = c->next)
        process_kill(&c->p);
    while (j->children)
        end_child(j, j->children);
}

void jobs_stop(struct jobs **jobs)
{
    struct jobs *j = *jobs;
    if (!j)
        return;
    *jobs = NULL;
    jobs_halt(j);
    while (j->back_offs) {
        struct back_off *b = j->back_offs;
        j->back_offs = b->next;
        free(b);
    }
    json_decref(j->devices);
    json_decref(j->snapshot);
    close(j->wake[0]);
    close(j->wake[1]);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->command_done);
    free(j);
}
