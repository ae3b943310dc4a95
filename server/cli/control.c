// The Unix socket DIR/control of a running server. Who may open it (its mode is 0600) may administer: the answer to any frame is
// where the server listens and, where keys are in use, a key for ten minutes.
#include "server/cli/cli.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/wire/frame.h"
#include "compute/wire/message.h"
#include "server/routes/app.h"
#include "server/store/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOG_MODULE "control"
#include "compute/base/log.h"

enum { KEY_SECONDS = 600 };

struct control {
    struct app *app;
    char path[512], url[256];
    int fd, stop[2];
    pthread_t thread;
};

// sun_path is short: a socket in a deep folder is reached through the folder's descriptor.
static bool address_of(const char *folder, int *folder_fd, struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    *folder_fd = -1;
    if ((size_t)snprintf(a->sun_path, sizeof a->sun_path, "%s/control", folder) < sizeof a->sun_path)
        return true;
    *folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *folder_fd >= 0 &&
           (size_t)snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/control", *folder_fd) < sizeof a->sun_path;
}

bool control_ask(const char *folder, char *url, size_t url_size, char *key, size_t key_size)
{
    struct sockaddr_un address;
    struct frame_reader reader = {0};
    int folder_fd, fd = socket(AF_UNIX, SOCK_STREAM, 0);
    json_t *answer = NULL, *hello = message_new(MESSAGE_HELLO);
    bool ended, done = fd >= 0 && hello && address_of(folder, &folder_fd, &address);
    done = done && connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && frame_send(fd, hello, NULL) &&
           frame_receive(fd, &reader, &answer, &ended, NULL);
    const char *u = json_string_value(json_object_get(answer, "url")), *k = json_string_value(json_object_get(answer, "key"));
    if (done && u) {
        snprintf(url, url_size, "%s", u);
        snprintf(key, key_size, "%s", k ? k : "");
    }
    done = done && u;
    if (fd >= 0)
        close(fd);
    frame_reader_finish(&reader);
    json_decref(answer);
    json_decref(hello);
    return done;
}

// A server without keys must stay one without: then loopback callers need none.
static bool make_key(struct app *app, char text[AUTH_KEY_TEXT])
{
    struct arena arena;
    struct vireo_error err;
    struct store_key k = {.name = "command line", .scopes = AUTH_ALL, .expires_at = clock_unix() + KEY_SECONDS};
    char prefix[AUTH_PREFIX + 1];
    arena_init(&arena, 0);
    auth_key_create(text);
    k.prefix = prefix;
    bool done = auth_key_digest(text, k.digest, prefix) && store_key_add(app->store, &k, &arena, &err) && app_load_keys(app, &err);
    arena_finish(&arena);
    return done;
}

static void answer(struct control *c, int fd)
{
    struct frame_reader reader = {0};
    json_t *message = NULL, *out = message_new(MESSAGE_HELLO);
    bool ended;
    char key[AUTH_KEY_TEXT] = "";
    struct timeval limit = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (out && frame_receive(fd, &reader, &message, &ended, NULL)) {
        if (auth_key_count(c->app->auth) > 0 && !make_key(c->app, key))
            log_error("no key could be made for a command");
        json_object_set_new(out, "url", json_string(c->url));
        json_object_set_new(out, "key", json_string(key));
        frame_send(fd, out, NULL);
    }
    frame_reader_finish(&reader);
    json_decref(message);
    json_decref(out);
    close(fd);
}

static void *listen_to_commands(void *context)
{
    struct control *c = context;
    for (;;) {
        struct pollfd fds[] = {{.fd = c->stop[0], .events = POLLIN}, {.fd = c->fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[0].revents)
            return NULL;
        int fd = fds[1].revents ? accept(c->fd, NULL, NULL) : -1;
        if (fd >= 0) {
            fcntl(fd, F_SETFD, FD_CLOEXEC);
            answer(c, fd);
        }
    }
}

struct control *control_start(struct app *app, const char *folder, const char *url, struct vireo_error *err)
{
    struct control *c = vireo_calloc(1, sizeof *c);
    struct sockaddr_un address;
    int folder_fd = -1;
    if (!c) {
        vireo_fail_memory(err, sizeof *c);
        return NULL;
    }
    c->app = app;
    snprintf(c->path, sizeof c->path, "%s/control", folder);
    snprintf(c->url, sizeof c->url, "%s", url);
    unlink(c->path); // the lock of the folder is ours, so this is a dead server's
    c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    bool done = c->fd >= 0 && address_of(folder, &folder_fd, &address) && pipe(c->stop) == 0;
    mode_t old = umask(0177);
    done = done && bind(c->fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(c->fd, 16) == 0;
    umask(old);
    if (folder_fd >= 0)
        close(folder_fd);
    if (!done)
        vireo_fail_errno(err, "cannot listen on the data folder's socket");
    else
        fcntl(c->fd, F_SETFD, FD_CLOEXEC);
    if (done && pthread_create(&c->thread, NULL, listen_to_commands, c) != 0)
        done = vireo_fail(err, VIREO_NO_MEMORY, "cannot start a thread");
    if (!done) {
        if (c->fd >= 0)
            close(c->fd);
        free(c);
        return NULL;
    }
    return c;
}

void control_stop(struct control **control)
{
    struct control *c = *control;
    if (!c)
        return;
    *control = NULL;
    if (write(c->stop[1], "", 1) < 0)
        log_warn("the control thread could not be told to stop");
    pthread_join(c->thread, NULL);
    unlink(c->path);
    close(c->fd);
    close(c->stop[0]);
    close(c->stop[1]);
    free(c);
}
