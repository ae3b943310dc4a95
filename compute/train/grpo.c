// Group relative policy optimisation (arXiv 2402.03300; TRL 1.x; VLM-R1): sample a group of answers to each prompt,
// reward them, and raise the log-probs of those above the group's mean.
#include "compute/train/advantage.h"
#include "compute/train/internal.h"
#include "compute/train/plan.h"
#include "compute/train/policy_loss.h"

#include "compute/base/check.h"
#include "compute/base/log.h"

#include <math.h>
#include <string.h>

#define LOG_MODULE "grpo"

// One step's groups with what training needs of them.
struct groups {
    const struct step_data *d;
    struct rollout r;
    double *reward, *advantage, *std; // [examples * n], [examples * n], [examples]
    uint32_t *kept;                   // groups that are trained on
    uint32_t kept_count;
    uint32_t *length;    // [examples * n] unmasked tokens
    float *token_weight; // [examples * n] factor of each token's loss
    // Filled by the update, one entry a token of kept groups, in order; first[i] = where completion i begins.
    uint32_t *first, tokens;
    float *logprob, *ref, *entropy, *kl, *ratio, *loss;
};

// Hidden rows that predict the tokens of kept groups [from, to), and the packed batch they stand in.
struct packed {
    struct text_rows rows;
    uint32_t *hidden_row, *target, count;
    struct vision_batch vision;
    struct tensor features;
    bool kept; // the rollout computed all of it: `places` of the rows
    struct kept_place *places;
};

// Whether the rollout kept every row of kept groups [from, to).
static bool is_kept(const struct trainer *t, const struct groups *g, uint32_t from, uint32_t to)
{
    if (!keep_is_complete(t))
        return false;
    for (uint32_t k = from; k < to; k++) {
        const struct example *e = &g->d->examples[g->kept[k]];
        for (uint32_t i = 0; t->kept_vision && i < e->prompt.image_count; i++)
            if (g->r.pictures[e->pictures[i]].run == KEPT_NOWHERE)
                return false;
        for (uint32_t i = 0; i < g->r.n; i++) {
            const struct completion *c = &g->r.completions[g->kept[k] * g->r.n + i];
            if (c->count == 0 || c->places_count != e->prompt.count + c->count - 1)
                return false;
            for (uint32_t p = 0; p < c->places_count; p++)
                if (c->places[p].run == KEPT_NOWHERE)
                    return false;
        }
    }
    return true;
}

// The places of the packed rows, in their order.
static struct kept_place *places_of(struct arena *a, const struct groups *g, uint32_t from, uint32_t to, uint32_t rows)
{
    struct kept_place *places = arena_array(a, struct kept_place, rows);
    uint32_t at = 0;
    for (uint32_t k = from; places && k < to; k++) {
        const uint32_t prompt = g->d->examples[g->kept[k]].prompt.count;
        for (uint32_t i = 0; i < g->r.n; i++) {
            const struct completion *c = &g->r.completions[g->kept[k] * g->r.n + i];
            const uint32_t first = i ? prompt : 0; // the prompt stands there once
            memcpy(places + at, c->places + first, (c->places_count - first) * sizeof *places);
            at += c->places_count - first;
        }
    }
    vireo_assert(!places || at == rows);
    return places;
}

// The vision tower's activations from the rollout, where its weights are trained; `local`: place of each picture of the step
// in the list. A frozen tower's output is read by nobody here: the text's activations are adopted too.
static bool adopt_pictures(struct trainer *t, struct tape *tape, const struct model *m, const struct groups *g,
                           const struct picture_list *list, const uint32_t *local, struct packed *out,
                           struct vireo_error *err)
{
    struct arena *a = &t->step_arena;
    const uint32_t unit = m->config.vision.spatial_merge_size * m->config.vision.spatial_merge_size;
    const struct patches **patches = (const struct patches **)arena_array(a, struct patches *, list->count);
    for (uint32_t i = 0; patches && i < list->count; i++)
        patches[i] = &list->pictures[i]->patches;
    if (!patches)
        return vireo_fail_memory(err, list->count * sizeof *patches);
    if (!vision_batch_build(m, tape, patches, list->count, a, &out->vision, err))
        return false;
    if (!t->kept_vision)
        return true;
    struct kept_place *rows = arena_array(a, struct kept_place, out->vision.merged);
    if (!rows)
        return vireo_fail_memory(err, out->vision.merged * sizeof *rows);
    for (uint32_t i = 0; i < g->d->picture_count; i++)
        for (uint32_t r = 0; local[i] != UINT32_MAX && r < g->d->patches[i]->rows / unit; r++)
            rows[out->vision.first[local[i]] + r] =
                (struct kept_place){g->r.pictures[i].run, g->r.pictures[i].row + r};
    tape_adopt_begin(tape, t->kept_vision, rows, out->vision.merged);
    out->features = m->family->vision(tape, m, &out->vision);
    tape_adopt_end(tape);
    return true;
}

