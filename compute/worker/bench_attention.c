#include "compute/worker/bench.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/nn/nn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum kind { TEXT, WINDOW, DECODE };
static const char *const kind_names[] = {"text", "window", "decode", NULL};

struct shape {
    int kind;
    int64_t heads, kv_heads, head_dim, groups, prompt, completions, length;
};
enum { MAX_RUNS = 1000, MAX_TAPES = 64 };

static const struct shape common[] = {
    {TEXT, 4, 2, 16, 2, 27, 8, 23},     {TEXT, 6, 2, 32, 1, 45, 8, 64},    {TEXT, 6, 2, 32, 1, 173, 8, 64},
    {WINDOW, 4, 4, 12, 144, 0, 0, 4},   {WINDOW, 4, 4, 12, 36, 0, 0, 16},  {WINDOW, 4, 4, 12, 16, 0, 0, 36},
    {WINDOW, 4, 4, 32, 9, 0, 0, 64},    {WINDOW, 4, 4, 32, 1, 0, 0, 576},  {DECODE, 4, 2, 16, 16, 27, 8, 30},
    {DECODE, 6, 2, 32, 4, 173, 8, 64},
};

static bool read_shape(const json_t *o, const char *path, struct shape *s, struct vireo_error *err)
{
    static const char *const known[] = {"kind",   "heads",       "kv_heads", "head_dim", "groups",
                                        "prompt", "completions", "length",   NULL};
    const char *unknown;
    char place[128];
    if (!json_is_object(o))
        return vireo_fail_param(err, path, "must be an object, not %s", json_type_name(o));
    if (json_find_unknown((json_t *)o, known, &unknown))
        return vireo_fail_param(err, json_path(place, sizeof place, path, unknown), "unknown field");
    *s = (struct shape){TEXT, 4, 2, 16, 1, 27, 8, 23};
    if (!json_get_choice(o, path, "kind", kind_names, &s->kind, err) ||
        !json_get_integer(o, path, "heads", 1, 1024, &s->heads, err) ||
        !json_get_integer(o, path, "kv_heads", 1, 1024, &s->kv_heads, err) ||
        !json_get_integer(o, path, "head_dim", 1, 128, &s->head_dim, err) ||
        !json_get_integer(o, path, "groups", 1, 1 << 16, &s->groups, err) ||
        !json_get_integer(o, path, "prompt", 0, 1 << 16, &s->prompt, err) ||
        !json_get_integer(o, path, "completions", 1, 1 << 16, &s->completions, err) ||
        !json_get_integer(o, path, "length", 1, 1 << 16, &s->length, err))
        return false;
    if (s->heads % s->kv_heads != 0)
        return vireo_fail_param(err, json_path(place, sizeof place, path, "kv_heads"), "must divide heads, %lld",
                                (long long)s->heads);
    if (s->kind == WINDOW)
        s->prompt = s->completions = 0;
    int64_t rows = s->groups * (s->kind == WINDOW ? s->length : s->prompt + s->completions * s->length);
    if (rows > 1 << 20 || rows * (s->heads + 2 * s->kv_heads) * s->head_dim > 1 << 28)
        return vireo_fail_param(err, path, "%lld rows of tokens: at most 2^20, and 2^28 values of q, k and v",
                                (long long)rows);
    return true;
}

// The inputs of one shape on the device.
struct inputs {
    struct nn_heads heads;
    struct nn_spans spans;
    struct nn_kv kv; // decode
    struct tensor qkv;
    float *values; // of qkv, for leaves
    uint32_t rows;
};

static void set(struct inputs *in, uint32_t *query, uint32_t *key, uint32_t row, const uint32_t span[4], uint32_t first,
                uint32_t end)
{
    for (int i = 0; i < 4; i++)
        query[4 * row + i] = span[i];
    key[2 * row] = first;
    key[2 * row + 1] = end;
    in->spans.pairs += span[1] + span[3];
    in->spans.most_keys = VIREO_MAX(in->spans.most_keys, span[1] + span[3]);
}

