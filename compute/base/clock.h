// Monotonic and CPU time in seconds, wall time in Unix seconds. Never part of a result (determinism).
#ifndef VIREO_BASE_CLOCK_H
#define VIREO_BASE_CLOCK_H

#include <stdint.h>

double clock_seconds(void);     // monotonic
double clock_cpu_seconds(void); // of all threads of this process
double clock_thread_seconds(void); // CPU time of the calling thread
int64_t clock_unix(void);

#endif
