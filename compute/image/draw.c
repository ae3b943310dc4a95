#include "compute/image/draw.h"

#include "compute/base/check.h"
#include "compute/image/formats.h"

// Places beyond this are as good as infinite, and sums of two of them cannot wrap.
static int64_t tame(int64_t v)
{
    const int64_t far = (int64_t)1 << 40;
    return v < -far ? -far : v > far ? far : v;
}

void image_fill(struct image *im, int64_t x0, int64_t y0, int64_t x1, int64_t y1, uint32_t colour)
{
    x0 = VIREO_MAX(x0, 0);
    y0 = VIREO_MAX(y0, 0);
    x1 = VIREO_MIN(x1, (int64_t)im->width);
    y1 = VIREO_MIN(y1, (int64_t)im->height);
    for (int64_t y = y0; y < y1; y++) {
        uint8_t *to = im->rgb + ((size_t)y * im->width + (size_t)VIREO_MAX(x0, 0)) * 3;
        for (int64_t x = x0; x < x1; x++, to += 3) {
            to[0] = (uint8_t)(colour >> 16);
            to[1] = (uint8_t)(colour >> 8);
            to[2] = (uint8_t)colour;
        }
    }
}

void image_box(struct image *im, int64_t x0, int64_t y0, int64_t x1, int64_t y1, int64_t thickness, uint32_t colour)
{
    x0 = tame(x0), y0 = tame(y0), x1 = tame(x1), y1 = tame(y1), thickness = tame(thickness);
    if (x1 <= x0 || y1 <= y0 || thickness < 1)
        return;
    int64_t t = VIREO_MIN(thickness, VIREO_MIN((x1 - x0 + 1) / 2, (y1 - y0 + 1) / 2));
    image_fill(im, x0, y0, x1, y0 + t, colour);
    image_fill(im, x0, y1 - t, x1, y1, colour);
    image_fill(im, x0, y0, x0 + t, y1, colour);
    image_fill(im, x1 - t, y0, x1, y1, colour);
}

void image_dashed_box(struct image *im, int64_t x0, int64_t y0, int64_t x1, int64_t y1, int64_t thickness, int64_t dash,
                      uint32_t colour)
{
    x0 = tame(x0), y0 = tame(y0), x1 = tame(x1), y1 = tame(y1), thickness = tame(thickness), dash = tame(dash);
    if (x1 <= x0 || y1 <= y0 || thickness < 1 || dash < 1)
        return;
    int64_t t = VIREO_MIN(thickness, VIREO_MIN((x1 - x0 + 1) / 2, (y1 - y0 + 1) / 2));
    // Begin at the last dash that starts left of (above) the image: boxes may be far larger than it.
    int64_t step = 2 * dash;
    int64_t x = x0 < 0 ? x0 + -x0 / step * step : x0, y = y0 < 0 ? y0 + -y0 / step * step : y0;
    for (; x < x1 && x < (int64_t)im->width; x += step) {
        image_fill(im, x, y0, VIREO_MIN(x + dash, x1), y0 + t, colour);
        image_fill(im, x, y1 - t, VIREO_MIN(x + dash, x1), y1, colour);
    }
    for (; y < y1 && y < (int64_t)im->height; y += step) {
        image_fill(im, x0, y, x0 + t, VIREO_MIN(y + dash, y1), colour);
        image_fill(im, x1 - t, y, x1, VIREO_MIN(y + dash, y1), colour);
    }
}

enum { LINE = 12, MAX_TEXT = 1000, MAX_PARTS = 32 };

static char shown(char c)
{
    return c >= 32 && c <= 126 ? c : '?';
}

void image_text(struct image *im, int64_t x, int64_t y, uint32_t scale, uint32_t colour, const char *text)
{
    int64_t s = VIREO_MIN(VIREO_MAX(scale, 1), 16), at = x = tame(x);
    y = tame(y);
    for (int n = 0; text[n] && n < MAX_TEXT; n++) {
        if (text[n] == '\n') {
            at = x;
            y += LINE * s;
            continue;
        }
        char c = shown(text[n]);
        struct image_glyph_part part[MAX_PARTS];
        int parts = image_stb_glyph(c, part, MAX_PARTS);
        for (int i = 0; i < parts; i++)
            image_fill(im, at + part[i].x0 * s, y + part[i].y0 * s, at + part[i].x1 * s, y + part[i].y1 * s, colour);
        at += image_stb_advance(c) * s;
    }
}

void image_text_size(const char *text, uint32_t scale, int64_t *width, int64_t *height)
{
    int64_t s = VIREO_MIN(VIREO_MAX(scale, 1), 16), line = 0;
    *width = 0;
    *height = LINE * s;
    for (int n = 0; text[n] && n < MAX_TEXT; n++) {
        line = text[n] == '\n' ? 0 : line + image_stb_advance(shown(text[n])) * s;
        if (text[n] == '\n')
            *height += LINE * s;
        *width = VIREO_MAX(*width, line);
    }
}
