// PNG writer: RGB8, adaptive row filters, deflate with fixed Huffman codes. The same image gives the same bytes.
#ifndef VIREO_IMAGE_PNG_H
#define VIREO_IMAGE_PNG_H

#include "compute/image/image.h"

// *out is a malloc'd buffer of *count bytes, the caller's (free).
bool image_write_png(const struct image *im, uint8_t **out, size_t *count, struct vireo_error *err);

// CRC-32 as PNG and zlib define it (polynomial 0xEDB88320), continued from `crc` (0 at the start).
uint32_t image_crc32(uint32_t crc, const uint8_t *bytes, size_t count);

#endif
