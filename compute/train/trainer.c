// The loop around a method: open, resume, step, validate, save, finish.
#include "compute/train/trainer.h"

#include "compute/train/internal.h"
#include "compute/train/plan.h"
#include "compute/train/schedule.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void metric_set(json_t *metrics, const char *name, double value)
{
    json_object_set_new(metrics, name, isfinite(value) ? json_real(value) : json_null());
}

struct stopwatch stopwatch_start(void)
{
    return (struct stopwatch){clock_seconds(), clock_cpu_seconds()};
}

static void add_to(json_t *o, const char *name, double seconds)
{
    json_object_set_new(o, name, json_real(json_number_value(json_object_get(o, name)) + seconds));
}

void stopwatch_lap(struct stopwatch *w, json_t *timing, const char *phase)
{
    struct stopwatch now = stopwatch_start();
    if (!json_object_get(timing, "cpu"))
        json_object_set_new(timing, "cpu", json_object());
    add_to(timing, phase, now.wall - w->wall);
    add_to(json_object_get(timing, "cpu"), phase, now.cpu - w->cpu);
    *w = now;
}

void trainer_progress(struct trainer *t, const char *phase, double share)
{
    if (t->hooks->progress)
        t->hooks->progress(t->hooks->context, phase, share);
}

static void tell(struct trainer *t, const char *level, const char *fmt, ...) VIREO_PRINTF(3, 4);
static void tell(struct trainer *t, const char *level, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (t->hooks->event)
        t->hooks->event(t->hooks->context, level, text);
}

struct tape *trainer_tape(struct trainer *t, bool grad, struct vireo_error *err)
{
    return tape_create(t->dev,
                       &(struct tape_params){.arena = t->activations,
                                             .upload = t->upload,
                                             .grad = grad,
                                              .activations = t->model->activations,
                                             .reuse = true,
                                             .checkpoint = t->checkpointing},
                       err);
}

// The job's first scale, or the one that the checkpoint found (state_find) goes on with.
static void begin_loss_scale(struct trainer *t)
{
    const struct loss_scale found = t->loss_scale;
    t->loss_scale = loss_scale_begin(t->model->activations == DTYPE_F16, t->spec->initial_scale_power,
                                     t->spec->loss_scale_window);
    if (t->loss_scale.on && found.scale >= 1) {
        t->loss_scale.scale = found.scale;
        t->loss_scale.good = found.good;
        t->loss_scale.overflows = found.overflows;
    }
}

// The longest row of the training data and the largest pictures of one, looked at on a sample of rows spread over the
// file.
static bool longest_row(struct trainer *t, bool with_target, uint32_t *tokens, uint64_t *patches, struct vireo_error *err)
{
    *tokens = 0;
    *patches = 0;
    uint32_t step = VIREO_MAX(1, t->data.count / 32);
    for (uint32_t i = 0; i < t->data.count; i += step) {
        struct arena_mark mark = arena_mark(&t->step_arena);
        struct step_data d;
        if (!step_data_build(t->model, t->spec, &t->data, &i, 1, with_target, &t->step_arena, &d, err))
            return false;
        uint64_t rows = 0;
        for (uint32_t k = 0; k < d.picture_count; k++)
            rows += d.patches[k]->rows;
        *tokens = VIREO_MAX(*tokens, d.examples[0].prompt.count);
        *patches = VIREO_MAX(*patches, rows);
        step_data_finish(&d);
        arena_rewind(&t->step_arena, mark);
    }
    return true;
}

// The arenas of activations and of host-written arrays, as large as the sampled rows let expect.
static bool open_memory(struct trainer *t, enum job_method method, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    uint32_t tokens;
    uint64_t patches;
    if (!longest_row(t, method == JOB_SFT, &tokens, &patches, err))
        return false;
    const uint64_t answers = method == JOB_GRPO ? (uint64_t)s->num_generations * s->max_completion_length : 0;
    t->longest_row = tokens;
    const uint64_t row = tokens + answers;
    if (!t->micro_batch)
        t->micro_batch = plan_micro_batch(s, (uint32_t)VIREO_MIN(row, UINT32_MAX));
    const struct plan_batch b = {.tokens = t->micro_batch * row,
                                 .patches = t->micro_batch * patches,
                                 .type = t->model->activations,
                                 .targets = t->micro_batch * (answers ? answers : row),
                                 .gradients = true,
                                 .checkpoint = t->checkpointing,
                                 .adopt = method == JOB_GRPO && s->keep_activations && !t->checkpointing};
    const uint64_t bytes = VIREO_MAX(plan_activation_bytes(&t->model->config, &b), PLAN_ACTIVATIONS_LEAST);
    t->activations = gpu_arena_create(
        t->dev, &(struct gpu_arena_params){.name = "activations", .bytes = bytes, .grows = true}, err);
    t->upload = gpu_arena_create(t->dev,
                                 &(struct gpu_arena_params){.name = "upload",
                                                            .memory = GPU_MEMORY_UPLOAD,
                                                            .bytes = plan_upload_bytes(&t->model->config, &b),
                                                            .grows = true},
                                 err);
    return t->activations && t->upload;
}

