#include "compute/gpu/tune.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/gpu/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "gpu"
#include "compute/base/log.h"

enum { MOST_BYTES = 1 << 20, LINE_BYTES = 160 };

int gpu_tune_find(const struct gpu_device *dev, enum gpu_kernel kernel, uint32_t shape_class, uint32_t choices)
{
    const struct gpu_tune_entry e = gpu_tune_entry(dev, kernel, shape_class);
    return e.choices == choices && choices > 0 ? e.choice : -1;
}

struct gpu_tune_entry gpu_tune_entry(const struct gpu_device *dev, enum gpu_kernel kernel, uint32_t shape_class)
{
    vireo_assert(kernel < KERNEL_COUNT && shape_class < GPU_TUNE_CLASSES);
    return dev->tune.entries[kernel][shape_class];
}

void gpu_tune_set(struct gpu_device *dev, enum gpu_kernel kernel, uint32_t shape_class, struct gpu_tune_entry entry)
{
    vireo_assert(kernel < KERNEL_COUNT && shape_class < GPU_TUNE_CLASSES);
    vireo_assert(entry.choices <= GPU_TUNE_MOST_CHOICES && (entry.choice < entry.choices || entry.choices == 0));
    dev->tune.entries[kernel][shape_class] = entry;
}

bool gpu_tune_is_known(const struct gpu_device *dev)
{
    return dev->tune.known;
}

bool gpu_tune_is_kept(const struct gpu_device *dev)
{
    return dev->cache_folder[0] != 0;
}

bool gpu_tune_path(const struct gpu_device *dev, char *path, size_t size)
{
    const struct gpu_caps *c = &dev->caps;
    char uuid[33];
    gpu_uuid_text(c->uuid, uuid);
    snprintf(path, size, "%s/tune-%04x-%04x-%08x-%s.txt", dev->cache_folder, c->vendor_id, c->device_id,
             c->driver_version, uuid);
    return gpu_tune_is_kept(dev);
}

// The first lines of a file that holds for this device, driver and program.
static int head(const struct gpu_device *dev, char *out, size_t size)
{
    const struct gpu_caps *c = &dev->caps;
    char uuid[33];
    gpu_uuid_text(c->uuid, uuid);
    return snprintf(out, size, "vireo-tune 1\nprogram %s\ndevice %04x %04x %s subgroup %u\ndriver %08x\n", VIREO_VERSION,
                    c->vendor_id, c->device_id, uuid, c->subgroup_size, c->driver_version);
}

static int kernel_by_name(const char *name)
{
    for (int i = 0; i < KERNEL_COUNT; i++)
        if (strcmp(gpu_kernel_name((enum gpu_kernel)i), name) == 0)
            return i;
    return -1;
}

// "kernel class choice choices seconds". A line that makes no sense makes the file unsound.
static bool read_line(struct gpu_tune *t, const char *line)
{
    char name[96], end;
    unsigned shape_class, choice, choices;
    float seconds;
    if (sscanf(line, "%95s %u %u %u %f%c", name, &shape_class, &choice, &choices, &seconds, &end) != 5)
        return false;
    const int kernel = kernel_by_name(name);
    if (kernel < 0 || shape_class >= GPU_TUNE_CLASSES || choices > GPU_TUNE_MOST_CHOICES || choice >= choices ||
        !(seconds >= 0 && isfinite(seconds)))
        return false;
    t->entries[kernel][shape_class] = (struct gpu_tune_entry){(uint8_t)choice, (uint8_t)choices, seconds};
    return true;
}

// Head, entries, and a last line "sha256 HEX" over all before it.
static bool read_table(const struct gpu_device *dev, const struct file_bytes *f, struct gpu_tune *out)
{
    enum { LAST = 7 + 64 + 1 };
    const char *text = (const char *)f->data;
    char first[256], sum[HASH_TEXT];
    uint8_t digest[HASH_BYTES];
    const size_t n = (size_t)head(dev, first, sizeof first);
    if (f->size < n + LAST || memcmp(text, first, n) != 0)
        return false;
    const size_t end = f->size - LAST;
    if (!hash_bytes(text, end, digest))
        return false;
    hash_text(digest, sum);
    if (memcmp(text + end, "sha256 ", 7) != 0 || memcmp(text + end + 7, sum, 64) != 0 || text[f->size - 1] != '\n')
        return false;
    for (size_t at = n; at < end;) {
        char line[LINE_BYTES];
        const char *stop = memchr(text + at, '\n', end - at);
        const size_t length = stop ? (size_t)(stop - (text + at)) : 0;
        if (length == 0 || length >= sizeof line)
            return false;
        memcpy(line, text + at, length);
        line[length] = 0;
        if (!read_line(out, line))
            return false;
        at += length + 1;
    }
    return true;
}

bool gpu_tune_load(struct gpu_device *dev)
{
    char path[700];
    struct file_bytes file = {0};
    dev->tune.known = false;
    memset(dev->tune.entries, 0, sizeof dev->tune.entries);
    if (!gpu_tune_path(dev, path, sizeof path) || !file_exists(path))
        return false;
    dev->tune.known = file_read(path, MOST_BYTES, &file, NULL) && read_table(dev, &file, &dev->tune);
    file_bytes_free(&file);
    if (!dev->tune.known) {
        memset(dev->tune.entries, 0, sizeof dev->tune.entries);
        log_warn("table of measured tiles %s is damaged or of another driver or program: ignored", path);
    }
    return dev->tune.known;
}

bool gpu_tune_save(struct gpu_device *dev, struct vireo_error *err)
{
    char path[700];
    if (!gpu_tune_path(dev, path, sizeof path))
        return true;
    size_t rows = 0, at;
    for (int k = 0; k < KERNEL_COUNT; k++)
        for (int c = 0; c < GPU_TUNE_CLASSES; c++)
            rows += dev->tune.entries[k][c].choices > 0;
    const size_t size = (rows + 4) * LINE_BYTES;
    char *text = vireo_alloc(size);
    if (!text)
        return vireo_fail_memory(err, size);
    at = (size_t)head(dev, text, size);
    for (int k = 0; k < KERNEL_COUNT; k++)
        for (int c = 0; c < GPU_TUNE_CLASSES; c++) {
            const struct gpu_tune_entry *e = &dev->tune.entries[k][c];
            if (e->choices > 0)
                at += (size_t)snprintf(text + at, size - at, "%s %d %d %d %.3e\n", gpu_kernel_name((enum gpu_kernel)k), c,
                                       e->choice, e->choices, (double)e->seconds);
        }
    uint8_t digest[HASH_BYTES];
    char sum[HASH_TEXT];
    bool done = hash_bytes(text, at, digest) || vireo_fail_memory(err, at);
    if (done) {
        hash_text(digest, sum);
        at += (size_t)snprintf(text + at, size - at, "sha256 %s\n", sum);
        done = file_make_folders(dev->cache_folder, err) && file_write_atomic(path, text, at, err);
    }
    free(text);
    dev->tune.known = dev->tune.known || done;
    return done;
}
