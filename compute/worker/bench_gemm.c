#include "compute/worker/bench.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/nn/nn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct shape {
    int product, beta; // enum nn_product
    int64_t m, n, k;
    int a_type, b_type, c_type; // index into types
};
enum { MAX_RUNS = 1000 };

static const char *const product_names[] = {"nt", "nn", "tn", NULL};
static const char *const type_names[] = {"f32", "bf16", "f16", NULL};
static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

static const struct shape common[] = {
    {.product = NN_NT, .m = 512, .n = 512, .k = 512},     {.product = NN_NN, .m = 512, .n = 512, .k = 512},
    {.product = NN_TN, .m = 512, .n = 512, .k = 512},     {.product = NN_NT, .m = 2048, .n = 768, .k = 768},
    {.product = NN_NT, .m = 32, .n = 2048, .k = 2048},    {.product = NN_NT, .m = 512, .n = 512, .k = 512, .b_type = 1},
    {.product = NN_NT, .m = 1000, .n = 192, .k = 64},     {.product = NN_NN, .m = 1000, .n = 64, .k = 192},
    {.product = NN_TN, .m = 192, .n = 64, .k = 1000},     {.product = NN_NT, .m = 1, .n = 2048, .k = 2048},
};

static bool read_type(const json_t *o, const char *path, const char *key, int *type, struct vireo_error *err)
{
    return json_get_choice(o, path, key, type_names, type, err);
}

static bool read_shape(const json_t *o, const char *path, struct shape *s, struct vireo_error *err)
{
    static const char *const known[] = {"product", "m", "n", "k", "a_type", "b_type", "c_type", "beta", NULL};
    const char *unknown;
    char place[128];
    if (!json_is_object(o))
        return vireo_fail_param(err, path, "must be an object, not %s", json_type_name(o));
    if (json_find_unknown((json_t *)o, known, &unknown))
        return vireo_fail_param(err, json_path(place, sizeof place, path, unknown), "unknown field");
    int64_t beta = 0;
    *s = (struct shape){.m = 512, .n = 512, .k = 512};
    if (!json_get_choice(o, path, "product", product_names, &s->product, err) ||
        !json_get_integer(o, path, "m", 1, 1 << 20, &s->m, err) ||
        !json_get_integer(o, path, "n", 1, 1 << 20, &s->n, err) ||
        !json_get_integer(o, path, "k", 1, 1 << 20, &s->k, err) || !read_type(o, path, "a_type", &s->a_type, err) ||
        !read_type(o, path, "b_type", &s->b_type, err) || !read_type(o, path, "c_type", &s->c_type, err) ||
        !json_get_integer(o, path, "beta", 0, 1, &beta, err))
        return false;
    s->beta = (int)beta;
    const int64_t most = (int64_t)1 << 31; // elements of a matrix
    if (s->m * s->k > most || s->n * s->k > most || s->m * s->n > most)
        return vireo_fail_param(err, path, "a matrix of %lld x %lld x %lld has more than 2^31 elements",
                                (long long)s->m, (long long)s->n, (long long)s->k);
    if (s->a_type && s->b_type && s->a_type != s->b_type)
        return vireo_fail_param(err, json_path(place, sizeof place, path, "b_type"),
                                "must be %s or f32 beside an a_type of %s", type_names[s->a_type], type_names[s->a_type]);
    if (s->c_type != 0 && s->n % 2 != 0 && s->m > 1)
        return vireo_fail_param(err, json_path(place, sizeof place, path, "n"), "must be even when c_type has 16 bits");
    return true;
}

