// Training cases: SFT loss and gradients, three AdamW steps, the GRPO losses and gradients.
#include "tests/cases/golden.h"

#include "compute/base/check.h"
#include "compute/train/optimizer.h"
#include "compute/train/policy_loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Everything of sft_batch on the host.
struct sft {
    const int32_t *ids, *mask, *labels;
    uint32_t rows, length, images;
    struct patches *patches;
};

static bool read_sft(struct golden *g, const struct safetensors *f, struct sft *out)
{
    size_t n;
    const struct safetensor *s = safetensors_find(f, "input_ids");
    if (!s)
        return false;
    out->rows = (uint32_t)s->shape[0];
    out->length = (uint32_t)s->shape[1];
    out->ids = golden_integers(g, f, "input_ids", &n);
    out->mask = golden_integers(g, f, "attention_mask", &n);
    out->labels = golden_integers(g, f, "labels", &n);
    out->patches = golden_patches(g, f, &out->images);
    return out->ids && out->mask && out->labels;
}

static uint32_t unit_of(const struct model *m)
{
    return m->config.vision.spatial_merge_size * m->config.vision.spatial_merge_size;
}

static void grids_of(const struct model *m, const struct patches *p, uint32_t n, struct image_grid *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (struct image_grid){p[i].t, p[i].h, p[i].w, (uint32_t)(p[i].rows / unit_of(m))};
}

static struct tensor run_vision(struct golden *g, struct tape *t, const struct model *m, const struct patches *p,
                                uint32_t n, struct vision_batch *out)
{
    struct vireo_error err;
    const struct patches **list = (const struct patches **)arena_array(&g->host, struct patches *, n + 1);
    for (uint32_t i = 0; i < n; i++)
        list[i] = &p[i];
    if (!n)
        return (struct tensor){0};
    if (!vision_batch_build(m, t, list, n, &g->host, out, &err)) {
        tape_fail(t, VIREO_INTERNAL, "%s", err.message);
        return (struct tensor){0};
    }
    return m->family->vision(t, m, out);
}

// Images that stand in a sequence: runs of placeholders.
static uint32_t count_images(const struct model *m, const uint32_t *ids, uint32_t n, const struct image_grid *grids)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n;)
        if (ids[i] == m->config.image_token_id)
            i += grids[count++].tokens;
        else
            i++;
    return count;
}

// Forward and, with grad, backward of sft_batch, from the loss times `scale`. Returns the loss (NaN on failure).
static double sft_pass(struct golden *g, struct model *m, const struct sft *s, bool grad, float scale)
{
    struct vireo_error err = {0};
    struct arena *a = &g->host;
    struct tape *t = golden_tape_of(g, m->activations, grad);
    struct vision_batch vision = {0};
    struct image_grid *grids = arena_array(a, struct image_grid, s->images + 1);
    grids_of(m, s->patches, s->images, grids);
    struct tensor features = run_vision(g, t, m, s->patches, s->images, &vision);
    struct text_rows rows;
    text_rows_init(&rows, a);
    uint32_t *hidden = arena_array(a, uint32_t, s->rows * s->length),
             *target = arena_array(a, uint32_t, s->rows * s->length);
    uint32_t n = 0, image = 0;
    for (uint32_t r = 0; r < s->rows; r++) {
        uint32_t count = 0;
        const int32_t *ids = s->ids + r * s->length, *labels = s->labels + r * s->length;
        while (count < s->length && s->mask[r * s->length + count])
            count++;
        uint32_t images = count_images(m, (const uint32_t *)ids, count, grids + image);
        uint32_t *index = arena_array(a, uint32_t, images + 1);
        for (uint32_t i = 0; i < images; i++)
            index[i] = image + i;
        struct prompt p;
        if (!prompt_from_ids(m, (const uint32_t *)ids, count, grids + image, images, a, &p, &err)) {
            golden_fail(g, "row %u: %s", r, err.message);
            break;
        }
        image += images;
        uint32_t first = text_rows_prompt(&rows, &p, &vision, index);
        for (uint32_t i = 1; i < count; i++)
            if (labels[i] >= 0) {
                hidden[n] = first + i - 1;
                target[n++] = (uint32_t)labels[i];
            }
    }
    struct text_batch batch;
    double loss = NAN;
    if (text_batch_build(m, t, &rows, NULL, &batch, &err)) {
        struct tensor h = m->family->text(t, m, &batch, features);
        struct nn_logprob lp =
            nn_logprob(t, nn_gather(t, h, hidden, n), m->head, tape_upload(t, DTYPE_U32, n, target), 1);
        float *values = arena_array(a, float, n);
        for (uint32_t i = 0; i < n; i++)
            values[i] = -scale / (float)n;
        if (grad && !tape_failed(t))
            tape_backward(t, lp.logprob, tape_upload(t, DTYPE_F32, n, values), &err);
        if (!tape_failed(t) && gpu_read(g->dev, lp.logprob.span, values, n * 4, &err)) {
            loss = 0;
            for (uint32_t i = 0; i < n; i++)
                loss -= (double)values[i] / n;
        }
    }
    if (!golden_tape_end(g, &t))
        loss = NAN;
    return loss;
}

