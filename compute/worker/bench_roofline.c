#include "compute/worker/bench_roofline.h"

#include "compute/base/clock.h"
#include "compute/gpu/record.h"
#include "compute/nn/calibrate.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { CPU_LANES = 1 << 14, GPU_LANES = 1 << 20, LEAST_TURNS = 64, COPIED = 64 << 20 };
// Of a run, so that what a submit costs does not count: short enough to find a quiet moment of a busy machine. And of all.
static const double run_seconds = 0.004, all_seconds = 0.3;

bool bench_roofline_set(json_t *row, struct bench_work work, double seconds, struct vireo_error *err, const char *format,
                        ...)
{
    char what[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    const double rate = seconds > 0 ? 1e-9 / seconds : 0;
    json_t *roofline =
        json_pack("{s:s,s:f,s:f,s:f,s:f,s:f}", "what", what, "flops", work.flops, "bytes", work.bytes, "seconds", seconds,
                  "gflop_per_s", work.flops * rate, "gbyte_per_s", work.bytes * rate);
    return json_object_set_new(row, "roofline", roofline) == 0 || vireo_fail_memory(err, 512);
}

// The operands of the calibrations.
struct calibration {
    struct gpu_device *dev;
    struct gpu_arena *arena;
    struct tensor lanes, from, to;
};
enum kind { MULTIPLY_ADDS, COPY, TRANSFER };

static double record(const struct calibration *c, struct tape *t, enum kind kind, uint32_t turns)
{
    if (kind == MULTIPLY_ADDS)
        return nn_calibrate_multiply_adds(t, c->lanes, turns, 0.5f, 1);
    if (kind == COPY)
        return nn_calibrate_copy(t, c->to, c->from);
    gpu_copy(c->dev, c->to.span, c->from.span, COPIED);
    return 2.0 * COPIED;
}

// Work a second of `repeats` dispatches; *wall: what they took.
static bool run(const struct calibration *c, enum kind kind, uint32_t turns, int repeats, double *wall, double *rate,
                struct vireo_error *err)
{
    struct tape *t = tape_create(c->dev, &(struct tape_params){.arena = c->arena, .upload = c->arena}, err);
    if (!t)
        return false;
    double work = 0;
    const double start = clock_seconds();
    for (int i = 0; i < repeats; i++)
        work += record(c, t, kind, turns);
    bool done = gpu_finish(c->dev, err);
    *wall = fmax(clock_seconds() - start, 1e-9);
    *rate = work / *wall;
    return tape_finish(&t, done ? err : NULL) && done;
}

// Raises *best to the best of several runs of at least run_seconds.
static bool raise_rate(const struct calibration *c, enum kind kind, double *best, struct vireo_error *err)
{
    uint32_t turns = LEAST_TURNS;
    int repeats = 1;
    double wall = 0, rate;
    if (!run(c, kind, turns, repeats, &wall, &rate, err)) // compiles
        return false;
    for (wall = 0; wall < run_seconds && turns < 1 << 16 && repeats < 1 << 12;) {
        if (!run(c, kind, turns, repeats, &wall, &rate, err))
            return false;
        if (wall < run_seconds && kind == MULTIPLY_ADDS)
            turns *= 2;
        else if (wall < run_seconds)
            repeats *= 2;
    }
    const double end = clock_seconds() + all_seconds;
    do {
        if (!run(c, kind, turns, repeats, &wall, &rate, err))
            return false;
        *best = fmax(*best, rate);
    } while (clock_seconds() < end);
    return true;
}

bool bench_rate_measure(struct gpu_device *dev, struct bench_rate *out, struct vireo_error *err)
{
    struct calibration c = {.dev = dev};
    const uint32_t lanes = gpu_device_caps(dev)->type == GPU_CPU ? CPU_LANES : GPU_LANES;
    *out = (struct bench_rate){0};
    const struct gpu_arena_params p = {.name = "calibration", .memory = GPU_MEMORY_DEVICE, .grows = true};
    c.arena = gpu_arena_create(dev, &p, err);
    bool done = c.arena && (c.lanes = tensor_matrix(c.arena, DTYPE_F32, 1, lanes, err)).span.address &&
                (c.from = tensor_matrix(c.arena, DTYPE_F32, 1, COPIED / 4, err)).span.address &&
                (c.to = tensor_matrix(c.arena, DTYPE_F32, 1, COPIED / 4, err)).span.address;
    if (done) {
        gpu_fill(dev, c.from.span, 0x3f800000, COPIED);
        done = raise_rate(&c, MULTIPLY_ADDS, &out->flop_per_s, err) && raise_rate(&c, COPY, &out->byte_per_s, err) &&
               raise_rate(&c, TRANSFER, &out->byte_per_s, err);
    }
    gpu_arena_destroy(&c.arena);
    return done;
}

static bool complete(json_t *roofline, struct bench_rate rate)
{
    const double compute = json_number_value(json_object_get(roofline, "flops")) / rate.flop_per_s;
    const double memory = json_number_value(json_object_get(roofline, "bytes")) / rate.byte_per_s;
    const double seconds = json_number_value(json_object_get(roofline, "seconds"));
    const double fraction = seconds > 0 ? fmax(compute, memory) / seconds : 0;
    return json_object_set_new(roofline, "roofline_fraction", json_real(fraction)) == 0 &&
           json_object_set_new(roofline, "bound", json_string(compute >= memory ? "compute" : "memory")) == 0;
}

static bool complete_all(json_t *value, struct bench_rate rate)
{
    bool done = true;
    if (json_is_object(value)) {
        const char *key;
        json_t *member;
        json_object_foreach(value, key, member)
            done = done && (strcmp(key, "roofline") == 0 ? complete(member, rate) : complete_all(member, rate));
    } else if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++)
            done = done && complete_all(json_array_get(value, i), rate);
    }
    return done;
}

bool bench_roofline_complete(json_t *out, struct bench_rate rate, struct vireo_error *err)
{
    json_t *rates =
        json_pack("{s:f,s:f}", "gflop_per_s", rate.flop_per_s * 1e-9, "gbyte_per_s", rate.byte_per_s * 1e-9);
    return (json_object_set_new(out, "device_rate", rates) == 0 && complete_all(out, rate)) || vireo_fail_memory(err, 512);
}