// Lays out [prompt, completion 1 ... completion n] of each group, every picture once, and runs the vision tower.
static bool pack(struct trainer *t, struct tape *tape, const struct model *m, const struct groups *g, uint32_t from,
                 uint32_t to, bool adopt, struct packed *out, struct vireo_error *err)
{
    struct arena *a = &t->step_arena;
    const struct step_data *d = g->d;
    uint32_t n = g->r.n, tokens = 0;
    uint32_t *local = arena_array(a, uint32_t, d->picture_count + 1);
    struct picture_list list = {(const struct picture **)arena_array(a, struct picture *, d->picture_count + 1), 0};
    for (uint32_t k = from; k < to; k++)
        for (uint32_t i = 0; i < n; i++)
            tokens += g->r.completions[g->kept[k] * n + i].count;
    *out = (struct packed){.hidden_row = arena_array(a, uint32_t, tokens + 1),
                           .target = arena_array(a, uint32_t, tokens + 1),
                           .kept = adopt && is_kept(t, g, from, to)};
    if (!local || !list.pictures || !out->hidden_row || !out->target)
        return vireo_fail_memory(err, tokens * 8);
    for (uint32_t i = 0; i < d->picture_count; i++)
        local[i] = UINT32_MAX;
    for (uint32_t k = from; k < to; k++) {
        const struct example *e = &d->examples[g->kept[k]];
        for (uint32_t i = 0; i < e->prompt.image_count; i++)
            if (local[e->pictures[i]] == UINT32_MAX) {
                local[e->pictures[i]] = list.count;
                list.pictures[list.count++] = &d->pictures[e->pictures[i]];
            }
    }
    if (list.count && !(out->kept ? adopt_pictures(t, tape, m, g, &list, local, out, err)
                                  : pictures_compute(t, tape, m, &list, &out->vision, &out->features, err)))
        return false;
    text_rows_init(&out->rows, a);
    for (uint32_t k = from; k < to; k++) {
        const struct example *e = &d->examples[g->kept[k]];
        uint32_t *index = arena_array(a, uint32_t, e->prompt.image_count + 1);
        if (!index)
            return vireo_fail_memory(err, 64);
        for (uint32_t i = 0; i < e->prompt.image_count; i++)
            index[i] = local[e->pictures[i]];
        uint32_t first = text_rows_prompt(&out->rows, &e->prompt, &out->vision, index);
        for (uint32_t i = 0; i < n; i++) {
            const struct completion *c = &g->r.completions[g->kept[k] * n + i];
            // The last token predicts nothing: it is a target only.
            uint32_t row = text_rows_completion(&out->rows, first, e->prompt.count, c->ids, c->count ? c->count - 1 : 0,
                                                e->prompt.next_position);
            for (uint32_t p = 0; p < c->count; p++) {
                out->hidden_row[out->count] = p ? row + p - 1 : first + e->prompt.count - 1;
                out->target[out->count++] = c->ids[p];
            }
        }
    }
    if (out->kept && !(out->places = places_of(a, g, from, to, out->rows.count)))
        return vireo_fail_memory(err, out->rows.count * sizeof *out->places);
    return true;
}

