// What the files of server/store share about a store. Not for others.
#ifndef VIREO_STORE_INTERNAL_H
#define VIREO_STORE_INTERNAL_H

#include "server/store/blob.h"
#include "server/store/db.h"
#include "server/store/store.h"

#include <pthread.h>

enum { STORE_READERS = 8 };
struct store_task {
    store_fn fn;
    void *context;
    struct vireo_error err;
    bool ok, done;
    struct store_task *next;
};
struct blob_pin {
    char sha256[65];
    int count;
    struct blob_pin *next;
};

struct store {
    char folder[400], temp[420], db_path[420];
    int lock_fd;

    struct db writer;
    pthread_t thread;
    bool thread_started;
    pthread_mutex_t queue_lock; // guards first..read_only_reason; rank 2
    pthread_cond_t queue_filled, task_done;
    struct store_task *first, *last;
    bool closing, read_only;
    char read_only_reason[512];
    double write_seconds;
    uint64_t write_count;

    pthread_mutex_t reader_lock; // guards readers, reader_busy; rank 2
    pthread_cond_t reader_free;
    struct db readers[STORE_READERS];
    bool reader_open[STORE_READERS], reader_busy[STORE_READERS];

    pthread_mutex_t blob_lock; // guards pins and the adding and removing of blob files; rank 1
    struct blob_pin *pins;
};

// Blobs just written have no row yet: they are pinned so that nobody collects them in between. Row functions unpin
// after their commit; a pin whose row never came lasts until the process ends.
void blob_unpin(struct store *s, const char *sha256);
// At start: removes blobs without rows that are older than an hour, marks rows without blobs.
bool store_recover(struct store *s, struct vireo_error *err);

// Row number of `id` in `table` (deleted rows count), for paging; VIREO_INVALID "after" if it never was.
bool store_seq_of(struct db *db, const char *sql, const char *id, int64_t *seq, struct vireo_error *err);
// LIMIT + 1 rows were asked for: cuts the surplus one off.
static inline bool store_cut(size_t *count, int limit)
{
    bool more = *count > (size_t)limit;
    if (more)
        *count = (size_t)limit;
    return more;
}

#endif
