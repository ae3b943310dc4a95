// What several benchmarks share: figures of runs, timed loops, lists of shapes, random operands, a folder with random
// weights.
#ifndef VIREO_WORKER_BENCH_TOOLS_H
#define VIREO_WORKER_BENCH_TOOLS_H

#include "compute/base/error.h"
#include "compute/models/model.h"

#include <jansson.h>

enum { BENCH_MAX_RUNS = 1000 };

// Sorts `values` and tells the least and the median. n > 0.
struct bench_figures {
    double least, median;
};
// As above.
struct bench_figures bench_figures(double *values, size_t n);

// Wall and CPU seconds (all threads) since bench_start.
struct bench_clock {
    double wall, cpu;
};
// Both together: start = bench_start(); ...; took = bench_since(start).
struct bench_clock bench_start(void);
struct bench_clock bench_since(struct bench_clock start);

// The work to be timed, `repeats` times, and what it took in all.
typedef bool (*bench_run)(void *context, int64_t repeats, struct bench_clock *took, struct vireo_error *err);
// Of one repeat.
struct bench_times {
    int64_t repeats; // a run
    struct bench_figures wall, cpu;
};
// `runs` runs (at most BENCH_MAX_RUNS) of as many repeats as fill `seconds`, at most most_repeats. Compiling is left out: the
// work is done twice before.
bool bench_measure(bench_run run, void *context, double seconds, int64_t runs, int64_t most_repeats,
                   struct bench_times *out, struct vireo_error *err);
// {"repeats", "seconds_min", "seconds_median", "cpu_seconds_min", "cpu_seconds_median", "gflops" of the fastest run,
// "gflops_median", "gflops_per_cpu_second" of the run that used least}; NULL: no memory.
json_t *bench_times_json(const struct bench_times *t, double flops);

// A benchmark of a list of shapes: {"shapes", "seconds": least length of a run, "runs"}, all optional.
struct bench_list {
    json_t *shapes; // NULL: the built-in ones
    double seconds;
    int64_t runs;
};
// Adds one result for a shape of the list, whose place in the configuration is `path` (shape NULL: the built-in `index`).
typedef bool (*bench_shape)(struct gpu_device *dev, const json_t *shape, const char *path, size_t index,
                            const struct bench_list *list, json_t *results, struct vireo_error *err);
// *out: {"device", "results"}.
bool bench_shapes(struct gpu_device *dev, const json_t *config, size_t built_in, bench_shape one, json_t **out,
                  struct vireo_error *err);
// `shape` is an object without fields beside `known`.
bool bench_check_shape(const json_t *shape, const char *path, const char *const *known, struct vireo_error *err);

// n values in [-scale, scale): zeros or rubbish could run at another speed. To be freed; NULL + err.
float *bench_values(size_t n, float scale, struct vireo_error *err);
// A matrix of such values.
bool bench_matrix(struct gpu_device *dev, struct gpu_arena *arena, enum dtype type, int64_t rows, int64_t columns,
                  float scale, struct tensor *out, struct vireo_error *err);

// "dtype" ("fp32", the default, "bf16" or "fp16") of a configuration.
bool bench_read_dtype(const json_t *config, enum dtype *type, struct vireo_error *err);
// The same with "model" (required); *model borrows.
bool bench_read_model(const json_t *config, json_t **model, enum dtype *type, struct vireo_error *err);

// Writes `folder`/model.safetensors: random weights of this config.json, through the code that saves any model.
bool bench_write_weights(struct gpu_device *dev, const json_t *config, enum dtype type, const char *folder,
                         struct vireo_error *err);

#endif