// Every parameter's gradient, which holds `scale` times itself, against the file: the worst relative error, tensors of
// tiny norm by absolute error.
static void check_gradients(struct golden *g, const struct model *m, const char *file, const char *what, double scale)
{
    const bool f16 = m->dtype == DTYPE_F16;
    struct vireo_error err;
    struct safetensors *f = NULL;
    if (!safetensors_open(golden_path(g, "cases/%s", file), &f, &err)) {
        golden_fail(g, "%s", err.message);
        return;
    }
    double worst = 0, worst_small = 0;
    uint32_t seen = 0;
    char place[96] = "";
    for (size_t i = 0; i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        struct arena_mark mark = arena_mark(&g->host);
        size_t n;
        const float *want = golden_floats(g, f, p->name, &n);
        float *got = arena_array(&g->host, float, (size_t)p->rows * p->columns);
        if (!want || n != (size_t)p->rows * p->columns || !model_read_param(m, p, true, got, &err)) {
            golden_fail(g, "%s: gradient of %s missing", what, p->name);
            arena_rewind(&g->host, mark);
            continue;
        }
        double d2 = 0, r2 = 0, most = 0;
        for (size_t k = 0; k < n; k++) {
            double d = got[k] / scale - want[k];
            d2 += d * d;
            r2 += (double)want[k] * want[k];
            most = fmax(most, fabs(d));
        }
        if (isnan(d2))
            d2 = INFINITY;
        if (sqrt(r2) < 1e-3) {
            worst_small = fmax(worst_small, most);
        } else if (sqrt(d2 / r2) >= worst) {
            worst = sqrt(d2 / r2);
            snprintf(place, sizeof place, "%s", p->name);
        }
        seen++;
        arena_rewind(&g->host, mark);
    }
    char text[200];
    snprintf(text, sizeof text, "%s of %u parameters, worst %s (rel)", what, seen, place);
    golden_report(g, text, seen ? worst : NAN, f16 ? 3e-2 : 2e-4);
    golden_report(g, "gradients of norm below 1e-3 (abs)", worst_small, f16 ? 1e-4 : 1e-5);
    if (safetensors_count(f) != m->param_count)
        golden_fail(g, "%zu gradients in the file, the model has %zu parameters", safetensors_count(f), m->param_count);
    safetensors_close(&f);
}

void golden_sft(struct golden *g, const char *name, const json_t *c)
{
    struct vireo_error err;
    struct safetensors *f = NULL;
    struct sft s;
    struct model *m = golden_model(g, "tiny-qwen2_5_vl", DTYPE_F32);
    if (m && safetensors_open(golden_path(g, "cases/%s.safetensors", name), &f, &err) && read_sft(g, f, &s) &&
        model_take_gradients(m, false, &err)) {
        const char *gradients = json_string_value(json_object_get(c, "gradients"));
        const double wanted = json_number_value(json_object_get(c, "loss"));
        double loss = sft_pass(g, m, &s, true, 1);
        golden_report(g, "loss", fabs(loss - wanted), 5e-5);
        check_gradients(g, m, gradients, "gradients", 1);
        // In fp16, its loss scaled as a job's is at first.
        struct model *half = g->fp16 ? golden_model(g, "tiny-qwen2_5_vl", DTYPE_F16) : NULL;
        if (half && model_take_gradients(half, false, &err)) {
            loss = sft_pass(g, half, &s, true, 65536);
            golden_report(g, "loss in fp16", fabs(loss - wanted), 5e-3);
            check_gradients(g, half, gradients, "gradients in fp16", 65536);
        }
        model_destroy(&half);
    } else if (m) {
        golden_fail(g, "%s", err.message);
    }
    safetensors_close(&f);
    model_destroy(&m);
}

