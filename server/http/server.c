#include "server/http/server.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/log.h"
#include "server/http/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOG_MODULE "http"

// --- the daemon -----------------------------------------------------------------------------------------------------

static size_t keep_escapes(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context, (void)connection;
    return strlen(text);
}

static void on_log(void *context, const char *fmt, va_list args)
{
    char line[300];
    (void)context;
    if (!vireo_log_on(VIREO_DEBUG))
        return;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\r\n")] = 0;
    log_debug("%s", line);
}

// --- start and stop --------------------------------------------------------------------------------------------------

bool http_host_is_loopback(const char *host)
{
    struct in_addr in;
    if (strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0)
        return true;
    return inet_pton(AF_INET, host, &in) == 1 && (ntohl(in.s_addr) >> 24) == 127;
}

bool http_bind_allowed(const char *host, bool has_keys, bool has_tls, bool insecure_http, struct vireo_error *err)
{
    if (http_host_is_loopback(host))
        return true;
    if (!has_keys)
        return vireo_fail(err, VIREO_FORBIDDEN,
                          "listening on %s needs API keys: make one with 'vireo keys create' first", host);
    if (!has_tls && !insecure_http)
        return vireo_fail(err, VIREO_FORBIDDEN,
                          "listening on %s needs TLS (--tls-cert, --tls-key), or --insecure-http behind a proxy", host);
    return true;
}

static bool open_listener(struct http_server *s, struct vireo_error *err)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t length;
    const char *host = strcmp(s->host, "localhost") == 0 ? "127.0.0.1" : s->host;
    if (inet_pton(AF_INET, host, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons((uint16_t)s->params.port);
        length = sizeof address.v4;
    } else if (inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons((uint16_t)s->params.port);
        length = sizeof address.v6;
    } else {
        return vireo_fail(err, VIREO_INVALID, "'%s' is no numeric address to listen on", s->host);
    }
    int one = 1;
    s->listen_fd = socket(address.any.sa_family, SOCK_STREAM, 0);
    if (s->listen_fd >= 0) {
        fcntl(s->listen_fd, F_SETFD, FD_CLOEXEC);
        fcntl(s->listen_fd, F_SETFL, O_NONBLOCK);
        setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    if (s->listen_fd < 0 || bind(s->listen_fd, &address.any, length) != 0 || listen(s->listen_fd, 1024) != 0 ||
        getsockname(s->listen_fd, &address.any, &length) != 0)
        return vireo_fail_errno(err, "cannot listen on %s port %d", s->host, s->params.port);
    bool v6 = address.any.sa_family == AF_INET6;
    s->port = ntohs(v6 ? address.v6.sin6_port : address.v4.sin_port);
    snprintf(s->url, sizeof s->url, v6 ? "%s://[%s]:%d" : "%s://%s:%d", s->tls ? "https" : "http", s->host, s->port);
    return true;
}

static void set_defaults(struct http_params *p)
{
#define DEFAULT(field, value)                                                                                         \
    if (!p->field)                                                                                                    \
    p->field = (value)
    DEFAULT(host, "127.0.0.1");
    DEFAULT(io_threads, 2);
    DEFAULT(handler_threads, 8);
    DEFAULT(max_connections, 12000);
    DEFAULT(max_per_address, 256);
    DEFAULT(header_ms, 10000);
    DEFAULT(idle_ms, 60000);
    DEFAULT(body_window_ms, 30000);
    DEFAULT(body_bytes_per_s, 16000);
    DEFAULT(max_body_memory, 512ull << 20);
    DEFAULT(min_free_bytes, 1ull << 30);
    DEFAULT(keep_alive_ms, 15000);
#undef DEFAULT
    p->io_threads = VIREO_MAX(p->io_threads, 2); // a pool of one is none to libmicrohttpd
}

static bool start_daemon(struct http_server *s, struct vireo_error *err)
{
    const struct http_params *p = &s->params;
    struct file_bytes cert = {0}, key = {0};
    struct MHD_OptionItem options[8];
    int used = 0;
    unsigned flags = MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (s->tls) {
        struct stat info;
        if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
            return vireo_fail(err, VIREO_UNSUPPORTED, "this libmicrohttpd has no TLS: use a proxy in front");
        if (stat(p->key_file, &info) == 0 && info.st_mode & 077)
            return vireo_fail(err, VIREO_FORBIDDEN, "the TLS key %s must not be readable by others (chmod 600)",
                              p->key_file);
        if (!file_read(p->cert_file, 1 << 20, &cert, err) || !file_read(p->key_file, 1 << 20, &key, err)) {
            file_bytes_free(&cert);
            return false;
        }
        flags |= MHD_USE_TLS;
        options[used++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, cert.data};
        options[used++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, key.data};
        // Built up from nothing: TLS 1.2 and 1.3, AEAD ciphers, elliptic curves, no SHA-1.
        options[used++] = (struct MHD_OptionItem){
            MHD_OPTION_HTTPS_PRIORITIES, 0,
            (void *)(uintptr_t)"NONE:+VERS-TLS1.3:+VERS-TLS1.2:+AES-256-GCM:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:"
                               "+ECDHE-ECDSA:+ECDHE-RSA:+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL:-SIGN-RSA-SHA1:"
                               "-SIGN-ECDSA-SHA1:-SIGN-DSA-SHA1:+COMP-NULL:+CTYPE-X509:%SERVER_PRECEDENCE"};
    }
    if (!s->bound_loopback)
        options[used++] =
            (struct MHD_OptionItem){MHD_OPTION_PER_IP_CONNECTION_LIMIT, p->max_per_address, NULL};
    options[used] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, exchange_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET,
        s->listen_fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)p->io_threads, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)p->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768,
        MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t)1024, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)((p->idle_ms + 999) / 1000), MHD_OPTION_STRICT_FOR_CLIENT, 0, MHD_OPTION_UNESCAPE_CALLBACK,
        keep_escapes, NULL, MHD_OPTION_URI_LOG_CALLBACK, exchange_request_line, s, MHD_OPTION_NOTIFY_COMPLETED,
        exchange_completed, s, MHD_OPTION_NOTIFY_CONNECTION, exchange_connection, s, MHD_OPTION_ARRAY, options,
        MHD_OPTION_END);
    file_bytes_free(&cert);
    file_bytes_free(&key);
    if (!s->daemon)
        return vireo_fail(err, VIREO_INTERNAL, "libmicrohttpd could not start%s",
                          s->tls ? "; is the certificate good?" : "");
    s->listen_fd = -1; // closed by the daemon
    return true;
}

