// Making a dataset: rows (JSON lines) and images (archives, uploads, ids) in; checked rows with img_ ids out.
#ifndef VIREO_ROUTES_DATASET_IMPORT_H
#define VIREO_ROUTES_DATASET_IMPORT_H

#include "server/http/request.h"
#include "server/store/datasets.h"
#include "server/store/images.h"

#include <jansson.h>

// Format, size and bytes from an image's header; no pixel is decoded. `place` names it in errors (param).
bool image_describe(const void *bytes, size_t count, const char *place, struct store_image *out,
                    struct vireo_error *err);
bool image_describe_file(const char *path, const char *place, struct store_image *out, struct vireo_error *err);

struct import;
struct import *import_create(struct store *s, struct arena *arena, struct vireo_error *err);
void import_destroy(struct import **i);

// What rows may name. Paths must stay until import_finish; nothing is kept before that.
bool import_add_archive(struct import *i, const char *path, struct vireo_error *err);
bool import_add_image_file(struct import *i, const char *name, const char *path, struct vireo_error *err);
// An image of the store under `name`; NULL: the name it was uploaded with.
bool import_add_image(struct import *i, const char *name, const char *id, struct vireo_error *err);
// JSON lines; `label` is told in errors.
bool import_add_rows(struct import *i, const char *label, const char *path, struct vireo_error *err);

// Checks all rows, stores the images they name and the rewritten rows, adds the dataset. With bad rows: false,
// VIREO_INVALID (the message is the first issue), *issues (new reference) = [{"file","line","param","reason"}], and
// nothing was stored.
bool import_finish(struct import *i, const char *name, struct store_dataset *out, json_t **issues,
                   struct vireo_error *err);

#endif
