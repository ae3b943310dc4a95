// `vireo serve`: opens the store, starts the supervisor and the HTTP server, waits for a signal, and leaves in order.
#include "server/cli/cli.h"

#include "compute/base/arena.h"
#include "compute/base/clock.h"
#include "compute/base/file.h"
#include "compute/base/os.h"
#include "server/jobs/jobs.h"
#include "server/routes/app.h"
#include "server/store/files.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "serve"
#include "compute/base/log.h"

static const char usage[] =
    "usage: vireo serve --data DIR [--listen HOST:PORT] [options]\n\n"
    "Serves the API, its documentation (/docs) and the web page (/) from one folder that holds everything. Prints\n"
    "'listening on http://HOST:PORT' when it is ready. SIGTERM or Ctrl-C: jobs write a checkpoint, answers end, status 0;\n"
    "a second one ends at once.\n";

static int signal_pipe[2];

static void on_signal(int number)
{
    char byte = (char)number;
    if (write(signal_pipe[1], &byte, 1) < 0) {
        // a full pipe holds a signal already
    }
}

// Until a signal comes; meanwhile files go once they have expired.
static void run_until_signal(struct app *app)
{
    enum { MINUTE_MS = 60000 };
    struct pollfd wait = {.fd = signal_pipe[0], .events = POLLIN};
    while (poll(&wait, 1, MINUTE_MS) <= 0) {
        struct vireo_error err;
        size_t expired = 0;
        if (!store_file_expire(app->store, clock_unix(), &expired, &err))
            log_warn("expired files stay for now: %s", err.message);
        else if (expired)
            log_info("%zu expired files are gone", expired);
    }
}

static bool install_signals(struct vireo_error *err)
{
    struct sigaction action = {.sa_handler = on_signal};
    if (pipe(signal_pipe) != 0)
        return vireo_fail_errno(err, "cannot make a pipe");
    for (int i = 0; i < 2; i++)
        fcntl(signal_pipe[i], F_SETFD, FD_CLOEXEC);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    return true;
}

// "127.0.0.1:8000", "[::1]:8000", ":8000", "8000".
static bool read_listen(const char *text, char *host, size_t size, int *port)
{
    const char *colon = strrchr(text, ':'), *digits = colon ? colon + 1 : text;
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    }
    long long n = -1;
    if (length >= size || !cli_number("--listen", digits, 0, 65535, &n))
        return false;
    snprintf(host, size, "%.*s", (int)length, length ? text : "127.0.0.1");
    if (!length)
        snprintf(host, size, "127.0.0.1");
    *port = (int)n;
    return true;
}

static void poke(void *context, const char *topic)
{
    struct app *app = context;
    if (app->http)
        http_poke(app->http, topic);
}

static void hook_metrics(void *context, void *file)
{
    jobs_metrics(context, file);
}

static void hook_system(void *context, json_t *object)
{
    jobs_system(context, object);
}

static bool hook_ready(void *context, struct vireo_error *err)
{
    return jobs_ready(context, err);
}

static bool hook_loaded(void *context, const char *model)
{
    return jobs_model_loaded(context, model);
}

static bool hook_release(void *context, const char *model, struct vireo_error *err)
{
    return jobs_model_release(context, model, err);
}

struct options {
    const char *data, *listen, *device, *memory, *keep_alive, *cert, *cert_key;
    bool insecure;
};

static bool open_parts(struct app *app, const struct options *o, struct jobs_params *jobs, struct vireo_error *err)
{
    app->store = store_open(o->data, err);
    app->auth = app->store ? auth_create(err) : NULL;
    if (!app->auth || !app_load_keys(app, err))
        return false;
    jobs->store = app->store;
    jobs->changed = poke;
    jobs->context = app;
    app->jobs = jobs_start(jobs, err);
    if (!app->jobs)
        return false;
    app->hooks = (struct app_hooks){.metrics = hook_metrics,
                                    .system = hook_system,
                                    .ready = hook_ready,
                                    .model_loaded = hook_loaded,
                                    .model_release = hook_release,
                                    .context = app->jobs};
    return true;
}

