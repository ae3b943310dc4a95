#include "compute/wire/frame.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 4 };

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 // where it is missing, main() ignores SIGPIPE
#endif

void frame_reader_finish(struct frame_reader *r)
{
    free(r->buffer);
    *r = (struct frame_reader){0};
}

char *frame_reader_room(struct frame_reader *r, size_t bytes, struct vireo_error *err)
{
    if (r->start && (r->size == 0 || r->start + r->size + bytes > r->capacity)) {
        memmove(r->buffer, r->buffer + r->start, r->size);
        r->start = 0;
    }
    if (r->size + bytes > r->capacity) {
        size_t capacity = r->capacity ? r->capacity : 16384;
        while (capacity < r->size + bytes)
            capacity *= 2;
        char *grown = vireo_realloc(r->buffer, capacity);
        if (!grown) {
            vireo_fail_memory(err, capacity);
            return NULL;
        }
        r->buffer = grown;
        r->capacity = capacity;
    }
    return r->buffer + r->start + r->size;
}

void frame_reader_filled(struct frame_reader *r, size_t bytes)
{
    vireo_assert(r->start + r->size + bytes <= r->capacity);
    r->size += bytes;
}

bool frame_reader_feed(struct frame_reader *r, const void *bytes, size_t count, struct vireo_error *err)
{
    char *room = frame_reader_room(r, count, err);
    if (!room)
        return false;
    memcpy(room, bytes, count);
    frame_reader_filled(r, count);
    return true;
}

static uint32_t length_at(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

enum frame_result frame_next(struct frame_reader *r, json_t **out, struct vireo_error *err)
{
    if (r->size < HEADER)
        return FRAME_NONE;
    uint32_t length = length_at(r->buffer + r->start);
    if (length == 0 || length > FRAME_MAX) {
        vireo_fail(err, VIREO_CORRUPT, "a frame of %u bytes (1 to %d are allowed)", length, FRAME_MAX);
        return FRAME_BAD;
    }
    if (r->size < HEADER + (size_t)length)
        return FRAME_NONE;
    // Text that a model generated may hold U+0000; both ends are ours and treat strings as counted.
    json_error_t why;
    json_t *message = json_loadb(r->buffer + r->start + HEADER, length, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(message)) {
        vireo_fail(err, VIREO_CORRUPT, "a frame that is no JSON object (%.100s)", message ? "another type" : why.text);
        json_decref(message);
        return FRAME_BAD;
    }
    r->start += HEADER + (size_t)length;
    r->size -= HEADER + (size_t)length;
    // A rare huge frame must not keep its memory for the life of the connection.
    if (r->size == 0 && r->capacity > (1 << 20)) {
        free(r->buffer);
        *r = (struct frame_reader){0};
    }
    *out = message;
    return FRAME_READY;
}

char *frame_encode(const json_t *message, size_t *size, struct vireo_error *err)
{
    vireo_assert(json_is_object(message));
    size_t length = json_dumpb(message, NULL, 0, JSON_COMPACT);
    if (length == 0 || length > FRAME_MAX) {
        vireo_fail(err, length ? VIREO_TOO_LARGE : VIREO_NO_MEMORY, "a message of %zu bytes does not fit a frame", length);
        return NULL;
    }
    char *bytes = vireo_alloc(HEADER + length);
    if (!bytes) {
        vireo_fail_memory(err, length);
        return NULL;
    }
    for (int i = 0; i < HEADER; i++)
        bytes[i] = (char)(length >> (8 * i) & 255);
    json_dumpb(message, bytes + HEADER, length, JSON_COMPACT);
    *size = HEADER + length;
    return bytes;
}

bool frame_send_bytes(int fd, const void *bytes, size_t count, struct vireo_error *err)
{
    size_t sent = 0;
    while (sent < count) {
        ssize_t n = send(fd, (const char *)bytes + sent, count - sent, MSG_NOSIGNAL);
        if (n >= 0) {
            sent += (size_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            // The other end is slow; a minute without taking a byte means that it hangs.
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            if (poll(&p, 1, 60000) == 0)
                return vireo_fail(err, VIREO_IO, "the peer took nothing for 60 s");
        } else if (errno != EINTR) {
            return vireo_fail_errno(err, "cannot send a frame");
        }
    }
    return true;
}

bool frame_send(int fd, const json_t *message, struct vireo_error *err)
{
    size_t size;
    char *bytes = frame_encode(message, &size, err);
    bool sent = bytes && frame_send_bytes(fd, bytes, size, err);
    free(bytes);
    return sent;
}

bool frame_receive_bytes(int fd, struct frame_reader *r, void *out, size_t count, struct vireo_error *err)
{
    char *at = out;
    size_t have = r->size < count ? r->size : count;
    if (have)
        memcpy(at, r->buffer + r->start, have);
    r->start += have;
    r->size -= have;
    for (at += have, count -= have; count;) {
        ssize_t n = read(fd, at, count);
        if (n > 0) {
            at += n;
            count -= (size_t)n;
        } else if (n == 0) {
            return vireo_fail(err, VIREO_IO, "the connection ended behind a frame");
        } else if (errno != EINTR) {
            return vireo_fail_errno(err, "cannot read behind a frame");
        }
    }
    return true;
}

bool frame_receive(int fd, struct frame_reader *r, json_t **out, bool *ended, struct vireo_error *err)
{
    *ended = false;
    for (;;) {
        switch (frame_next(r, out, err)) {
        case FRAME_READY: return true;
        case FRAME_BAD: return false;
        case FRAME_NONE: break;
        }
        char *room = frame_reader_room(r, 65536, err);
        if (!room)
            return false;
        ssize_t n = read(fd, room, 65536);
        if (n > 0) {
            frame_reader_filled(r, (size_t)n);
        } else if (n == 0) {
            *ended = r->size == 0;
            return *ended ? false : vireo_fail(err, VIREO_IO, "the connection ended inside a frame");
        } else if (errno != EINTR) {
            return vireo_fail_errno(err, "cannot read a frame");
        }
    }
}