// A matrix of values in [-1, 1): zeros or rubbish could run at another speed.
static bool fill(struct gpu_device *dev, struct gpu_arena *arena, enum dtype type, int64_t rows, int64_t columns,
                 struct tensor *out, struct vireo_error *err)
{
    *out = tensor_matrix(arena, type, (uint32_t)rows, (uint32_t)columns, err);
    if (!out->span.address)
        return false;
    const size_t n = (size_t)tensor_count(*out);
    float *values = vireo_calloc(n, sizeof *values);
    if (!values)
        return vireo_fail_memory(err, n * sizeof *values);
    for (size_t i = 0; i < n; i++)
        values[i] = (float)((uint32_t)i * 2654435761u >> 8) * 0x1p-23f - 1;
    bool done = tensor_write_floats(dev, *out, values, err);
    free(values);
    return done;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct timing {
    double seconds[MAX_RUNS], cpu; // of one product; cpu: the least of all runs
    int64_t repeats;
};

// One run: the product `repeats` times, one after another since all write C.
static bool run(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s, const struct tensor abc[3],
                int64_t repeats, double *wall, double *cpu, struct vireo_error *err)
{
    static const struct tensor none;
    struct tape *t = tape_create(dev, &(struct tape_params){.arena = arena, .upload = arena}, err);
    if (!t)
        return false;
    const double wall_start = clock_seconds(), cpu_start = clock_cpu_seconds();
    for (int64_t i = 0; i < repeats; i++)
        nn_gemm(t, s->product, abc[0], abc[1], abc[2], s->beta, none, none);
    bool done = gpu_finish(dev, err);
    *wall = (clock_seconds() - wall_start) / (double)repeats;
    *cpu = (clock_cpu_seconds() - cpu_start) / (double)repeats;
    return tape_finish(&t, done ? err : NULL) && done;
}

static bool measure(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s, double seconds,
                    int64_t runs, struct timing *out, struct vireo_error *err)
{
    struct tensor abc[3];
    const bool tn = s->product == NN_TN, nt = s->product == NN_NT;
    if (!fill(dev, arena, types[s->a_type], tn ? s->k : s->m, tn ? s->m : s->k, &abc[0], err) ||
        !fill(dev, arena, types[s->b_type], nt ? s->n : s->k, nt ? s->k : s->n, &abc[1], err) ||
        !fill(dev, arena, types[s->c_type], s->m, s->n, &abc[2], err))
        return false;
    double wall, cpu;
    // The first compiles; the second says how many fill a run.
    if (!run(dev, arena, s, abc, 1, &wall, &cpu, err) || !run(dev, arena, s, abc, 1, &wall, &cpu, err))
        return false;
    const double wanted = seconds / (wall > 1e-6 ? wall : 1e-6);
    out->repeats = wanted < 1 ? 1 : wanted > 100000 ? 100000 : (int64_t)wanted;
    out->cpu = INFINITY;
    for (int64_t i = 0; i < runs; i++) {
        if (!run(dev, arena, s, abc, out->repeats, &out->seconds[i], &cpu, err))
            return false;
        out->cpu = cpu < out->cpu ? cpu : out->cpu;
    }
    qsort(out->seconds, (size_t)runs, sizeof out->seconds[0], compare);
    return true;
}

static bool bench_shape(struct gpu_device *dev, const struct shape *s, double seconds, int64_t runs, json_t *results,
                        struct vireo_error *err)
{
    struct gpu_arena *arena = gpu_arena_create(
        dev, &(struct gpu_arena_params){.name = "bench", .memory = GPU_MEMORY_DEVICE, .grows = true}, err);
    struct timing *t = arena ? vireo_calloc(1, sizeof *t) : NULL;
    bool done = false;
    if (arena && !t)
        vireo_fail_memory(err, sizeof *t);
    else if (t)
        done = measure(dev, arena, s, seconds, runs, t, err);
    if (done) {
        const double operations = 2e-9 * (double)s->m * (double)s->n * (double)s->k;
        const double median = (t->seconds[(runs - 1) / 2] + t->seconds[runs / 2]) / 2;
        json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:f}",
                                "product", product_names[s->product],
                                "m", (json_int_t)s->m, "n", (json_int_t)s->n, "k", (json_int_t)s->k,
                                "a_type", type_names[s->a_type], "b_type", type_names[s->b_type],
                                "c_type", type_names[s->c_type], "beta", s->beta,
                                "runs", (json_int_t)runs, "repeats", (json_int_t)t->repeats,
                                "seconds_min", t->seconds[0], "seconds_median", median,
                                "gflops", operations / t->seconds[0], "gflops_median", operations / median,
                                "gflops_per_cpu_second", operations / t->cpu);
        if (json_array_append_new(results, row) != 0)
            done = vireo_fail_memory(err, 1024);
    }
    free(t);
    gpu_arena_destroy(&arena);
    return done;
}

bool bench_gemm(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    static const char *const known[] = {"shapes", "seconds", "runs", NULL};
    const char *unknown;
    json_t *list = NULL;
    double seconds = 0.05;
    int64_t runs = 5;
    if (config) {
        if (!json_is_object(config))
            return vireo_fail_param(err, "", "the configuration must be an object, not %s", json_type_name(config));
        if (json_find_unknown((json_t *)config, known, &unknown))
            return vireo_fail_param(err, unknown, "unknown field");
        if (!json_get_array(config, "", "shapes", &list, err) ||
            !json_get_number(config, "", "seconds", 0, 60, &seconds, err) ||
            !json_get_integer(config, "", "runs", 1, MAX_RUNS, &runs, err))
            return false;
    }
    json_t *results = json_array();
    if (!results)
        return vireo_fail_memory(err, 1024);
    const size_t count = list ? json_array_size(list) : VIREO_COUNT(common);
    bool done = true;
    for (size_t i = 0; done && i < count; i++) {
        struct shape s;
        char path[32];
        snprintf(path, sizeof path, "shapes[%zu]", i);
        if (list)
            done = read_shape(json_array_get(list, i), path, &s, err);
        else
            s = common[i];
        done = done && bench_shape(dev, &s, seconds, runs, results, err);
    }
    if (!done) {
        json_decref(results);
        return false;
    }
    json_t *all = json_pack("{s:s, s:o}", "device", gpu_device_caps(dev)->name, "results", results);
    if (!all) {
        json_decref(results);
        return vireo_fail_memory(err, 1024);
    }
    *out = all;
    return true;
}
