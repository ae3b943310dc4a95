// Rows of the store as objects of the API (api.md 2, 3, 6, 9). Each returns a new reference, NULL without memory.
#ifndef VIREO_API_OBJECT_JSON_H
#define VIREO_API_OBJECT_JSON_H

#include "server/store/checkpoints.h"
#include "server/store/datasets.h"
#include "server/store/events.h"
#include "server/store/files.h"
#include "server/store/images.h"
#include "server/store/keys.h"
#include "server/store/models.h"
#include "server/store/rollouts.h"

#include <jansson.h>

// JSON text of ours; an empty object where it is NULL or not readable.
json_t *api_parse(const char *text);
json_t *api_time(int64_t seconds); // null for 0

json_t *api_file(const struct store_file *f);
json_t *api_image(const struct store_image *i);
json_t *api_dataset(const struct store_dataset *d);
json_t *api_model(const struct store_model *m, bool loaded);
json_t *api_key(const struct store_key *k);
json_t *api_event(const struct store_event *e);
json_t *api_checkpoint(const struct store_checkpoint *c);
json_t *api_group(const struct store_group *g); // with its samples
json_t *api_deleted(const char *id, const char *object);

#endif
