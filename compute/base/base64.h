// Base64 (RFC 4648, padded): pictures inside frames.
#ifndef VIREO_BASE_BASE64_H
#define VIREO_BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

// Both: malloc'd, the caller's; NULL without memory.
char *base64_encode(const uint8_t *in, size_t count);
// Ends at the first character that is none of the alphabet; *count bytes came before it.
uint8_t *base64_decode(const char *in, size_t length, size_t *count);

#endif