static void lay(const struct shape *s, struct inputs *in, uint32_t *query, uint32_t *key)
{
    uint32_t prompt = (uint32_t)s->prompt, length = (uint32_t)s->length, at = 0;
    for (uint32_t g = 0; g < s->groups; g++) {
        uint32_t base = at, end = base + prompt + (uint32_t)s->completions * length;
        if (s->kind == WINDOW) {
            for (uint32_t i = 0; i < length; i++, at++)
                set(in, query, key, at, (uint32_t[]){0, 0, base, length}, base, base + length);
            continue;
        }
        if (s->kind == DECODE) { // slots: all prompts, then room for each completion
            uint32_t own = (uint32_t)s->groups * prompt + at * length;
            for (uint32_t c = 0; c < s->completions; c++, at++, own += length)
                set(in, query, key, at, (uint32_t[]){g * prompt, prompt, own, length}, 0, 0);
            continue;
        }
        for (uint32_t i = 0; i < prompt; i++, at++)
            set(in, query, key, at, (uint32_t[]){0, 0, base, i + 1}, at, end);
        for (uint32_t c = 0; c < s->completions; c++)
            for (uint32_t i = 0, own = at; i < length; i++, at++)
                set(in, query, key, at, (uint32_t[]){base, prompt, own, i + 1}, at, own + length);
    }
}

static bool upload(struct gpu_device *dev, struct tensor *x, struct gpu_arena *arena, enum dtype type, uint32_t rows,
                   uint32_t columns, const void *values, struct vireo_error *err)
{
    *x = tensor_matrix(arena, type, rows, columns, err);
    return x->span.address && gpu_write(dev, x->span, values, tensor_bytes(*x), err);
}

static bool make_inputs(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s, struct inputs *in,
                        struct vireo_error *err)
{
    uint32_t per_group = (uint32_t)(s->kind == WINDOW   ? s->length
                                    : s->kind == DECODE ? s->completions
                                                        : s->prompt + s->completions * s->length);
    uint32_t width = (uint32_t)((s->heads + 2 * s->kv_heads) * s->head_dim);
    uint32_t slots = (uint32_t)(s->groups * (s->prompt + s->completions * s->length));
    uint32_t kv_width = (uint32_t)(s->kv_heads * s->head_dim);
    *in = (struct inputs){
        .heads = {(uint32_t)s->heads, (uint32_t)s->kv_heads, (uint32_t)s->head_dim, 1 / sqrtf((float)s->head_dim)},
        .rows = (uint32_t)s->groups * per_group,
    };
    size_t n = VIREO_MAX((size_t)in->rows * width, s->kind == DECODE ? (size_t)slots * kv_width : 0);
    in->values = vireo_calloc(n, 4);
    uint32_t *query = vireo_calloc(in->rows, 16), *key = vireo_calloc(in->rows, 8);
    bool done = in->values && query && key;
    if (!done)
        vireo_fail_memory(err, n * 4);
    if (done) {
        for (size_t i = 0; i < n; i++)
            in->values[i] = (float)((uint32_t)i * 2654435761u >> 8) * 0x1p-23f - 1;
        lay(s, in, query, key);
        done = upload(dev, &in->spans.query, arena, DTYPE_U32, in->rows, 4, query, err) &&
               upload(dev, &in->spans.key, arena, DTYPE_U32, in->rows, 2, key, err) &&
               upload(dev, &in->qkv, arena, DTYPE_F32, in->rows, width, in->values, err);
    }
    if (done && s->kind == DECODE)
        done = upload(dev, &in->kv.k, arena, DTYPE_F32, slots, kv_width, in->values, err) &&
               upload(dev, &in->kv.v, arena, DTYPE_F32, slots, kv_width, in->values, err);
    free(query);
    free(key);
    return done;
}

struct timing {
    double wall, cpu; // of one pass
};

