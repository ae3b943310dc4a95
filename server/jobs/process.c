#include "server/jobs/process.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOG_MODULE "process"
#include "compute/base/log.h"

extern char **environ;

enum { CHILD_FD = 3, MAX_ENVIRONMENT = 4096 };

static bool make_pair(int fds[2], struct vireo_error *err)
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        return vireo_fail_errno(err, "cannot make a socket pair");
    for (int i = 0; i < 2; i++)
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    // A child's end must not land on the number it gets in the child: dup2 onto itself would keep close-on-exec.
    while (fds[1] == CHILD_FD) {
        int moved = fcntl(fds[1], F_DUPFD_CLOEXEC, CHILD_FD + 1);
        close(fds[1]);
        fds[1] = moved;
    }
    return true;
}

static char **environment(bool faults)
{
    size_t count = 0, n = 0;
    while (environ[count] && count < MAX_ENVIRONMENT)
        count++;
    char **list = vireo_calloc(count + 1, sizeof *list);
    for (size_t i = 0; list && i < count; i++)
        if (faults || strncmp(environ[i], "VIREO_FAULT=", 12) != 0)
            list[n++] = environ[i];
    return list;
}

bool process_start(struct process *p, const char *role, bool faults, struct vireo_error *err)
{
    char program[1024];
    int fds[2];
    if (vireo_fault("process.start"))
        return vireo_fail(err, VIREO_UNAVAILABLE, "A worker could not be started.");
    if (!os_executable_path(program, sizeof program, err) || !make_pair(fds, err))
        return false;
    char *argv[] = {"vireo", "worker", "--role", (char *)role, "--fd", "3", NULL};
    char **env = environment(faults);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&actions, fds[1], CHILD_FD);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    pid_t pid = 0;
    int failed = env ? posix_spawn(&pid, program, &actions, &attributes, argv, env) : ENOMEM;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(env);
    close(fds[1]);
    if (failed) {
        close(fds[0]);
        errno = failed;
        return vireo_fail_errno(err, "cannot start a worker");
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    *p = (struct process){.pid = pid, .fd = fds[0]};
    snprintf(p->role, sizeof p->role, "%s", role);
    log_debug("started worker=%d role=%s", (int)pid, role);
    return true;
}

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

void process_flush(struct process *p)
{
    while (p->out_size && p->fd >= 0) {
        ssize_t n = send(p->fd, p->out + p->out_start, p->out_size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0) { // the child is gone; reading tells
            p->out_size = p->out_start = 0;
            return;
        }
        p->out_start += (size_t)n;
        p->out_size -= (size_t)n;
    }
    if (!p->out_size) {
        free(p->out);
        p->out = NULL;
        p->out_start = 0;
    }
}

bool process_send(struct process *p, json_t *message)
{
    size_t size;
    struct vireo_error err;
    char *bytes = message ? frame_encode(message, &size, &err) : NULL;
    json_decref(message);
    if (!bytes)
        return false;
    if (p->out_size == 0) {
        free(p->out);
        p->out = bytes;
        p->out_size = size;
        p->out_start = 0;
    } else {
        char *grown = vireo_alloc(p->out_size + size);
        if (!grown) {
            free(bytes);
            return false;
        }
        memcpy(grown, p->out + p->out_start, p->out_size);
        memcpy(grown + p->out_size, bytes, size);
        free(bytes);
        free(p->out);
        p->out = grown;
        p->out_start = 0;
        p->out_size += size;
    }
    process_flush(p);
    return true;
}

bool process_wants_write(const struct process *p)
{
    return p->out_size > 0;
}

bool process_read(struct process *p)
{
    // One piece a call: a chatty child must not starve the others.
    char *room = frame_reader_room(&p->reader, 65536, NULL);
    if (!room)
        return false;
    ssize_t n = read(p->fd, room, 65536);
    if (n > 0)
        frame_reader_filled(&p->reader, (size_t)n);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
}

bool process_next(struct process *p, json_t **message)
{
    struct vireo_error err;
    *message = NULL;
    enum frame_result result = frame_next(&p->reader, message, &err);
    if (result == FRAME_BAD)
        log_error("worker=%d role=%s sent %s", (int)p->pid, p->role, err.message);
    return result != FRAME_BAD;
}

void process_kill(struct process *p)
{
    if (p->pid > 0) {
        p->killed = true;
        kill(p->pid, SIGKILL);
    }
}

void process_reap(struct process *p, int *status, char *reason, size_t size)
{
    int raw = 0;
    pid_t got = 0;
    double until = clock_seconds() + 5;
    if (p->fd >= 0)
        close(p->fd);
    // It closed its end, so it is ending; a worker that hangs after that (a driver's exit handler) is helped along.
    while (p->pid > 0 && (got = waitpid(p->pid, &raw, WNOHANG)) == 0 && clock_seconds() < until) {
        struct timespec pause = {.tv_nsec = 2000000};
        nanosleep(&pause, NULL);
    }
    if (got == 0 && p->pid > 0) {
        kill(p->pid, SIGKILL);
        while (waitpid(p->pid, &raw, 0) < 0 && errno == EINTR) {
        }
    }
    if (WIFSIGNALED(raw)) {
        *status = -1;
        snprintf(reason, size, "The worker was ended by signal %d (%s).", WTERMSIG(raw), strsignal(WTERMSIG(raw)));
    } else {
        *status = WIFEXITED(raw) ? WEXITSTATUS(raw) : -1;
        snprintf(reason, size, "The worker ended with status %d.", *status);
    }
    frame_reader_finish(&p->reader);
    free(p->out);
    *p = (struct process){.fd = -1};
}

bool process_begin(struct process *p, const char *role, json_t *message, int silence_s, struct vireo_error *err)
{
    if (!message)
        return vireo_fail_memory(err, 256);
    bool done = process_start(p, role, true, err);
    if (done) {
        struct timeval limit = {.tv_sec = silence_s};
        fcntl(p->fd, F_SETFL, 0);
        setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(p->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        done = frame_send(p->fd, message, err);
        if (!done)
            process_end(p, NULL, 0);
    }
    json_decref(message);
    return done;
}

bool process_answer(struct process *p, json_t **answer, struct vireo_error *err)
{
    bool ended;
    for (*answer = NULL;;) {
        json_t *m = NULL;
        struct vireo_error why = {.code = VIREO_INTERNAL};
        if (!frame_receive(p->fd, &p->reader, &m, &ended, &why))
            return true;
        enum message_kind kind = message_kind_of(m);
        if (kind == MESSAGE_FAILED || kind == MESSAGE_REFUSED) {
            struct vireo_error ignored;
            message_read_error(json_object_get(m, "error"), err ? err : &ignored);
            json_decref(m);
            return false;
        }
        if (kind != MESSAGE_HELLO && kind != MESSAGE_PROGRESS && kind != MESSAGE_EVENT) {
            *answer = m;
            return true;
        }
        json_decref(m);
    }
}

void process_end(struct process *p, char *reason, size_t size)
{
    char text[128];
    int status;
    process_reap(p, &status, reason ? reason : text, reason ? size : sizeof text);
}

json_t *process_ask(const char *role, json_t *message, struct vireo_error *err)
{
    struct process p;
    json_t *answer;
    char reason[128];
    if (!process_begin(&p, role, message, 0, err))
        return NULL;
    bool done = process_answer(&p, &answer, err);
    process_end(&p, reason, sizeof reason);
    if (done && !answer)
        vireo_fail(err, VIREO_UNAVAILABLE, "%s", reason);
    return answer;
}
