// Event streams (text/event-stream). A stream has a bounded buffer between its producers (any thread) and the
// connection (a thread of the server). Counted: one reference for the connection, one for whoever got it.
//
// Without anything to send for 15 s the server sends the single line ":" (no blank line: harmless for every client).
// A reader that lets more than 256 kB gather is cut off: a stream is never buffered without bound.
#ifndef VIREO_HTTP_SSE_H
#define VIREO_HTTP_SSE_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { SSE_BUFFER_BYTES = 256 * 1024 };
struct sse;
struct http_server;

// For streams that read from the store (job events): fill is called on a handler thread whenever sse_poke or
// http_poke says that there may be more, and again while it returns true, each time there is room; never twice at once.
struct sse_source {
    // Appends what there is by sse_event while sse_room allows. true: there is more right now. It may call sse_close.
    bool (*fill)(void *context, struct sse *s);
    void (*release)(void *context); // the stream is over; called once. May be NULL
    void *context;
    char topic[64]; // http_poke(server, topic) pokes all streams of that topic; "" none
};

// "data: " + one-line text + blank line. false: the client is gone or was cut off; the producer should stop.
bool sse_send(struct sse *s, const char *data);
bool sse_send_bytes(struct sse *s, const char *data, size_t count); // must hold no line break
// With `id` (0: none) and `event` (NULL: none), for native streams.
bool sse_event(struct sse *s, uint64_t id, const char *event, const char *data);
bool sse_retry(struct sse *s, int ms); // "retry: ms", only at the beginning of native streams
size_t sse_room(struct sse *s);        // bytes that may still be appended
bool sse_is_open(struct sse *s);
// What was appended still goes out, then the stream ends cleanly. Further sends return false.
void sse_close(struct sse *s);
// As request_on_gone, for a stream: gone(context, id) once within a second after the client left. Not called after
// sse_close. Set it before the stream is answered or at any time after; if the client is gone already it is called now.
void sse_on_gone(struct sse *s, void (*gone)(void *context, uint64_t id), void *context, uint64_t id);
void sse_poke(struct sse *s);
void http_poke(struct http_server *server, const char *topic);

// A further reference; each goes back by sse_unref, from any thread.
struct sse *sse_ref(struct sse *s);
void sse_unref(struct sse **s); // NULL is fine

#endif
