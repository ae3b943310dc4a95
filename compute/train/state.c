// Checkpoints: everything a bit-exact resume needs, in a folder that is also a complete model.
//
//   step-N/  config.json, tokenizer and other side files, model.safetensors (dtype as the model is stored),
//            optimizer.safetensors (m.I, v.I and, where weights are held or stored in 16 bits, master.I of trained weight
//            I), manifest.json whose
//            "state" holds the counters. Random numbers need no state: they are keyed by seed and step.
#include "compute/train/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/checkpoint/folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void checkpoints_folder(const struct trainer *t, char *path, size_t size)
{
    snprintf(path, size, "%s/checkpoints", t->spec->work_folder);
}

static const char *const part_names[] = {"m", "v", "master"}; // by enum optimizer_part

// Weights in f32 are their own master and are in model.safetensors already, unless it stores them in fewer bits.
static int parts_of(const struct trainer *t, const struct optimizer_item *item)
{
    return item->weight->value.dtype == DTYPE_F32 && t->model->config.stored == DTYPE_F32 ? 2 : 3;
}

static bool write_part(struct trainer *t, struct safetensors_writer *w, size_t item, enum optimizer_part part,
                       uint64_t count, struct vireo_error *err)
{
    enum { PIECE = 1 << 20 };
    float *values = vireo_alloc(VIREO_MIN(count, PIECE) * sizeof *values);
    bool done = values || vireo_fail_memory(err, PIECE * sizeof *values);
    for (uint64_t at = 0; done && at < count; at += PIECE) {
        uint64_t n = VIREO_MIN(count - at, PIECE);
        done = optimizer_get(t->optimizer, item, part, at, n, values, err) &&
               safetensors_write_floats(w, values, n, err);
    }
    free(values);
    return done;
}

static bool write_optimizer(struct trainer *t, struct byte_sink sink, struct vireo_error *err)
{
    enum { NAME = 24 };
    const struct optimizer_item *items;
    size_t count = optimizer_items(t->optimizer, &items), n = 0;
    struct safetensors_entry *entries = vireo_calloc(3 * count, sizeof *entries);
    char(*names)[NAME] = vireo_calloc(3 * count, NAME);
    struct safetensors_writer *w = NULL;
    bool done = (entries && names) || vireo_fail_memory(err, 3 * count * sizeof *entries);
    for (size_t i = 0; done && i < count; i++)
        for (int part = 0; part < parts_of(t, &items[i]); part++, n++) {
            snprintf(names[n], NAME, "%s.%zu", part_names[part], i);
            entries[n] = (struct safetensors_entry){
                .name = names[n], .dtype = SAFETENSORS_F32, .rank = 1, .shape = {tensor_count(items[i].m)}};
        }
    done = done && safetensors_write_begin(&w, sink, entries, n, NULL, err);
    for (size_t i = 0; done && i < count; i++)
        for (int part = 0; done && part < parts_of(t, &items[i]); part++)
            done = write_part(t, w, i, (enum optimizer_part)part, tensor_count(items[i].m), err);
    if (w && done)
        done = safetensors_write_end(&w, err);
    else
        safetensors_write_abandon(&w);
    free(entries);
    free(names);
    return done;
}

static bool write_all(struct trainer *t, struct checkpoint_writer *w, struct vireo_error *err)
{
    char from[700];
    for (size_t i = 0; model_side_files[i]; i++) {
        snprintf(from, sizeof from, "%s/%s", t->spec->model_folder, model_side_files[i]);
        if (file_exists(from) && !checkpoint_add_copy(w, model_side_files[i], from, err))
            return false;
    }
    struct byte_sink sink;
    return checkpoint_file_open(w, "model.safetensors", &sink, err) &&
           model_save_weights(t->model, t->model->config.stored, sink, err) && checkpoint_file_close(w, err) &&
           checkpoint_file_open(w, "optimizer.safetensors", &sink, err) && write_optimizer(t, sink, err) &&
           checkpoint_file_close(w, err);
}

bool state_save(struct trainer *t, char *folder, size_t size, struct vireo_error *err)
{
    char parent[600];
    checkpoints_folder(t, parent, sizeof parent);
    struct checkpoint_writer *w = NULL;
    json_t *state =
        json_pack("{s:i,s:i,s:i,s:i,s:I,s:i,s:i,s:f,s:i,s:i,s:s}", "step", (int)t->step, "total_steps", (int)t->total_steps,
                  "updates", (int)t->updates, "skipped_in_a_row", (int)t->skipped_in_a_row, "num_tokens",
                  (json_int_t)t->num_tokens, "micro_batch_size", (int)t->micro_batch, "leaves", (int)t->spec->leaves,
                  "loss_scale", t->loss_scale.scale, "loss_scale_good", (int)t->loss_scale.good, "loss_scale_overflows",
                  (int)t->loss_scale.overflows, "device", gpu_device_caps(t->dev)->name);
    bool done = state ? checkpoint_begin(&w, parent, t->step, err) : vireo_fail_memory(err, 256);
    if (done && !write_all(t, w, err)) {
        checkpoint_abandon(&w);
        done = false;
    }
    done = done && checkpoint_commit(&w, state, err);
    json_decref(state);
    if (!done)
        return vireo_explain(err, "checkpoint of step %u: ", t->step);
    snprintf(folder, size, "%s/step-%u", parent, t->step);
    return checkpoint_prune(parent, t->spec->save_total_limit, NULL, 0, NULL, err);
}

