#include "compute/worker/bench.h"
#include "compute/worker/bench_roofline.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/nn/nn.h"

#include <math.h>
#include <stdlib.h>

enum kind { TEXT, WINDOW, DECODE, PAGED };
static const char *const kind_names[] = {"text", "window", "decode", "paged", NULL};

struct shape {
    int kind;
    int64_t heads, kv_heads, head_dim, groups, prompt, completions, length;
};
enum { MAX_TAPES = 64, PAGE = 16 };

// The text models of 4M and 100M with 112 and 336 px, the vision towers' windows, decode steps of 4M, 100M and one user.
static const struct shape common[] = {
    {TEXT, 4, 2, 16, 2, 27, 8, 23},    {TEXT, 6, 2, 32, 1, 45, 8, 64},    {TEXT, 6, 2, 32, 1, 173, 8, 64},
    {TEXT, 12, 2, 64, 1, 45, 8, 64},   {WINDOW, 4, 4, 12, 144, 0, 0, 4},  {WINDOW, 4, 4, 12, 36, 0, 0, 16},
    {WINDOW, 4, 4, 12, 16, 0, 0, 36},  {WINDOW, 4, 4, 32, 9, 0, 0, 64},   {WINDOW, 4, 4, 32, 1, 0, 0, 576},
    {WINDOW, 6, 6, 64, 1, 0, 0, 64},   {DECODE, 4, 2, 16, 16, 27, 8, 30}, {DECODE, 6, 2, 32, 4, 173, 8, 64},
    {PAGED, 6, 2, 32, 4, 45, 8, 64},   {PAGED, 6, 2, 32, 4, 173, 8, 64},  {PAGED, 12, 2, 64, 1, 45, 8, 64},
    {PAGED, 12, 2, 64, 1, 2048, 1, 64},
};

static bool read_shape(const json_t *o, const char *path, struct shape *s, struct vireo_error *err)
{
    static const char *const known[] = {"kind",   "heads",       "kv_heads", "head_dim", "groups",
                                        "prompt", "completions", "length",   NULL};
    char place[128];
    if (!bench_check_shape(o, path, known, err))
        return false;
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
    if (s->kind == PAGED)
        rows += s->groups * (1 + s->completions) * PAGE;
    if (rows > 1 << 20 || rows * (s->heads + 2 * s->kv_heads) * s->head_dim > 1 << 28)
        return vireo_fail_param(err, path, "%lld rows of tokens: at most 2^20, and 2^28 values of q, k and v",
                                (long long)rows);
    return true;
}

// The inputs of one shape on the device.
struct inputs {
    struct nn_heads heads;
    struct nn_spans spans;
    struct nn_kv kv; // decode, paged
    struct tensor qkv;
    uint32_t *pages; // paged: the lists of all rows, one after the other, and how many entries
    uint32_t page_count;
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
    in->spans.pairs += span[1] + span[3]; // of a row in pages: its keys and 0
    in->spans.most_keys = VIREO_MAX(in->spans.most_keys, span[1] + span[3]);
}

static bool has_pool(const struct shape *s)
{
    return s->kind == DECODE || s->kind == PAGED;
}

// Pages of the prompt that its completions share: the whole ones. The rest of it lies in each completion's first own page.
static uint32_t shared_pages(const struct shape *s)
{
    return (uint32_t)s->prompt / PAGE;
}

static uint32_t own_pages(const struct shape *s)
{
    return (uint32_t)(s->prompt % PAGE + s->length + PAGE - 1) / PAGE;
}

// Slots of the pool: the prompts, then what is each completion's own.
static uint32_t slots(const struct shape *s)
{
    if (s->kind == PAGED)
        return (uint32_t)s->groups * (shared_pages(s) + (uint32_t)s->completions * own_pages(s)) * PAGE;
    return (uint32_t)(s->groups * (s->prompt + s->completions * s->length));
}

