// Between the files of this folder only.
#ifndef VIREO_MODELS_INTERNAL_H
#define VIREO_MODELS_INTERNAL_H

#include "compute/models/model.h"

// A model of this config with memory for weights and rope tables, values unset. NULL + err.
struct model *model_create(struct gpu_device *dev, const json_t *config, const struct model_load_params *p,
                           struct vireo_error *err);
// Memory for all declared weights and the rope tables.
bool model_allocate(struct model *m, uint32_t max_positions, struct vireo_error *err);

// stream.c: whether the weight belongs to a layer or block; takes `shards` over, also on failure (m->stream then holds
// what there is); frees it.
bool stream_holds(const struct model *m, const struct weight *w);
bool stream_open(struct model *m, struct shards *shards, struct vireo_error *err);
void stream_close(struct model_stream **stream);
// Puts the weights of text layer (vision: block) l where its ops read them; nothing for a resident model. Before the
// layer's ops, on a tape without gradients.
void model_enter(struct tape *t, const struct model *m, bool vision, uint32_t l);

// config.c: the parts of config.json that Qwen-like families share.
bool config_read_generation(struct generation_config *out, const char *folder, const json_t *config,
                            struct vireo_error *err);
bool config_read_processor(struct image_processor *out, const char *folder, const struct model_config *c,
                           struct vireo_error *err);

#endif