static bool open_data(struct trainer *t, bool with_target, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    if (!data_load(s, s->training_file, with_target, &t->data, err))
        return vireo_explain(err, "training_file: ");
    struct order_config order = {.seed = s->seed,
                                 .rows = t->data.count,
                                 .batch = s->batch_size,
                                 .shuffle = s->shuffle,
                                 .unit = dataset_units(&t->data)};
    t->order = order_create(&order, err);
    if (!t->order)
        return false;
    t->total_steps = s->max_steps ? s->max_steps : (uint32_t)order_batches(t->order, s->n_epochs);
    return true;
}

static bool open_trainer(struct trainer *t, const struct train_method *method, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    char resume[600];
    arena_init(&t->step_arena, 1 << 20);
    if (!state_find(t, resume, sizeof resume, err))
        return false;
    trainer_progress(t, "loading", 0);
    struct model_load_params load = {.dtype = job_weight_type(s)};
    t->model = model_load(t->dev, resume[0] ? resume : s->model_folder, &load, err);
    if (!t->model)
        return false;
    begin_loss_scale(t);
    // Side files of the result come from the base: the checkpoint this run resumes from may be pruned before it ends.
    snprintf(t->model->folder, sizeof t->model->folder, "%s", s->model_folder);
    if (!model_take_gradients(t->model, s->freeze_vision, err))
        return false;
    t->optimizer = optimizer_create(t->model, s->leaves, s->offload & OFFLOAD_OPTIMIZER ? s->work_folder : NULL,
                                    err);
    if (!t->optimizer || (resume[0] && !state_load_optimizer(t, resume, err)) ||
        !open_data(t, method->method == JOB_SFT, err) || !open_memory(t, method->method, err))
        return false;
    if (!method->open(t, err))
        return false;
    t->feed = feed_create(&(struct feed_params){.model = t->model,
                                                .spec = s,
                                                .data = &t->data,
                                                .order = t->order,
                                                .total_steps = t->total_steps,
                                                .with_target = method->method == JOB_SFT},
                          err);
    if (!t->feed)
        return false;
    trainer_progress(t, "loading", 1);
    uint64_t trained = 0;
    const struct optimizer_item *items;
    size_t count = optimizer_items(t->optimizer, &items);
    for (size_t i = 0; i < count; i++)
        trained += tensor_count(items[i].weight->value);
    const struct gpu_caps *caps = gpu_device_caps(t->dev);
    json_t *facts = json_pack(
        "{s:i,s:i,s:i,s:I,s:I,s:i,s:i,s:s,s:s,s:i,s:s,s:b}", "total_steps", (int)t->total_steps, "rows", (int)t->data.count,
        "resumed_from", (int)t->step, "parameters", (json_int_t)model_parameters(t->model), "trained_parameters",
        (json_int_t)trained, "micro_batch_size", (int)t->micro_batch, "leaves", (int)s->leaves, "device", caps->name,
        "driver", caps->driver_info, "subgroup_size", (int)caps->subgroup_size, "dtype", dtype_name(t->model->dtype),
        "keeps_activations", t->kept_memory != NULL);
    if (facts && t->hooks->started)
        t->hooks->started(t->hooks->context, facts);
    json_decref(facts);
    return true;
}

static void close_trainer(struct trainer *t)
{
    feed_destroy(&t->feed);
    engine_destroy(&t->engine);
    grader_destroy(&t->grader);
    optimizer_destroy(&t->optimizer);
    keep_close(t);
    pictures_close(t);
    gpu_arena_destroy(&t->activations);
    gpu_arena_destroy(&t->upload);
    model_destroy(&t->reference);
    model_destroy(&t->model);
    order_destroy(&t->order);
    dataset_finish(&t->data);
    dataset_finish(&t->validation);
    arena_finish(&t->step_arena);
}