// The list of pages of completion `c` of group `g`, the `at`-th row of the batch.
static void lay_pages(const struct shape *s, struct inputs *in, uint32_t g, uint32_t at)
{
    const uint32_t shared = shared_pages(s), own = own_pages(s), first = (uint32_t)s->groups * shared + at * own;
    for (uint32_t i = 0; i < shared; i++)
        in->pages[in->page_count++] = g * shared + i;
    for (uint32_t i = 0; i < own; i++)
        in->pages[in->page_count++] = first + i;
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
        if (s->kind == PAGED) {
            for (uint32_t c = 0; c < s->completions; c++, at++) {
                set(in, query, key, at, (uint32_t[]){in->page_count, prompt + length, 0, 0}, 0, 0);
                lay_pages(s, in, g, at);
            }
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

static bool make_pool(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s, struct inputs *in,
                      struct vireo_error *err)
{
    const uint32_t width = (uint32_t)(s->kv_heads * s->head_dim);
    in->kv.page_size = PAGE;
    return bench_matrix(dev, arena, DTYPE_F32, slots(s), width, 1, &in->kv.k, err) &&
           bench_matrix(dev, arena, DTYPE_F32, slots(s), width, 1, &in->kv.v, err) &&
           (s->kind != PAGED || upload(dev, &in->kv.pages, arena, DTYPE_U32, 1, in->page_count, in->pages, err));
}

static bool make_inputs(struct gpu_device *dev, struct gpu_arena *arena, const struct shape *s, struct inputs *in,
                        struct vireo_error *err)
{
    const int64_t per_group = s->kind == WINDOW ? s->length
                              : has_pool(s)     ? s->completions
                                                : s->prompt + s->completions * s->length;
    const uint32_t width = (uint32_t)((s->heads + 2 * s->kv_heads) * s->head_dim);
    *in = (struct inputs){
        .heads = {(uint32_t)s->heads, (uint32_t)s->kv_heads, (uint32_t)s->head_dim, 1 / sqrtf((float)s->head_dim)},
        .rows = (uint32_t)(s->groups * per_group),
    };
    in->values = bench_values((size_t)in->rows * width, 1, err);
    if (!in->values)
        return false;
    const size_t listed = s->kind == PAGED ? in->rows * (size_t)(shared_pages(s) + own_pages(s)) : 1;
    uint32_t *query = vireo_calloc(in->rows, 16), *key = vireo_calloc(in->rows, 8);
    in->pages = vireo_calloc(listed, 4);
    bool done = (query && key && in->pages) || vireo_fail_memory(err, (size_t)in->rows * 24);
    if (done) {
        lay(s, in, query, key);
        done = upload(dev, &in->spans.query, arena, DTYPE_U32, in->rows, 4, query, err) &&
               upload(dev, &in->spans.key, arena, DTYPE_U32, in->rows, 2, key, err) &&
               upload(dev, &in->qkv, arena, DTYPE_F32, in->rows, width, in->values, err) &&
               (!has_pool(s) || make_pool(dev, arena, s, in, err));
    }
    free(query);
    free(key);
    free(in->pages);
    in->pages = NULL;
    return done;
}

// What the passes of one shape work on.
struct work {
    struct gpu_device *dev;
    struct gpu_arena *arena;
    const struct shape *shape;
    struct inputs in;
};

// `repeats` forward passes on one tape.
static bool run_forward(void *context, int64_t repeats, struct bench_clock *took, struct vireo_error *err)
{
    struct work *w = context;
    struct tape *t = tape_create(w->dev, &(struct tape_params){.arena = w->arena, .upload = w->arena}, err);
    if (!t)
        return false;
    uint64_t mark = gpu_arena_mark(w->arena);
    const struct bench_clock start = bench_start();
    for (int64_t i = 0; i < repeats; i++) {
        nn_attention(t, w->in.qkv, &w->in.heads, &w->in.spans, has_pool(w->shape) ? &w->in.kv : NULL);
        gpu_arena_rewind(w->arena, mark);
    }
    bool done = gpu_finish(w->dev, err);
    *took = bench_since(start);
    return tape_finish(&t, done ? err : NULL) && done;
}

// The backward passes of `repeats` tapes, whose forward passes ran before the clock started.
static bool run_backward(void *context, int64_t repeats, struct bench_clock *took, struct vireo_error *err)
{
    struct work *w = context;
    struct tape *tapes[MAX_TAPES] = {0};
    struct tensor o[MAX_TAPES];
    uint64_t mark = gpu_arena_mark(w->arena);
    bool done = true;
    const struct tape_params p = {.arena = w->arena, .upload = w->arena, .grad = true};
    for (int64_t i = 0; done && i < repeats; i++) {
        struct tape *t = tape_create(w->dev, &p, err);
        done = t != NULL;
        if (!done)
            break;
        tapes[i] = t;
        struct tensor qkv = tape_new(t, DTYPE_F32, w->in.rows, tensor_columns(w->in.qkv), true);
        if (tape_failed(t))
            continue;
        done = tensor_write_floats(w->dev, qkv, w->in.values, err);
        o[i] = nn_attention(t, qkv, &w->in.heads, &w->in.spans, NULL);
    }
    done = done && gpu_finish(w->dev, err);
    const struct bench_clock start = bench_start();
    for (int64_t i = 0; done && i < repeats; i++) // the output serves as its own gradient
        done = tape_backward(tapes[i], o[i], o[i], err);
    done = done && gpu_finish(w->dev, err);
    *took = bench_since(start);
    for (int64_t i = 0; i < repeats; i++)
        done = tape_finish(&tapes[i], done ? err : NULL) && done;
    gpu_arena_rewind(w->arena, mark);
    return done;
}

// Keys and values count once however many rows see them; a page lies in the pool once.
static struct bench_work count(const struct work *w, bool backward)
{
    const struct shape *s = w->shape;
    const double D = (double)s->head_dim, q = (double)s->heads * D, kv = 2 * (double)s->kv_heads * D;
    const double rows = w->in.rows, keys = has_pool(s) ? slots(s) : rows;
    const double forward = 4 * w->in.spans.pairs * q;
    if (!backward)
        return (struct bench_work){forward, 4 * (rows * (2 * q + (double)s->heads) + keys * kv)};
    // q, k, v, o, its gradient and the log-sum-exp are read, the gradients of q, k and v written.
    return (struct bench_work){2.5 * forward, 4 * rows * (2 * (q + kv) + 2 * q + (double)s->heads)};
}

static json_t *pass(struct work *w, bool backward, const struct bench_list *list, struct vireo_error *err)
{
    const struct shape *s = w->shape;
    const struct bench_work work = count(w, backward);
    int64_t most = 100000;
    if (backward) { // tapes stand side by side: at most 256 MiB of them
        const double bytes = 4.0 * w->in.rows * (double)(4 * s->heads + 4 * s->kv_heads) * (double)s->head_dim;
        const double room = (double)(1 << 28) / bytes;
        most = room < 1 ? 1 : room > MAX_TAPES ? MAX_TAPES : (int64_t)room;
    }
    struct bench_times times;
    if (!bench_measure(backward ? run_backward : run_forward, w, list->seconds, list->runs, most, &times, err))
        return NULL;
    json_t *out = bench_times_json(&times, work.flops);
    if (!out)
        vireo_fail_memory(err, 1024);
    if (out && !bench_roofline_set(out, work, times.wall.least, err, "%s %s, %lld heads of %lld, %lld x (%lld + %lld x %lld)",
                                   kind_names[s->kind], backward ? "backward" : "forward", (long long)s->heads,
                                   (long long)s->head_dim, (long long)s->groups, (long long)s->prompt,
                                   (long long)(s->kind == WINDOW ? 1 : s->completions), (long long)s->length)) {
        json_decref(out);
        out = NULL;
    }
    return out;
}

static bool one(struct gpu_device *dev, const json_t *given, const char *path, size_t index, const struct bench_list *list,
                json_t *results, struct vireo_error *err)
{
    struct shape s = common[given ? 0 : index];
    if (given && !read_shape(given, path, &s, err))
        return false;
    const struct gpu_arena_params p = {.name = "bench", .memory = GPU_MEMORY_DEVICE, .grows = true};
    struct work w = {.dev = dev, .arena = gpu_arena_create(dev, &p, err), .shape = &s};
    json_t *forward = NULL, *backward = NULL, *row = NULL;
    bool done = w.arena && make_inputs(dev, w.arena, &s, &w.in, err) && (forward = pass(&w, false, list, err)) &&
                (has_pool(&s) || (backward = pass(&w, true, list, err)));
    if (done) {
        row = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:O, s:O*}", //
                        "kind", kind_names[s.kind], "heads", (json_int_t)s.heads, //
                        "kv_heads", (json_int_t)s.kv_heads, "head_dim", (json_int_t)s.head_dim, //
                        "groups", (json_int_t)s.groups, "prompt", (json_int_t)s.prompt, //
                        "completions", (json_int_t)s.completions, "length", (json_int_t)s.length, //
                        "rows", (json_int_t)w.in.rows, "pairs", w.in.spans.pairs, "runs", (json_int_t)list->runs, //
                        "forward", forward, "backward", backward);
        done = (row && json_array_append(results, row) == 0) || vireo_fail_memory(err, 1024);
    }
    json_decref(row);
    json_decref(forward);
    json_decref(backward);
    free(w.in.values);
    gpu_arena_destroy(&w.arena);
    return done;
}

bool bench_attention(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    return bench_shapes(dev, config, VIREO_COUNT(common), one, out, err);
}
