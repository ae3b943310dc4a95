// golden DIR [--only PREFIX,...] [--fp16]: runs the golden cases of DIR (form of fixtures/README.md) on the device.
// One line a quantity with its error and tolerance. Exit 1: a miss, or nothing ran; 2: a case of what is not built was
// skipped; 77: no device.
#include "tests/cases/golden.h"

#include "compute/base/json.h"
#include "tests/nullgpu/created.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void golden_report(struct golden *g, const char *quantity, double value, double tolerance)
{
    bool fine = value <= tolerance;
    printf("%-4s %s %s: error %.3g, tolerance %.3g\n", fine ? "ok" : "MISS", g->name, quantity, value, tolerance);
    g->checked++;
    g->missed += !fine;
}

void golden_fail(struct golden *g, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    printf("MISS %s: ", g->name);
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
    g->checked++;
    g->missed++;
}

void golden_skip(struct golden *g, const char *name, const char *why)
{
    printf("SKIP %s: %s\n", name, why);
    g->skipped++;
}

const char *golden_path(struct golden *g, const char *fmt, ...)
{
    char rest[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(rest, sizeof rest, fmt, args);
    va_end(args);
    return arena_format(&g->host, "%s/%s", g->dir, rest);
}

void golden_compare(struct golden *g, const char *quantity, const float *x, const float *ref, size_t n, double rel,
                    double abs)
{
    double d2 = 0, r2 = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - ref[i];
        d2 += d * d;
        r2 += (double)ref[i] * ref[i];
        worst = isnan(d) ? NAN : fmax(worst, fabs(d));
    }
    char text[200];
    if (rel > 0) {
        snprintf(text, sizeof text, "%s (rel)", quantity);
        golden_report(g, text, sqrt(d2) / sqrt(r2), rel);
    }
    if (abs > 0) {
        snprintf(text, sizeof text, "%s (abs)", quantity);
        golden_report(g, text, worst, abs);
    }
}

const float *golden_floats(struct golden *g, const struct safetensors *f, const char *name, size_t *n)
{
    const struct safetensor *s = safetensors_find(f, name);
    struct vireo_error err;
    *n = 0;
    if (!s)
        return NULL;
    float *x = arena_array(&g->host, float, s->count + 1);
    if (!x || !safetensors_floats(s, 0, s->count, x, &err))
        return NULL;
    *n = s->count;
    return x;
}

const int32_t *golden_integers(struct golden *g, const struct safetensors *f, const char *name, size_t *n)
{
    const struct safetensor *s = safetensors_find(f, name);
    struct vireo_error err;
    *n = 0;
    if (!s)
        return NULL;
    int32_t *x = arena_array(&g->host, int32_t, s->count + 1);
    if (!x || !safetensors_integers(s, 0, s->count, x, &err))
        return NULL;
    *n = s->count;
    return x;
}

struct model *golden_model(struct golden *g, const char *folder, enum dtype type)
{
    struct vireo_error err;
    struct model *m = model_load(g->dev, golden_path(g, "%s", folder),
                                 &(struct model_load_params){.dtype = type, .cast_rope = true}, &err);
    if (!m)
        golden_fail(g, "model %s: %s", folder, err.message);
    return m;
}

struct patches *golden_patches(struct golden *g, const struct safetensors *f, uint32_t *count)
{
    size_t n, values;
    const int32_t *grid = golden_integers(g, f, "image_grid_thw", &n);
    const float *pixels = golden_floats(g, f, "pixel_values", &values);
    *count = 0;
    if (!grid || !pixels)
        return NULL;
    const struct safetensor *s = safetensors_find(f, "pixel_values");
    struct patches *p = arena_array(&g->host, struct patches, n / 3);
    for (uint32_t i = 0; i < n / 3; i++) {
        p[i] = (struct patches){
            .t = (uint32_t)grid[3 * i], .h = (uint32_t)grid[3 * i + 1], .w = (uint32_t)grid[3 * i + 2]};
        p[i].rows = (size_t)p[i].t * p[i].h * p[i].w;
        p[i].columns = (size_t)s->shape[1];
        p[i].values = (float *)pixels; // borrowed: never finished
        pixels += p[i].rows * p[i].columns;
    }
    *count = (uint32_t)(n / 3);
    return p;
}

struct tape *golden_tape(struct golden *g, bool grad)
{
    return golden_tape_of(g, DTYPE_F32, grad);
}

