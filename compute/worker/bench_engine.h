// What the benchmarks of the engine share: their configuration, prompts of random ids, requests that run to their length.
#ifndef VIREO_WORKER_BENCH_ENGINE_H
#define VIREO_WORKER_BENCH_ENGINE_H

#include "compute/engine/engine.h"

#include <jansson.h>

struct bench_engine {
    int64_t image, prompts, group, new_tokens, text_tokens, runs;
    json_t *model; // borrowed
    enum dtype type;
};
// Defaults: 112, 4, 8, 64, 24, 5, fp32; "model" is required.
bool bench_engine_read(const json_t *config, struct bench_engine *out, struct vireo_error *err);

// n random ids of words, from the upper half of the vocabulary: no placeholder of an image stands there.
void bench_engine_words(const struct model *m, uint32_t stream, uint32_t prompt, uint32_t n, uint32_t *ids);

// `n` samples of `max_tokens` tokens each, at `temperature`. *tokens counts those that came.
struct generation bench_engine_request(uint64_t id, const struct prompt *prompt, uint32_t n, uint32_t max_tokens,
                                       float temperature, uint64_t *tokens);

#endif
