// Images (/v1/vireo/images), one row a distinct content.
#ifndef VIREO_STORE_IMAGES_H
#define VIREO_STORE_IMAGES_H

#include "server/store/store.h"

struct store_image {
    const char *id; // "img_…"
    const char *sha256, *format; // "png", "jpeg", "webp"
    const char *filename;        // "" = none told
    int64_t width, height, bytes, created_at;
};
// Adds `count` images in one transaction; rows whose content exists already get the existing id. Fills id, created_at.
bool store_image_add(struct store *s, struct store_image *images, size_t count, struct arena *a,
                     struct vireo_error *err);
bool store_image_find(struct store *s, const char *id, struct arena *a, struct store_image *out,
                      struct vireo_error *err);
bool store_image_list(struct store *s, const struct store_page *page, struct arena *a, struct store_image **rows,
                      size_t *count, bool *has_more, struct vireo_error *err);
// VIREO_CONFLICT while a dataset has it.
bool store_image_delete(struct store *s, const char *id, struct vireo_error *err);

#endif