struct tape *golden_tape_of(struct golden *g, enum dtype activations, bool grad)
{
    struct vireo_error err;
    const struct tape_params p = {.arena = g->arena, .upload = g->upload, .grad = grad, .activations = activations};
    struct tape *t = tape_create(g->dev, &p, &err);
    if (!t)
        golden_fail(g, "%s", err.message);
    return t;
}

bool golden_tape_end(struct golden *g, struct tape **t)
{
    struct vireo_error err;
    bool done = tape_finish(t, &err);
    if (done)
        done = gpu_finish(g->dev, &err);
    if (!done)
        golden_fail(g, "%s", err.message);
    gpu_arena_rewind(g->arena, 0);
    gpu_arena_rewind(g->upload, 0);
    return done;
}

// True if `name` or `family` begins with one of the comma-separated prefixes.
static bool is_wanted(const char *only, const char *family, const char *name)
{
    if (!only)
        return true;
    for (const char *at = only; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        size_t n = strcspn(at, ",");
        if (n && (strncmp(at, family, n) == 0 || strncmp(at, name, n) == 0))
            return true;
    }
    return false;
}

static void run_case(struct golden *g, const char *name, const json_t *c, const json_t *all)
{
    const char *kind = json_string_value(json_object_get(c, "kind"));
    struct arena_mark mark = arena_mark(&g->host);
    g->name = name;
    if (strcmp(kind, "forward") == 0)
        golden_forward(g, name, c);
    else if (strcmp(kind, "sft") == 0)
        golden_sft(g, name, c);
    else if (strcmp(kind, "adamw") == 0)
        golden_adamw(g, name, c, all);
    else if (strcmp(kind, "grpo") == 0)
        golden_grpo(g, name, c);
    else
        golden_skip(g, name, "this kind of case is not built");
    arena_rewind(&g->host, mark);
}

int main(int argc, char **argv)
{
    const char *only = NULL, *dir = NULL;
    bool fp16 = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--fp16") == 0)
            fp16 = true;
        else
            dir = argv[i];
    }
    if (!dir) {
        fprintf(stderr, "usage: golden DIR [--only PREFIX,...] [--fp16]\n");
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct vireo_error err;
    struct golden g = {.dir = dir, .fp16 = fp16};
    arena_init(&g.host, 1 << 20);
    struct gpu_device_params p = {.select = getenv("VIREO_DEVICE"), .cache_folder = getenv("VIREO_CACHE")};
    g.dev = gpu_device_create(&p, &err);
    if (!g.dev) {
        printf("no device: %s\n", err.message);
        return 77;
    }
    g.arena = gpu_arena_create(g.dev, &(struct gpu_arena_params){.name = "golden", .grows = true}, &err);
    g.upload = gpu_arena_create(
        g.dev, &(struct gpu_arena_params){.name = "upload", .memory = GPU_MEMORY_UPLOAD, .grows = true}, &err);
    json_t *index = vireo_json_load(golden_path(&g, "cases/index.json"), 64 << 20, &err);
    if (!index || !g.arena || !g.upload) {
        printf("%s\n", err.message);
        return 1;
    }
    const char *name;
    json_t *c;
    if (is_wanted(only, "qwen2_5_vl", "tables"))
        golden_tables(&g);
    json_object_foreach(index, name, c) if (is_wanted(only, "qwen2_5_vl", name)) run_case(&g, name, c, index);
    json_t *other = vireo_json_load(golden_path(&g, "cases/index_other.json"), 64 << 20, &err);
    json_object_foreach(other, name, c) if (is_wanted(only, name, name)) golden_skip(&g, name, "family not built");
    json_decref(index);
    json_decref(other);
    uint64_t messages = gpu_device_messages(g.dev);
    g.missed += (uint32_t)created_unknown(g.dev);
    gpu_arena_destroy(&g.arena);
    gpu_arena_destroy(&g.upload);
    gpu_device_destroy(&g.dev);
    arena_finish(&g.host);
    if (messages) {
        printf("MISS validation layers: %llu messages\n", (unsigned long long)messages);
        g.missed++;
    }
    printf("golden: %u quantities, %u missed, %u cases skipped\n", g.checked, g.missed, g.skipped);
    return g.missed || !g.checked ? 1 : g.skipped ? 2 : 0;
}
