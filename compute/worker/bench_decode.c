// `vireo bench decode`: tokens a second of the engine, prompts shared by groups, as rollouts and chats run it.
#include "compute/worker/bench.h"

#include "compute/base/arena.h"
#include "compute/base/clock.h"
#include "compute/base/json.h"
#include "compute/base/philox.h"
#include "compute/engine/engine.h"

#include <stdlib.h>

struct setup {
    int64_t prompts, group, new_tokens, text_tokens, runs;
    json_t *model;
    enum dtype type;
};

static bool read_setup(const json_t *config, struct setup *s, struct vireo_error *err)
{
    static const char *const types[] = {"fp32", "bf16", "fp16", NULL};
    int type = 0;
    *s = (struct setup){.prompts = 4, .group = 8, .new_tokens = 64, .text_tokens = 24, .runs = 5};
    if (!json_get_object(config, "", "model", &s->model, err) ||
        !json_get_integer(config, "", "prompts", 1, 1024, &s->prompts, err) ||
        !json_get_integer(config, "", "group", 1, 256, &s->group, err) ||
        !json_get_integer(config, "", "new_tokens", 1, 65536, &s->new_tokens, err) ||
        !json_get_integer(config, "", "text_tokens", 1, 65536, &s->text_tokens, err) ||
        !json_get_integer(config, "", "runs", 1, 1000, &s->runs, err) ||
        !json_get_choice(config, "", "dtype", types, &type, err))
        return false;
    s->type = type == 0 ? DTYPE_F32 : type == 1 ? DTYPE_BF16 : DTYPE_F16;
    return s->model || vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "model",
                                       "The configuration needs 'model': a config.json of the model to be timed.");
}

static bool on_token(void *user, uint32_t sample, const struct engine_token *token)
{
    (void)sample;
    (void)token;
    ++*(uint64_t *)user;
    return true;
}

static void on_end(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why)
{
    (void)user;
    (void)sample;
    (void)reason;
    (void)why;
}

// What one run took.
struct taken {
    double seconds, cpu;
    double first;                       // seconds until all prompts are computed
    double steps, device, submits, replays, dispatches, host; // of the decode steps; host: CPU seconds of the engine's thread
    uint64_t tokens;
};

// One run: all prompts at once, every completion new_tokens long.
static bool run(struct gpu_device *dev, struct engine *e, const struct setup *s, const struct prompt *prompts,
                struct taken *out, struct vireo_error *err)
{
    struct taken k = {0};
    struct gpu_counters before = {0};
    engine_forget(e); // the run before computed the same prompts
    double start = clock_seconds(), cpu_start = clock_cpu_seconds(), thread_start = 0;
    for (int64_t i = 0; i < s->prompts; i++) {
        struct generation g = {.id = (uint64_t)i + 1,
                               .prompt = &prompts[i],
                               .n = (uint32_t)s->group,
                               .first_sample = (uint32_t)(i * s->group),
                               .sampling = {.temperature = 1,
                                            .top_p = 1,
                                            .repetition_penalty = 1,
                                            .logprob_temperature = 1,
                                            .max_tokens = (uint32_t)s->new_tokens,
                                            .ignore_eos = true},
                               .on_token = on_token,
                               .on_end = on_end,
                               .user = &k.tokens};
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

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bool bench_decode(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    struct setup s;
    if (!read_setup(config, &s, err))
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
    double *wall = arena_array(&a, double, s.runs), *cpu = arena_array(&a, double, s.runs);
    double *idle = arena_array(&a, double, s.runs), *host = arena_array(&a, double, s.runs);
    bool done = e && ((prompts && ids && wall && cpu && idle && host) || vireo_fail_memory(err, 1 << 16));
    for (int64_t i = 0; done && i < s.prompts; i++) {
        // Ids from the upper half of the vocabulary: no placeholder of an image stands there.
        uint32_t half = m->config.text.vocab_size / 2;
        for (uint32_t k = 0; k < length; k++)
            ids[k] = half + philox(5, (uint32_t)i, k, 0, 0).v[0] % half;
        done = prompt_from_ids(m, ids, length, NULL, 0, &a, &prompts[i], err);
    }
    struct taken k = {0};
    done = done && run(dev, e, &s, prompts, &k, err); // compiles
    for (int64_t i = 0; done && i < s.runs; i++) {
        done = run(dev, e, &s, prompts, &k, err);
        wall[i] = k.seconds;
        cpu[i] = k.cpu;
        idle[i] = 1 - k.device / (k.seconds - k.first);
        host[i] = k.host / k.steps;
    }
    if (done) {
        qsort(wall, (size_t)s.runs, sizeof *wall, by_value);
        qsort(cpu, (size_t)s.runs, sizeof *cpu, by_value);
        qsort(idle, (size_t)s.runs, sizeof *idle, by_value);
        qsort(host, (size_t)s.runs, sizeof *host, by_value);
        int64_t middle = s.runs / 2;
        *out = json_pack(
            "{s:s,s:i,s:i,s:i,s:{s:f,s:f},s:{s:f,s:f},s:{s:f,s:f},s:f,s:f,s:{s:f,s:f},s:{s:f,s:f,s:f,s:f,s:f}}", "device",
            gpu_device_caps(dev)->name, "sequences", (int)sequences, "new_tokens", (int)s.new_tokens, "runs", (int)s.runs,
            "seconds_min", "run", wall[0], "prefill", k.first, "seconds_median", "run", wall[middle], "prefill", k.first,
            "cpu_seconds_min", "run", cpu[0], "run_median", cpu[middle], "tokens_per_s", (double)k.tokens / wall[0],
            "tokens_per_cpu_second", (double)k.tokens / cpu[0], "idle_share", "min", idle[0], "median", idle[middle],
            "decode_step", "submits", k.submits / k.steps, "replayed", k.replays / k.steps, "dispatches",
            k.dispatches / k.steps, "host_cpu_seconds_min", host[0], "host_cpu_seconds_median", host[middle]);
        done = *out != NULL || vireo_fail_memory(err, 1 << 12);
    }
    engine_destroy(&e);
    model_destroy(&m);
    arena_finish(&a);
    return done;
}
