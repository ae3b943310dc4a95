// Random models of a real architecture, written as complete Hugging Face folders; no device needed.
#ifndef VIREO_MODELS_PRESET_H
#define VIREO_MODELS_PRESET_H

#include "compute/base/error.h"

#include <stdint.h>

// NULL-terminated names that model_preset_write knows, with one line of description each.
struct model_preset {
    const char *name, *description;
};
extern const struct model_preset model_presets[];

// Writes config, generation, preprocessor and tokenizer files, chat template and random float32 weights into `folder`
// (created). The same name and seed give the same bytes. VIREO_INVALID: unknown preset.
bool model_preset_write(const char *name, uint64_t seed, const char *folder, struct vireo_error *err);

#endif