static struct nn_logprob forward(struct trainer *t, struct tape *tape, const struct model *m, struct packed *p,
                                 struct vireo_error *err)
{
    struct text_batch batch;
    struct nn_logprob none = {0};
    if (!text_batch_build(m, tape, &p->rows, NULL, &batch, err)) {
        tape_fail(tape, VIREO_INTERNAL, "%s", err ? err->message : "batch");
        return none;
    }
    if (p->kept)
        tape_adopt_begin(tape, t->kept_text, p->places, batch.tokens);
    struct tensor hidden = m->family->text(tape, m, &batch, p->features);
    if (p->kept)
        tape_adopt_end(tape);
    struct tensor x = nn_gather(tape, hidden, p->hidden_row, p->count);
    return nn_logprob(tape, x, m->head, tape_upload(tape, DTYPE_U32, p->count, p->target), (float)t->spec->temperature);
}

static bool end_batch(struct trainer *t, struct tape **tape, bool done, struct vireo_error *err)
{
    bool fine = tape_finish(tape, done ? err : NULL);
    done = done && fine && gpu_finish(t->dev, err);
    gpu_arena_rewind(t->activations, 0);
    gpu_arena_rewind(t->upload, 0);
    return done;
}

static bool reference_logprobs(struct trainer *t, struct groups *g, uint32_t from, uint32_t to, struct vireo_error *err)
{
    struct arena_mark mark = arena_mark(&t->step_arena);
    struct tape *tape = trainer_tape(t, false, err);
    struct packed p;
    bool done = tape && pack(t, tape, t->reference, g, from, to, false, &p, err);
    if (done && p.count) {
        struct nn_logprob lp = forward(t, tape, t->reference, &p, err);
        uint32_t at = g->first[g->kept[from] * g->r.n];
        done = !tape_failed(tape) && gpu_read(t->dev, lp.logprob.span, g->ref + at, p.count * 4, err);
    }
    done = end_batch(t, &tape, done, err);
    arena_rewind(&t->step_arena, mark);
    return done;
}

// Forward, loss, backward of kept groups [from, to). Everything read back lands in g by token.
static bool policy_update(struct trainer *t, struct groups *g, uint32_t from, uint32_t to, struct vireo_error *err)
{
    struct arena *a = &t->step_arena;
    struct arena_mark mark = arena_mark(a);
    const struct job_spec *s = t->spec;
    uint32_t n = g->r.n;
    struct tape *tape = trainer_tape(t, true, err);
    struct packed p;
    bool done = tape && pack(t, tape, t->model, g, from, to, true, &p, err);
    uint32_t at = g->first[g->kept[from] * n];
    if (done)
        log_debug("step %u, groups %u to %u: activations %s", t->step + 1, from, to, p.kept ? "adopted" : "computed");
    if (done && p.count) {
        float *old = arena_array(a, float, p.count), *advantage = arena_array(a, float, p.count);
        float *weight = arena_array(a, float, p.count);
        done = (old && advantage && weight) || vireo_fail_memory(err, p.count * 12);
        for (uint32_t k = from, j = 0; done && k < to; k++)
            for (uint32_t i = 0; i < n; i++) {
                uint32_t c = g->kept[k] * n + i;
                for (uint32_t q = 0; q < g->r.completions[c].count; q++, j++) {
                    old[j] = g->r.completions[c].logprobs[q];
                    advantage[j] = (float)g->advantage[c];
                    weight[j] = g->token_weight[c];
                }
            }
        struct nn_logprob lp = forward(t, tape, t->model, &p, err);
        struct tensor ref = {0};
        if (t->reference)
            ref = tape_upload(tape, DTYPE_F32, p.count, g->ref + at);
        if (done && !tape_failed(tape)) {
            struct nn_policy_params params = {.epsilon_low = (float)s->epsilon,
                                              .epsilon_high = (float)s->epsilon_high,
                                              .beta = (float)s->beta,
                                              .loss_scale = (float)t->loss_scale.scale};
            struct nn_policy out = nn_policy_loss(tape, lp.logprob, tape_upload(tape, DTYPE_F32, p.count, old), ref,
                                                  tape_upload(tape, DTYPE_F32, p.count, advantage),
                                                  tape_upload(tape, DTYPE_F32, p.count, weight), &params);
            done = tape_backward(tape, lp.logprob, out.grad, err) &&
                   gpu_read(t->dev, lp.logprob.span, g->logprob + at, p.count * 4, err) &&
                   gpu_read(t->dev, lp.entropy.span, g->entropy + at, p.count * 4, err) &&
                   gpu_read(t->dev, out.loss.span, g->loss + at, p.count * 4, err) &&
                   gpu_read(t->dev, out.ratio.span, g->ratio + at, p.count * 4, err) &&
                   gpu_read(t->dev, out.kl.span, g->kl + at, p.count * 4, err);
        }
    }
    done = end_batch(t, &tape, done, err);
    arena_rewind(a, mark);
    return done;
}

