// `vireo bench logprob`: the streamed head, log-softmax and gather, forward and backward, as every training step runs it.
#include "compute/worker/bench.h"
#include "compute/worker/bench_roofline.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/nn/nn.h"

#include <stdlib.h>

struct setup {
    int64_t rows, hidden_size, vocab_size, runs;
    enum dtype type; // of the head
};

// What one run works on.
struct operands {
    struct gpu_arena *weights, *activations, *upload;
    struct weight head;
    struct tensor x, grad;
    uint32_t *targets;
};

static bool make(struct gpu_device *dev, const struct setup *s, struct operands *o, struct vireo_error *err)
{
    *o = (struct operands){
        .weights = gpu_arena_create(dev, &(struct gpu_arena_params){.name = "bench head", .grows = true}, err),
        .activations = gpu_arena_create(dev, &(struct gpu_arena_params){.name = "bench activations", .grows = true}, err),
        .upload = gpu_arena_create(
            dev, &(struct gpu_arena_params){.name = "bench upload", .memory = GPU_MEMORY_UPLOAD, .grows = true}, err),
        .head = {.name = "lm_head.weight", .role = WEIGHT_HEAD},
        .targets = vireo_calloc((size_t)s->rows, sizeof(uint32_t))};
    if (!o->weights || !o->activations || !o->upload)
        return false;
    if (!o->targets)
        return vireo_fail_memory(err, (size_t)s->rows * 4);
    for (int64_t i = 0; i < s->rows; i++)
        o->targets[i] = (uint32_t)((i * 7919) % s->vocab_size);
    return bench_matrix(dev, o->weights, s->type, s->vocab_size, s->hidden_size, 0.05f, &o->head.value, err) &&
           bench_matrix(dev, o->weights, DTYPE_F32, s->vocab_size, s->hidden_size, 0, &o->head.grad, err) &&
           bench_matrix(dev, o->weights, DTYPE_F32, s->rows, s->hidden_size, 1, &o->x, err) &&
           bench_matrix(dev, o->weights, DTYPE_F32, s->rows, 1, 1e-3f, &o->grad, err);
}

static void drop(struct operands *o)
{
    gpu_arena_destroy(&o->weights);
    gpu_arena_destroy(&o->activations);
    gpu_arena_destroy(&o->upload);
    free(o->targets);
}

struct work {
    struct gpu_device *dev;
    const struct setup *setup;
    struct operands o;
    bool backward; // too
};

static bool run_once(struct work *w, struct vireo_error *err)
{
    const uint32_t rows = (uint32_t)w->setup->rows;
    const struct tape_params params = {.arena = w->o.activations, .upload = w->o.upload, .grad = w->backward};
    struct tape *t = tape_create(w->dev, &params, err);
    if (!t)
        return false;
    // The input takes a gradient, as the decoder's last hidden states do.
    struct tensor x = tape_new(t, DTYPE_F32, rows, (uint32_t)w->setup->hidden_size, true);
    if (!tape_failed(t))
        nn_convert(t, x, w->o.x);
    struct nn_logprob lp = nn_logprob(t, x, &w->o.head, tape_upload(t, DTYPE_U32, rows, w->o.targets), 1);
    bool done = !w->backward || tape_failed(t) || tape_backward(t, lp.logprob, w->o.grad, err);
    done = tape_finish(&t, done ? err : NULL) && done;
    done = gpu_finish(w->dev, done ? err : NULL) && done;
    gpu_arena_rewind(w->o.activations, 0);
    gpu_arena_rewind(w->o.upload, 0);
    return done;
}

static bool run(void *context, int64_t repeats, struct bench_clock *took, struct vireo_error *err)
{
    const struct bench_clock start = bench_start();
    for (int64_t i = 0; i < repeats; i++)
        if (!run_once(context, err))
            return false;
    *took = bench_since(start);
    return true;
}

// The backward pass recomputes the logits, then takes the gradients of both factors: it reads both again, writes one
// gradient and adds to the other.
static struct bench_work count(const struct setup *s, bool backward)
{
    const double rows = (double)s->rows, hidden = (double)s->hidden_size, vocab = (double)s->vocab_size;
    const double factors = 4 * rows * hidden + dtype_bytes(s->type) * vocab * hidden;
    struct bench_work work = {2 * rows * hidden * vocab, factors + 8 * rows};
    if (backward) {
        work.flops *= 3;
        work.bytes += factors + 4 * rows + 4 * rows * hidden + 8 * vocab * hidden;
    }
    return work;
}

static bool read_setup(const json_t *config, struct setup *s, struct vireo_error *err)
{
    static const char *const known[] = {"rows", "hidden_size", "vocab_size", "dtype", "runs", NULL};
    const char *unknown;
    *s = (struct setup){.rows = 2048, .hidden_size = 192, .vocab_size = 2048, .runs = 5, .type = DTYPE_F32};
    if (config && json_find_unknown((json_t *)config, known, &unknown))
        return vireo_fail_param(err, unknown, "unknown field");
    return !config || (json_get_integer(config, "", "rows", 1, 1 << 20, &s->rows, err) &&
                       json_get_integer(config, "", "hidden_size", 8, 1 << 16, &s->hidden_size, err) &&
                       json_get_integer(config, "", "vocab_size", 8, 1 << 20, &s->vocab_size, err) &&
                       json_get_integer(config, "", "runs", 1, BENCH_MAX_RUNS, &s->runs, err) &&
                       bench_read_dtype(config, &s->type, err));
}

bool bench_logprob(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    static const char *const names[2] = {"forward", "forward_backward"};
    struct setup s;
    if (!read_setup(config, &s, err))
        return false;
    const char *type = s.type == DTYPE_BF16 ? "bf16" : s.type == DTYPE_F16 ? "fp16" : "fp32";
    json_t *all = json_pack("{s:s,s:I,s:I,s:I,s:s,s:i}", "device", gpu_device_caps(dev)->name, "rows", (json_int_t)s.rows,
                            "hidden_size", (json_int_t)s.hidden_size, "vocab_size", (json_int_t)s.vocab_size, "dtype",
                            type, "runs", (int)s.runs);
    struct work w = {.dev = dev, .setup = &s};
    bool done = (all || vireo_fail_memory(err, 1 << 10)) && make(dev, &s, &w.o, err);
    for (int pass = 0; done && pass < 2; pass++) {
        struct bench_times times;
        w.backward = pass == 1;
        const struct bench_work work = count(&s, w.backward);
        done = bench_measure(run, &w, 0, s.runs, 1, &times, err);
        json_t *figures = done ? bench_times_json(&times, work.flops) : NULL;
        if (done)
            done = json_object_set_new(all, names[pass], figures) == 0 || vireo_fail_memory(err, 1 << 10);
        done = done && bench_roofline_set(figures, work, times.wall.least, err, "%s, %lld rows x %lld x %lld, head %s",
                                          names[pass], (long long)s.rows, (long long)s.hidden_size,
                                          (long long)s.vocab_size, type);
    }
    drop(&w.o);
    if (done)
        *out = all;
    else
        json_decref(all);
    return done;
}
