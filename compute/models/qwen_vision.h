// Qwen2.5-VL's vision transformer: windowed and full attention, merger. Specs section 4.
#ifndef VIREO_MODELS_QWEN_VISION_H
#define VIREO_MODELS_QWEN_VISION_H

#include "compute/models/batch.h"

bool qwen_vision_declare(struct model *m, struct vireo_error *err);
struct tensor qwen_vision_forward(struct tape *t, const struct model *m, const struct vision_batch *b);

#endif
