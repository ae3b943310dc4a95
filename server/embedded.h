// Files put into the binary at build time by server/embed.c.
#ifndef VIREO_SERVER_EMBEDDED_H
#define VIREO_SERVER_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
    const char *path; // below its root: "views/jobs.js"; NULL ends a list
    const char *type, *etag;
    const unsigned char *bytes; // a NUL behind the last
    size_t size;
};
extern const struct embedded_file web_files[], openapi_files[];

#endif
