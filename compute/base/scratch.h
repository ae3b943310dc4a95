// A file of working memory: bytes at offsets, gone when the process ends, however it ends: its name goes at once.
//
// Fault points (base/fault.h): scratch.open, scratch.read, scratch.write (fails as a full disk).
#ifndef VIREO_BASE_SCRATCH_H
#define VIREO_BASE_SCRATCH_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct scratch;
// In `folder`, which is made where it is missing; `what` (a static string) names the contents in errors. Must not be
// opened twice at the same time with the same folder and `what`. NULL + err.
struct scratch *scratch_open(const char *folder, const char *what, struct vireo_error *err);
void scratch_close(struct scratch **s);
// Exactly `bytes`. VIREO_NO_SPACE: the file system is full; VIREO_IO: anything else, an end of the file before the last
// byte included.
bool scratch_write(struct scratch *s, uint64_t at, const void *from, size_t bytes, struct vireo_error *err);
bool scratch_read(struct scratch *s, uint64_t at, void *to, size_t bytes, struct vireo_error *err);

#endif
