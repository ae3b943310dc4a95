// Any bytes as a picture: header, pixels, resize and patches under small limits.
#include "compute/image/decode.h"
#include "compute/image/patch.h"
#include "compute/image/png.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Right checksums for every chunk, else no mutated PNG would ever reach the decoder behind them.
static void mend_png(uint8_t *bytes, size_t count)
{
    for (size_t at = 8; count >= 12 && at <= count - 12;) {
        size_t length = (size_t)bytes[at] << 24 | (size_t)bytes[at + 1] << 16 | (size_t)bytes[at + 2] << 8 | bytes[at + 3];
        if (length > count - at - 12)
            return;
        uint32_t crc = image_crc32(0, bytes + at + 4, length + 4);
        for (int i = 0; i < 4; i++)
            bytes[at + 8 + length + i] = (uint8_t)(crc >> (24 - 8 * i));
        at += length + 12;
    }
}

static void try_decode(const uint8_t *data, size_t size)
{
    const struct image_limits limits = {.bytes = 1 << 20, .side = 2000, .pixels = 250000};
    struct image_processor p = image_processor_qwen2_5_vl();
    struct image_info info;
    struct image im;
    struct patches patches;
    struct vireo_error err;
    p.max_pixels = 28 * 28 * 16;
    bool probed = image_probe(data, size, &limits, &info, &err);
    if (!image_decode(data, size, &limits, &im, &err))
        return;
    // What decodes was announced by the header, with these sizes.
    if (!probed || info.width != im.width || info.height != im.height)
        abort();
    if (image_patches(&p, &im, &patches, &err))
        patches_finish(&patches);
    image_finish(&im);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_decode(data, size);
    uint8_t *copy = image_sniff(data, size) == IMAGE_PNG ? malloc(size) : NULL;
    if (copy) {
        memcpy(copy, data, size);
        mend_png(copy, size);
        try_decode(copy, size);
        free(copy);
    }
    return 0;
}
