// quick_job SPEC.json METRICS: one training job in this process, without a server: what the crash tests kill.
//
// METRICS gets one JSON line a step, without "timing" (clock readings are the only values that differ between runs). On
// a resume the lines beyond the checkpoint are cut, as the server cuts its metric rows. Exit: 0 done, 3 failed.
#include "compute/base/arena.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/base/log.h"
#include "compute/train/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "quick_job"

struct sink {
    const char *path;
    uint32_t stop_after; // VIREO_STOP_AFTER: cancel at this step boundary; 0: never
    uint32_t step;
};

static void event(void *context, const char *level, const char *message)
{
    (void)context;
    log_info("%s: %s", level, message);
}

static void started(void *context, const json_t *facts)
{
    struct sink *s = context;
    uint32_t resumed = (uint32_t)json_integer_value(json_object_get(facts, "resumed_from"));
    char *text = json_dumps(facts, JSON_COMPACT);
    log_info("%s", text ? text : "");
    free(text);
    // Keep the first `resumed` lines.
    FILE *f = fopen(s->path, "r+");
    if (!f)
        return;
    long end = 0;
    for (uint32_t lines = 0; lines < resumed;) {
        int c = fgetc(f);
        if (c == EOF)
            break;
        if (c == '\n') {
            lines++;
            end = ftell(f);
        }
    }
    if (ftruncate(fileno(f), end) != 0)
        log_error("cannot cut %s", s->path);
    fclose(f);
}

static void metrics(void *context, uint32_t step, const json_t *values)
{
    struct sink *s = context;
    s->step = step;
    json_t *copy = json_copy((json_t *)values);
    json_t *timing = json_object_get(copy, "timing");
    if (getenv("VIREO_SHOW")) {
        char *line = json_dumps(values, JSON_COMPACT | JSON_SORT_KEYS);
        printf("%s\n", line);
        free(line);
    }
    (void)timing;
    json_object_del(copy, "timing");
    char *text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS);
    FILE *f = fopen(s->path, "a");
    if (f && text)
        fprintf(f, "%s\n", text);
    if (f)
        fclose(f);
    free(text);
    json_decref(copy);
}

static enum train_order ask(void *context)
{
    const struct sink *s = context;
    return s->stop_after && s->step >= s->stop_after ? TRAIN_CANCEL : TRAIN_GO;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: quick_job SPEC.json METRICS\n");
        return 64;
    }
    struct vireo_error err;
    struct arena a;
    struct job_spec spec;
    const char *stop = getenv("VIREO_STOP_AFTER");
    struct sink sink = {.path = argv[2], .stop_after = stop ? (uint32_t)strtoul(stop, NULL, 10) : 0};
    arena_init(&a, 1 << 14);
    json_t *o = vireo_json_load(argv[1], 16 << 20, &err);
    if (!o || !job_spec_parse(o, &a, &spec, &err)) {
        fprintf(stderr, "%s: %s [%s]\n", argv[1], err.message, err.param);
        return 64;
    }
    struct gpu_device_params p = {.select = spec.device, .cache_folder = getenv("VIREO_CACHE")};
    struct gpu_device *dev = gpu_device_create(&p, &err);
    if (!dev) {
        printf("no device: %s\n", err.message);
        return 77;
    }
    struct train_hooks hooks = {.context = &sink, .event = event, .started = started, .metrics = metrics, .ask = ask};
    json_t *result = NULL;
    bool done;
    if (spec.method == JOB_EVALUATE) {
        done = evaluate_run(&spec, dev, &hooks, &result, &err);
        if (done) {
            json_object_del(result, "rows");
            char *text = json_dumps(result, JSON_COMPACT | JSON_SORT_KEYS);
            printf("%s\n", text ? text : "");
            free(text);
        }
    } else {
        enum train_end end = train_run(&spec, dev, &hooks, &err);
        done = end != TRAIN_FAILED;
    }
    if (!done)
        fprintf(stderr, "failed: %s (%s) %s\n", err.message, vireo_code_name(err.code), err.param);
    json_decref(result);
    gpu_device_destroy(&dev);
    job_spec_finish(&spec);
    json_decref(o);
    arena_finish(&a);
    return done ? 0 : 3;
}
