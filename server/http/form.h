// multipart/form-data, parsed as a stream: bytes may come in pieces of any size. Pure: knows no socket and no file, so
// that a fuzzer drives it. Strict where clients agree: a body without its last boundary is an error.
#ifndef VIREO_HTTP_FORM_H
#define VIREO_HTTP_FORM_H

#include "compute/base/error.h"

#include <stddef.h>

enum { FORM_BOUNDARY = 70, FORM_HEADER = 8192, FORM_PARTS = 20000 };

struct form_sink {
    // A part begins. filename NULL: none was given. The texts live until the call returns.
    bool (*begin)(void *context, const char *name, const char *filename, const char *content_type,
                  struct vireo_error *err);
    bool (*data)(void *context, const void *bytes, size_t count, struct vireo_error *err);
    bool (*end)(void *context, struct vireo_error *err);
    void *context;
};

enum form_state { FORM_PREAMBLE, FORM_AFTER_BOUNDARY, FORM_HEADERS, FORM_DATA, FORM_EPILOGUE, FORM_FAILED };
struct form {
    struct form_sink sink;
    enum form_state state;
    char delimiter[FORM_BOUNDARY + 8]; // CRLF "--" boundary
    size_t delimiter_length, matched;
    char header[FORM_HEADER];
    size_t header_length;
    size_t parts;
    char tail[2]; // bytes seen right behind a boundary
    size_t tail_length;
};

// Reads the boundary from a Content-Type value.
bool form_init(struct form *f, const char *content_type, const struct form_sink *sink, struct vireo_error *err);
bool form_feed(struct form *f, const void *bytes, size_t count, struct vireo_error *err);
bool form_finish(struct form *f, struct vireo_error *err); // the body has ended

#endif