void golden_adamw(struct golden *g, const char *name, const json_t *c, const json_t *all)
{
    (void)name;
    (void)all;
    struct vireo_error err;
    struct safetensors *f = NULL, *after = NULL;
    struct sft s;
    struct model *m = golden_model(g, "tiny-qwen2_5_vl", DTYPE_F32),
                 *before = golden_model(g, "tiny-qwen2_5_vl", DTYPE_F32);
    struct optimizer *o = NULL;
    const json_t *h = json_object_get(c, "hyperparameters"),
                 *trace = json_object_get(c, "loss_and_unclipped_gradient_norm_before_each_step");
    bool done =
        m && before &&
        safetensors_open(golden_path(g, "cases/%s.safetensors", json_string_value(json_object_get(c, "batch"))), &f,
                         &err) &&
        safetensors_open(golden_path(g, "cases/%s", json_string_value(json_object_get(c, "weights"))), &after, &err) &&
        read_sft(g, f, &s) && model_take_gradients(m, false, &err) && (o = optimizer_create(m, 1, NULL, &err)) != NULL;
    if (!done) {
        golden_fail(g, "%s", err.message);
        goto end;
    }
    struct job_spec spec;
    job_spec_defaults(&spec, JOB_SFT);
    spec.adam_beta1 = json_number_value(json_object_get(h, "beta1"));
    spec.adam_beta2 = json_number_value(json_object_get(h, "beta2"));
    spec.adam_epsilon = json_number_value(json_object_get(h, "eps"));
    spec.weight_decay = json_number_value(json_object_get(h, "weight_decay"));
    spec.max_grad_norm = json_number_value(json_object_get(h, "max_grad_norm"));
    for (uint32_t step = 1; step <= json_array_size(trace); step++) {
        const json_t *want = json_array_get(trace, step - 1);
        double loss = sft_pass(g, m, &s, true, 1), norm = 0, wanted = json_number_value(json_array_get(want, 1));
        struct tape *t = golden_tape(g, false);
        optimizer_leaf_done(o, t, 0);
        if (!optimizer_step(o, t, &spec, json_number_value(json_object_get(h, "lr")), step, 1, &norm, &err))
            golden_fail(g, "step %u: %s", step, err.message);
        optimizer_zero(o, t);
        golden_tape_end(g, &t);
        golden_report(g, "loss trace", fabs(loss - json_number_value(json_array_get(want, 0))), 1e-3);
        golden_report(g, "gradient norm (rel)", fabs(norm - wanted) / wanted, 1e-3);
    }
    double last = sft_pass(g, m, &s, false, 1);
    golden_report(g, "loss after the last step",
                  fabs(last - json_number_value(json_object_get(c, "loss_after_last_step"))), 1e-3);
    double worst = 0;
    for (size_t i = 0; i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        struct arena_mark mark = arena_mark(&g->host);
        size_t n;
        const float *want = golden_floats(g, after, p->name, &n);
        float *x = arena_array(&g->host, float, (size_t)p->rows * p->columns),
              *x0 = arena_array(&g->host, float, (size_t)p->rows * p->columns);
        double d2 = 0, r2 = 0;
        if (want && model_read_param(m, p, false, x, &err) &&
            model_read_param(before, model_param_find(before, p->name), false, x0, &err))
            for (size_t k = 0; k < n; k++) {
                double d = (double)x[k] - want[k], r = (double)want[k] - x0[k];
                d2 += d * d;
                r2 += r * r;
            }
        else
            golden_fail(g, "%s missing", p->name);
        worst = fmax(worst, r2 > 0 ? sqrt(d2 / r2) : 0);
        arena_rewind(&g->host, mark);
    }
    golden_report(g, "weight change after three steps, worst tensor (rel)", worst, 1e-2);
end:
    optimizer_destroy(&o);
    model_destroy(&m);
    model_destroy(&before);
    safetensors_close(&f);
    safetensors_close(&after);
}

struct grpo {
    const int32_t *prompt_ids, *prompt_mask, *ids, *attention, *mask, *image_of, *images_per;
    const float *advantages, *old, *ref;
    uint32_t rows, P, T, images;
    struct patches *patches;
};

struct grpo_result {
    double loss;
    float *logprob, *kl, *ratio, *each; // [rows * T], per token, unweighted loss in `each`
};

