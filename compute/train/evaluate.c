// Answers to the rows of a dataset, graded: validation inside GRPO, and evaluations of their own.
#include "compute/train/advantage.h"
#include "compute/train/internal.h"

#include "compute/base/check.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 64 }; // rows at once: bounds the pictures held in memory

static json_t *row_json(struct trainer *t, const struct dataset *d, const struct example *e, const struct step_data *s,
                        const struct completion *completions, uint32_t n)
{
    static const char *const ends[] = {"stop", "length", "cancelled", "failed"};
    json_t *list = json_array(), *images = json_array();
    for (uint32_t i = 0; i < e->sample->image_count; i++) {
        const struct sample_image *image = &d->images[e->sample->images[i]];
        const struct picture *p = &s->pictures[e->pictures[i]];
        json_array_append_new(images, json_pack("{s:s,s:i,s:i}", "image", image->id ? image->id : image->name, "width",
                                                (int)p->width, "height", (int)p->height));
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct completion *c = &completions[i];
        json_t *rewards = json_object(), *reasons = json_object();
        for (size_t p = 0; p < grader_part_count(t->grader); p++) {
            json_object_set_new(rewards, grader_part_name(t->grader, p), json_real(c->grade.parts[p].value));
            json_object_set_new(reasons, grader_part_name(t->grader, p), json_string(c->grade.parts[p].reason));
        }
        json_array_append_new(list, json_pack("{s:s#,s:f,s:o,s:o,s:i,s:s}", "completion", c->text, (int)c->text_bytes,
                                              "reward", c->grade.reward, "sub_rewards", rewards, "reasons", reasons,
                                              "token_count", (int)c->count, "finish_reason", ends[c->end]));
    }
    return json_pack("{s:s,s:i,s:o,s:O,s:o}", "row_id", e->sample->id, "line", (int)e->sample->line, "images", images,
                     "item", e->sample->item ? e->sample->item : json_null(), "samples", list);
}

bool evaluate_dataset(struct trainer *t, const struct dataset *d, uint32_t rows, struct evaluation *out, json_t *list,
                      struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    uint32_t total = rows ? VIREO_MIN(rows, d->count) : d->count, n = s->eval_generations;
    struct rollout_params p = {.n = n,
                               .max_tokens = s->max_completion_length,
                               .step = UINT32_MAX, // no training step draws with this counter
                               .temperature = (float)s->eval_temperature,
                               .top_p = (float)s->top_p,
                               .min_p = (float)s->min_p,
                               .top_k = s->top_k,
                               .seed = s->seed};
    struct arena results;
    arena_init(&results, 1 << 16);
    double *reward = arena_array(&results, double, (size_t)total *n);
    struct evaluation e = {.n = total};
    bool done = reward || vireo_fail_memory(err, (size_t)total * n * 8);
    for (uint32_t i = 0; done && i < total; i += CHUNK) {
        struct arena_mark mark = arena_mark(&t->step_arena);
        uint32_t count = VIREO_MIN(CHUNK, total - i), index[CHUNK];
        for (uint32_t k = 0; k < count; k++)
            index[k] = i + k;
        struct step_data data;
        struct rollout r;
        if (!step_data_build(t->model, s, d, index, count, false, &t->step_arena, &data, err)) {
            done = false;
            break;
        }
        // Sample numbers restart with every chunk; the seed tells the chunks apart, whatever their size.
        p.seed = s->seed + ((uint64_t)(i / CHUNK + 1) << 32);
        done = rollout_generate(t, &data, &p, &t->step_arena, &r, err) && rollout_score(&r, &t->step_arena, err);
        for (uint32_t k = 0; done && k < count * n; k++) {
            const struct completion *c = &r.completions[k];
            reward[(size_t)i * n + k] = c->grade.reward;
            e.mean_length += c->count;
            e.parse_errors += c->grade.errors.sample_parse_error;
            for (size_t q = 0; q < grader_part_count(t->grader); q++)
                e.parts[q] += c->grade.parts[q].value;
        }
        for (uint32_t k = 0; done && list && k < count; k++)
            json_array_append_new(list, row_json(t, d, &data.examples[k], &data, r.completions + (size_t)k * n, n));
        step_data_finish(&data);
        arena_rewind(&t->step_arena, mark);
        trainer_progress(t, "evaluation", (double)(i + count) / total);
    }
    if (done) {
        double answers = (double)total * n;
        // The interval is over rows: samples of one row are not independent.
        for (uint32_t i = 0; i < total; i++)
            reward[i] = mean_of(reward + (size_t)i * n, n);
        e.mean = mean_of(reward, total);
        e.std = standard_deviation(reward, total);
        e.ci95 = total > 1 ? 1.96 * e.std / sqrt(total) : 0;
        e.mean_length /= answers;
        e.parse_errors /= answers;
        for (size_t q = 0; q < grader_part_count(t->grader); q++)
            e.parts[q] /= answers;
        *out = e;
    }
    arena_finish(&results);
    return done;
}
