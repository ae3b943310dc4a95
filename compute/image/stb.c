// The only file that contains stb's code: its PNG decoder and its small bitmap face.
#include "compute/image/formats.h"

#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

// stb's inflate grows its buffer as far as the stream asks (a 20 MB file can ask for 20 GB); the caller knows what an
// honest file needs.
static _Thread_local size_t most_bytes;
static _Thread_local bool over_limit;

static bool fits(size_t bytes)
{
    over_limit |= bytes > most_bytes;
    return !over_limit;
}

static void *stb_alloc(size_t bytes)
{
    return fits(bytes) ? vireo_alloc(bytes) : NULL;
}

static void *stb_realloc(void *old, size_t bytes)
{
    return fits(bytes) ? vireo_realloc(old, bytes) : NULL;
}

// Not restored below: gcc reports "declared static but never defined" at the end of the file.
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wmissing-braces"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wtype-limits"
#endif
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS 65535
#define STBI_MALLOC(bytes) stb_alloc(bytes)
#define STBI_REALLOC(old, bytes) stb_realloc(old, bytes)
#define STBI_FREE(old) free(old)
#define STBI_ASSERT(condition) ((void)0)
#include <stb_image.h>

#include <stb_easy_font.h>

uint8_t *image_stb_png(const uint8_t *bytes, size_t count, size_t most, int *width, int *height, int *channels,
                       const char **reason)
{
    if (count > INT32_MAX) {
        *reason = "too large";
        return NULL;
    }
    most_bytes = most;
    over_limit = false;
    uint8_t *data = stbi_load_from_memory(bytes, (int)count, width, height, channels, 0);
    if (!data)
        *reason = over_limit ? "it unpacks to more than its size allows" : stbi_failure_reason();
    return data;
}

int image_stb_glyph(char c, struct image_glyph_part *parts, int most)
{
    // Four corners a rectangle, each x, y, z as float and four bytes of colour.
    struct corner {
        float x, y, z;
        unsigned char colour[4];
    } corners[64 * 4];
    char text[2] = {c, 0};
    int count = stb_easy_font_print(0, 0, text, NULL, corners, (int)sizeof corners);
    if (count > most)
        count = most;
    for (int i = 0; i < count; i++)
        parts[i] = (struct image_glyph_part){.x0 = (int)corners[4 * i].x,
                                             .y0 = (int)corners[4 * i].y,
                                             .x1 = (int)corners[4 * i + 2].x,
                                             .y1 = (int)corners[4 * i + 2].y};
    return count;
}

int image_stb_advance(char c)
{
    char text[2] = {c, 0};
    return stb_easy_font_width(text);
}
