// The pre-norm decoder with grouped-query attention that all families share: forward reads like the paper, declare
// names the tensors as the Hub does.
#ifndef VIREO_MODELS_DECODER_H
#define VIREO_MODELS_DECODER_H

#include "compute/models/batch.h"

bool decoder_declare(struct model *m, struct vireo_error *err);
// -> [N, hidden_size] after the final norm. Specs section 6.
struct tensor decoder_forward(struct tape *t, const struct model *m, const struct text_batch *b, struct tensor images);

#endif
