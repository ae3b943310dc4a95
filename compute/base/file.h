// Files: read whole, map, and write so that a crash leaves either the old content or the new, never half.
//
// Each step passes a fault point (file.open, file.write, file.fsync, file.rename, file.close; base/fault.h).
// A failed fsync is never retried: the kernel reports a lost write once, so the file is dead and is removed.
#ifndef VIREO_BASE_FILE_H
#define VIREO_BASE_FILE_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct file_bytes {
    char *data; // NUL behind the last byte
    size_t size;
};
// Whole file, at most `limit` bytes (VIREO_TOO_LARGE beyond). Free with file_bytes_free.
bool file_read(const char *path, size_t limit, struct file_bytes *out, struct vireo_error *err);
void file_bytes_free(struct file_bytes *bytes);

// Read-only map of a whole file; an empty file gives data NULL, size 0.
struct file_map {
    const uint8_t *data;
    size_t size;
};
// The map stays valid until file_map_close, whatever happens to the name.
bool file_map_open(const char *path, struct file_map *out, struct vireo_error *err);
void file_map_close(struct file_map *map);
// Gives the pages of this part of a map back to the system; reading it again reads the file again.
void file_map_forget(const void *data, size_t bytes);

// Writes `path`.tmp-XXXXXX beside it, fsyncs, renames over `path`, fsyncs the folder.
bool file_write_atomic(const char *path, const void *bytes, size_t count, struct vireo_error *err);

// A file written in pieces with the same promise: open, write..., then commit or abandon.
struct file_writer {
    int fd;
    char path[480], temporary[512];
    uint64_t written;
};
// Creates the temporary file beside `path`.
bool file_writer_open(struct file_writer *w, const char *path, struct vireo_error *err);
// Appends; any number of calls.
bool file_writer_write(struct file_writer *w, const void *bytes, size_t count, struct vireo_error *err);
bool file_writer_commit(struct file_writer *w, struct vireo_error *err); // fsync, close, rename, fsync folder
void file_writer_abandon(struct file_writer *w);                        // removes the temporary; fine after commit

bool file_exists(const char *path);
bool file_size(const char *path, uint64_t *out, struct vireo_error *err);
bool file_make_folders(const char *path, struct vireo_error *err); // mkdir -p
// fsync of a folder: makes names in it durable.
bool file_sync_folder(const char *path, struct vireo_error *err);
bool file_rename(const char *from, const char *to, struct vireo_error *err); // and fsyncs the folder of `to`
bool file_remove_tree(const char *path, struct vireo_error *err);            // absent is fine; links are not followed
// Free bytes of the file system that holds `path`.
bool file_free_bytes(const char *path, uint64_t *out, struct vireo_error *err);

#endif
