// The HTTP server on libmicrohttpd: an epoll pool reads and writes, a pool of handler threads answers, one watcher
// enforces deadlines, notices clients that left and sends keep-alives. Guards in front of every handler: framing
// (reliability.md findings 1 and 2), Host and Origin, connection limits, body limits, authorisation.
#ifndef VIREO_HTTP_SERVER_H
#define VIREO_HTTP_SERVER_H

#include "server/http/request.h"
#include "server/http/response.h"
#include "server/http/router.h"
#include "server/http/sse.h"

struct http_params {
    const char *host; // numeric address or "localhost"; default 127.0.0.1
    int port;         // 0: any free one
    const char *temp_folder; // for spooled bodies; must exist, on the file system of the blobs
    const char *cert_file, *key_file; // PEM; both or none. TLS by libmicrohttpd (GnuTLS)
    // Further names for the Host header, NULL-terminated; loopback names, numeric ones and the bound address always go.
    const char *const *allowed_hosts;
    const char *const *origins;       // further origins for unsafe methods, NULL-terminated ("https://a.example")
    const struct router *router;
    void *app; // request_app()
    // Called on the MHD thread after routing, before the body is read, for routes that are not public; and for public
    // ones with scope HTTP_PUBLIC, which must succeed. Fills *caller. Must not block. May be NULL: everybody may.
    bool (*authorize)(void *app, const struct request *req, enum http_scope scope, struct http_caller *caller,
                      struct vireo_error *err);
    // Called once for each finished request, on any thread; for logs. May be NULL.
    void (*finished)(void *app, const struct request *req, int status, double seconds);
    // The rest has defaults where 0.
    int io_threads;               // 2
    int handler_threads;          // 8
    int max_connections;          // 12000
    int max_per_address;          // 256 (bound to loopback: no limit)
    int header_ms;                // 10000: request line + headers complete, absolute
    int idle_ms;                  // 60000: between requests, and for a reader that does not read
    int body_window_ms;           // 30000: in each such window the body must come at ...
    uint64_t body_bytes_per_s;    // ... 16000 on average
    uint64_t max_body_memory;     // 512 MiB: sum of all JSON bodies being read; beyond 503
    uint64_t min_free_bytes;      // 1 GiB: uploads are refused (507) with less free disk
    int keep_alive_ms;            // 15000: for event streams
};

struct http_server;
// Listening when it returns. NULL + err.
struct http_server *http_server_start(const struct http_params *params, struct vireo_error *err);
const char *http_version(void); // of Vireo
int http_server_port(const struct http_server *s);
const char *http_server_url(const struct http_server *s); // "http://127.0.0.1:8000"
// Stops accepting; waits until all requests are answered and streams ended, at most timeout_ms. Streams are told by
// http_server_draining. True: nothing was cut.
bool http_server_drain(struct http_server *s, int timeout_ms);
bool http_server_draining(const struct http_server *s);
// Cuts what is left and frees. Deferred requests must have been answered (their owners stopped) before.
void http_server_stop(struct http_server **s);

// For /metrics: one row a route and status seen.
struct http_count {
    const char *method, *pattern; // pattern "" for requests that matched none
    int status;
    uint64_t count;
    double seconds;
};
// Copies up to `capacity` rows; returns how many there are.
size_t http_server_counts(struct http_server *s, struct http_count *rows, size_t capacity);
struct http_gauges {
    uint64_t connections, streams, in_flight;
};
// What is open at this moment.
void http_server_gauges(struct http_server *s, struct http_gauges *out);

// What a bind needs (design.md 7): non-loopback wants keys, and TLS or insecure_http. VIREO_FORBIDDEN otherwise; the
// command exits with 78 then.
bool http_bind_allowed(const char *host, bool has_keys, bool has_tls, bool insecure_http, struct vireo_error *err);
bool http_host_is_loopback(const char *host);

#endif
