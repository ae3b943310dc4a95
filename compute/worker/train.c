// Training and evaluation workers: the trainer's hooks become frames.
#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/hash.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/nn/gemm_tune.h"
#include "compute/worker/link.h"
#include "compute/worker/model_folder.h"

#include <stdio.h>
#include <string.h>

#define LOG_MODULE "train"
#include "compute/base/log.h"

static void send_with(struct link *l, enum message_kind kind, const char *key, const json_t *value, uint32_t step)
{
    json_t *m = message_new(kind);
    if (m) {
        json_object_set_new(m, "step", json_integer(step));
        if (value)
            json_object_set(m, key, (json_t *)value);
    }
    link_send(l, m);
}

static void on_event(void *context, const char *level, const char *text)
{
    json_t *m = message_new(MESSAGE_EVENT);
    if (m) {
        json_object_set_new(m, "level", json_string(level));
        json_object_set_new(m, "message", json_string(text));
    }
    link_send(context, m);
}

static void on_started(void *context, const json_t *facts)
{
    send_with(context, MESSAGE_STARTED, "facts", facts, 0);
}

// A checkpoint may follow at once; were it on disk before the server has the rows of its steps, a power cut between the two
// would leave a gap in the metrics that no resume fills. So each step waits until its row is safe.
static void on_metrics(void *context, uint32_t step, const json_t *metrics)
{
    vireo_fault("worker.metrics");
    send_with(context, MESSAGE_METRICS, "metrics", metrics, step);
    link_wait_ack(context, step);
    vireo_fault("worker.step");
}

static void on_groups(void *context, uint32_t step, const json_t *groups)
{
    send_with(context, MESSAGE_GROUPS, "groups", groups, step);
}

// The manifest lists every file with its digest, so its own digest stands for the folder.
static void add_digest(json_t *m, const char *folder)
{
    char path[800], sha256[HASH_TEXT];
    struct vireo_error err;
    json_t *file, *manifest;
    json_int_t bytes = 0;
    size_t i;
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    if (!hash_file(path, sha256, &err) || !(manifest = vireo_json_load(path, 16 << 20, &err))) {
        log_warn("%s", err.message);
        return;
    }
    json_array_foreach (json_object_get(manifest, "files"), i, file)
        bytes += json_integer_value(json_object_get(file, "bytes"));
    json_decref(manifest);
    json_object_set_new(m, "sha256", json_string(sha256));
    json_object_set_new(m, "bytes", json_integer(bytes));
}

static void on_checkpoint(void *context, uint32_t step, const char *folder, const json_t *metrics)
{
    json_t *m = message_new(MESSAGE_CHECKPOINT);
    if (m) {
        json_object_set_new(m, "step", json_integer(step));
        json_object_set_new(m, "folder", json_string(folder));
        add_digest(m, folder);
        if (metrics)
            json_object_set(m, "metrics", (json_t *)metrics);
    }
    link_send(context, m);
    vireo_fault("worker.checkpoint");
}

static void on_progress(void *context, const char *phase, double share)
{
    json_t *m = message_new(MESSAGE_PROGRESS);
    if (m) {
        json_object_set_new(m, "phase", json_string(phase));
        json_object_set_new(m, "share", json_real(share));
    }
    link_send(context, m);
}

static enum train_order on_ask(void *context)
{
    return link_order(context);
}

static int fail(struct link *l, const struct vireo_error *err)
{
    log_error("%s", err->message);
    link_send_error(l, MESSAGE_FAILED, err);
    return worker_exit_of(err);
}

static int train(struct link *l, const struct job_spec *spec, struct gpu_device *dev, const struct train_hooks *hooks)
{
    struct vireo_error err = {0};
    switch (train_run(spec, dev, hooks, &err)) {
    case TRAIN_DONE: {
        json_t *facts = NULL;
        if (!model_folder_inspect(spec->output_folder, &facts, &err))
            return fail(l, &err);
        send_with(l, MESSAGE_DONE, "result", facts, spec->max_steps);
        json_decref(facts);
        return WORKER_DONE;
    }
    case TRAIN_CANCELLED: link_send(l, message_new(MESSAGE_CANCELLED)); return WORKER_DONE;
    case TRAIN_PAUSED: link_send(l, message_new(MESSAGE_PAUSED)); return WORKER_DONE;
    case TRAIN_FAILED: break;
    }
    if (gpu_device_is_lost(dev))
        err.code = VIREO_DEVICE_LOST;
    return fail(l, &err);
}

static int evaluate(struct link *l, const struct job_spec *spec, struct gpu_device *dev, const struct train_hooks *hooks)
{
    struct vireo_error err = {0};
    json_t *result = NULL;
    if (evaluate_run(spec, dev, hooks, &result, &err)) {
        send_with(l, MESSAGE_DONE, "result", result, 0);
        json_decref(result);
        return WORKER_DONE;
    }
    if (gpu_device_is_lost(dev))
        err.code = VIREO_DEVICE_LOST;
    return fail(l, &err);
}

int worker_train(struct link *l)
{
    struct vireo_error err;
    struct arena arena;
    struct job_spec spec;
    arena_init(&arena, 0);
    json_t *message = link_receive(l, -1);
    enum message_kind kind = message_kind_of(message);
    if (kind != MESSAGE_RUN && kind != MESSAGE_EVALUATE) {
        vireo_fail(&err, VIREO_INTERNAL, "a training worker was sent '%s' first", message_name(kind));
        fail(l, &err);
        return WORKER_USAGE;
    }
    if (!job_spec_parse(json_object_get(message, "spec"), &arena, &spec, &err))
        return fail(l, &err);
    struct gpu_device_params p = {.select = spec.device,
                                  .memory_limit = spec.memory_limit,
                                  .cache_folder = json_string_value(json_object_get(message, "cache_folder"))};
    on_progress(l, "starting", 0);
    struct gpu_device *dev = gpu_device_create(&p, &err);
    if (!dev) {
        job_spec_finish(&spec);
        return fail(l, &err);
    }
    gemm_tune_once(dev);
    struct train_hooks hooks = {.context = l,
                                .event = on_event,
                                .started = on_started,
                                .metrics = on_metrics,
                                .groups = on_groups,
                                .checkpoint = on_checkpoint,
                                .progress = on_progress,
                                .ask = on_ask};
    int status = kind == MESSAGE_RUN ? train(l, &spec, dev, &hooks) : evaluate(l, &spec, dev, &hooks);
    gpu_device_destroy(&dev);
    job_spec_finish(&spec);
    json_decref(message);
    arena_finish(&arena);
    return status;
}