// One micro-batch of rows [first, end): groups of equal prompts share them. weight[row] per unmasked token.
static bool grpo_pass(struct golden *g, struct model *m, const struct grpo *s, uint32_t first, uint32_t end,
                      const double *weight, const float *old, const struct nn_policy_params *params, bool grad,
                      struct grpo_result *out)
{
    struct vireo_error err = {0};
    struct arena *a = &g->host;
    uint32_t most = s->rows * s->T, n = 0, image = 0, at = 0;
    struct tape *t = golden_tape(g, grad);
    struct vision_batch vision = {0};
    struct tensor features = run_vision(g, t, m, s->patches, s->images, &vision);
    struct text_rows rows;
    text_rows_init(&rows, a);
    uint32_t *hidden = arena_array(a, uint32_t, most), *target = arena_array(a, uint32_t, most),
             *place = arena_array(a, uint32_t, most);
    float *o = arena_array(a, float, most), *ref = arena_array(a, float, most), *adv = arena_array(a, float, most),
          *w = arena_array(a, float, most);
    struct prompt p = {0};
    for (uint32_t r = 0; r < first; r++)
        image += (uint32_t)s->images_per[r];
    for (uint32_t r = first; r < end; r++) {
        const int32_t *ids = s->prompt_ids + r * s->P, *mask = s->prompt_mask + r * s->P;
        bool same = r > first && memcmp(ids, ids - s->P, s->P * 4) == 0 && s->images_per[r] == s->images_per[r - 1] &&
                    memcmp(&s->image_of[image], &s->image_of[image - (uint32_t)s->images_per[r - 1]],
                           (size_t)s->images_per[r] * 4) == 0;
        if (!same) {
            uint32_t list[4096], count = 0, index[16];
            struct image_grid grids[16];
            for (uint32_t i = 0; i < s->P && count < 4096; i++)
                if (mask[i])
                    list[count++] = (uint32_t)ids[i];
            for (uint32_t i = 0; i < (uint32_t)s->images_per[r] && i < 16; i++) {
                index[i] = (uint32_t)s->image_of[image + i];
                grids_of(m, &s->patches[index[i]], 1, &grids[i]);
            }
            if (!prompt_from_ids(m, list, count, grids, (uint32_t)s->images_per[r], a, &p, &err)) {
                golden_fail(g, "row %u: %s", r, err.message);
                return false;
            }
            at = text_rows_prompt(&rows, &p, &vision, index);
        }
        image += (uint32_t)s->images_per[r];
        uint32_t count = 0;
        while (count < s->T && s->attention[r * s->T + count])
            count++;
        const uint32_t *completion = (const uint32_t *)s->ids + r * s->T;
        uint32_t row = text_rows_completion(&rows, at, p.count, completion, count ? count - 1 : 0, p.next_position);
        for (uint32_t i = 0; i < count; i++, n++) {
            hidden[n] = i ? row + i - 1 : at + p.count - 1;
            target[n] = completion[i];
            place[n] = r * s->T + i;
            o[n] = old[place[n]];
            ref[n] = s->ref[place[n]];
            adv[n] = s->advantages[r];
            w[n] = s->mask[place[n]] ? (float)weight[r] : 0;
        }
    }
    struct text_batch batch;
    bool done = text_batch_build(m, t, &rows, NULL, &batch, &err);
    if (done) {
        struct tensor h = m->family->text(t, m, &batch, features);
        struct nn_logprob lp =
            nn_logprob(t, nn_gather(t, h, hidden, n), m->head, tape_upload(t, DTYPE_U32, n, target), 1);
        // "old equals current": the caller passes NULL by a NaN in the first place.
        if (isnan(old[0]) && gpu_read(g->dev, lp.logprob.span, o, n * 4, &err)) {
        }
        struct nn_policy pl =
            nn_policy_loss(t, lp.logprob, tape_upload(t, DTYPE_F32, n, o), tape_upload(t, DTYPE_F32, n, ref),
                           tape_upload(t, DTYPE_F32, n, adv), tape_upload(t, DTYPE_F32, n, w), params);
        float *x[4];
        for (int k = 0; k < 4; k++)
            x[k] = arena_array(a, float, n);
        if (grad && !tape_failed(t))
            done = tape_backward(t, lp.logprob, pl.grad, &err);
        done = done && !tape_failed(t) && gpu_read(g->dev, lp.logprob.span, x[0], n * 4, &err) &&
               gpu_read(g->dev, pl.kl.span, x[1], n * 4, &err) && gpu_read(g->dev, pl.ratio.span, x[2], n * 4, &err) &&
               gpu_read(g->dev, pl.loss.span, x[3], n * 4, &err);
        for (uint32_t i = 0; done && i < n; i++) {
            out->logprob[place[i]] = x[0][i];
            out->kl[place[i]] = x[1][i];
            out->ratio[place[i]] = x[2][i];
            out->each[place[i]] = w[i] != 0 ? x[3][i] / w[i] : 0;
            out->loss += x[3][i];
        }
    }
    return golden_tape_end(g, &t) && done;
}

