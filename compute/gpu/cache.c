#include "compute/gpu/internal.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "gpu"

// The file: header, then the driver's data. Some drivers crash on damaged data, so the digest is checked first.
struct header {
    char magic[8];
    uint32_t vendor, device, driver;
    uint8_t uuid[16];
    uint8_t digest[HASH_BYTES];
    uint64_t bytes;
};
static const char magic[8] = "vireoPC1";
enum { MOST_BYTES = 512 << 20 };

// Pipelines are looked up by the driver by their SPIR-V and constants, so that a new program version adds to the file.
static void describe(const struct gpu_device *dev, struct header *h, char *path, size_t size)
{
    memset(h, 0, sizeof *h);
    memcpy(h->magic, magic, sizeof magic);
    h->vendor = dev->caps.vendor_id;
    h->device = dev->caps.device_id;
    h->driver = dev->caps.driver_version;
    memcpy(h->uuid, dev->caps.uuid, sizeof h->uuid);
    char uuid[33];
    gpu_uuid_text(dev->caps.uuid, uuid);
    snprintf(path, size, "%s/pipelines-%04x-%04x-%08x-%s.bin", dev->cache_folder, h->vendor, h->device, h->driver,
             uuid);
}

// The driver's part of a sound file of this very device and driver; NULL: none.
static const uint8_t *accept(const struct file_bytes *f, const struct header *mine, size_t *bytes)
{
    struct header h;
    if (f->size < sizeof h)
        return NULL;
    memcpy(&h, f->data, sizeof h);
    const uint8_t *data = (const uint8_t *)f->data + sizeof h;
    uint8_t digest[HASH_BYTES];
    if (memcmp(h.magic, mine->magic, sizeof h.magic) != 0 || h.vendor != mine->vendor || h.device != mine->device ||
        h.driver != mine->driver || memcmp(h.uuid, mine->uuid, sizeof h.uuid) != 0 || h.bytes != f->size - sizeof h ||
        !hash_bytes(data, h.bytes, digest) || memcmp(digest, h.digest, sizeof digest) != 0)
        return NULL;
    *bytes = h.bytes;
    return data;
}

bool cache_load(struct gpu_device *dev, struct vireo_error *err)
{
    struct header mine;
    char path[700];
    struct file_bytes file = {0};
    const uint8_t *data = NULL;
    size_t bytes = 0;
    if (dev->cache_folder[0]) {
        describe(dev, &mine, path, sizeof path);
        if (file_exists(path) && file_read(path, MOST_BYTES, &file, NULL)) {
            data = accept(&file, &mine, &bytes);
            if (!data)
                log_warn("pipeline cache %s is damaged or of another driver: made anew", path);
        }
    }
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
                                      .initialDataSize = bytes,
                                      .pInitialData = data};
    VkResult r = dev->vk->CreatePipelineCache(dev->handle, &info, NULL, &dev->pipelines.cache);
    if (r != VK_SUCCESS && bytes) {
        info.initialDataSize = 0;
        r = dev->vk->CreatePipelineCache(dev->handle, &info, NULL, &dev->pipelines.cache);
    }
    file_bytes_free(&file);
    if (r != VK_SUCCESS) {
        dev->pipelines.cache = VK_NULL_HANDLE;
        return vireo_fail(err, VIREO_UNAVAILABLE, "no pipeline cache: %s", vk_result_name(r));
    }
    dev->pipelines.cache_bytes = bytes;
    return true;
}

void cache_save(struct gpu_device *dev)
{
    size_t bytes = 0;
    if (!dev->cache_folder[0] || !dev->pipelines.cache || dev->lost ||
        dev->vk->GetPipelineCacheData(dev->handle, dev->pipelines.cache, &bytes, NULL) != VK_SUCCESS ||
        bytes <= dev->pipelines.cache_bytes || bytes > MOST_BYTES)
        return;
    struct header h;
    char path[700];
    describe(dev, &h, path, sizeof path);
    struct vireo_error err = {0};
    uint8_t *file = vireo_alloc(sizeof h + bytes);
    bool ok = file ? true : vireo_fail_memory(&err, bytes);
    ok = ok && (dev->vk->GetPipelineCacheData(dev->handle, dev->pipelines.cache, &bytes, file + sizeof h) ==
                    VK_SUCCESS ||
                vireo_fail(&err, VIREO_INTERNAL, "the driver does not give its data"));
    if (ok) {
        h.bytes = bytes;
        ok = hash_bytes(file + sizeof h, bytes, h.digest);
        memcpy(file, &h, sizeof h);
    }
    ok = ok && file_make_folders(dev->cache_folder, &err) && file_write_atomic(path, file, sizeof h + bytes, &err);
    free(file);
    if (ok)
        dev->pipelines.cache_bytes = bytes;
    else
        log_warn("pipeline cache %s is not saved: %s", path, err.message);
}
