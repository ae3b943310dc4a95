// `vireo bench`: runs one of the benchmarks of bench.h on a device of this machine.
#include "compute/worker/bench.h"
#include "compute/worker/bench_roofline.h"

#include "compute/base/check.h"
#include "compute/base/json.h"
#include "compute/gpu/device.h"
#include "compute/worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct bench {
    const char *name, *description;
    bool (*run)(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);
} benches[] = {
    {"gemm", "matrix products", bench_gemm},
    {"attention", "attention, forward and backward", bench_attention},
    {"logprob", "head, log-softmax and gather, forward and backward", bench_logprob},
    {"prefill", "prompts with pictures to their first tokens: needs --config with a model", bench_prefill},
    {"decode", "tokens a second of the engine: needs --config with a model", bench_decode},
    {"grpo", "whole GRPO steps: needs --config with a model", bench_grpo},
    {"sft", "whole SFT steps: needs --config with a model", bench_sft},
    {"load", "weights from a folder into device memory: needs --config with a model", bench_load},
};

static int usage(FILE *out, int status)
{
    fputs("usage: vireo bench NAME [--config FILE] [--device NAME] [--cache FOLDER] [--json]\n\n", out);
    for (size_t i = 0; i < VIREO_COUNT(benches); i++)
        fprintf(out, "  %-10s %s\n", benches[i].name, benches[i].description);
    fputs("\n  --config FILE   what to time, as JSON (see compute/worker/bench.h); built-in values otherwise\n"
          "  --device NAME   index, UUID or part of a name of `vireo devices`\n"
          "  --cache FOLDER  keep compiled kernels there between runs\n"
          "  --json          one JSON object on one line instead of tables\n",
          out);
    return status;
}

int worker_bench_main(int argc, char **argv)
{
    const char *config_file = NULL;
    struct gpu_device_params p = {0};
    const struct bench *bench = NULL;
    bool line = false;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return usage(stdout, 0);
        if (strcmp(argv[i], "--json") == 0)
            line = true;
        else if (strcmp(argv[i], "--config") == 0 && more)
            config_file = argv[++i];
        else if (strcmp(argv[i], "--device") == 0 && more)
            p.select = argv[++i];
        else if (strcmp(argv[i], "--cache") == 0 && more)
            p.cache_folder = argv[++i];
        else if (!bench) {
            for (size_t k = 0; k < VIREO_COUNT(benches); k++)
                if (strcmp(benches[k].name, argv[i]) == 0)
                    bench = &benches[k];
            if (!bench)
                return usage(stderr, 64);
        } else {
            return usage(stderr, 64);
        }
    }
    if (!bench)
        return usage(stderr, 64);
    struct vireo_error err;
    json_t *config = NULL, *out = NULL;
    struct gpu_device *dev = NULL;
    bool done = !config_file || (config = vireo_json_load(config_file, 1 << 20, &err));
    done = done && (dev = gpu_device_create(&p, &err)) && bench->run(dev, config, &out, &err);
    // The calibration comes last: its buffers are no part of the memory that a benchmark tells.
    struct bench_rate rate;
    done = done && bench_rate_measure(dev, &rate, &err) && bench_roofline_complete(out, rate, &err);
    if (done && line) {
        json_dumpf(out, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    } else if (done) {
        bench_print(stdout, out);
    } else {
        fprintf(stderr, "vireo: %s\n", err.message);
    }
    json_decref(out);
    json_decref(config);
    gpu_device_destroy(&dev);
    return done ? 0 : 1;
}