static void check_tokens(struct golden *g, const struct grpo *s, const struct safetensors *f, const char *name,
                         const float *x, bool masked, double abs)
{
    size_t n;
    const float *want = golden_floats(g, f, name, &n);
    double worst = 0;
    for (size_t i = 0; want && i < n; i++)
        if (masked ? s->mask[i] : s->attention[i])
            worst = fmax(worst, fabs((double)x[i] - want[i]));
    golden_report(g, name, want ? worst : NAN, abs);
}

static void weights_of(const struct grpo *s, enum loss_type type, uint32_t first, uint32_t end, uint32_t accumulation,
                       uint64_t items, uint32_t max_length, double *weight)
{
    uint32_t lengths[256];
    for (uint32_t r = first; r < end; r++) {
        lengths[r - first] = 0;
        for (uint32_t i = 0; i < s->T; i++)
            lengths[r - first] += s->mask[r * s->T + i] != 0;
    }
    struct policy_rows b = {end - first, lengths, max_length, accumulation, items};
    for (uint32_t r = first; r < end; r++)
        weight[r] = policy_token_weight(type, &b, r - first);
}

void golden_grpo(struct golden *g, const char *name, const json_t *c)
{
    struct vireo_error err = {0};
    struct safetensors *f = NULL;
    struct grpo s = {0};
    struct model *m = golden_model(g, "tiny-qwen2_5_vl", DTYPE_F32);
    if (!m || !safetensors_open(golden_path(g, "cases/%s.safetensors", name), &f, &err)) {
        golden_fail(g, "%s", err.message);
        model_destroy(&m);
        return;
    }
    size_t n;
    s.prompt_ids = golden_integers(g, f, "prompt_ids", &n);
    s.prompt_mask = golden_integers(g, f, "prompt_mask", &n);
    s.ids = golden_integers(g, f, "completion_ids", &n);
    s.attention = golden_integers(g, f, "completion_attention", &n);
    s.mask = golden_integers(g, f, "completion_mask", &n);
    s.image_of = golden_integers(g, f, "image_index_of_sample", &n);
    s.images_per = golden_integers(g, f, "images_per_sample", &n);
    s.advantages = golden_floats(g, f, "advantages", &n);
    s.old = golden_floats(g, f, "old_logprobs", &n);
    s.ref = golden_floats(g, f, "ref_logprobs", &n);
    s.rows = (uint32_t)safetensors_find(f, "completion_ids")->shape[0];
    s.T = (uint32_t)safetensors_find(f, "completion_ids")->shape[1];
    s.P = (uint32_t)safetensors_find(f, "prompt_ids")->shape[1];
    s.patches = golden_patches(g, f, &s.images);
    uint32_t max_length = (uint32_t)json_integer_value(json_object_get(c, "max_completion_length"));
    uint64_t masked = 0;
    for (uint32_t i = 0; i < s.rows * s.T; i++)
        masked += s.mask[i] != 0;
    struct nn_policy_params params = {(float)json_number_value(json_object_get(c, "epsilon_low")),
                                      (float)json_number_value(json_object_get(c, "epsilon_high")),
                                      (float)json_number_value(json_object_get(c, "beta"))};
    double *weight = arena_array(&g->host, double, s.rows);
    struct grpo_result r = {0};
    float **parts[] = {&r.logprob, &r.kl, &r.ratio, &r.each};
    for (int k = 0; k < 4; k++)
        *parts[k] = arena_array(&g->host, float, s.rows *s.T);
    float *same = arena_array(&g->host, float, s.rows *s.T);
    for (uint32_t i = 0; i < s.rows * s.T; i++)
        same[i] = NAN;
    if (!model_take_gradients(m, false, &err)) {
        golden_fail(g, "%s", err.message);
        goto done;
    }
    const json_t *losses = json_object_get(c, "losses"), *others = json_object_get(c, "other_losses_without_gradients");
    for (int type = LOSS_GRPO; type <= LOSS_DAPO; type++) {
        const char *label = loss_type_names[type];
        const json_t *want = json_object_get(losses, label);
        const char *gradients = json_string_value(json_object_get(json_object_get(c, "gradients"), label));
        uint64_t items = (uint64_t)json_integer_value(json_object_get(want, "num_items"));
        weights_of(&s, (enum loss_type)type, 0, s.rows, 1, items, max_length, weight);
        for (size_t i = 0; i < m->weight_count; i++)
            gpu_fill(g->dev, m->weights[i]->grad.span, 0, tensor_bytes(m->weights[i]->grad));
        r.loss = 0;
        if (!grpo_pass(g, m, &s, 0, s.rows, weight, s.old, &params, true, &r))
            continue;
        golden_report(g, arena_format(&g->host, "loss %s", label),
                      fabs(r.loss - json_number_value(json_object_get(want, "loss"))), 1e-5);
        double norm2 = 0;
        for (size_t i = 0; i < m->param_count; i++) {
            size_t count = (size_t)m->params[i].rows * m->params[i].columns;
            struct arena_mark mark = arena_mark(&g->host);
            float *x = arena_array(&g->host, float, count);
            if (model_read_param(m, &m->params[i], true, x, &err))
                for (size_t k = 0; k < count; k++)
                    norm2 += (double)x[k] * x[k];
            arena_rewind(&g->host, mark);
        }
        double wanted = json_number_value(json_object_get(want, "gradient_global_norm"));
        golden_report(g, arena_format(&g->host, "gradient norm %s (rel)", label), fabs(sqrt(norm2) - wanted) / wanted,
                      2e-4);
        if (gradients)
            check_gradients(g, m, gradients, arena_format(&g->host, "gradients %s", label), 1);
        // The same numbers once more under other settings, forward only.
        struct nn_policy_params higher = params;
        higher.epsilon_high = 0.28f;
        double wide = json_number_value(json_object_get(json_object_get(others, "clip_higher_0.28"), label));
        double on_policy =
            json_number_value(json_object_get(json_object_get(others, "on_policy_old_equals_current"), label));
        double twice =
            json_number_value(json_object_get(json_object_get(others, "two_accumulated_micro_batches"), label));
        // These were made with the normaliser of the batch at hand: dapo counts its unmasked tokens.
        weights_of(&s, (enum loss_type)type, 0, s.rows, 1, masked, max_length, weight);
        struct grpo_result x = r;
        x.loss = 0;
        if (json_object_get(others, "clip_higher_0.28") &&
            grpo_pass(g, m, &s, 0, s.rows, weight, s.old, &higher, false, &x))
            golden_report(g, arena_format(&g->host, "loss %s, epsilon_high 0.28", label), fabs(x.loss - wide), 1e-5);
        x.loss = 0;
        if (json_object_get(others, "on_policy_old_equals_current") &&
            grpo_pass(g, m, &s, 0, s.rows, weight, same, &params, false, &x))
            golden_report(g, arena_format(&g->host, "loss %s on policy", label), fabs(x.loss - on_policy), 1e-5);
        x.loss = 0;
        bool both = json_object_get(others, "two_accumulated_micro_batches") != NULL;
        for (uint32_t half = 0; both && half < 2; half++) {
            uint32_t first = half * s.rows / 2, end = (half + 1) * s.rows / 2;
            weights_of(&s, (enum loss_type)type, first, end, 2, masked, max_length, weight);
            both = grpo_pass(g, m, &s, first, end, weight, s.old, &params, false, &x);
        }
        if (both)
            golden_report(g, arena_format(&g->host, "loss %s, two micro-batches", label), fabs(x.loss - twice), 1e-5);
        if (type == LOSS_DAPO) {
            check_tokens(g, &s, f, "policy_logprobs", r.logprob, false, 2e-4);
            check_tokens(g, &s, f, "per_token_kl", r.kl, true, 1e-4);
            check_tokens(g, &s, f, "ratio", r.ratio, true, 2e-4);
            check_tokens(g, &s, f, "per_token_loss", r.each, true, 2e-4);
        }
    }
    if (json_object_get(others, "sequence_level_ratio"))
        printf("     grpo_batch sequence_level_ratio: left out, the sequence-level ratio (GSPO) is not a loss type of "
               "this program\n");
done:
    safetensors_close(&f);
    model_destroy(&m);
}
