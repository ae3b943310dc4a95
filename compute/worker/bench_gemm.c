#include "compute/worker/bench.h"
#include "compute/worker/bench_roofline.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/check.h"
#include "compute/base/json.h"
#include "compute/nn/nn.h"

struct shape {
    int product, beta; // enum nn_product
    int64_t m, n, k;
    int a_type, b_type, c_type; // index into types
};

static const char *const product_names[] = {"nt", "nn", "tn", NULL};
static const char *const type_names[] = {"f32", "bf16", "f16", NULL};
static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

// Each in f32 and in bf16. Names as in tests/peers: a GRPO step with 112 px images, 8 completions of 64 tokens a prompt.
static const struct shape common[] = {
    {.product = NN_NT, .m = 512, .n = 512, .k = 512},
    {.product = NN_NN, .m = 512, .n = 512, .k = 512},
    {.product = NN_TN, .m = 512, .n = 512, .k = 512},
    {.product = NN_NT, .m = 2048, .n = 768, .k = 768},
    {.product = NN_NN, .m = 2048, .n = 768, .k = 768},
    {.product = NN_TN, .m = 2048, .n = 768, .k = 768},
    // 4M, 4 prompts: q, k, v; gate and up with both gradients; down; head; a decode step; a vision block's q, k, v.
    {.product = NN_NT, .m = 2184, .n = 320, .k = 192},
    {.product = NN_NT, .m = 2184, .n = 1024, .k = 192},
    {.product = NN_NN, .m = 2184, .n = 192, .k = 1024},
    {.product = NN_TN, .m = 1024, .n = 192, .k = 2184},
    {.product = NN_NT, .m = 2184, .n = 192, .k = 512},
    {.product = NN_NT, .m = 2048, .n = 2048, .k = 192},
    {.product = NN_NT, .m = 32, .n = 1024, .k = 192},
    {.product = NN_NT, .m = 256, .n = 384, .k = 128},
    // 100M, 1 prompt: the same.
    {.product = NN_NT, .m = 546, .n = 1024, .k = 768},
    {.product = NN_NT, .m = 546, .n = 4096, .k = 768},
    {.product = NN_NN, .m = 546, .n = 768, .k = 4096},
    {.product = NN_TN, .m = 4096, .n = 768, .k = 546},
    {.product = NN_NT, .m = 546, .n = 768, .k = 2048},
    {.product = NN_NT, .m = 512, .n = 32000, .k = 768},
    {.product = NN_NT, .m = 8, .n = 4096, .k = 768},
    {.product = NN_NT, .m = 64, .n = 1152, .k = 384},
    // One user's decode step.
    {.product = NN_NT, .m = 1, .n = 4096, .k = 768},
};

static bool read_type(const json_t *o, const char *path, const char *key, int *type, struct vireo_error *err)
{
    return json_get_choice(o, path, key, type_names, type, err);
}

static bool read_shape(const json_t *o, const char *path, struct shape *s, struct vireo_error *err)
{
    static const char *const known[] = {"product", "m", "n", "k", "a_type", "b_type", "c_type", "beta", NULL};
    char place[128];
    if (!bench_check_shape(o, path, known, err))
        return false;
    int64_t beta = 0;
    *s = (struct shape){.m = 512, .n = 512, .k = 512};
    if (!json_get_choice(o, path, "product", product_names, &s->product, err) ||
        !json_get_integer(o, path, "m", 1, 1 << 20, &s->m, err) ||
        !json_get_integer(o, path, "n", 1, 1 << 20, &s->n, err) ||
        !json_get_integer(o, path, "k", 1, 1 << 20, &s->k, err) || !read_type(o, path, "a_type", &s->a_type, err) ||
        !read_type(o, path, "b_type", &s->b_type, err) || !read_type(o, path, "c_type", &s->c_type, err) ||
        !json_get_integer(o, path, "beta", 0, 1, &beta, err))
        return false;
    s->beta = (int)beta;
    const int64_t most = (int64_t)1 << 31; // elements of a matrix
    if (s->m * s->k > most || s->n * s->k > most || s->m * s->n > most)
        return vireo_fail_param(err, path, "a matrix of %lld x %lld x %lld has more than 2^31 elements",
                                (long long)s->m, (long long)s->n, (long long)s->k);
    if (s->a_type && s->b_type && s->a_type != s->b_type)
        return vireo_fail_param(err, json_path(place, sizeof place, path, "b_type"),
                                "must be %s or f32 beside an a_type of %s", type_names[s->a_type], type_names[s->a_type]);
    if (s->c_type != 0 && s->n % 2 != 0 && s->m > 1)
        return vireo_fail_param(err, json_path(place, sizeof place, path, "n"), "must be even when c_type has 16 bits");
    return true;
}

