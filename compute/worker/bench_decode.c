// `vireo bench decode`: tokens a second of the engine, prompts shared by groups, as rollouts and chats run it.
#include "compute/worker/bench.h"
#include "compute/worker/bench_cost.h"
#include "compute/worker/bench_engine.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/arena.h"
#include "compute/base/clock.h"

// What one run took.
struct taken {
    double seconds, cpu;
    double first;                       // seconds until all prompts are computed
    double steps, device, submits, replays, dispatches, host; // of the decode steps; host: CPU seconds of the engine's thread
    uint64_t tokens;
};

// One run: all prompts at once, every completion new_tokens long.
static bool run(struct gpu_device *dev, struct engine *e, const struct bench_engine *s, const struct prompt *prompts,
                struct taken *out, struct vireo_error *err)
{
    struct taken k = {0};
    struct gpu_counters before = {0};
    engine_forget(e); // the run before computed the same prompts
    double start = clock_seconds(), cpu_start = clock_cpu_seconds(), thread_start = 0;
    for (int64_t i = 0; i < s->prompts; i++) {
        struct generation g = bench_engine_request((uint64_t)i + 1, &prompts[i], (uint32_t)s->group,
                                                   (uint32_t)s->new_tokens, 1, &k.tokens);
        g.first_sample = (uint32_t)(i * s->group);
        if (!engine_submit(e, &g, err))
            return false;
    }
    for (bool busy = true; busy;) {
        if (!engine_step(e, &busy, err))
            return false;
        if (k.first == 0) {
            k.first = clock_seconds() - start;
            before = gpu_device_counters(dev);
            thread_start = clock_thread_seconds();
        } else {
            k.steps++;
        }
    }
    k.seconds = clock_seconds() - start;
    k.cpu = clock_cpu_seconds() - cpu_start;
    struct gpu_counters after = gpu_device_counters(dev);
    k.device = after.device_seconds - before.device_seconds;
    k.submits = (double)(after.submits - before.submits);
    k.replays = (double)(after.replays - before.replays);
    k.dispatches = (double)(after.dispatches - before.dispatches);
    k.host = clock_thread_seconds() - thread_start;
    *out = k;
    return true;
}

// Of all runs.
struct figures {
    double *wall, *cpu, *first, *idle, *host;
    struct taken last;
};

static bool add_result(struct gpu_device *dev, const struct model *m, const struct bench_engine *s, struct figures *f,
                       json_t **out, struct vireo_error *err)
{
    const size_t n = (size_t)s->runs;
    const struct taken *k = &f->last;
    const struct bench_figures wall = bench_figures(f->wall, n), cpu = bench_figures(f->cpu, n);
    const struct bench_figures first = bench_figures(f->first, n), idle = bench_figures(f->idle, n);
    const struct bench_figures host = bench_figures(f->host, n);
    const int sequences = (int)(s->prompts * s->group);
    json_t *o = json_pack("{s:s,s:i,s:i,s:i,s:{s:f,s:f},s:{s:f,s:f},s:{s:f},s:{s:f}}", "device", gpu_device_caps(dev)->name,
                          "sequences", sequences, "new_tokens", (int)s->new_tokens, "runs", (int)s->runs, "seconds_min",
                          "run", wall.least, "prefill", first.least, "seconds_median", "run", wall.median, "prefill",
                          first.median, "cpu_seconds_min", "run", cpu.least, "cpu_seconds_median", "run", cpu.median);
    json_t *rest = json_pack("{s:f,s:f,s:{s:f,s:f},s:{s:f,s:f,s:f,s:f,s:f}}", "tokens_per_s",
                             (double)k->tokens / wall.least, "tokens_per_cpu_second", (double)k->tokens / cpu.least,
                             "idle_share", "min", idle.least, "median", idle.median, "decode_step", "submits",
                             k->submits / k->steps, "replayed", k->replays / k->steps, "dispatches",
                             k->dispatches / k->steps, "host_cpu_seconds_min", host.least, "host_cpu_seconds_median",
                             host.median);
    const struct bench_step step = {.prompts = (uint32_t)s->prompts,
                                    .group = (uint32_t)s->group,
                                    .new_tokens = (uint32_t)s->new_tokens,
                                    .prompt_tokens = (uint32_t)s->text_tokens};
    bool done = (o && rest && json_object_update(o, rest) == 0) || vireo_fail_memory(err, 1 << 12);
    done = done && bench_roofline_set(o, bench_decode_work(&m->config, s->type, &step), wall.least, err,
                                      "decode, %d sequences, %d tokens each after %d", sequences, (int)s->new_tokens,
                                      (int)s->text_tokens);
    json_decref(rest);
    if (done)
        *out = o;
    else
        json_decref(o);
    return done;
}

bool bench_decode(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    struct bench_engine s;
    if (!bench_engine_read(config, &s, err))
        return false;
    struct arena a;
    arena_init(&a, 1 << 16);
    struct model *m = model_random(dev, s.model, 1, &(struct model_load_params){.dtype = s.type}, err);
    uint32_t length = (uint32_t)s.text_tokens, sequences = (uint32_t)(s.prompts * s.group);
    struct engine_params p = {.kv_tokens = (uint32_t)(
                                  (uint64_t)s.prompts * engine_tokens(length, (uint32_t)s.group, (uint32_t)s.new_tokens)),
                              .max_sequences = sequences,
                              .max_batch_tokens = (uint32_t)s.prompts * length};
    struct engine *e = m ? engine_create(m, &p, err) : NULL;
    struct prompt *prompts = arena_array(&a, struct prompt, s.prompts);
    uint32_t *ids = arena_array(&a, uint32_t, length);
    double *values = arena_array(&a, double, 5 * s.runs);
    bool done = e && ((prompts && ids && values) || vireo_fail_memory(err, 1 << 16));
    struct figures f = {0};
    if (done)
        f = (struct figures){values, values + s.runs, values + 2 * s.runs, values + 3 * s.runs, values + 4 * s.runs, {0}};
    for (int64_t i = 0; done && i < s.prompts; i++) {
        bench_engine_words(m, 5, (uint32_t)i, length, ids);
        done = prompt_from_ids(m, ids, length, NULL, 0, &a, &prompts[i], err);
    }
    done = done && run(dev, e, &s, prompts, &f.last, err); // compiles
    for (int64_t i = 0; done && i < s.runs; i++) {
        done = run(dev, e, &s, prompts, &f.last, err);
        f.wall[i] = f.last.seconds;
        f.cpu[i] = f.last.cpu;
        f.first[i] = f.last.first;
        f.idle[i] = 1 - f.last.device / (f.last.seconds - f.last.first);
        f.host[i] = f.last.host / f.last.steps;
    }
    done = done && add_result(dev, m, &s, &f, out, err);
    engine_destroy(&e);
    model_destroy(&m);
    arena_finish(&a);
    return done;
}