struct http_server *http_server_start(const struct http_params *params, struct vireo_error *err)
{
    struct http_server *s = vireo_calloc(1, sizeof *s);
    if (!s) {
        vireo_fail_memory(err, sizeof *s);
        return NULL;
    }
    s->params = *params;
    set_defaults(&s->params);
    s->listen_fd = -1;
    s->tls = params->cert_file != NULL;
    snprintf(s->host, sizeof s->host, "%s", s->params.host);
    snprintf(s->temp_folder, sizeof s->temp_folder, "%s", params->temp_folder);
    s->bound_loopback = http_host_is_loopback(s->host);
    pthread_mutex_init(&s->conn_lock, NULL);
    pthread_mutex_init(&s->task_lock, NULL);
    pthread_mutex_init(&s->count_lock, NULL);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files); // best effort: fewer connections otherwise
    }
    bool ok = open_listener(s, err) && pool_start(s, err);
    if (ok) {
        s->watcher_started = pthread_create(&s->watcher, NULL, watcher_main, s) == 0;
        ok = s->watcher_started || vireo_fail(err, VIREO_INTERNAL, "cannot start the watcher thread");
    }
    if (!ok || !start_daemon(s, err))
        http_server_stop(&s);
    return s;
}

const char *http_version(void)
{
    return VIREO_VERSION;
}

int http_server_port(const struct http_server *s)
{
    return s->port;
}

const char *http_server_url(const struct http_server *s)
{
    return s->url;
}

bool http_server_draining(const struct http_server *s)
{
    return s->draining;
}

static bool wait_until_quiet(struct http_server *s, int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;
    while (s->in_flight || s->streams) {
        if (now_ms() >= end)
            return false;
        struct timespec pause = {.tv_nsec = 20000000};
        nanosleep(&pause, NULL);
    }
    return true;
}

