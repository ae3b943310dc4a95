// Frames between the server and its workers: 4 bytes of length (little endian), then that many bytes of JSON, one object.
//
// The reader is a pure parser fed with bytes of any cut, so that a fuzzer drives it. What it refuses (a length of 0 or beyond
// FRAME_MAX, text that is no JSON object) ends the conversation: the peer is broken, there is no way back to a frame's start.
#ifndef VIREO_WIRE_FRAME_H
#define VIREO_WIRE_FRAME_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stddef.h>

enum { FRAME_MAX = 64 << 20 };

struct frame_reader { // zero-initialise
    char *buffer;
    size_t start, size, capacity; // bytes [start, start + size) are not consumed yet
};
void frame_reader_finish(struct frame_reader *r);

// Room for at least `bytes` more, to be filled and then told to frame_reader_filled. NULL without memory.
char *frame_reader_room(struct frame_reader *r, size_t bytes, struct vireo_error *err);
void frame_reader_filled(struct frame_reader *r, size_t bytes);
bool frame_reader_feed(struct frame_reader *r, const void *bytes, size_t count, struct vireo_error *err);

enum frame_result { FRAME_NONE, FRAME_READY, FRAME_BAD };
// The next complete frame as a new reference. FRAME_NONE: more bytes are needed. FRAME_BAD: err (VIREO_CORRUPT).
enum frame_result frame_next(struct frame_reader *r, json_t **out, struct vireo_error *err);

// Length and text of a message; malloc'd, the caller's. VIREO_TOO_LARGE beyond FRAME_MAX.
char *frame_encode(const json_t *message, size_t *size, struct vireo_error *err);

// Blocking: writes a whole frame to a socket without raising SIGPIPE. Not for two threads at once on one descriptor.
bool frame_send(int fd, const json_t *message, struct vireo_error *err);
// Blocking: the next frame. *ended (and false without error) when the peer closed between frames.
bool frame_receive(int fd, struct frame_reader *r, json_t **out, bool *ended, struct vireo_error *err);

// The same for plain bytes that follow a frame which told how many they are.
bool frame_send_bytes(int fd, const void *bytes, size_t count, struct vireo_error *err);
bool frame_receive_bytes(int fd, struct frame_reader *r, void *out, size_t count, struct vireo_error *err);

#endif