static bool take_groups(struct trainer *t, const struct step_data *d, struct groups *g, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    struct arena *a = &t->step_arena;
    uint32_t n = s->num_generations, all = d->count * n;
    g->reward = arena_array(a, double, all);
    g->advantage = arena_array(a, double, all);
    g->std = arena_array(a, double, d->count);
    g->kept = arena_array(a, uint32_t, d->count);
    g->length = arena_array(a, uint32_t, all);
    g->token_weight = arena_array(a, float, all);
    g->first = arena_array(a, uint32_t, all + 1);
    if (!g->reward || !g->advantage || !g->std || !g->kept || !g->length || !g->token_weight || !g->first)
        return vireo_fail_memory(err, all * 40);
    uint64_t items = 0;
    for (uint32_t i = 0; i < all; i++)
        g->reward[i] = g->r.completions[i].grade.reward;
    advantages_of(g->reward, d->count, n, s->scale_rewards, s->advantage_epsilon, g->advantage, g->std);
    for (uint32_t k = 0; k < d->count; k++)
        if (!s->drop_zero_std_groups || g->std[k] > 0)
            g->kept[g->kept_count++] = k;
    // Normalisers count kept groups only; lengths in the order the kernel sees them.
    uint32_t *lengths = arena_array(a, uint32_t, all + 1), rows = 0;
    if (!lengths)
        return vireo_fail_memory(err, all * 4);
    for (uint32_t k = 0; k < g->kept_count; k++)
        for (uint32_t i = 0; i < n; i++) {
            uint32_t c = g->kept[k] * n + i;
            const struct completion *x = &g->r.completions[c];
            g->length[c] = s->mask_truncated_completions && x->end == ENGINE_LENGTH ? 0 : x->count;
            g->first[c] = g->tokens;
            g->tokens += x->count;
            items += g->length[c];
            lengths[rows++] = g->length[c];
        }
    struct policy_rows b = {.rows = rows,
                            .lengths = lengths,
                            .max_completion_length = s->max_completion_length,
                            .accumulation = 1,
                            .num_items = items};
    for (uint32_t k = 0, row = 0; k < g->kept_count; k++)
        for (uint32_t i = 0; i < n; i++, row++)
            g->token_weight[g->kept[k] * n + i] = lengths[row] ? (float)policy_token_weight(s->loss_type, &b, row) : 0;
    g->logprob = arena_array(a, float, g->tokens + 1);
    g->ref = arena_array(a, float, g->tokens + 1);
    g->entropy = arena_array(a, float, g->tokens + 1);
    g->kl = arena_array(a, float, g->tokens + 1);
    g->ratio = arena_array(a, float, g->tokens + 1);
    g->loss = arena_array(a, float, g->tokens + 1);
    return !arena_failed(a) || vireo_fail_memory(err, g->tokens * 24);
}

static void length_metrics(const struct groups *g, uint32_t all, json_t *metrics)
{
    double sum = 0, most = 0, least = INFINITY, clipped = 0, ended_sum = 0, ended_most = 0, ended_least = INFINITY;
    uint32_t ended = 0;
    for (uint32_t i = 0; i < all; i++) {
        const struct completion *c = &g->r.completions[i];
        sum += c->count;
        most = fmax(most, c->count);
        least = fmin(least, c->count);
        if (c->end == ENGINE_LENGTH) {
            clipped++;
            continue;
        }
        ended++;
        ended_sum += c->count;
        ended_most = fmax(ended_most, c->count);
        ended_least = fmin(ended_least, c->count);
    }
    metric_set(metrics, "completions/mean_length", sum / all);
    metric_set(metrics, "completions/min_length", least);
    metric_set(metrics, "completions/max_length", most);
    metric_set(metrics, "completions/clipped_ratio", clipped / all);
    metric_set(metrics, "completions/mean_terminated_length", ended ? ended_sum / ended : 0);
    metric_set(metrics, "completions/min_terminated_length", ended ? ended_least : 0);
    metric_set(metrics, "completions/max_terminated_length", ended ? ended_most : 0);
}

