#include "compute/base/scratch.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct scratch {
    int fd;
    const char *what;
};

static bool broken(const char *point, int number)
{
    if (!vireo_fault(point))
        return false;
    errno = number;
    return true;
}

struct scratch *scratch_open(const char *folder, const char *what, struct vireo_error *err)
{
    char path[700];
    if (!file_make_folders(folder, err))
        return NULL;
    struct scratch *s = vireo_calloc(1, sizeof *s);
    if (!s) {
        vireo_fail_memory(err, sizeof *s);
        return NULL;
    }
    s->what = what;
    // A fixed name: what a crash between the two calls leaves behind, the next attempt takes away.
    snprintf(path, sizeof path, "%s/%s.scratch", folder, what);
    s->fd = broken("scratch.open", EIO) ? -1 : open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (s->fd < 0 || unlink(path) != 0) {
        vireo_fail_errno(err, "cannot make the scratch file of the %s", what);
        scratch_close(&s);
    }
    return s;
}

void scratch_close(struct scratch **scratch)
{
    struct scratch *s = *scratch;
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    free(s);
    *scratch = NULL;
}

bool scratch_write(struct scratch *s, uint64_t at, const void *from, size_t bytes, struct vireo_error *err)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = broken("scratch.write", ENOSPC)
                        ? -1
                        : pwrite(s->fd, (const char *)from + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vireo_fail_errno(err, "cannot write the scratch file of the %s", s->what);
        done += (size_t)n;
    }
    return true;
}

bool scratch_read(struct scratch *s, uint64_t at, void *to, size_t bytes, struct vireo_error *err)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            broken("scratch.read", EIO) ? -1 : pread(s->fd, (char *)to + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vireo_fail_errno(err, "cannot read the scratch file of the %s", s->what);
        if (n == 0)
            return vireo_fail(err, VIREO_IO, "the scratch file of the %s ends %zu bytes early", s->what, bytes - done);
        done += (size_t)n;
    }
    return true;
}