// The update of a step and the guard against values that are not finite.
static bool update(struct trainer *t, bool trained, json_t *metrics, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    double lr = learning_rate_at(s, t->step + 1, t->total_steps), norm = 0;
    metric_set(metrics, "learning_rate", lr);
    struct tape *tape = trainer_tape(t, false, err);
    if (!tape)
        return false;
    bool done = true;
    if (trained)
        done = optimizer_step(t->optimizer, tape, s, lr, t->updates + 1, t->loss_scale.scale, &norm, err);
    optimizer_zero(t->optimizer, tape);
    bool fine = tape_finish(&tape, done ? err : NULL);
    if (!done || !fine || !gpu_finish(t->dev, err))
        return false;
    gpu_arena_rewind(t->activations, 0);
    gpu_arena_rewind(t->upload, 0);
    metric_set(metrics, "grad_norm", norm);
    if (t->loss_scale.on)
        metric_set(metrics, "loss_scale", t->loss_scale.scale); // of this step
    if (isfinite(norm)) {
        t->skipped_in_a_row = 0;
        t->updates += trained;
        if (trained)
            loss_scale_took(&t->loss_scale);
        return true;
    }
    // A loss that is not finite is the forward pass's doing: no scale helps.
    if (json_is_number(json_object_get(metrics, "loss")) && loss_scale_overflowed(&t->loss_scale)) {
        tell(t, "info", "Step %u: gradients overflowed fp16; the step was skipped, the loss scale is %.0f from here on.",
             t->step + 1, t->loss_scale.scale);
        return true;
    }
    tell(t, "warn", "Step %u: the gradient is not finite; the step was skipped.", t->step + 1);
    if (++t->skipped_in_a_row >= s->max_skipped_steps)
        return vireo_fail_kind(
            err, VIREO_DIVERGED, "diverged", NULL,
            "Training diverged: %u steps in a row had gradients that were not finite (last: step %u). The "
            "last good checkpoint is kept; lower the learning rate.",
            t->skipped_in_a_row, t->step + 1);
    return true;
}

static bool validate_now(const struct trainer *t)
{
    uint32_t done = t->step + 1;
    return t->validation.count > 0 &&
           (done == t->total_steps || (t->spec->eval_interval && done % t->spec->eval_interval == 0));
}

static bool one_step(struct trainer *t, const struct train_method *method, json_t **out, struct vireo_error *err)
{
    double start = clock_seconds();
    struct stopwatch whole = stopwatch_start();
    json_t *metrics = json_object(), *timing = json_object();
    bool done = (metrics && timing) || vireo_fail_memory(err, 64), trained = false;
    double epoch = 0;
    const struct step_data *data = NULL;
    struct stopwatch watch = stopwatch_start();
    done = done && feed_take(t->feed, t->step, &data, &epoch, err);
    if (done) {
        pictures_begin_step(t);
        stopwatch_lap(&watch, timing, "data"); // what is left of it: most is done beside the step before
        done = method->step(t, data, metrics, timing, &trained, err);
    }
    watch = stopwatch_start();
    done = done && update(t, trained, metrics, err);
    if (done)
        stopwatch_lap(&watch, timing, "optimizer");
    if (done && t->loss_scale.on)
        json_object_set_new(metrics, "loss_scale_overflows", json_integer(t->loss_scale.overflows));
    if (done && validate_now(t)) {
        done = method->validate(t, metrics, err);
        stopwatch_lap(&watch, timing, "eval");
    }
    arena_rewind(&t->step_arena, (struct arena_mark){0});
    if (!done) {
        json_decref(metrics);
        json_decref(timing);
        return vireo_explain(err, "step %u: ", t->step + 1);
    }
    t->step++;
    t->steps_here++;
    double seconds = clock_seconds() - start;
    t->seconds_of_steps += seconds;
    json_object_set_new(metrics, "step", json_integer(t->step));
    json_object_set_new(metrics, "total_steps", json_integer(t->total_steps));
    json_object_set_new(metrics, "num_tokens", json_integer((json_int_t)t->num_tokens));
    metric_set(metrics, "epoch", epoch);
    // Clock readings stand apart: everything outside "timing" is the same in every run of this job.
    stopwatch_lap(&whole, timing, "step_time");
    metric_set(timing, "eta_seconds", (t->total_steps - t->step) * t->seconds_of_steps / t->steps_here);
    json_object_set_new(metrics, "timing", timing);
    *out = metrics;
    return true;
}

