// Boxes and short labels on an image, for demonstrations and data checks. Everything is clipped to the image; sizes
// and places may lie outside. Colours are 0xRRGGBB.
#ifndef VIREO_IMAGE_DRAW_H
#define VIREO_IMAGE_DRAW_H

#include "compute/image/image.h"

// Pixels x0 <= x < x1, y0 <= y < y1; an empty or inverted range draws nothing.
void image_fill(struct image *im, int64_t x0, int64_t y0, int64_t x1, int64_t y1, uint32_t colour);

// Outline of the same range, `thickness` pixels to the inside.
void image_box(struct image *im, int64_t x0, int64_t y0, int64_t x1, int64_t y1, int64_t thickness, uint32_t colour);

// As image_box with dashes of `dash` pixels on, `dash` off, counted along each side from its upper or left end.
void image_dashed_box(struct image *im, int64_t x0, int64_t y0, int64_t x1, int64_t y1, int64_t thickness, int64_t dash,
                      uint32_t colour);

// Printable ASCII in a built-in bitmap face, about 6 x 12 pixels a character times `scale` (1..16); '\n' starts a new
// line, anything else not printable is shown as '?'. (x, y) is the upper left corner. At most 1,000 characters.
void image_text(struct image *im, int64_t x, int64_t y, uint32_t scale, uint32_t colour, const char *text);
// Size the text would take.
void image_text_size(const char *text, uint32_t scale, int64_t *width, int64_t *height);

#endif
