#include "compute/base/file.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

// True: the test wants this step to fail; errno is set as a broken disk would.
static bool broken(const char *point)
{
    if (!vireo_fault(point))
        return false;
    errno = EIO;
    return true;
}

bool file_read(const char *path, size_t limit, struct file_bytes *out, struct vireo_error *err)
{
    struct stat info;
    int fd = broken("file.open") ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        vireo_fail_errno(err, "cannot open %s", path);
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool done = false;
    char *data = NULL;
    size_t size = (size_t)info.st_size, used = 0;
    if (!S_ISREG(info.st_mode)) {
        vireo_fail(err, VIREO_IO, "%s is not a regular file", path);
    } else if (size > limit) {
        vireo_fail(err, VIREO_TOO_LARGE, "%s has %zu bytes, the limit is %zu", path, size, limit);
    } else if (!(data = vireo_alloc(size + 1))) {
        vireo_fail_memory(err, size + 1);
    } else {
        done = true;
        while (used < size) {
            ssize_t count = read(fd, data + used, size - used);
            if (count < 0 && errno == EINTR)
                continue;
            if (count < 0)
                done = vireo_fail_errno(err, "cannot read %s", path);
            if (count <= 0)
                break;
            used += (size_t)count;
        }
    }
    close(fd);
    if (!done) {
        free(data);
        return false;
    }
    data[used] = 0;
    *out = (struct file_bytes){.data = data, .size = used};
    return true;
}

void file_bytes_free(struct file_bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct file_bytes){0};
}

bool file_map_open(const char *path, struct file_map *out, struct vireo_error *err)
{
    struct stat info;
    int fd = broken("file.open") ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        vireo_fail_errno(err, "cannot open %s", path);
        if (fd >= 0)
            close(fd);
        return false;
    }
    void *data = NULL;
    if (info.st_size > 0) {
        data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            vireo_fail_errno(err, "cannot map %s", path);
            close(fd);
            return false;
        }
    }
    close(fd);
    *out = (struct file_map){.data = data, .size = (size_t)info.st_size};
    return true;
}

void file_map_close(struct file_map *map)
{
    if (map->data)
        munmap((void *)map->data, map->size);
    *map = (struct file_map){0};
}

void file_map_forget(const void *data, size_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes + page - 1) / page * page;
    if (bytes > 0)
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED); // read-only pages of a file: nothing can be lost
}

// Folder part of a path: "a/b" -> "a", "b" -> ".", "/b" -> "/".
static void parent_of(const char *path, char *out, size_t size)
{
    snprintf(out, size, "%s", path);
    char *slash = strrchr(out, '/');
    if (!slash)
        snprintf(out, size, ".");
    else if (slash == out)
        out[1] = 0;
    else
        *slash = 0;
}

bool file_sync_folder(const char *path, struct vireo_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vireo_fail_errno(err, "cannot open folder %s", path);
    bool done = !broken("file.fsync") && fsync(fd) == 0;
    if (!done)
        vireo_fail_errno(err, "cannot sync folder %s", path);
    close(fd);
    return done;
}

static bool sync_parent(const char *path, struct vireo_error *err)
{
    char folder[512];
    parent_of(path, folder, sizeof folder);
    return file_sync_folder(folder, err);
}

bool file_writer_open(struct file_writer *w, const char *path, struct vireo_error *err)
{
    *w = (struct file_writer){.fd = -1};
    if (strlen(path) >= sizeof w->path)
        return vireo_fail(err, VIREO_IO, "path too long: %.80s...", path);
    snprintf(w->path, sizeof w->path, "%s", path);
    snprintf(w->temporary, sizeof w->temporary, "%s.tmp-XXXXXX", path);
    w->fd = broken("file.open") ? -1 : mkstemp(w->temporary);
    if (w->fd < 0) {
        w->temporary[0] = 0;
        return vireo_fail_errno(err, "cannot create a temporary file beside %s", path);
    }
    fcntl(w->fd, F_SETFD, FD_CLOEXEC);
    return true;
}

