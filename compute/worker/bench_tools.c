#include "compute/worker/bench_tools.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
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

bool bench_measure(bench_run run, void *context, double seconds, int64_t runs, int64_t most_repeats,
                   struct bench_times *out, struct vireo_error *err)
{
    struct bench_clock took;
    double wall[BENCH_MAX_RUNS], cpu[BENCH_MAX_RUNS];
    // The first compiles; the second says how many fill a run.
    if (!run(context, 1, &took, err) || !run(context, 1, &took, err))
        return false;
    const double wanted = seconds / (took.wall > 1e-6 ? took.wall : 1e-6);
    out->repeats = wanted < 1 ? 1 : wanted > (double)most_repeats ? most_repeats : (int64_t)wanted;
    for (int64_t i = 0; i < runs; i++) {
        if (!run(context, out->repeats, &took, err))
            return false;
        wall[i] = took.wall / (double)out->repeats;
        cpu[i] = took.cpu / (double)out->repeats;
    }
    out->wall = bench_figures(wall, (size_t)runs);
    out->cpu = bench_figures(cpu, (size_t)runs);
    return true;
}

json_t *bench_times_json(const struct bench_times *t, double flops)
{
    return json_pack("{s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "repeats", (json_int_t)t->repeats, "seconds_min", t->wall.least,
                     "seconds_median", t->wall.median, "cpu_seconds_min", t->cpu.least, "cpu_seconds_median",
                     t->cpu.median, "gflops", flops / t->wall.least * 1e-9, "gflops_median",
                     flops / t->wall.median * 1e-9, "gflops_per_cpu_second", flops / t->cpu.least * 1e-9);
}

bool bench_shapes(struct gpu_device *dev, const json_t *config, size_t built_in, bench_shape one, json_t **out,
                  struct vireo_error *err)
{
    static const char *const known[] = {"shapes", "seconds", "runs", NULL};
    const char *unknown;
    struct bench_list list = {.seconds = 0.05, .runs = 5};
    if (config) {
        if (!json_is_object(config))
            return vireo_fail_param(err, "", "the configuration must be an object, not %s", json_type_name(config));
        if (json_find_unknown((json_t *)config, known, &unknown))
            return vireo_fail_param(err, unknown, "unknown field");
        if (!json_get_array(config, "", "shapes", &list.shapes, err) ||
            !json_get_number(config, "", "seconds", 0, 60, &list.seconds, err) ||
            !json_get_integer(config, "", "runs", 1, BENCH_MAX_RUNS, &list.runs, err))
            return false;
    }
    json_t *results = json_array();
    bool done = results || vireo_fail_memory(err, 1024);
    const size_t count = list.shapes ? json_array_size(list.shapes) : built_in;
    for (size_t i = 0; done && i < count; i++) {
        char path[32];
        snprintf(path, sizeof path, "shapes[%zu]", i);
        done = one(dev, list.shapes ? json_array_get(list.shapes, i) : NULL, path, i, &list, results, err);
    }
    json_t *all = done ? json_pack("{s:s, s:O}", "device", gpu_device_caps(dev)->name, "results", results) : NULL;
    if (done && !all)
        done = vireo_fail_memory(err, 1024);
    json_decref(results);
    if (done)
        *out = all;
    return done;
}

bool bench_check_shape(const json_t *shape, const char *path, const char *const *known, struct vireo_error *err)
{
    const char *unknown;
    char place[128];
    if (!json_is_object(shape))
        return vireo_fail_param(err, path, "must be an object, not %s", json_type_name(shape));
    if (json_find_unknown((json_t *)shape, known, &unknown))
        return vireo_fail_param(err, json_path(place, sizeof place, path, unknown), "unknown field");
    return true;
}

float *bench_values(size_t n, float scale, struct vireo_error *err)
{
    float *values = vireo_calloc(n, sizeof *values);
    if (!values)
        vireo_fail_memory(err, n * sizeof *values);
    for (size_t i = 0; values && i < n; i++)
        values[i] = scale * ((float)((uint32_t)i * 2654435761u >> 8) * 0x1p-23f - 1);
    return values;
}

bool bench_matrix(struct gpu_device *dev, struct gpu_arena *arena, enum dtype type, int64_t rows, int64_t columns,
                  float scale, struct tensor *out, struct vireo_error *err)
{
    *out = tensor_matrix(arena, type, (uint32_t)rows, (uint32_t)columns, err);
    float *values = out->span.address ? bench_values((size_t)tensor_count(*out), scale, err) : NULL;
    bool done = values && tensor_write_floats(dev, *out, values, err);
    free(values);
    return done;
}

bool bench_read_dtype(const json_t *config, enum dtype *type, struct vireo_error *err)
{
    static const char *const types[] = {"fp32", "bf16", "fp16", NULL};
    int choice = 0;
    if (!json_get_choice(config, "", "dtype", types, &choice, err))
        return false;
    *type = choice == 0 ? DTYPE_F32 : choice == 1 ? DTYPE_BF16 : DTYPE_F16;
    return true;
}

bool bench_read_model(const json_t *config, json_t **model, enum dtype *type, struct vireo_error *err)
{
    *model = NULL;
    if (!json_get_object(config, "", "model", model, err) || !bench_read_dtype(config, type, err))
        return false;
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