static void skipped(void *context, uint64_t step, const struct vireo_error *why)
{
    struct trainer *t = context;
    char text[640];
    snprintf(text, sizeof text, "Checkpoint of step %llu is damaged and was passed over: %s", (unsigned long long)step,
             why->message);
    if (t->hooks->event)
        t->hooks->event(t->hooks->context, "warn", text);
}

static uint32_t counter(const json_t *state, const char *key)
{
    return (uint32_t)json_integer_value(json_object_get(state, key));
}

bool state_find(struct trainer *t, char *path, size_t size, struct vireo_error *err)
{
    char parent[600];
    checkpoints_folder(t, parent, sizeof parent);
    path[0] = 0;
    struct checkpoint c = {0};
    struct vireo_error why = {0};
    if (!checkpoint_clean(parent, err))
        return false;
    if (!checkpoint_open_newest(parent, skipped, t, &c, &why)) {
        if (why.code == VIREO_NOT_FOUND)
            return true;
        if (err)
            *err = why;
        return false;
    }
    snprintf(path, size, "%s", c.path);
    t->step = counter(c.state, "step");
    t->updates = counter(c.state, "updates");
    t->skipped_in_a_row = counter(c.state, "skipped_in_a_row");
    t->num_tokens = (uint64_t)json_integer_value(json_object_get(c.state, "num_tokens"));
    t->micro_batch = counter(c.state, "micro_batch_size");
    if (json_object_get(c.state, "loss_scale")) // older ones have none
        t->loss_scale = (struct loss_scale){.scale = json_number_value(json_object_get(c.state, "loss_scale")),
                                            .good = counter(c.state, "loss_scale_good"),
                                            .overflows = counter(c.state, "loss_scale_overflows")};
    uint32_t leaves = counter(c.state, "leaves");
    const char *device = json_string_value(json_object_get(c.state, "device"));
    if (device && strcmp(device, gpu_device_caps(t->dev)->name) != 0 && t->hooks->event) {
        char text[400];
        snprintf(text, sizeof text,
                 "Resuming on %.120s; the job ran on %.120s before: the bits may differ from here on.",
                 gpu_device_caps(t->dev)->name, device);
        t->hooks->event(t->hooks->context, "warn", text);
    }
    checkpoint_finish(&c);
    if (leaves != t->spec->leaves)
        return vireo_fail(err, VIREO_CORRUPT, "the checkpoint was written with %u leaves, the job has %u", leaves,
                          t->spec->leaves);
    return true;
}

// The 16-bit weight of a master, which the folder may store in another type.
static bool round_weight(struct trainer *t, struct tensor w, uint64_t at, uint64_t n, const float *values,
                         struct vireo_error *err)
{
    const uint64_t size = dtype_bytes(w.dtype);
    const struct tensor part = {
        .span = gpu_span_part(w.span, at * size, n * size), .dtype = w.dtype, .rank = 1, .shape = {(uint32_t)n}, .stride = 1};
    return w.dtype == DTYPE_F32 || tensor_write_floats(t->dev, part, values, err);
}

static bool read_part(struct trainer *t, const struct safetensors *file, size_t item, enum optimizer_part part,
                      uint64_t count, struct vireo_error *err)
{
    enum { PIECE = 1 << 20 };
    char name[24];
    snprintf(name, sizeof name, "%s.%zu", part_names[part], item);
    const struct safetensor *s = safetensors_find(file, name);
    const struct optimizer_item *items;
    optimizer_items(t->optimizer, &items);
    const struct tensor weight = items[item].weight->value;
    if (!s && part == OPTIMIZER_MASTER && weight.dtype == DTYPE_F32)
        return true; // a checkpoint of an earlier build
    if (!s || s->count != count)
        return vireo_fail(err, VIREO_CORRUPT, "optimizer.safetensors: %s is missing or has another size", name);
    float *values = vireo_alloc(VIREO_MIN(count, PIECE) * sizeof *values);
    bool done = values || vireo_fail_memory(err, PIECE * sizeof *values);
    for (uint64_t at = 0; done && at < count; at += PIECE) {
        uint64_t n = VIREO_MIN(count - at, PIECE);
        done = safetensors_floats(s, at, n, values, err) &&
               optimizer_set(t->optimizer, item, part, at, n, values, err) &&
               (part != OPTIMIZER_MASTER || round_weight(t, weight, at, n, values, err));
    }
    free(values);
    return done;
}

bool state_load_optimizer(struct trainer *t, const char *path, struct vireo_error *err)
{
    char file_path[700];
    snprintf(file_path, sizeof file_path, "%s/optimizer.safetensors", path);
    struct safetensors *file = NULL;
    if (!safetensors_open(file_path, &file, err))
        return false;
    const struct optimizer_item *items;
    size_t count = optimizer_items(t->optimizer, &items);
    bool done = true;
    for (size_t i = 0; done && i < count; i++)
        for (int part = 0; done && part < parts_of(t, &items[i]); part++)
            done = read_part(t, file, i, (enum optimizer_part)part, tensor_count(items[i].m), err);
    safetensors_close(&file);
    return done;
}