static void leave(struct app *app, struct control **control, struct router **router)
{
    control_stop(control);
    if (app->jobs && app->http) {
        // Requests that wait for a worker end by themselves or by jobs_stop; the listener takes no new ones.
        bool jobs_done = jobs_drain(app->jobs, 60000);
        bool http_done = http_server_drain(app->http, 2000);
        log_info("stopping (jobs %s, requests %s)", jobs_done ? "ended" : "cut", http_done ? "ended" : "cut");
    }
    if (app->jobs)
        jobs_halt(app->jobs);
    http_server_stop(&app->http);
    jobs_stop(&app->jobs);
    router_destroy(router);
    struct vireo_error err;
    if (app->auth && app->store && !app_save_usage(app, &err))
        log_warn("the keys' last use is not recorded: %s", err.message);
    auth_destroy(&app->auth);
    store_close(&app->store);
}

// The second signal does not wait for anybody.
static void on_second_signal(int number)
{
    static const char text[] = "vireo: ended at once\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(1);
    _exit(0);
}

int cli_serve(int argc, char **argv)
{
    struct options o = {.listen = "127.0.0.1:8000"};
    const struct cli_option list[] = {
        {"--data", "DIR the folder that holds everything; made if absent", &o.data, NULL},
        {"--listen", "HOST:PORT where to listen; port 0 takes a free one (127.0.0.1:8000)", &o.listen, NULL},
        {"--device", "NAME index, UUID or part of a name of 'vireo devices' (auto)", &o.device, NULL},
        {"--memory", "MIB most device memory for all workers (the device's budget)", &o.memory, NULL},
        {"--keep-alive", "SECONDS a model without requests stays loaded (300)", &o.keep_alive, NULL},
        {"--tls-cert", "FILE certificate chain (PEM)", &o.cert, NULL},
        {"--tls-key", "FILE its key (PEM)", &o.cert_key, NULL},
        {"--insecure-http", "-allow an address beyond this machine without TLS", NULL, &o.insecure},
        {0},
    };
    const char *rest[1];
    size_t rest_count;
    int status, port;
    char host[128];
    long long memory = 0, keep_alive = 300;
    if (!cli_parse(argc, argv, usage, list, NULL, rest, 0, &rest_count, &status))
        return status;
    if (!o.data)
        o.data = getenv("VIREO_DATA");
    if (!o.data) {
        fprintf(stderr, "vireo: --data is missing\n\n%s", usage);
        return CLI_USAGE;
    }
    if (!read_listen(o.listen, host, sizeof host, &port) || !cli_number("--memory", o.memory, 1, 1 << 30, &memory) ||
        !cli_number("--keep-alive", o.keep_alive, 1, 1000000000, &keep_alive))
        return CLI_USAGE;
    struct vireo_error err;
    struct app app = {0};
    struct jobs_params jobs = {.device = o.device, .memory_limit = (uint64_t)memory << 20, .keep_alive_s = (int)keep_alive};
    struct router *router = NULL;
    struct control *control = NULL;
    if (!install_signals(&err) || !open_parts(&app, &o, &jobs, &err)) {
        status = cli_report(&err);
        leave(&app, &control, &router);
        return status == CLI_UNREACHABLE ? CLI_FAILED : status;
    }
    app.tls = o.cert != NULL;
    app.bound_to_loopback = http_host_is_loopback(host);
    if (!http_bind_allowed(host, auth_key_count(app.auth) > 0, app.tls, o.insecure, &err)) {
        cli_report(&err);
        leave(&app, &control, &router);
        return CLI_CONFIG;
    }
    router = app_router(&err);
    struct http_params http = {.host = host,
                               .port = port,
                               .temp_folder = store_temp_folder(app.store),
                               .cert_file = o.cert,
                               .key_file = o.cert_key,
                               .router = router,
                               .app = &app,
                               .authorize = app_authorize,
                               .finished = app_finished};
    app.http = router ? http_server_start(&http, &err) : NULL;
    if (app.http)
        control = control_start(&app, store_folder(app.store), http_server_url(app.http), &err);
    if (!app.http || !control) {
        cli_report(&err);
        leave(&app, &control, &router);
        return CLI_FAILED;
    }
    printf("listening on %s\n", http_server_url(app.http));
    fflush(stdout);
    run_until_signal(&app);
    log_info("shutting down");
    signal(SIGTERM, on_second_signal);
    signal(SIGINT, on_second_signal);
    leave(&app, &control, &router);
    return CLI_DONE;
}
