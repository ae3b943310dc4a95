// What the files of server/http share. Not for others.
#ifndef VIREO_HTTP_INTERNAL_H
#define VIREO_HTTP_INTERNAL_H

#include "compute/base/arena.h"
#include "compute/base/hash.h"
#include "server/http/form.h"
#include "server/http/server.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define VIREO_VERSION "0.1.0"

// Work for the handler pool.
struct task {
    void (*run)(void *context);
    void *context;
    struct task *next;
};

// --- connections -----------------------------------------------------------------------------------------------------

enum conn_phase {
    CONN_IDLE,   // between requests: absolute limit idle_ms
    CONN_HEADER, // since accept or the request line: absolute limit header_ms
    CONN_BODY,   // must keep body_bytes_per_s in each window
    CONN_WORK,   // suspended, or being answered: MHD's own timeout watches a reader that stalls
};
struct conn {
    struct http_server *server;
    int fd;
    char address[64];
    bool loopback;
    _Atomic int phase;           // enum conn_phase
    _Atomic int64_t phase_ms;    // when it began (monotonic)
    _Atomic uint64_t body_bytes; // received of the present body
    int64_t window_ms;           // watcher only
    uint64_t window_bytes;       // watcher only
    bool cut;                    // watcher only: shut down already
    int refused;                 // status of libmicrohttpd's own refusal of the present request; 0: none
    struct request *waiting;     // with conn_lock: deferred request to watch
    struct sse *stream;          // with conn_lock: stream to watch; one reference
    struct conn *previous, *next;
};

// --- bodies ----------------------------------------------------------------------------------------------------------

struct body {
    unsigned kind; // one of enum http_body
    uint64_t received, limit;
    char *bytes; // JSON
    size_t size, capacity;
    struct hash *hash; // of the JSON bytes, and of the present part's
    json_t *json;
    char sha256[65];
    struct form *form;
    struct http_part *parts, **parts_tail, *part;
    char *value; // of the present field
    size_t value_size, value_capacity;
    int fd; // of the present part; -1: none
    size_t field_bytes;
};
bool body_begin(struct request *req, const char *content_type, uint64_t content_length, struct vireo_error *err);
bool body_add(struct request *req, const void *bytes, size_t count, struct vireo_error *err);
bool body_end(struct request *req, struct vireo_error *err);   // on the MHD thread
bool body_parse(struct request *req, struct vireo_error *err); // on a handler thread: JSON
void body_free(struct request *req);                           // removes temporary files that nobody took

// --- responses -------------------------------------------------------------------------------------------------------

struct response_item {
    const char *name, *value;
    struct response_item *next;
};
struct response {
    struct request *request;
    int status;
    struct response_item *headers;
    char *owned; // freed with the request
    const void *bytes;
    size_t size;
    int fd; // >= 0: a file
    uint64_t offset, length;
    struct sse *stream;
};
void response_reset(struct response *res); // drops what a handler put in before it failed
void response_error(struct response *res, const struct vireo_error *err);
void response_free(struct response *res);
struct MHD_Response *response_build(struct response *res); // with all headers; NULL without memory
// The whole answer as text for a connection that cannot take an ordinary one any more; free() it.
char *response_raw(struct response *res, size_t *length);

// --- requests --------------------------------------------------------------------------------------------------------

enum request_state {
    REQUEST_NEW,
    REQUEST_BODY,
    REQUEST_DISCARD, // failed already: reads on (a little) so that the client gets to see the answer
    REQUEST_WORK,    // in the pool or with its owner; the connection is suspended
    REQUEST_READY,   // answered; the connection is being resumed
    REQUEST_SENT,
};
struct request {
    struct http_server *server;
    struct conn *conn;
    struct MHD_Connection *connection;
    struct arena arena;
    char id[32];
    const char *method, *target, *path;
    struct url_pair *query;
    struct route_match match;
    struct http_caller caller;
    struct vireo_error error; // of the answer while state is DISCARD
    double started;
    enum request_state state;
    bool *deferred; // on the stack of the handler thread: req may be gone when the handler returns
    bool close, early, has_nul;
    uint64_t discarded;
    struct body body;
    struct response response;
    void (*gone)(void *context, uint64_t id);
    void *gone_context;
    uint64_t gone_id;
    struct task task;
};

