// Supervised fine-tuning: cross-entropy on the tokens of trained assistant messages.
// loss = sum -log p(label) / labelled tokens of the whole step (specs section 12).
#include "compute/train/internal.h"

#include "compute/base/check.h"
#include <math.h>

// What one micro-batch computes, read back to the host in row order.
struct scores {
    uint32_t count, correct;
    double loss_sum, entropy_sum;
};

// Rows [first, end) of the step. `weight`: of each labelled token; 0: forward only (validation).
static bool micro_batch(struct trainer *t, const struct step_data *d, uint32_t first, uint32_t end, double weight,
                        struct scores *out, struct vireo_error *err)
{
    struct arena *a = &t->step_arena;
    struct arena_mark host = arena_mark(a);
    struct tape *tape = trainer_tape(t, weight != 0, err);
    if (!tape)
        return false;
    // The pictures of these rows, each once.
    uint32_t *local = arena_array(a, uint32_t, d->picture_count + 1), labels = 0;
    struct picture_list list = {(const struct picture **)arena_array(a, struct picture *, d->picture_count + 1), 0};
    uint32_t *index = arena_array(a, uint32_t, 64 * (end - first) + 1);
    bool done = (local && list.pictures && index) || vireo_fail_memory(err, d->picture_count * 16);
    for (uint32_t i = 0; done && i < d->picture_count; i++)
        local[i] = UINT32_MAX;
    for (uint32_t i = first; done && i < end; i++) {
        const struct example *e = &d->examples[i];
        for (uint32_t k = 0; k < e->prompt.image_count; k++)
            if (local[e->pictures[k]] == UINT32_MAX) {
                local[e->pictures[k]] = list.count;
                list.pictures[list.count++] = &d->pictures[e->pictures[k]];
            }
        for (uint32_t k = 0; k < e->prompt.trained_count; k++)
            labels += e->prompt.trained_end[k] - e->prompt.trained_first[k];
    }
    struct vision_batch vision = {0};
    struct tensor features = {0};
    if (done && list.count)
        done = pictures_compute(t, tape, t->model, &list, &vision, &features, err);
    struct text_rows rows;
    text_rows_init(&rows, a);
    uint32_t *hidden_row = arena_array(a, uint32_t, labels + 1), *target = arena_array(a, uint32_t, labels + 1), n = 0;
    done = done && ((hidden_row && target) || vireo_fail_memory(err, labels * 8));
    for (uint32_t i = first; done && i < end; i++) {
        const struct example *e = &d->examples[i];
        for (uint32_t k = 0; k < e->prompt.image_count; k++)
            index[k] = local[e->pictures[k]];
        uint32_t at = text_rows_prompt(&rows, &e->prompt, &vision, index);
        for (uint32_t k = 0; k < e->prompt.trained_count; k++)
            for (uint32_t p = VIREO_MAX(1, e->prompt.trained_first[k]); p < e->prompt.trained_end[k]; p++) {
                hidden_row[n] = at + p - 1; // position p - 1 predicts token p
                target[n++] = e->prompt.ids[p];
            }
    }
    struct text_batch batch;
    done = done && text_batch_build(t->model, tape, &rows, NULL, &batch, err);
    float *logprob = arena_array(a, float, n + 1), *entropy = arena_array(a, float, n + 1);
    uint32_t *top = arena_array(a, uint32_t, n + 1);
    done = done && ((logprob && entropy && top) || vireo_fail_memory(err, n * 12));
    *out = (struct scores){.count = n};
    if (done && n > 0) {
        struct tensor hidden = t->model->family->text(tape, t->model, &batch, features);
        struct tensor x = nn_gather(tape, hidden, hidden_row, n);
        struct nn_logprob lp = nn_logprob(tape, x, t->model->head, tape_upload(tape, DTYPE_U32, n, target), 1);
        if (weight != 0 && !tape_failed(tape)) {
            float *seed = arena_array(a, float, n);
            for (uint32_t i = 0; seed && i < n; i++)
                seed[i] = (float)(-weight * t->loss_scale.scale);
            done = seed ? tape_backward(tape, lp.logprob, tape_upload(tape, DTYPE_F32, n, seed), err)
                        : vireo_fail_memory(err, n * 4);
        }
        done = done && !tape_failed(tape) && gpu_read(t->dev, lp.logprob.span, logprob, n * 4, err) &&
               gpu_read(t->dev, lp.entropy.span, entropy, n * 4, err) && gpu_read(t->dev, lp.top.span, top, n * 4, err);
    }
    bool fine = tape_finish(&tape, done || tape == NULL ? err : NULL);
    done = done && fine && gpu_finish(t->dev, err);
    gpu_arena_rewind(t->activations, 0);
    gpu_arena_rewind(t->upload, 0);
    for (uint32_t i = 0; done && i < n; i++) {
        out->loss_sum -= logprob[i];
        out->entropy_sum += entropy[i];
        out->correct += top[i] == target[i];
    }
    arena_rewind(a, host);
    return done;
}