static void reward_metrics(struct trainer *t, const struct groups *g, uint32_t all, json_t *metrics)
{
    double zero = 0, parse = 0, failed = 0;
    for (uint32_t k = 0; k < g->d->count; k++)
        zero += g->std[k] == 0;
    for (uint32_t i = 0; i < all; i++) {
        parse += g->r.completions[i].grade.errors.sample_parse_error;
        failed += g->r.completions[i].grade.failed;
    }
    metric_set(metrics, "reward", mean_of(g->reward, all));
    metric_set(metrics, "reward_std", standard_deviation(g->reward, all));
    metric_set(metrics, "frac_reward_zero_std", zero / g->d->count);
    metric_set(metrics, "grader/sample_parse_error_mean", parse / all);
    metric_set(metrics, "grader/error_mean", failed / all);
    double *values = arena_array(&t->step_arena, double, all);
    for (size_t p = 0; values && p < grader_part_count(t->grader); p++) {
        char name[GRADER_NAME_BYTES + 16];
        for (uint32_t i = 0; i < all; i++)
            values[i] = g->r.completions[i].grade.parts[p].value;
        snprintf(name, sizeof name, "rewards/%s/mean", grader_part_name(t->grader, p));
        metric_set(metrics, name, mean_of(values, all));
        snprintf(name, sizeof name, "rewards/%s/std", grader_part_name(t->grader, p));
        metric_set(metrics, name, standard_deviation(values, all));
    }
}

// Token metrics; a token counts where its row is not masked. The difference of log-probs and the ratio must read 0 and
// 1: the promise that rollout and training are the same arithmetic, visible in every step.
static void token_metrics(struct trainer *t, const struct groups *g, json_t *metrics)
{
    const struct job_spec *s = t->spec;
    double kl = 0, entropy = 0, difference = 0, worst = 0, low = 0, high = 0, ratio = 0, ratio_least = INFINITY;
    double ratio_most = -INFINITY, low_min = INFINITY, high_max = 0, loss = 0;
    uint64_t count = 0;
    for (uint32_t k = 0; k < g->kept_count; k++)
        for (uint32_t i = 0; i < g->r.n; i++) {
            uint32_t c = g->kept[k] * g->r.n + i, length = g->length[c];
            double row_low = 0, row_high = 0;
            for (uint32_t q = 0; q < length; q++) {
                uint32_t j = g->first[c] + q;
                double d = fabs((double)g->logprob[j] - g->r.completions[c].logprobs[q]);
                difference += d;
                worst = fmax(worst, d);
                ratio += g->ratio[j];
                ratio_least = fmin(ratio_least, g->ratio[j]);
                ratio_most = fmax(ratio_most, g->ratio[j]);
                row_low += g->ratio[j] < 1 - s->epsilon && g->advantage[c] < 0;
                row_high += g->ratio[j] > 1 + s->epsilon_high && g->advantage[c] > 0;
                kl += g->kl[j];
                entropy += g->entropy[j];
                loss += g->loss[j];
            }
            count += length;
            low += row_low;
            high += row_high;
            if (length) {
                low_min = fmin(low_min, row_low / length);
                high_max = fmax(high_max, row_high / length);
            }
        }
    double n = (double)count;
    metric_set(metrics, "loss", loss);
    metric_set(metrics, "entropy", entropy / n);
    if (t->reference)
        metric_set(metrics, "kl", kl / n);
    metric_set(metrics, "clip_ratio/low_mean", low / n);
    metric_set(metrics, "clip_ratio/low_min", low_min);
    metric_set(metrics, "clip_ratio/high_mean", high / n);
    metric_set(metrics, "clip_ratio/high_max", high_max);
    metric_set(metrics, "clip_ratio/region_mean", (low + high) / n);
    metric_set(metrics, "sampling/sampling_logp_difference/mean", difference / n);
    metric_set(metrics, "sampling/sampling_logp_difference/max", worst);
    metric_set(metrics, "sampling/importance_sampling_ratio/min", ratio_least);
    metric_set(metrics, "sampling/importance_sampling_ratio/mean", ratio / n);
    metric_set(metrics, "sampling/importance_sampling_ratio/max", ratio_most);
}

