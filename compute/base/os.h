// The one home of what only some operating systems have. Linux has all of it; elsewhere (macOS with MoltenVK) each
// function has a portable path and says in its comment what is weaker there.
#ifndef VIREO_BASE_OS_H
#define VIREO_BASE_OS_H

#include "compute/base/error.h"

#include <stdint.h>

// Peak resident memory of this process in bytes; 0 where unknown.
uint64_t os_peak_rss(void);
// Physical memory of the machine in bytes; 0 where unknown.
uint64_t os_memory_bytes(void);
// The child dies when its parent does (Linux: PR_SET_PDEATHSIG). Elsewhere: nothing; the child notices the closed socket.
void os_die_with_parent(void);
// No core dumps, not traceable by others (Linux: PR_SET_DUMPABLE 0 besides RLIMIT_CORE 0).
void os_no_core_dumps(void);
// Most bytes of address space this process may map from now on.
bool os_limit_memory(uint64_t bytes, struct vireo_error *err);
// Most seconds of processor time of this process from now on; then a signal ends it.
bool os_limit_cpu(uint64_t seconds, struct vireo_error *err);
// From now on this process, all threads of it, may only compute, allocate and use the descriptors it has (Linux: seccomp; a
// forbidden call kills it; files that libc would like to look at, for a locale or a time zone, cannot be opened). Elsewhere
// returns true and does nothing.
bool os_sandbox_compute_only(struct vireo_error *err);
// Path of the running executable, for starting workers from the same file.
bool os_executable_path(char *buffer, uint64_t size, struct vireo_error *err);

#endif