// What one run works on.
struct work {
    struct gpu_device *dev;
    struct gpu_arena *arena;
    const struct shape *shape;
    struct tensor a, b, c;
};

// One run: the product `repeats` times, one after another since all write C.
static bool run(void *context, int64_t repeats, struct bench_clock *took, struct vireo_error *err)
{
    static const struct tensor none;
    const struct work *w = context;
    struct tape *t = tape_create(w->dev, &(struct tape_params){.arena = w->arena, .upload = w->arena}, err);
    if (!t)
        return false;
    const struct bench_clock start = bench_start();
    for (int64_t i = 0; i < repeats; i++)
        nn_gemm(t, w->shape->product, w->a, w->b, w->c, w->shape->beta, none, none);
    bool done = gpu_finish(w->dev, err);
    *took = bench_since(start);
    return tape_finish(&t, done ? err : NULL) && done;
}

static bool measure(struct work *w, const struct bench_list *list, struct bench_times *out, struct vireo_error *err)
{
    const struct shape *s = w->shape;
    const bool tn = s->product == NN_TN, nt = s->product == NN_NT;
    return bench_matrix(w->dev, w->arena, types[s->a_type], tn ? s->k : s->m, tn ? s->m : s->k, 1, &w->a, err) &&
           bench_matrix(w->dev, w->arena, types[s->b_type], nt ? s->n : s->k, nt ? s->k : s->n, 1, &w->b, err) &&
           bench_matrix(w->dev, w->arena, types[s->c_type], s->m, s->n, 1, &w->c, err) &&
           bench_measure(run, w, list->seconds, list->runs, 100000, out, err);
}

static struct bench_work count(const struct shape *s)
{
    const double m = (double)s->m, n = (double)s->n, k = (double)s->k;
    return (struct bench_work){2 * m * n * k, m * k * dtype_bytes(types[s->a_type]) + n * k * dtype_bytes(types[s->b_type]) +
                                                  (1 + s->beta) * m * n * dtype_bytes(types[s->c_type])};
}

static bool add_result(const struct shape *s, const struct bench_times *t, int64_t runs, json_t *results,
                       struct vireo_error *err)
{
    const struct bench_work work = count(s);
    json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:s, s:s, s:s, s:i, s:I}", "product", product_names[s->product], //
                            "m", (json_int_t)s->m, "n", (json_int_t)s->n, "k", (json_int_t)s->k,           //
                            "a_type", type_names[s->a_type], "b_type", type_names[s->b_type],              //
                            "c_type", type_names[s->c_type], "beta", s->beta, "runs", (json_int_t)runs);
    json_t *times = bench_times_json(t, work.flops);
    bool done = (row && times && json_object_update(row, times) == 0) || vireo_fail_memory(err, 1024);
    done = done && bench_roofline_set(row, work, t->wall.least, err, "%s %lld x %lld x %lld, %s x %s%s%s",
                                      product_names[s->product], (long long)s->m, (long long)s->n, (long long)s->k,
                                      type_names[s->a_type], type_names[s->b_type], s->c_type ? ", C in 16 bits" : "",
                                      s->beta ? ", added" : "");
    done = done && (json_array_append(results, row) == 0 || vireo_fail_memory(err, 1024));
    json_decref(times);
    json_decref(row);
    return done;
}

static bool one(struct gpu_device *dev, const json_t *given, const char *path, size_t index, const struct bench_list *list,
                json_t *results, struct vireo_error *err)
{
    struct shape s = common[given ? 0 : index / 2];
    if (!given)
        s.a_type = s.b_type = index % 2;
    else if (!read_shape(given, path, &s, err))
        return false;
    const struct gpu_arena_params p = {.name = "bench", .memory = GPU_MEMORY_DEVICE, .grows = true};
    struct work w = {.dev = dev, .arena = gpu_arena_create(dev, &p, err), .shape = &s};
    struct bench_times times;
    bool done = w.arena && measure(&w, list, &times, err) && add_result(&s, &times, list->runs, results, err);
    gpu_arena_destroy(&w.arena);
    return done;
}

bool bench_gemm(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    return bench_shapes(dev, config, 2 * VIREO_COUNT(common), one, out, err);
}
