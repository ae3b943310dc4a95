// The seams through which tests make things fail: allocation, files, Vulkan calls, and named points of a program.
//
// VIREO_FAULT holds comma-separated rules `ACTION:POINT:N`: at the N-th passage (from 1) of POINT do ACTION:
//   fail   the call reports failure          kill   raise(SIGKILL), as a power cut for this process
//   segv   crash as a driver would           exit   _exit(3)
// POINT is a name such as alloc, file.write, file.fsync, file.rename, gpu.submit, checkpoint.commit; a trailing '*'
// matches a prefix; N = 0 means every passage. Example: VIREO_FAULT=kill:file.rename:2,fail:gpu.submit:10
// Without the variable a point costs one load and a branch.
#ifndef VIREO_BASE_FAULT_H
#define VIREO_BASE_FAULT_H

#include <stdbool.h>
#include <stddef.h>

// True: the caller must behave as if the operation had failed. Thread-safe.
bool vireo_fault(const char *point);

// Replaces the rules (NULL: reads VIREO_FAULT again). For tests; not thread-safe.
void vireo_fault_set(const char *rules);

// malloc/calloc/realloc/strdup with the point "alloc". The results are freed by free().
void *vireo_alloc(size_t bytes);
void *vireo_calloc(size_t count, size_t size);
void *vireo_realloc(void *old, size_t bytes);
char *vireo_strdup(const char *text);

#endif
