// What libmicrohttpd refuses by itself, in the API's error shape.
//
// A request line that is none, a bad Content-Length, a header that does not fit, a broken chunk and their like never
// reach a callback: libmicrohttpd answers them with an HTML page of its own, and has no option to change it. But it
// queues that page as everybody does, by its public MHD_queue_response, called through the dynamic linker. The function
// of that name here takes precedence there (symbol interposition, as a program's own malloc does). Our answers go by
// refusal_queue_answer, so what else comes by is such a page: the answer is then put on the wire by hand and the page
// refused, upon which libmicrohttpd ends the connection. (Merely exchanging the page will not do: for an error found in
// parse_connection_headers 0.9.75 writes the header twice.) It happens on the connection's own thread, between two
// answers, so it holds for TLS, for every request of a connection, and leaves deadlines as they are.
// Two things stay as they are: a line without a blank in it, or with one in front, is not HTTP and ends the connection
// without an answer; and where libraries bind to themselves (macOS, -Bsymbolic) the pages stay HTML, which
// tests/http/requests.c notices.
#define _GNU_SOURCE // RTLD_NEXT
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/log.h"
#include "server/http/internal.h"

#include <stdlib.h>
#include <sys/socket.h>
#ifdef HAVE_GNUTLS
#include <gnutls/gnutls.h>
#endif

#define LOG_MODULE "http"

enum { DRAIN_BYTES = 1 << 16 };

bool connection_write_last(struct conn *conn, struct MHD_Connection *connection, const char *text, size_t length)
{
    bool sent = false;
    if (conn->server->tls) {
#ifdef HAVE_GNUTLS
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
        if (info && info->tls_session)
            sent = gnutls_record_send((gnutls_session_t)info->tls_session, text, length) == (ssize_t)length;
        // libmicrohttpd says goodbye
#endif
    } else {
        sent = send(conn->fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)length;
        shutdown(conn->fd, SHUT_WR);
    }
    // Closing with bytes unread resets the connection, and the client may never see the answer.
    char rest[4096];
    for (size_t left = DRAIN_BYTES / sizeof rest; left && recv(conn->fd, rest, sizeof rest, MSG_DONTWAIT) > 0;)
        left--;
    return sent;
}

#ifdef __ELF__
#include <dlfcn.h>

typedef enum MHD_Result queue_function(struct MHD_Connection *, unsigned, struct MHD_Response *);

static queue_function *library_queue(void)
{
    static _Atomic(queue_function *) found;
    queue_function *queue = atomic_load(&found);
    if (!queue) {
        // ISO C has no way from an object pointer to a function; POSIX says that this one works.
        *(void **)&queue = dlsym(RTLD_NEXT, "MHD_queue_response");
        atomic_store(&found, queue);
    }
    return queue;
}

enum MHD_Result refusal_queue_answer(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response)
{
    queue_function *queue = library_queue();
    return queue ? queue(connection, status, response) : MHD_NO;
}

// The page says little more than its status does.
static void explain(struct vireo_error *err, unsigned status)
{
    switch (status) {
    case MHD_HTTP_CONTENT_TOO_LARGE:
        vireo_fail(err, VIREO_TOO_LARGE, "The request's length, or that of a chunk, is larger than any body may be.");
        break;
    case MHD_HTTP_URI_TOO_LONG:
        vireo_fail_kind(err, VIREO_INVALID, "uri_too_long", NULL, "The URL is too long.");
        break;
    case MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE:
        vireo_fail_kind(err, VIREO_INVALID, "header_too_large", NULL, "The header is too large.");
        break;
    case MHD_HTTP_HTTP_VERSION_NOT_SUPPORTED:
        vireo_fail_kind(err, VIREO_INVALID, "invalid_request", NULL, "The HTTP version must be 1.0 or 1.1.");
        break;
    default:
        if (status >= 500)
            vireo_fail(err, VIREO_INTERNAL, "The request could not be answered.");
        else
            vireo_fail_kind(err, VIREO_INVALID, "invalid_request", NULL,
                            "The request is malformed: its request line, a header line, Content-Length, a missing Host or "
                            "the chunks of its body.");
    }
}

static void refuse(struct conn *conn, struct MHD_Connection *connection, unsigned status)
{
    struct vireo_error err = {0};
    struct request *req = vireo_calloc(1, sizeof *req);
    if (!req)
        return; // the connection ends all the same
    arena_init(&req->arena, 1024);
    req->server = conn->server;
    req->conn = conn;
    req->method = "";
    req->started = clock_seconds();
    req->response = (struct response){.request = req, .fd = -1};
    random_id(req->id, sizeof req->id, "req_", 24);
    explain(&err, status);
    response_error(&req->response, &err);
    size_t length;
    char *text = response_raw(&req->response, &length);
    bool sent = text && connection_write_last(conn, connection, text, length);
    conn->refused = req->response.status;
    http_count_answer(conn->server, NULL, conn->refused, 0);
    log_info("refused status=%d request=%s client=%s%s", conn->refused, req->id, conn->address, sent ? "" : " (not sent)");
    free(text);
    response_free(&req->response);
    arena_finish(&req->arena);
    free(req);
}

// libmicrohttpd's own calls end here.
enum MHD_Result MHD_queue_response(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *conn = info ? info->socket_context : NULL;
    if (!conn)
        return refusal_queue_answer(connection, status, response);
    refuse(conn, connection, status);
    return MHD_NO;
}
#else
enum MHD_Result refusal_queue_answer(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response)
{
    return MHD_queue_response(connection, status, response);
}
#endif