// Framing that smuggles, Host, Origin: VIREO_INVALID or VIREO_FORBIDDEN. *close: the connection must end. `method` and
// `version` are libmicrohttpd's own strings: where they stand tells how the header was cut.
bool guard_check(struct request *req, const char *method, const char *version, bool *close, struct vireo_error *err);
// Queues an answer of ours; as MHD_queue_response, see refusal.c.
enum MHD_Result refusal_queue_answer(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response);
// Puts the last bytes of a connection on the wire past libmicrohttpd, on the connection's thread and between two answers;
// the caller then lets libmicrohttpd end the connection. False: the client only sees the end.
bool connection_write_last(struct conn *conn, struct MHD_Connection *connection, const char *text, size_t length);
// Content-Length of a checked request; UINT64_MAX: chunked; 0: none.
uint64_t guard_content_length(struct request *req);

// --- streams ---------------------------------------------------------------------------------------------------------

struct sse *sse_create(struct http_server *server, const struct sse_source *source, struct vireo_error *err);
void sse_attach(struct sse *s, struct MHD_Connection *connection); // before its response is queued
ssize_t sse_read(void *context, uint64_t pos, char *buffer, size_t max);
void sse_detach(struct sse *s);                 // the connection is done with it
void sse_start(struct sse *s);                  // registered with its connection: first fill
bool sse_is_waiting(struct sse *s);             // suspended: nobody else notices that the client left
bool sse_is_aborted(struct sse *s);
void sse_abort(struct sse *s);                  // client gone or cut: calls gone, wakes the connection
void sse_keep_alive(struct sse *s, int64_t now_ms, int every_ms);
const char *sse_topic(const struct sse *s);

// --- server ----------------------------------------------------------------------------------------------------------

enum { HTTP_COUNTERS = 2048 };
struct http_server {
    struct http_params params;
    char host[64], url[128], temp_folder[512];
    int port, listen_fd;
    bool bound_loopback, tls;
    struct MHD_Daemon *daemon;

    pthread_mutex_t conn_lock; // guards conns and conn.waiting, .stream; rank 1
    struct conn *conns;

    pthread_mutex_t task_lock; // guards first_task.., idle; rank 3 (taken inside sse locks)
    struct task *first_task, *last_task;
    bool tasks_closing;
    struct handler *handlers, *idle; // pool.c
    int handler_count;

    pthread_t watcher;
    bool watcher_started;
    _Atomic bool watcher_stop, draining;
    _Atomic bool closing; // it stops: nothing begins any more that would suspend its connection

    _Atomic uint64_t connections, streams, in_flight, body_memory;
    pthread_mutex_t count_lock; // guards counts; rank 3
    struct http_count counts[HTTP_COUNTERS];
    size_t count_used;
};
int64_t now_ms(void);
bool pool_start(struct http_server *s, struct vireo_error *err);
void http_submit(struct http_server *s, struct task *task); // to the pool
void pool_stop(struct http_server *s);                      // when all tasks are done
void *watcher_main(void *server);
void epoll_thread_is_worker(void); // the calling thread is one of libmicrohttpd's: see epoll.c
void conn_phase_set(struct conn *c, enum conn_phase phase);
void request_resume(struct request *req); // READY, and wakes the connection
// One answer for /metrics; route NULL: it matched none.
void http_count_answer(struct http_server *s, const struct route *route, int status, double seconds);

// --- callbacks of libmicrohttpd (exchange.c); context is the server --------------------------------------------------

void *exchange_request_line(void *context, const char *target, struct MHD_Connection *connection);
enum MHD_Result exchange_request(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                                 const char *version, const char *upload, size_t *upload_size, void **request);
void exchange_completed(void *context, struct MHD_Connection *connection, void **request,
                        enum MHD_RequestTerminationCode why);
void exchange_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                         enum MHD_ConnectionNotificationCode code);

#endif