// `repeats` forward passes on one tape.
static bool run_forward(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s, const struct inputs *in,
                        int64_t repeats, struct timing *out, struct vireo_error *err)
{
    struct tape *t = tape_create(dev, &(struct tape_params){.arena = arena, .upload = arena}, err);
    if (!t)
        return false;
    uint64_t mark = gpu_arena_mark(arena);
    const double wall = clock_seconds(), cpu = clock_cpu_seconds();
    for (int64_t i = 0; i < repeats; i++) {
        nn_attention(t, in->qkv, &in->heads, &in->spans, s->kind == DECODE ? &in->kv : NULL);
        gpu_arena_rewind(arena, mark);
    }
    bool done = gpu_finish(dev, err);
    out->wall = (clock_seconds() - wall) / (double)repeats;
    out->cpu = (clock_cpu_seconds() - cpu) / (double)repeats;
    return tape_finish(&t, done ? err : NULL) && done;
}

// The backward passes of `repeats` tapes, whose forward passes ran before the clock started.
static bool run_backward(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s,
                         const struct inputs *in, int64_t repeats, struct timing *out, struct vireo_error *err)
{
    struct tape *tapes[MAX_TAPES] = {0};
    struct tensor o[MAX_TAPES];
    uint64_t mark = gpu_arena_mark(arena);
    bool done = true;
    for (int64_t i = 0; done && i < repeats; i++) {
        struct tape *t = tape_create(dev, &(struct tape_params){.arena = arena, .upload = arena, .grad = true}, err);
        done = t != NULL;
        if (!done)
            break;
        tapes[i] = t;
        struct tensor qkv = tape_new(t, DTYPE_F32, in->rows, tensor_columns(in->qkv), true);
        if (tape_failed(t))
            continue;
        done = tensor_write_floats(dev, qkv, in->values, err);
        o[i] = nn_attention(t, qkv, &in->heads, &in->spans, NULL);
    }
    done = done && gpu_finish(dev, err);
    const double wall = clock_seconds(), cpu = clock_cpu_seconds();
    for (int64_t i = 0; done && i < repeats; i++) // the output serves as its own gradient
        done = tape_backward(tapes[i], o[i], o[i], err);
    done = done && gpu_finish(dev, err);
    out->wall = (clock_seconds() - wall) / (double)repeats;
    out->cpu = (clock_cpu_seconds() - cpu) / (double)repeats;
    for (int64_t i = 0; i < repeats; i++)
        done = tape_finish(&tapes[i], done ? err : NULL) && done;
    gpu_arena_rewind(arena, mark);
    return done;
}

typedef bool (*run_fn)(struct gpu_device *, struct gpu_arena *, const struct shape *, const struct inputs *, int64_t,
                       struct timing *, struct vireo_error *);

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static json_t *measure(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s, const struct inputs *in,
                       run_fn run, double operations, int64_t most_repeats, double seconds, int64_t runs,
                       struct vireo_error *err)
{
    struct timing t;
    double wall[MAX_RUNS], cpu = INFINITY;
    // The first compiles; the second says how many fill a run.
    if (!run(dev, arena, s, in, 1, &t, err) || !run(dev, arena, s, in, 1, &t, err))
        return NULL;
    const double wanted = seconds / (t.wall > 1e-6 ? t.wall : 1e-6);
    const int64_t repeats = wanted < 1 ? 1 : wanted > (double)most_repeats ? most_repeats : (int64_t)wanted;
    for (int64_t i = 0; i < runs; i++) {
        if (!run(dev, arena, s, in, repeats, &t, err))
            return NULL;
        wall[i] = t.wall;
        cpu = fmin(cpu, t.cpu);
    }
    qsort(wall, (size_t)runs, sizeof wall[0], compare);
    const double median = (wall[(runs - 1) / 2] + wall[runs / 2]) / 2;
    json_t *out = json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "repeats", (json_int_t)repeats, "seconds_min",
                            wall[0], "seconds_median", median, "cpu_seconds_min", cpu, "gflops",
                            operations / wall[0] * 1e-9, "gflops_median", operations / median * 1e-9,
                            "gflops_per_cpu_second", operations / cpu * 1e-9);
    if (!out)
        vireo_fail_memory(err, 1024);
    return out;
}