bool file_writer_write(struct file_writer *w, const void *bytes, size_t count, struct vireo_error *err)
{
    const char *at = bytes;
    while (count > 0) {
        ssize_t n = broken("file.write") ? -1 : write(w->fd, at, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vireo_fail_errno(err, "cannot write %s", w->path);
        at += n;
        count -= (size_t)n;
        w->written += (uint64_t)n;
    }
    return true;
}

bool file_writer_commit(struct file_writer *w, struct vireo_error *err)
{
    bool done = !broken("file.fsync") && fsync(w->fd) == 0;
    if (!done)
        vireo_fail_errno(err, "cannot sync %s", w->path);
    int fd = w->fd;
    w->fd = -1;
    if ((broken("file.close") || close(fd) != 0) && done)
        done = vireo_fail_errno(err, "cannot close %s", w->path);
    if (done && (broken("file.rename") || rename(w->temporary, w->path) != 0))
        done = vireo_fail_errno(err, "cannot rename to %s", w->path);
    if (!done) {
        file_writer_abandon(w);
        return false;
    }
    w->temporary[0] = 0;
    return sync_parent(w->path, err);
}

void file_writer_abandon(struct file_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    if (w->temporary[0])
        unlink(w->temporary);
    w->temporary[0] = 0;
}

bool file_write_atomic(const char *path, const void *bytes, size_t count, struct vireo_error *err)
{
    struct file_writer w;
    if (!file_writer_open(&w, path, err))
        return false;
    if (!file_writer_write(&w, bytes, count, err)) {
        file_writer_abandon(&w);
        return false;
    }
    return file_writer_commit(&w, err);
}

bool file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool file_size(const char *path, uint64_t *out, struct vireo_error *err)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return vireo_fail_errno(err, "cannot look up %s", path);
    *out = (uint64_t)info.st_size;
    return true;
}

bool file_make_folders(const char *path, struct vireo_error *err)
{
    char part[512];
    if (strlen(path) >= sizeof part)
        return vireo_fail(err, VIREO_IO, "path too long: %.80s...", path);
    snprintf(part, sizeof part, "%s", path);
    for (char *at = part + 1;; at++) {
        if (*at && *at != '/')
            continue;
        char end = *at;
        *at = 0;
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return vireo_fail_errno(err, "cannot create folder %s", part);
        if (!end)
            return true;
        *at = end;
    }
}

bool file_rename(const char *from, const char *to, struct vireo_error *err)
{
    if (broken("file.rename") || rename(from, to) != 0)
        return vireo_fail_errno(err, "cannot rename %s to %s", from, to);
    return sync_parent(to, err);
}

bool file_remove_tree(const char *path, struct vireo_error *err)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return errno == ENOENT || vireo_fail_errno(err, "cannot look up %s", path);
    if (!S_ISDIR(info.st_mode))
        return unlink(path) == 0 || vireo_fail_errno(err, "cannot remove %s", path);
    DIR *folder = opendir(path);
    if (!folder)
        return vireo_fail_errno(err, "cannot open folder %s", path);
    bool done = true;
    struct dirent *entry;
    while (done && (entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char child[1024];
        int length = snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        done = (size_t)length < sizeof child ? file_remove_tree(child, err)
                                             : vireo_fail(err, VIREO_IO, "path too long below %s", path);
    }
    closedir(folder);
    return done && (rmdir(path) == 0 || vireo_fail_errno(err, "cannot remove folder %s", path));
}

bool file_free_bytes(const char *path, uint64_t *out, struct vireo_error *err)
{
    struct statvfs info;
    if (statvfs(path, &info) != 0)
        return vireo_fail_errno(err, "cannot look up the file system of %s", path);
    *out = (uint64_t)info.f_bavail * info.f_frsize;
    return true;
}
