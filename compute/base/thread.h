// Threads for data work (decode, resize, reward), and a bounded queue between threads.
#ifndef VIREO_BASE_THREAD_H
#define VIREO_BASE_THREAD_H

#include "compute/base/error.h"

#include <stddef.h>

// Runs work(context, i) for i in [0, count) on up to `threads` threads (0: as many as cores), and returns when all are
// done. Results must be written by index, so that thread timing never changes them.
void thread_for(size_t count, int threads, void (*work)(void *context, size_t i), void *context);

// Number of processors this process may use.
int thread_cores(void);

// One piece of work on a thread of its own. NULL: no thread can be started, and nothing is done.
struct task;
struct task *task_start(void (*work)(void *context), void *context);
void task_wait(struct task **t); // until it has ended; all it wrote is seen then. NULL is fine

// First in, first out, for pointers; push blocks when full, pop when empty. Any thread may call any function.
struct queue;
struct queue *queue_create(size_t capacity); // NULL without memory
bool queue_push(struct queue *q, void *item); // false: closed, item not taken
// Waits at most timeout_ms (-1: without limit). NULL: timed out, or closed and empty.
void *queue_pop(struct queue *q, int timeout_ms);
void queue_close(struct queue *q); // wakes all; items inside can still be popped
void queue_destroy(struct queue **q);

#endif
