#include "compute/base/base64.h"

#include "compute/base/fault.h"

#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const uint8_t *in, size_t count)
{
    char *out = vireo_alloc((count + 2) / 3 * 4 + 1), *p = out;
    for (size_t i = 0; out && i < count; i += 3) {
        uint32_t v = (uint32_t)in[i] << 16;
        v |= i + 1 < count ? (uint32_t)in[i + 1] << 8 : 0;
        v |= i + 2 < count ? in[i + 2] : 0;
        *p++ = digits[v >> 18];
        *p++ = digits[v >> 12 & 63];
        *p++ = i + 1 < count ? digits[v >> 6 & 63] : '=';
        *p++ = i + 2 < count ? digits[v & 63] : '=';
    }
    if (out)
        *p = 0;
    return out;
}

uint8_t *base64_decode(const char *in, size_t length, size_t *count)
{
    uint8_t *out = vireo_alloc(length / 4 * 3 + 3);
    size_t n = 0;
    uint32_t v = 0;
    int bits = 0;
    for (size_t i = 0; out && i < length && in[i] != '='; i++) {
        const char *at = strchr(digits, in[i]);
        if (!at || !in[i])
            break;
        v = v << 6 | (uint32_t)(at - digits);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            out[n++] = (uint8_t)(v >> bits);
        }
    }
    *count = n;
    return out;
}