bool http_server_drain(struct http_server *s, int timeout_ms)
{
    if (!s->draining) {
        s->draining = true;
        int fd = MHD_quiesce_daemon(s->daemon);
#ifdef __linux__
        if (fd >= 0)
            shutdown(fd, SHUT_RDWR); // no more connections; see epoll.c for why it is not closed yet
        s->listen_fd = fd;
#else
        if (fd >= 0)
            close(fd);
#endif
    }
    return wait_until_quiet(s, timeout_ms);
}

static void abort_streams(struct http_server *s)
{
    for (;;) {
        struct sse *stream = NULL;
        pthread_mutex_lock(&s->conn_lock);
        for (struct conn *c = s->conns; c && !stream; c = c->next)
            if (c->stream && !sse_is_aborted(c->stream))
                stream = sse_ref(c->stream);
        pthread_mutex_unlock(&s->conn_lock);
        if (!stream)
            return;
        sse_abort(stream);
        sse_unref(&stream);
    }
}

// Aborts streams, also those that begin meanwhile, until nothing is under way, or for a tenth of a second a round.
static bool settle(struct http_server *s, int rounds)
{
    bool quiet = false;
    for (int i = 0; i < rounds && !quiet; i++) {
        abort_streams(s);
        quiet = wait_until_quiet(s, 100);
    }
    return quiet;
}

// Streams whose producers would still call into this server, deferred requests whose owners would.
static bool is_owned(struct http_server *s)
{
    pthread_mutex_lock(&s->conn_lock);
    bool owned = s->streams > 0;
    for (struct conn *c = s->conns; c; c = c->next)
        owned = owned || c->waiting;
    pthread_mutex_unlock(&s->conn_lock);
    if (owned)
        log_error("requests are still unanswered at the server's end; leaving it as it is");
    return owned;
}

static void cut_connections(struct http_server *s)
{
    pthread_mutex_lock(&s->conn_lock);
    for (struct conn *c = s->conns; c; c = c->next)
        shutdown(c->fd, SHUT_RDWR);
    pthread_mutex_unlock(&s->conn_lock);
}

void http_server_stop(struct http_server **sp)
{
    struct http_server *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    if (s->daemon) {
        http_server_drain(s, 0);
        // libmicrohttpd aborts the process if a connection is suspended at its end, so none may be. A request counts in
        // in_flight before it looks at `closing`: it is refused, or waited for here. So once it is quiet it stays so.
        s->closing = true;
        if (!settle(s, 50)) {
            cut_connections(s);
            if (is_owned(s))
                return;
        }
    }
    pool_stop(s);
    // What handlers that took longer have begun. (A deferred request whose owner is gone can never be answered.)
    if (s->daemon && !settle(s, 10) && is_owned(s))
        return;
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    if (s->watcher_started) {
        s->watcher_stop = true;
        pthread_join(s->watcher, NULL);
    }
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    pthread_mutex_destroy(&s->conn_lock);
    pthread_mutex_destroy(&s->task_lock);
    pthread_mutex_destroy(&s->count_lock);
    free(s);
}

// --- counters --------------------------------------------------------------------------------------------------------

void http_count_answer(struct http_server *s, const struct route *route, int status, double seconds)
{
    const char *method = route ? route->method : "", *pattern = route ? route->pattern : "";
    pthread_mutex_lock(&s->count_lock);
    size_t i = 0;
    while (i < s->count_used && !(s->counts[i].pattern == pattern && s->counts[i].method == method &&
                                  s->counts[i].status == status))
        i++;
    if (i < HTTP_COUNTERS) {
        if (i == s->count_used) {
            s->counts[i] = (struct http_count){.method = method, .pattern = pattern, .status = status};
            s->count_used++;
        }
        s->counts[i].count++;
        s->counts[i].seconds += seconds;
    }
    pthread_mutex_unlock(&s->count_lock);
}

size_t http_server_counts(struct http_server *s, struct http_count *rows, size_t capacity)
{
    pthread_mutex_lock(&s->count_lock);
    size_t count = s->count_used;
    memcpy(rows, s->counts, VIREO_MIN(count, capacity) * sizeof *rows);
    pthread_mutex_unlock(&s->count_lock);
    return count;
}

void http_server_gauges(struct http_server *s, struct http_gauges *out)
{
    *out = (struct http_gauges){.connections = s->connections, .streams = s->streams, .in_flight = s->in_flight};
}
