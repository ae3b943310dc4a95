#include "compute/worker/bench_tools.h"

#include "compute/base/clock.h"
#include "compute/base/file.h"
#include "compute/base/json.h"

#include <stdio.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench_figures bench_figures(double *values, size_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return (struct bench_figures){values[0], (values[(n - 1) / 2] + values[n / 2]) / 2};
}

struct bench_clock bench_start(void)
{
    return (struct bench_clock){clock_seconds(), clock_cpu_seconds()};
}

struct bench_clock bench_since(struct bench_clock start)
{
    return (struct bench_clock){clock_seconds() - start.wall, clock_cpu_seconds() - start.cpu};
}

bool bench_read_model(const json_t *config, json_t **model, enum dtype *type, struct vireo_error *err)
{
    static const char *const types[] = {"fp32", "bf16", "fp16", NULL};
    int choice = 0;
    *model = NULL;
    if (!json_get_object(config, "", "model", model, err) ||
        !json_get_choice(config, "", "dtype", types, &choice, err))
        return false;
    *type = choice == 0 ? DTYPE_F32 : choice == 1 ? DTYPE_BF16 : DTYPE_F16;
    return *model || vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "model",
                                     "The configuration needs 'model': a config.json of the model to be timed.");
}

static bool write_bytes(void *context, const void *bytes, size_t count, struct vireo_error *err)
{
    return file_writer_write(context, bytes, count, err);
}

bool bench_write_weights(struct gpu_device *dev, const json_t *config, enum dtype type, const char *folder,
                         struct vireo_error *err)
{
    char path[300];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    struct model *m = model_random(dev, config, 1, &(struct model_load_params){.dtype = type}, err);
    struct file_writer w;
    bool done = m && file_writer_open(&w, path, err);
    if (done) {
        done = model_save_weights(m, type, (struct byte_sink){.write = write_bytes, .context = &w}, err) &&
               file_writer_commit(&w, err);
        file_writer_abandon(&w);
    }
    model_destroy(&m);
    return done;
}
