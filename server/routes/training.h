// Look-ups that jobs and evaluations share.
#ifndef VIREO_ROUTES_TRAINING_H
#define VIREO_ROUTES_TRAINING_H

#include "server/routes/common.h"
#include "server/store/models.h"

// *id: a file's id, or a dataset's, which is replaced by its file's. Errors name `param`.
bool routes_training_file(struct request *req, const char *param, const char **id, struct vireo_error *err);
bool routes_model(struct request *req, const char *id, struct store_model *out, struct vireo_error *err);

#endif
