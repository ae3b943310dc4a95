#include "compute/dataset/unpack.h"

#include "compute/base/fault.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct unpack_limits unpack_default_limits = {
    .entries = 100000, .entry_bytes = 20u << 20, .total_bytes = 8ull << 30, .ratio = 100};

static bool bad(struct vireo_error *err, const char *name, const char *why)
{
    return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "file", "The archive's entry '%.80s' %s.", name,
                           why);
}

static bool name_is_sane(const char *name)
{
    if (!name[0] || name[0] == '/' || strchr(name, '\\') || (name[0] && name[1] == ':') || strlen(name) > 255)
        return false;
    for (const char *part = name; part; part = strchr(part, '/'), part += part != NULL)
        if (strncmp(part, "../", 3) == 0 || strcmp(part, "..") == 0)
            return false;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        if (*c < 0x20 || *c == 0x7f)
            return false;
    return true;
}

static bool is_skipped(const char *name)
{
    const char *slash = strrchr(name, '/');
    const char *base = slash ? slash + 1 : name;
    return strncmp(name, "__MACOSX/", 9) == 0 || base[0] == '.' || !base[0];
}

// The whole entry into *buffer (kept between entries).
static bool read_entry(struct archive *a, const char *name, uint64_t limit, char **buffer, size_t *capacity,
                       size_t *size, struct vireo_error *err)
{
    *size = 0;
    for (;;) {
        if (*size == *capacity) {
            size_t more = *capacity ? *capacity * 2 : 1 << 16;
            char *grown = vireo_realloc(*buffer, more);
            if (!grown)
                return vireo_fail_memory(err, more);
            *buffer = grown;
            *capacity = more;
        }
        la_ssize_t got = archive_read_data(a, *buffer + *size, *capacity - *size);
        if (got < 0)
            return bad(err, name, "is damaged or packed in a way that is not supported");
        if (got == 0)
            return true;
        *size += (size_t)got;
        if (*size > limit)
            return vireo_fail_kind(err, VIREO_TOO_LARGE, "request_too_large", "file",
                                   "The archive's entry '%.80s' is larger than %llu bytes.", name,
                                   (unsigned long long)limit);
    }
}

static struct archive *open_archive(const void *bytes, size_t count, struct vireo_error *err)
{
    struct archive *a = archive_read_new();
    if (!a) {
        vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
        return NULL;
    }
    // Only what people send; every further format would be attack surface.
    archive_read_support_format_zip(a);
    archive_read_support_format_tar(a);
    archive_read_support_filter_gzip(a);
    if (archive_read_open_memory(a, bytes, count) != ARCHIVE_OK) {
        vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "file",
                        "The archive cannot be read: it must be zip, tar or tar.gz.");
        archive_read_free(a);
        return NULL;
    }
    return a;
}

bool unpack_each(const void *bytes, size_t count, const struct unpack_limits *limits, unpack_entry *entry, void *context,
                 struct vireo_error *err)
{
    uint64_t most = (uint64_t)count * limits->ratio + (1 << 20);
    most = most < limits->total_bytes ? most : limits->total_bytes;
    struct archive *a = open_archive(bytes, count, err);
    if (!a)
        return false;
    char *buffer = NULL;
    size_t capacity = 0, size;
    uint64_t entries = 0, total = 0;
    bool ok = true;
    for (struct archive_entry *e; ok;) {
        int got = archive_read_next_header(a, &e);
        if (got == ARCHIVE_EOF)
            break;
        if (got != ARCHIVE_OK && got != ARCHIVE_WARN) {
            ok = vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "file", "The archive is damaged.");
            break;
        }
        const char *name = archive_entry_pathname_utf8(e);
        if (!name)
            name = archive_entry_pathname(e);
        if (!name || !name_is_sane(name)) {
            ok = bad(err, name ? name : "?", name ? "has a name that leads out of the archive" : "has a name that is not UTF-8");
        } else if (archive_entry_hardlink(e) || archive_entry_symlink(e) ||
                   (archive_entry_filetype(e) != AE_IFREG && archive_entry_filetype(e) != AE_IFDIR)) {
            ok = bad(err, name, "is a link or a device");
        } else if (archive_entry_is_encrypted(e)) {
            ok = bad(err, name, "is encrypted");
        } else if (archive_entry_filetype(e) == AE_IFREG && !is_skipped(name)) {
            if (++entries > limits->entries)
                ok = vireo_fail_kind(err, VIREO_TOO_LARGE, "request_too_large", "file",
                                     "The archive has more than %llu files; '%.80s' is the next.",
                                     (unsigned long long)limits->entries, name);
            ok = ok && read_entry(a, name, limits->entry_bytes, &buffer, &capacity, &size, err);
            if (ok && (total += size) > most)
                ok = vireo_fail_kind(err, VIREO_TOO_LARGE, "request_too_large", "file",
                                     "With the entry '%.80s' the archive unpacks to more than %llu bytes: more than %llu "
                                     "times its size, or over the limit.", name, (unsigned long long)most,
                                     (unsigned long long)limits->ratio);
            ok = ok && entry(context, name, buffer, size, err);
        }
    }
    free(buffer);
    archive_read_free(a);
    return ok;
}

bool unpack_is_archive(const void *bytes, size_t count)
{
    const unsigned char *head = bytes;
    return count >= 4 && (memcmp(head, "PK\3\4", 4) == 0 || memcmp(head, "PK\5\6", 4) == 0 ||
                          (head[0] == 0x1f && head[1] == 0x8b) ||
                          (count >= UNPACK_HEAD && memcmp(head + 257, "ustar", 5) == 0));
}