static json_t *completion_json(struct trainer *t, const struct groups *g, uint32_t c)
{
    static const char *const ends[] = {"stop", "length", "cancelled", "failed"};
    const struct completion *x = &g->r.completions[c];
    json_t *rewards = json_object(), *reasons = json_object();
    for (size_t p = 0; p < grader_part_count(t->grader); p++) {
        json_object_set_new(rewards, grader_part_name(t->grader, p), json_real(x->grade.parts[p].value));
        json_object_set_new(reasons, grader_part_name(t->grader, p), json_string(x->grade.parts[p].reason));
    }
    double logprob = 0, ref = 0, kl = 0;
    bool kept = g->token_weight[c] != 0 || g->length[c] > 0;
    for (uint32_t q = 0; q < x->count; q++) {
        logprob += x->logprobs[q];
        if (kept && t->reference) {
            ref += g->ref[g->first[c] + q];
            kl += g->kl[g->first[c] + q];
        }
    }
    json_t *o = json_pack("{s:s#,s:i,s:f,s:o,s:o,s:f,s:f,s:s,s:b,s:b}", "completion", x->text, (int)x->text_bytes,
                          "token_count", (int)x->count, "reward", x->grade.reward, "sub_rewards", rewards, "reasons",
                          reasons, "advantage", g->advantage[c], "logprob_sum", logprob, "finish_reason", ends[x->end],
                          "clipped", x->end == ENGINE_LENGTH, "parse_error", x->grade.errors.sample_parse_error);
    if (o && kept && t->reference) {
        json_object_set_new(o, "ref_logprob_sum", json_real(ref));
        json_object_set_new(o, "kl", json_real(x->count ? kl / x->count : 0));
    }
    return o;
}

static void report_groups(struct trainer *t, const struct groups *g)
{
    if (!t->hooks->groups || !t->spec->log_completions)
        return;
    json_t *list = json_array();
    for (uint32_t k = 0; k < g->d->count; k++) {
        const struct example *e = &g->d->examples[k];
        json_t *images = json_array(), *samples = json_array();
        for (uint32_t i = 0; i < e->sample->image_count; i++) {
            const struct sample_image *image = &t->data.images[e->sample->images[i]];
            const struct picture *p = &g->d->pictures[e->pictures[i]];
            uint32_t patch = t->model->config.vision.patch_size;
            json_array_append_new(images,
                                  json_pack("{s:s,s:i,s:i,s:i,s:i}", "image", image->id ? image->id : image->name,
                                            "width", (int)p->width, "height", (int)p->height, "model_width",
                                            (int)(p->patches.w * patch), "model_height", (int)(p->patches.h * patch)));
        }
        for (uint32_t i = 0; i < g->r.n; i++)
            json_array_append_new(samples, completion_json(t, g, k * g->r.n + i));
        struct vireo_error ignored;
        const char *prompt = chat_message_text(&e->sample->prompt, e->sample->prompt.count - 1, &ignored);
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:o,s:O,s:f,s:f,s:o}", "row_id", e->sample->id, "prompt", prompt ? prompt : "",
                            "images", images, "item", e->sample->item ? e->sample->item : json_null(), "mean_reward",
                            mean_of(g->reward + k * g->r.n, g->r.n), "reward_std", g->std[k], "samples", samples));
    }
    t->hooks->groups(t->hooks->context, t->step + 1, list);
    json_decref(list);
}

