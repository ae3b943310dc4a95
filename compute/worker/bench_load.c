// `vireo bench load`: a model's weights from a folder into device memory, as a worker does at its start.
#include "compute/worker/bench.h"
#include "compute/worker/bench_roofline.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/base/os.h"
#include "compute/models/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool write_folder(struct gpu_device *dev, const json_t *model, enum dtype type, const char *folder,
                         struct vireo_error *err)
{
    char path[300];
    json_t *config = json_deep_copy(model);
    snprintf(path, sizeof path, "%s/config.json", folder);
    json_object_del(config, "torch_dtype");
    json_object_set_new(config, "dtype", json_string(type == DTYPE_BF16 ? "bfloat16" : type == DTYPE_F16 ? "float16" : "float32"));
    char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;
    bool done = text ? file_write_atomic(path, text, strlen(text), err) : vireo_fail_memory(err, 1 << 12);
    done = done && bench_write_weights(dev, config, type, folder, err);
    free(text);
    json_decref(config);
    return done;
}

static bool measure(struct gpu_device *dev, const char *folder, int64_t runs, json_t **out, struct vireo_error *err)
{
    double wall[BENCH_MAX_RUNS], cpu[BENCH_MAX_RUNS];
    double bytes = 0;
    for (int64_t i = 0; i < runs; i++) {
        const struct model_load_params p = {.dtype = DTYPE_U32, .weights_only = true};
        const struct bench_clock start = bench_start();
        struct model *m = model_load(dev, folder, &p, err);
        if (!m)
            return false;
        const struct bench_clock took = bench_since(start);
        wall[i] = took.wall;
        cpu[i] = took.cpu;
        bytes = (double)model_parameters(m) * dtype_bytes(m->dtype);
        model_destroy(&m);
    }
    const struct bench_figures w = bench_figures(wall, (size_t)runs), c = bench_figures(cpu, (size_t)runs);
    *out = json_pack("{s:s,s:i,s:f,s:{s:f},s:{s:f},s:{s:f},s:{s:f},s:f,s:{s:I,s:I}}", "device", gpu_device_caps(dev)->name,
                     "runs", (int)runs, "bytes", bytes, "seconds_min", "load", w.least, "seconds_median", "load", w.median,
                     "cpu_seconds_min", "load", c.least, "cpu_seconds_median", "load", c.median, "bytes_per_s",
                     w.least > 0 ? bytes / w.least : 0, "peak_bytes", "device",
                     (json_int_t)gpu_device_counters(dev).bytes_peak, "rss", (json_int_t)os_peak_rss());
    if (!*out)
        return vireo_fail_memory(err, 1 << 10);
    return bench_roofline_set(*out, (struct bench_work){0, bytes}, w.least, err, "load, %.1f MB of weights", 1e-6 * bytes);
}

bool bench_load(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    json_t *model;
    enum dtype type;
    int64_t runs = 5;
    char folder[] = "/tmp/vireo-bench-XXXXXX";
    if (!bench_read_model(config, &model, &type, err) ||
        !json_get_integer(config, "", "runs", 1, BENCH_MAX_RUNS, &runs, err))
        return false;
    if (!mkdtemp(folder))
        return vireo_fail_errno(err, "cannot make a folder for the benchmark");
    struct vireo_error ignored;
    bool done = write_folder(dev, model, type, folder, err) && measure(dev, folder, runs, out, err);
    file_remove_tree(folder, &ignored);
    return done;
}