static bool bench_shape(struct gpu_device *dev, const struct shape *s, double seconds, int64_t runs, json_t *results,
                        struct vireo_error *err)
{
    struct gpu_arena *arena = gpu_arena_create(
        dev, &(struct gpu_arena_params){.name = "bench", .memory = GPU_MEMORY_DEVICE, .grows = true}, err);
    if (!arena)
        return false;
    struct inputs in = {0};
    json_t *forward = NULL, *backward = NULL, *row = NULL;
    bool done = make_inputs(dev, arena, s, &in, err);
    const double operations = 4 * in.spans.pairs * (double)s->heads * (double)s->head_dim;
    if (done)
        done = (forward = measure(dev, arena, s, &in, run_forward, operations, 100000, seconds, runs, err));
    if (done && s->kind != DECODE) {
        // Tapes stand side by side: at most 256 MiB of them.
        const double bytes = 4.0 * in.rows * (double)(4 * s->heads + 4 * s->kv_heads) * (double)s->head_dim;
        const double room = (double)(1 << 28) / bytes;
        const int64_t most = room < 1 ? 1 : room > MAX_TAPES ? MAX_TAPES : (int64_t)room;
        done = (backward = measure(dev, arena, s, &in, run_backward, 2.5 * operations, most, seconds, runs, err));
    }
    if (done) {
        row = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:O}", //
                        "kind", kind_names[s->kind], "heads", (json_int_t)s->heads, //
                        "kv_heads", (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim, //
                        "groups", (json_int_t)s->groups, "prompt", (json_int_t)s->prompt, //
                        "completions", (json_int_t)s->completions, "length", (json_int_t)s->length, //
                        "rows", (json_int_t)in.rows, "pairs", in.spans.pairs, "runs", (json_int_t)runs, //
                        "forward", forward);
        if (!row || (backward && json_object_set(row, "backward", backward) != 0) ||
            json_array_append(results, row) != 0)
            done = vireo_fail_memory(err, 1024);
    }
    json_decref(row);
    json_decref(forward);
    json_decref(backward);
    free(in.values);
    gpu_arena_destroy(&arena);
    return done;
}

bool bench_attention(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    static const char *const known[] = {"shapes", "seconds", "runs", NULL};
    const char *unknown;
    json_t *list = NULL;
    double seconds = 0.05;
    int64_t runs = 5;
    if (config) {
        if (!json_is_object(config))
            return vireo_fail_param(err, "", "the configuration must be an object, not %s", json_type_name(config));
        if (json_find_unknown((json_t *)config, known, &unknown))
            return vireo_fail_param(err, unknown, "unknown field");
        if (!json_get_array(config, "", "shapes", &list, err) ||
            !json_get_number(config, "", "seconds", 0, 60, &seconds, err) ||
            !json_get_integer(config, "", "runs", 1, MAX_RUNS, &runs, err))
            return false;
    }
    json_t *results = json_array();
    bool done = results || vireo_fail_memory(err, 1024);
    const size_t count = list ? json_array_size(list) : VIREO_COUNT(common);
    for (size_t i = 0; done && i < count; i++) {
        struct shape s;
        char path[32];
        snprintf(path, sizeof path, "shapes[%zu]", i);
        if (list)
            done = read_shape(json_array_get(list, i), path, &s, err);
        else
            s = common[i];
        done = done && bench_shape(dev, &s, seconds, runs, results, err);
    }
    json_t *all = done ? json_pack("{s:s, s:O}", "device", gpu_device_caps(dev)->name, "results", results) : NULL;
    if (done && !all)
        done = vireo_fail_memory(err, 1024);
    json_decref(results);
    if (done)
        *out = all;
    return done;
}
