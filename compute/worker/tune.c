// `vireo tune`: measures the tiles of matrix products on a device of this machine (compute/nn/gemm_tune.h).
#include "compute/base/check.h"
#include "compute/gpu/device.h"
#include "compute/gpu/tune.h"
#include "compute/nn/gemm_tune.h"
#include "compute/worker/worker.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage(FILE *out, int status)
{
    fputs("usage: vireo tune [--device NAME] [--cache FOLDER] [--seconds N] [--most-mflop N] [--json]\n\n"
          "Measures which tile of matrix products is the fastest on a device, by kernel and class of shapes, and keeps\n"
          "the winners for its driver and this version. Never changes a result: all tiles have equal bits. Workers do\n"
          "this by themselves at their first start on a GPU.\n\n"
          "  --device NAME   index, UUID or part of a name of 'vireo devices' (auto)\n"
          "  --cache FOLDER  where to keep the table: a server looks in the folder cache of its data folder\n"
          "  --seconds N     stop after this time (20)\n"
          "  --most-mflop N  skip products of more million operations (a CPU driver: 20; a GPU: none)\n"
          "  --json          one JSON object instead of a table\n",
          out);
    return status;
}

static bool read_number(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == 0 && isfinite(*out) && *out > 0 && *out <= 1e9;
}

static void keep_row(void *context, const struct gemm_tune_row *r)
{
    json_array_append_new(context, json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f}", "kernel", r->kernel, "m",
                                             (int)r->m, "n", (int)r->n, "k", (int)r->k, "tile", (int)r->tile, "rows",
                                             (int)r->rows, "columns", (int)r->columns, "formula", (int)r->formula, "seconds",
                                             r->seconds, "formula_seconds", r->formula_seconds));
}

static void print_row(void *context, const struct gemm_tune_row *r)
{
    char tile[32];
    snprintf(tile, sizeof tile, "%u: %ux%u", r->tile, r->rows, r->columns);
    fprintf(context, "%-26s %5u %5u %5u   %-11s %9.1f us %8.1f GFLOP/s  %.2f\n", r->kernel, r->m, r->n, r->k, tile,
            1e6 * r->seconds, 2e-9 * r->m * r->n * r->k / r->seconds, r->formula_seconds / r->seconds);
    fflush(context);
}

static bool tune(struct gpu_device *dev, struct gemm_tune_params *p, bool as_json, struct vireo_error *err)
{
    char path[700];
    uint32_t measured = 0;
    const bool kept = gpu_tune_path(dev, path, sizeof path);
    json_t *rows = as_json ? json_array() : NULL;
    if (as_json && !rows)
        return vireo_fail_memory(err, 1024);
    p->row = as_json ? keep_row : print_row;
    p->context = as_json ? (void *)rows : stdout;
    if (p->most_flops <= 0 && gpu_device_caps(dev)->type == GPU_CPU)
        p->most_flops = 20e6;
    if (!as_json)
        printf("%-26s %5s %5s %5s   %-11s %12s %16s  faster than the formula's\n", "kernel", "m", "n", "k", "tile", "time", "");
    const bool done = gemm_tune(dev, p, &measured, err);
    if (done && as_json) {
        json_t *all = json_pack("{s:s, s:o?, s:O}", "device", gpu_device_caps(dev)->name, "file",
                                kept ? json_string(path) : NULL, "results", rows);
        if (all)
            json_dumpf(all, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(all);
    } else if (done) {
        printf("%u classes measured; %s%s\n", measured, kept ? "kept in " : "not kept: no --cache", kept ? path : "");
    }
    json_decref(rows);
    return done;
}

int worker_tune_main(int argc, char **argv)
{
    struct gpu_device_params d = {0};
    struct gemm_tune_params p = {.seconds = 20};
    bool as_json = false;
    for (int i = 1; i < argc; i++) {
        const bool more = i + 1 < argc;
        double number = 0;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return usage(stdout, 0);
        if (strcmp(argv[i], "--json") == 0)
            as_json = true;
        else if (strcmp(argv[i], "--device") == 0 && more)
            d.select = argv[++i];
        else if (strcmp(argv[i], "--cache") == 0 && more)
            d.cache_folder = argv[++i];
        else if (strcmp(argv[i], "--seconds") == 0 && more && read_number(argv[i + 1], &number))
            p.seconds = number, i++;
        else if (strcmp(argv[i], "--most-mflop") == 0 && more && read_number(argv[i + 1], &number))
            p.most_flops = number * 1e6, i++;
        else
            return usage(stderr, 64);
    }
    struct vireo_error err;
    struct gpu_device *dev = gpu_device_create(&d, &err);
    const bool done = dev && tune(dev, &p, as_json, &err);
    if (!done)
        fprintf(stderr, "vireo: %s\n", err.message);
    gpu_device_destroy(&dev);
    return done ? 0 : 1;
}
