// `vireo bench prefill`: from patches and token ids to each prompt's first token, through the engine.
#include "compute/worker/bench.h"
#include "compute/worker/bench_cost.h"
#include "compute/worker/bench_engine.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/arena.h"
#include "compute/base/philox.h"

// A picture of noise: nothing that an earlier run computed fits it.
static bool make_picture(const struct model *m, uint32_t side, uint32_t seed, struct patches *out,
                         struct vireo_error *err)
{
    struct image_processor p = image_processor_qwen2_5_vl();
    struct image im;
    p.patch_size = m->config.vision.patch_size;
    p.merge_size = m->config.vision.spatial_merge_size;
    p.temporal_patch_size = m->config.vision.temporal_patch_size;
    if (!image_init(&im, side, side, err))
        return false;
    for (uint32_t k = 0; k < side * side * 3; k++)
        im.rgb[k] = (uint8_t)philox(6, seed, k, 0, 0).v[0];
    bool done = image_patches(&p, &im, out, err);
    image_finish(&im);
    return done;
}

// Words, then the picture.
static bool make_prompt(const struct model *m, const struct bench_engine *s, const struct patches *picture, uint32_t seed,
                        struct arena *a, struct prompt *out, struct vireo_error *err)
{
    const struct model_config *c = &m->config;
    const uint32_t unit = c->vision.spatial_merge_size * c->vision.spatial_merge_size;
    const uint32_t tokens = (uint32_t)picture->rows / unit, words = (uint32_t)s->text_tokens;
    const struct image_grid grid = {picture->t, picture->h, picture->w, tokens};
    const uint32_t count = words + tokens + 2;
    uint32_t *ids = arena_array(a, uint32_t, count), n = words;
    if (!ids)
        return vireo_fail_memory(err, (size_t)count * 4);
    bench_engine_words(m, 7, seed, words, ids);
    ids[n++] = c->vision_start_token_id;
    for (uint32_t i = 0; i < tokens; i++)
        ids[n++] = c->image_token_id;
    ids[n++] = c->vision_end_token_id;
    return prompt_from_ids(m, ids, count, &grid, 1, a, out, err);
}

// All prompts at once, one token each.
static bool run(struct engine *e, const struct bench_engine *s, const struct prompt *prompts, const struct patches *pictures,
                struct bench_clock *took, struct vireo_error *err)
{
    uint64_t tokens_seen = 0;
    const struct bench_clock start = bench_start();
    for (int64_t i = 0; i < s->prompts; i++) {
        const struct patches *picture = &pictures[i];
        struct generation g = bench_engine_request((uint64_t)i + 1, &prompts[i], 1, 1, 0, &tokens_seen);
        g.images = &picture;
        if (!engine_submit(e, &g, err))
            return false;
        for (bool busy = i + 1 == s->prompts; busy;)
            if (!engine_step(e, &busy, err))
                return false;
    }
    *took = bench_since(start);
    return true;
}

// Makes the prompts of one run and times them.
static bool round_of(struct model *m, struct engine *e, const struct bench_engine *s, uint32_t number,
                     struct bench_clock *took, uint32_t *tokens, struct vireo_error *err)
{
    struct arena a;
    arena_init(&a, 1 << 16);
    struct patches *pictures = arena_array(&a, struct patches, s->prompts);
    struct prompt *prompts = arena_array(&a, struct prompt, s->prompts);
    bool done = (pictures && prompts) || vireo_fail_memory(err, 1 << 12);
    int64_t made = 0;
    while (done && made < s->prompts) {
        const uint32_t seed = number * 1024 + (uint32_t)made;
        done = make_picture(m, (uint32_t)s->image, seed, &pictures[made], err);
        if (done) {
            done = make_prompt(m, s, &pictures[made], seed, &a, &prompts[made], err);
            made++;
        }
    }
    done = done && run(e, s, prompts, pictures, took, err);
    *tokens = done ? prompts[0].count : 0;
    for (int64_t i = 0; i < made; i++)
        patches_finish(&pictures[i]);
    arena_finish(&a);
    return done;
}

static bool add_result(struct gpu_device *dev, const struct model *m, const struct bench_engine *s, uint32_t tokens,
                       double *wall, double *cpu, json_t **out, struct vireo_error *err)
{
    const struct bench_figures w = bench_figures(wall, (size_t)s->runs), c = bench_figures(cpu, (size_t)s->runs);
    const double all = (double)tokens * (double)s->prompts;
    const uint32_t side = (uint32_t)s->image / m->config.vision.patch_size;
    const struct bench_step step = {.prompts = (uint32_t)s->prompts, .prompt_tokens = tokens, .grid_h = side, .grid_w = side};
    json_t *o = json_pack("{s:s,s:i,s:i,s:i,s:{s:f},s:{s:f},s:{s:f},s:{s:f},s:f,s:f}", "device", gpu_device_caps(dev)->name,
                          "prompts", (int)s->prompts, "prompt_tokens", (int)tokens, "runs", (int)s->runs, "seconds_min",
                          "run", w.least, "seconds_median", "run", w.median, "cpu_seconds_min", "run", c.least,
                          "cpu_seconds_median", "run", c.median, "tokens_per_s", all / w.least, "tokens_per_cpu_second",
                          all / c.least);
    if (!o)
        return vireo_fail_memory(err, 1 << 10);
    *out = o;
    return bench_roofline_set(o, bench_prefill_work(&m->config, s->type, &step), w.least, err,
                              "prefill, %d prompts of %u tokens", (int)s->prompts, tokens);
}

bool bench_prefill(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    struct bench_engine s;
    if (!bench_engine_read(config, &s, err))
        return false;
    struct model *m = model_random(dev, s.model, 1, &(struct model_load_params){.dtype = s.type}, err);
    if (!m)
        return false;
    const uint32_t side = (uint32_t)s.image, patch = m->config.vision.patch_size;
    const uint32_t most = (uint32_t)s.text_tokens + side * side / (patch * patch) + 64;
    const struct engine_params p = {.kv_tokens = (uint32_t)s.prompts * (most + 32),
                                    .max_sequences = (uint32_t)s.prompts,
                                    .max_batch_tokens = (uint32_t)s.prompts * most};
    struct engine *e = engine_create(m, &p, err);
    double wall[BENCH_MAX_RUNS], cpu[BENCH_MAX_RUNS];
    struct bench_clock took;
    uint32_t tokens = 0;
    bool done = e && round_of(m, e, &s, 0, &took, &tokens, err); // compiles
    for (int64_t i = 0; done && i < s.runs; i++) {
        done = round_of(m, e, &s, (uint32_t)i + 1, &took, &tokens, err);
        wall[i] = took.wall;
        cpu[i] = took.cpu;
    }
    done = done && add_result(dev, m, &s, tokens, wall, cpu, out, err);
    engine_destroy(&e);
    model_destroy(&m);
    return done;
}
