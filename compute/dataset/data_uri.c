#include "compute/dataset/data_uri.h"

#include "compute/image/decode.h"

#include <string.h>

// 0..63, or -1 for a character that is not base64 (standard or URL alphabet).
static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

// Decodes text without padding; false at the first foreign character or an impossible length.
static bool decode(const char *text, size_t length, uint8_t *out)
{
    uint32_t bits = 0;
    int held = 0;
    if (length % 4 == 1)
        return false;
    for (size_t i = 0; i < length; i++) {
        int value = digit(text[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            *out++ = (uint8_t)(bits >> held);
        }
    }
    return (bits & ((1u << held) - 1)) == 0; // bits left over must be zero, else two texts would mean the same bytes
}

bool data_uri_decode(const char *uri, size_t length, size_t limit, const char *path, struct arena *a,
                     const uint8_t **bytes, size_t *count, struct vireo_error *err)
{
    static const char marker[] = ";base64";
    const char *comma = memchr(uri, ',', length);
    size_t head = comma ? (size_t)(comma - uri) : 0;
    if (length < 5 || memcmp(uri, "data:", 5) != 0)
        return vireo_fail_param(err, path, "not a data: URI");
    if (!comma || head < sizeof marker - 1 || memcmp(comma - (sizeof marker - 1), marker, sizeof marker - 1) != 0)
        return vireo_fail_param(err, path, "data: URI is not base64");
    const char *text = comma + 1;
    size_t size = length - head - 1;
    for (int i = 0; i < 2 && size && text[size - 1] == '='; i++)
        size--;
    size_t decoded = size / 4 * 3 + (size % 4 ? size % 4 - 1 : 0);
    if (decoded > limit)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_image", path, "image of %zu bytes, at most %zu are allowed",
                               decoded, limit);
    uint8_t *out = arena_take(a, decoded + 1);
    if (!out)
        return vireo_fail_memory(err, decoded);
    if (!decode(text, size, out))
        return vireo_fail_param(err, path, "data: URI is not base64");
    if (image_sniff(out, decoded) == IMAGE_UNKNOWN)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_image", path, "data: URI holds no PNG, JPEG or WebP image");
    *bytes = out;
    *count = decoded;
    return true;
}