static uint32_t labelled(const struct step_data *d)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->count; i++) {
        const struct prompt *p = &d->examples[i].prompt;
        for (uint32_t k = 0; k < p->trained_count; k++)
            n += p->trained_end[k] - VIREO_MAX(1, p->trained_first[k]);
    }
    return n;
}

static bool step(struct trainer *t, const struct step_data *d, json_t *metrics, json_t *timing, bool *trained,
                 struct vireo_error *err)
{
    struct stopwatch watch = stopwatch_start();
    uint32_t leaves = t->spec->leaves, per_leaf = t->spec->batch_size / leaves;
    uint32_t labels = labelled(d), correct = 0;
    double *loss = arena_array(&t->step_arena, double, leaves), *entropy = arena_array(&t->step_arena, double, leaves);
    bool done = (loss && entropy) || vireo_fail_memory(err, leaves * 16);
    *trained = labels > 0;
    for (uint32_t leaf = 0; done && leaf < leaves; leaf++) {
        uint32_t end = (leaf + 1) * per_leaf;
        for (uint32_t i = leaf * per_leaf; done && i < end; i += t->micro_batch) {
            struct scores s;
            done = micro_batch(t, d, i, VIREO_MIN(end, i + t->micro_batch), 1.0 / VIREO_MAX(1, labels), &s, err);
            if (done) {
                loss[leaf] += s.loss_sum;
                entropy[leaf] += s.entropy_sum;
                correct += s.correct;
            }
        }
        struct tape *tape = done ? trainer_tape(t, false, err) : NULL;
        if (tape)
            optimizer_leaf_done(t->optimizer, tape, leaf);
        done = done && tape && tape_finish(&tape, err);
    }
    if (done) {
        double count = VIREO_MAX(1, labels);
        metric_set(metrics, "loss", leaf_sum(loss, leaves) / count);
        metric_set(metrics, "mean_token_accuracy", correct / count);
        metric_set(metrics, "entropy", leaf_sum(entropy, leaves) / count);
        for (uint32_t i = 0; i < d->count; i++)
            t->num_tokens += d->examples[i].prompt.count;
        stopwatch_lap(&watch, timing, "training");
    }
    return done;
}

// Loss over the validation file, forward only.
static bool validate(struct trainer *t, json_t *metrics, struct vireo_error *err)
{
    uint32_t total = t->validation.count, n = 0, correct = 0;
    if (t->spec->eval_samples)
        total = VIREO_MIN(total, t->spec->eval_samples);
    double loss = 0;
    for (uint32_t i = 0; i < total; i += t->micro_batch) {
        struct arena_mark mark = arena_mark(&t->step_arena);
        uint32_t count = VIREO_MIN(t->micro_batch, total - i);
        uint32_t *rows = arena_array(&t->step_arena, uint32_t, count);
        if (!rows)
            return vireo_fail_memory(err, count * 4);
        for (uint32_t k = 0; k < count; k++)
            rows[k] = i + k;
        struct step_data d;
        struct scores s;
        if (!step_data_build(t->model, t->spec, &t->validation, rows, count, true, &t->step_arena, &d, err))
            return false;
        bool done = micro_batch(t, &d, 0, count, 0, &s, err);
        step_data_finish(&d);
        arena_rewind(&t->step_arena, mark);
        if (!done)
            return false;
        loss += s.loss_sum;
        n += s.count;
        correct += s.correct;
        trainer_progress(t, "validation", (double)(i + count) / total);
    }
    metric_set(metrics, "eval_loss", n ? loss / n : NAN);
    metric_set(metrics, "eval_mean_token_accuracy", n ? (double)correct / n : NAN);
    return true;
}

static bool open_sft(struct trainer *t, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    if (s->validation_file && !data_load(s, s->validation_file, true, &t->validation, err))
        return vireo_explain(err, "validation_file: ");
    return !s->freeze_vision || pictures_open(t, t->longest_row, err);
}

const struct train_method method_sft = {.method = JOB_SFT, .open = open_sft, .step = step, .validate = validate};
