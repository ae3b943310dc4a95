// `vireo bench logprob`: the streamed head, log-softmax and gather, forward and backward, as every training step runs it.
#include "compute/worker/bench.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/nn/nn.h"

#include <stdlib.h>

enum { MAX_RUNS = 100 };

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

static bool random_tensor(struct gpu_device *dev, struct gpu_arena *a, enum dtype type, int64_t rows, int64_t columns,
                          float scale, struct tensor *out, struct vireo_error *err)
{
    *out = tensor_matrix(a, type, (uint32_t)rows, (uint32_t)columns, err);
    const size_t n = (size_t)(rows * columns);
    float *values = out->span.address ? vireo_calloc(n, sizeof *values) : NULL;
    if (!values)
        return out->span.address ? vireo_fail_memory(err, n * sizeof *values) : false;
    for (size_t i = 0; i < n; i++)
        values[i] = scale * ((float)((uint32_t)i * 2654435761u >> 8) * 0x1p-23f - 1);
    bool done = tensor_write_floats(dev, *out, values, err);
    free(values);
    return done;
}

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
    return random_tensor(dev, o->weights, s->type, s->vocab_size, s->hidden_size, 0.05f, &o->head.value, err) &&
           random_tensor(dev, o->weights, DTYPE_F32, s->vocab_size, s->hidden_size, 0, &o->head.grad, err) &&
           random_tensor(dev, o->weights, DTYPE_F32, s->rows, s->hidden_size, 1, &o->x, err) &&
           random_tensor(dev, o->weights, DTYPE_F32, s->rows, 1, 1e-3f, &o->grad, err);
}

static void drop(struct operands *o)
{
    gpu_arena_destroy(&o->weights);
    gpu_arena_destroy(&o->activations);
    gpu_arena_destroy(&o->upload);
    free(o->targets);
}

// passes[0]: forward alone; passes[1]: forward and backward.
static bool run(struct gpu_device *dev, const struct setup *s, struct operands *o, bool backward,
                struct bench_clock *took, struct vireo_error *err)
{
    const struct tape_params params = {.arena = o->activations, .upload = o->upload, .grad = backward};
    const struct bench_clock start = bench_start();
    struct tape *t = tape_create(dev, &params, err);
    if (!t)
        return false;
    // The input takes a gradient, as the decoder's last hidden states do.
    struct tensor x = tape_new(t, DTYPE_F32, (uint32_t)s->rows, (uint32_t)s->hidden_size, true);
    if (!tape_failed(t))
        nn_convert(t, x, o->x);
    struct nn_logprob lp =
        nn_logprob(t, x, &o->head, tape_upload(t, DTYPE_U32, (uint32_t)s->rows, o->targets), 1);
    bool done = !backward || tape_failed(t) || tape_backward(t, lp.logprob, o->grad, err);
    done = tape_finish(&t, done ? err : NULL) && done;
    done = gpu_finish(dev, done ? err : NULL) && done;
    *took = bench_since(start);
    gpu_arena_rewind(o->activations, 0);
    gpu_arena_rewind(o->upload, 0);
    return done;
}

bool bench_logprob(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    static const char *const types[] = {"fp32", "bf16", "fp16", NULL};
    static const char *const known[] = {"rows", "hidden_size", "vocab_size", "dtype", "runs", NULL};
    struct setup s = {.rows = 2048, .hidden_size = 192, .vocab_size = 2048, .runs = 5};
    int type = 0;
    const char *unknown;
    if (config && json_find_unknown((json_t *)config, known, &unknown))
        return vireo_fail_param(err, unknown, "unknown field");
    if (config && (!json_get_integer(config, "", "rows", 1, 1 << 20, &s.rows, err) ||
                   !json_get_integer(config, "", "hidden_size", 8, 1 << 16, &s.hidden_size, err) ||
                   !json_get_integer(config, "", "vocab_size", 8, 1 << 20, &s.vocab_size, err) ||
                   !json_get_integer(config, "", "runs", 1, MAX_RUNS, &s.runs, err) ||
                   !json_get_choice(config, "", "dtype", types, &type, err)))
        return false;
    s.type = type == 0 ? DTYPE_F32 : type == 1 ? DTYPE_BF16 : DTYPE_F16;
    struct operands o;
    struct bench_clock took;
    double wall[2][MAX_RUNS], cpu[2][MAX_RUNS];
    bool done = make(dev, &s, &o, err);
    for (int pass = 0; done && pass < 2; pass++) {
        done = run(dev, &s, &o, pass == 1, &took, err); // compiles
        for (int64_t i = 0; done && i < s.runs; i++) {
            done = run(dev, &s, &o, pass == 1, &took, err);
            wall[pass][i] = took.wall;
            cpu[pass][i] = took.cpu;
        }
    }
    drop(&o);
    if (!done)
        return false;
    // The backward pass recomputes the logits, then takes the gradients of both factors.
    const double product = 2.0 * (double)s.rows * (double)s.hidden_size * (double)s.vocab_size;
    static const char *const names[2] = {"forward", "forward_backward"};
    *out = json_pack("{s:s,s:I,s:I,s:I,s:s,s:i}", "device", gpu_device_caps(dev)->name, "rows", (json_int_t)s.rows,
                     "hidden_size", (json_int_t)s.hidden_size, "vocab_size", (json_int_t)s.vocab_size, "dtype",
                     types[type], "runs", (int)s.runs);
    for (int pass = 0; *out && pass < 2; pass++) {
        const struct bench_figures w = bench_figures(wall[pass], (size_t)s.runs);
        const struct bench_figures c = bench_figures(cpu[pass], (size_t)s.runs);
        const double flops = product * (pass == 1 ? 3 : 1);
        json_object_set_new(*out, names[pass],
                            json_pack("{s:f,s:f,s:f,s:f,s:f}", "seconds_min", w.least, "seconds_median", w.median,
                                      "cpu_seconds_min", c.least, "gflops", flops / w.least * 1e-9,
                                      "gflops_per_cpu_second", flops / c.least * 1e-9));
    }
    return *out || vireo_fail_memory(err, 1 << 10);
}
