// What several benchmarks share: figures of runs, a folder with random weights.
#ifndef VIREO_WORKER_BENCH_TOOLS_H
#define VIREO_WORKER_BENCH_TOOLS_H

#include "compute/base/error.h"
#include "compute/models/model.h"

#include <jansson.h>

// Sorts `values` and tells the least and the median. n > 0.
struct bench_figures {
    double least, median;
};
struct bench_figures bench_figures(double *values, size_t n);

// Wall and CPU seconds (all threads) since bench_start.
struct bench_clock {
    double wall, cpu;
};
struct bench_clock bench_start(void);
struct bench_clock bench_since(struct bench_clock start);

// "model" (required) and "dtype" ("fp32" | "bf16" | "fp16") of a configuration; *model borrows.
bool bench_read_model(const json_t *config, json_t **model, enum dtype *type, struct vireo_error *err);

// Writes `folder`/model.safetensors: random weights of this config.json, through the code that saves any model.
bool bench_write_weights(struct gpu_device *dev, const json_t *config, enum dtype type, const char *folder,
                         struct vireo_error *err);

#endif