static bool step(struct trainer *t, const struct step_data *d, json_t *metrics, json_t *timing, bool *trained,
                 struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    struct stopwatch watch = stopwatch_start();
    struct rollout_params p = {.n = s->num_generations,
                               .max_tokens = s->max_completion_length,
                               .step = t->step,
                               .temperature = (float)s->temperature,
                               .top_p = (float)s->top_p,
                               .min_p = (float)s->min_p,
                               .top_k = s->top_k,
                               .ignore_eos = s->ignore_eos,
                               .seed = s->seed,
                               .keep = true};
    struct groups g = {.d = d};
    bool done = rollout_generate(t, d, &p, &t->step_arena, &g.r, err);
    stopwatch_lap(&watch, timing, "sampling");
    done = done && rollout_score(&g.r, &t->step_arena, err);
    stopwatch_lap(&watch, timing, "reward");
    done = done && take_groups(t, d, &g, err);
    *trained = done && g.tokens > 0;
    // Leaves cut the batch by groups as drawn, so that the cut does not depend on which groups were dropped.
    uint32_t per_leaf = s->batch_size / s->leaves, all = d->count * s->num_generations;
    for (uint32_t leaf = 0, k = 0; done && leaf < s->leaves; leaf++) {
        uint32_t end = k;
        while (end < g.kept_count && g.kept[end] < (leaf + 1) * per_leaf)
            end++;
        for (; done && k < end; k = VIREO_MIN(end, k + t->micro_batch)) {
            uint32_t to = VIREO_MIN(end, k + t->micro_batch);
            if (t->reference) {
                done = reference_logprobs(t, &g, k, to, err);
                stopwatch_lap(&watch, timing, "reference");
            }
            done = done && policy_update(t, &g, k, to, err);
            stopwatch_lap(&watch, timing, "training");
        }
        struct tape *tape = done ? trainer_tape(t, false, err) : NULL;
        if (tape)
            optimizer_leaf_done(t->optimizer, tape, leaf);
        done = done && tape && tape_finish(&tape, err);
    }
    if (done) {
        reward_metrics(t, &g, all, metrics);
        length_metrics(&g, all, metrics);
        if (*trained)
            token_metrics(t, &g, metrics);
        for (uint32_t k = 0; k < d->count; k++)
            for (uint32_t i = 0; i < s->num_generations; i++)
                t->num_tokens += d->examples[k].prompt.count + g.r.completions[k * s->num_generations + i].count;
        stopwatch_lap(&watch, timing, "training");
        report_groups(t, &g);
    }
    return done;
}

static bool validate(struct trainer *t, json_t *metrics, struct vireo_error *err)
{
    struct evaluation e;
    if (!evaluate_dataset(t, &t->validation, t->spec->eval_samples, &e, NULL, err))
        return false;
    metric_set(metrics, "eval_reward", e.mean);
    metric_set(metrics, "eval_reward_std", e.std);
    metric_set(metrics, "eval_completions/mean_length", e.mean_length);
    metric_set(metrics, "eval_parse_error", e.parse_errors);
    for (size_t p = 0; p < grader_part_count(t->grader); p++) {
        char name[GRADER_NAME_BYTES + 24];
        snprintf(name, sizeof name, "eval_rewards/%s/mean", grader_part_name(t->grader, p));
        metric_set(metrics, name, e.parts[p]);
    }
    return true;
}

static bool open_grpo(struct trainer *t, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    if (s->num_iterations != 1)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "num_iterations",
                               "num_iterations %u is not built; built: 1.", s->num_iterations);
    if (!s->grader)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "method.reinforcement.grader",
                               "Missing required parameter: 'method.reinforcement.grader'.");
    t->grader = grader_create(s->grader, "method.reinforcement.grader", err);
    if (!t->grader)
        return false;
    if (s->validation_file && !data_load(s, s->validation_file, false, &t->validation, err))
        return vireo_explain(err, "validation_file: ");
    if (s->beta > 0) {
        // The reference is the base model as it was before the job, also after a resume.
        struct model_load_params p = {
            .dtype = t->model->dtype, .max_positions = t->model->text_rope_positions, .weights_only = true};
        p.stream = plan_streams_reference(s, gpu_device_caps(t->dev)->type == GPU_CPU);
        t->reference = model_load(t->dev, s->model_folder, &p, err);
        if (!t->reference)
            return vireo_explain(err, "reference model: ");
    }
    return trainer_open_engine(t, s->batch_size, s->num_generations, s->max_completion_length, err);
}

const struct train_method method_grpo = {.method = JOB_GRPO, .open = open_grpo, .step = step, .validate = validate};