static bool save(struct trainer *t, const json_t *metrics, struct vireo_error *err)
{
    char folder[700];
    if (!state_save(t, folder, sizeof folder, err))
        return false;
    if (t->hooks->checkpoint)
        t->hooks->checkpoint(t->hooks->context, t->step, folder, metrics);
    return true;
}

// The finished model under a temporary name, then renamed: output_folder exists complete or not at all.
static bool save_output(struct trainer *t, struct vireo_error *err)
{
    char temporary[700];
    snprintf(temporary, sizeof temporary, "%s.tmp", t->spec->output_folder);
    if (!file_remove_tree(temporary, err) || !file_remove_tree(t->spec->output_folder, err) ||
        !model_save(t->model, temporary, err) || !file_sync_folder(temporary, err))
        return false;
    return file_rename(temporary, t->spec->output_folder, err);
}

static enum train_end loop(struct trainer *t, const struct train_method *method, struct vireo_error *err)
{
    uint32_t saved = t->step;
    while (t->step < t->total_steps) {
        enum train_order order = t->hooks->ask ? t->hooks->ask(t->hooks->context) : TRAIN_GO;
        if (order != TRAIN_GO) {
            if (t->step > saved && !save(t, NULL, err))
                return TRAIN_FAILED;
            return order == TRAIN_CANCEL ? TRAIN_CANCELLED : TRAIN_PAUSED;
        }
        json_t *metrics = NULL;
        if (!one_step(t, method, &metrics, err))
            return TRAIN_FAILED;
        if (t->hooks->metrics)
            t->hooks->metrics(t->hooks->context, t->step, metrics);
        bool last = t->step == t->total_steps, done = true;
        if (last || (t->spec->save_steps && t->step % t->spec->save_steps == 0)) {
            done = save(t, metrics, err);
            saved = t->step;
        }
        json_decref(metrics);
        if (!done)
            return TRAIN_FAILED;
    }
    return save_output(t, err) ? TRAIN_DONE : TRAIN_FAILED;
}

enum train_end train_run(const struct job_spec *spec, struct gpu_device *dev, const struct train_hooks *hooks,
                         struct vireo_error *err)
{
    static const struct train_method *const methods[] = {&method_sft, &method_grpo};
    const struct train_method *method = NULL;
    for (size_t i = 0; i < VIREO_COUNT(methods); i++)
        if (methods[i]->method == spec->method)
            method = methods[i];
    if (!method) {
        vireo_fail(err, VIREO_INTERNAL, "'%s' is not a training method", job_method_names[spec->method]);
        return TRAIN_FAILED;
    }
    struct trainer t = {
        .spec = spec, .dev = dev, .hooks = hooks, .checkpointing = spec->gradient_checkpointing};
    enum train_end end = open_trainer(&t, method, err) ? loop(&t, method, err) : TRAIN_FAILED;
    close_trainer(&t);
    return end;
}

bool evaluate_run(const struct job_spec *spec, struct gpu_device *dev, const struct train_hooks *hooks, json_t **out,
                  struct vireo_error *err)
{
    struct trainer t = {.spec = spec, .dev = dev, .hooks = hooks};
    arena_init(&t.step_arena, 1 << 20);
    struct model_load_params load = {.dtype = job_weight_type(spec)};
    json_t *rows = json_array(), *parts = json_object();
    struct evaluation e;
    bool done = (rows && parts) || vireo_fail_memory(err, 64);
    done = done && (t.model = model_load(dev, spec->model_folder, &load, err)) != NULL;
    done = done && (t.grader = grader_create(spec->grader, "grader", err)) != NULL;
    done = done && data_load(spec, spec->training_file, false, &t.data, err);
    uint32_t at_once = done ? VIREO_MIN(64, t.data.count) : 0;
    done = done && trainer_open_engine(&t, at_once, spec->eval_generations, spec->max_completion_length, err) &&
           evaluate_dataset(&t, &t.data, spec->eval_samples, &e, rows, err);
    if (done) {
        for (size_t p = 0; p < grader_part_count(t.grader); p++)
            metric_set(parts, grader_part_name(t.grader, p), e.parts[p]);
        *out = json_pack("{s:i,s:f,s:f,s:f,s:O,s:f,s:f,s:O}", "n", (int)e.n, "mean_reward", e.mean, "reward_std", e.std,
                         "reward_ci95", e.ci95, "rewards", parts, "completions_mean_length", e.mean_length,
                         "parse_error_mean", e.parse_errors, "rows", rows);
        done = *out != NULL || vireo_fail_memory(err, 1 << 16);
    }
    json_decref(rows);
    json_decref(parts);
    close_trainer(&t);
    return done;
}
