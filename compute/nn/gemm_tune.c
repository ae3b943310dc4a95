#include "compute/nn/gemm_tune.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/gpu/tune.h"
#include "compute/nn/gemm_choose.h"

#include <math.h>
#include <stdlib.h>

#define LOG_MODULE "nn"
#include "compute/base/log.h"

_Static_assert((int)GEMM_CLASSES <= (int)GPU_TUNE_CLASSES, "a table has room for all classes");
_Static_assert((int)GEMM_TILES <= (int)GPU_TUNE_MOST_CHOICES, "and for all tiles");
_Static_assert((int)GEMM_COOPMATS <= (int)GPU_TUNE_MOST_CHOICES, "and for all tiles");

enum { ROUNDS = 4, REPEATS = 3 }; // of every tile; products of one submit

// The seconds of the automatic run, and how much faster than the formula's tile another must be.
static const double automatic_seconds = 4, margin = 0.97;

// The most used first: time may run out.
static const enum dtype pairs[][2] = {{DTYPE_F32, DTYPE_F32},
                                      {DTYPE_BF16, DTYPE_BF16},
                                      {DTYPE_F32, DTYPE_BF16},
                                      {DTYPE_BF16, DTYPE_F32},
                                      {DTYPE_F16, DTYPE_F16}};

struct bench {
    struct gpu_device *dev;
    struct gpu_arena *arena;
    struct gpu_span a, b, c;
    const struct gemm_tune_params *p;
    double end;
    uint32_t measured;
};

static struct tensor matrix(struct gpu_span span, enum dtype type, uint32_t rows, uint32_t columns)
{
    return (struct tensor){.span = gpu_span_part(span, 0, (uint64_t)rows * columns * dtype_bytes(type)),
                           .dtype = type,
                           .rank = 2,
                           .shape = {rows, columns},
                           .stride = columns};
}

// Seconds of one product, with whatever tile the table names.
static bool time_product(struct bench *b, enum nn_product kind, const struct tensor abc[3], double *seconds,
                         struct vireo_error *err)
{
    static const struct tensor none;
    const bool stamps = gpu_device_caps(b->dev)->timestamps;
    struct tape *t = tape_create(b->dev, &(struct tape_params){.arena = b->arena, .upload = b->arena}, err);
    if (!t)
        return false;
    gpu_timers_on(b->dev, stamps);
    const double start = clock_seconds();
    for (int i = 0; i < REPEATS; i++)
        nn_gemm(t, kind, abc[0], abc[1], abc[2], 0, none, none);
    bool done = gpu_finish(b->dev, err);
    *seconds = (clock_seconds() - start) / REPEATS;
    struct gpu_timer_row *rows = NULL;
    size_t count = 0;
    if (done && stamps && gpu_timers_read(b->dev, &rows, &count, NULL) && count > 0) {
        *seconds = 0;
        for (size_t i = 0; i < count; i++)
            *seconds += rows[i].seconds / REPEATS;
    }
    free(rows);
    gpu_timers_on(b->dev, false);
    return tape_finish(&t, done ? err : NULL) && done;
}

// Times all tiles of a class in turns; the first turn compiles and does not count. *rounds: how many did.
static bool time_tiles(struct bench *b, enum nn_product kind, const struct tensor abc[3], const struct gemm_choice *formula,
                       uint32_t shape_class, double best[GPU_TUNE_MOST_CHOICES], int *rounds, struct vireo_error *err)
{
    for (*rounds = -1; *rounds < ROUNDS; ++*rounds) {
        if (*rounds > 0 && clock_seconds() >= b->end)
            break;
        for (uint32_t i = 0; i < formula->tiles; i++) {
            double seconds;
            gpu_tune_set(b->dev, formula->kernel, shape_class,
                         (struct gpu_tune_entry){.choice = (uint8_t)i, .choices = (uint8_t)formula->tiles});
            if (!time_product(b, kind, abc, &seconds, err))
                return false;
            if (*rounds >= 0)
                best[i] = fmin(best[i], seconds);
        }
    }
    return true;
}

static bool measure(struct bench *b, enum nn_product kind, const enum dtype types[2], uint32_t m, uint32_t n, uint32_t k,
                    struct vireo_error *err)
{
    const bool tn = kind == NN_TN, nt = kind == NN_NT;
    const struct tensor abc[3] = {matrix(b->a, types[0], tn ? k : m, tn ? m : k),
                                  matrix(b->b, types[1], nt ? n : k, nt ? k : n), matrix(b->c, DTYPE_F32, m, n)};
    const uint32_t shape_class = gemm_shape_class(m, n, k);
    const struct gemm_types storage = gemm_types_of(abc[0], abc[1], abc[2], (struct tensor){0}, (struct tensor){0});
    struct gemm_choice formula, winner;
    if (!gemm_choose_gpu(b->dev, kind, abc[0], abc[1], abc[2], storage, &formula))
        return true; // of a CPU driver's family
    if (types[0] == DTYPE_F16 && formula.constant_count == GEMM_TILE_CONSTANTS)
        return true; // the kernels of bf16
    const struct gpu_tune_entry before = gpu_tune_entry(b->dev, formula.kernel, shape_class);
    gpu_tune_set(b->dev, formula.kernel, shape_class, (struct gpu_tune_entry){0});
    gemm_choose_gpu(b->dev, kind, abc[0], abc[1], abc[2], storage, &formula);

    double best[GPU_TUNE_MOST_CHOICES];
    for (int i = 0; i < GPU_TUNE_MOST_CHOICES; i++)
        best[i] = INFINITY;
    int rounds;
    if (!time_tiles(b, kind, abc, &formula, shape_class, best, &rounds, err)) {
        gpu_tune_set(b->dev, formula.kernel, shape_class, before);
        return false;
    }
    uint32_t tile = formula.tile;
    for (uint32_t i = 0; i < formula.tiles; i++)
        if (best[i] < best[tile] && best[i] < margin * best[formula.tile])
            tile = i;
    gpu_tune_set(b->dev, formula.kernel, shape_class,
                 (struct gpu_tune_entry){(uint8_t)tile, (uint8_t)formula.tiles, (float)best[tile]});
    b->measured++;
    gemm_choose_gpu(b->dev, kind, abc[0], abc[1], abc[2], storage, &winner);
    if (b->p->row)
        b->p->row(b->p->context, &(struct gemm_tune_row){.kernel = gpu_kernel_name(formula.kernel),
                                                         .kind = kind,
                                                         .m = m,
                                                         .n = n,
                                                         .k = k,
                                                         .tile = tile,
                                                         .formula = formula.tile,
                                                         .tiles = formula.tiles,
                                                         .rows = winner.rows,
                                                         .columns = winner.columns,
                                                         .seconds = best[tile],
                                                         .formula_seconds = best[formula.tile]});
    return true;
}

// True: the next class (there is one for each number below GEMM_CLASSES) is measured.
static bool class_sizes(const struct bench *b, enum nn_product kind, uint32_t number, uint32_t *m, uint32_t *n, uint32_t *k)
{
    *m = gemm_class_m[number / GEMM_CLASSES_K / GEMM_CLASSES_N];
    *n = gemm_class_n[number / GEMM_CLASSES_K % GEMM_CLASSES_N];
    *k = kind == NN_TN ? 512 : gemm_class_k[number % GEMM_CLASSES_K]; // nn_gemm sums TN in blocks of 512 rows
    return !(kind == NN_TN && number % GEMM_CLASSES_K > 0) &&
           (b->p->most_flops <= 0 || 2.0 * *m * *n * *k <= b->p->most_flops);
}

static bool measure_all(struct bench *b, struct vireo_error *err)
{
    for (size_t pair = 0; pair < VIREO_COUNT(pairs); pair++)
        for (int kind = NN_NT; kind <= NN_TN; kind++)
            for (uint32_t i = 0; i < GEMM_CLASSES; i++) {
                uint32_t m, n, k;
                if (b->measured > 0 && clock_seconds() >= b->end)
                    return true;
                if (class_sizes(b, (enum nn_product)kind, i, &m, &n, &k) &&
                    !measure(b, (enum nn_product)kind, pairs[pair], m, n, k, err))
                    return false;
            }
    return true;
}

// Operands of the largest class. The word is a common value in each type: 0.5 in f32 and bf16, 1.75 in fp16.
static bool take(struct bench *b, struct vireo_error *err)
{
    static const uint32_t word = 0x3f003f00;
    uint64_t bytes[3] = {0};
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (uint32_t i = 0; i < GEMM_CLASSES; i++) {
            uint64_t m, n, k;
            uint32_t sizes[3];
            if (!class_sizes(b, (enum nn_product)kind, i, &sizes[0], &sizes[1], &sizes[2]))
                continue;
            m = sizes[0], n = sizes[1], k = sizes[2];
            bytes[0] = VIREO_MAX(bytes[0], 4 * m * k);
            bytes[1] = VIREO_MAX(bytes[1], 4 * n * k);
            bytes[2] = VIREO_MAX(bytes[2], 4 * m * n);
        }
    if (bytes[0] == 0)
        return true; // all are too large: nothing is measured
    b->arena = gpu_arena_create(b->dev,
                                &(struct gpu_arena_params){.name = "tune",
                                                           .memory = GPU_MEMORY_DEVICE,
                                                           .bytes = bytes[0] + bytes[1] + bytes[2] + 4096},
                                err);
    if (!b->arena)
        return false;
    b->a = gpu_arena_take(b->arena, bytes[0], err);
    b->b = gpu_arena_take(b->arena, bytes[1], err);
    b->c = gpu_arena_take(b->arena, bytes[2], err);
    if (!b->a.address || !b->b.address || !b->c.address)
        return false;
    gpu_fill(b->dev, b->a, word, bytes[0]);
    gpu_fill(b->dev, b->b, word, bytes[1]);
    return gpu_finish(b->dev, err);
}

bool gemm_tune(struct gpu_device *dev, const struct gemm_tune_params *p, uint32_t *measured, struct vireo_error *err)
{
    struct bench b = {.dev = dev, .p = p, .end = clock_seconds() + p->seconds};
    bool done = take(&b, err) && measure_all(&b, err);
    gpu_arena_destroy(&b.arena);
    *measured = b.measured;
    return done && gpu_tune_save(dev, err);
}

void gemm_tune_once(struct gpu_device *dev)
{
    const char *forced = getenv("VIREO_GEMM");
    struct vireo_error err = {0};
    uint32_t measured = 0;
    if (gpu_device_caps(dev)->type == GPU_CPU || (forced && forced[0]) || !gpu_tune_is_kept(dev) || gpu_tune_is_known(dev))
        return;
    log_info("first start on '%s': measuring tiles of matrix products, about %.0f s, once", gpu_device_caps(dev)->name,
             automatic_seconds);
    const double start = clock_seconds();
    if (gpu_tune_save(dev, &err) &&
        gemm_tune(dev, &(struct gemm_tune_params){.seconds = automatic_seconds}, &measured, &err))
        log_info("tiles of %u classes of products measured in %.1f s", measured, clock_seconds() - start);
    else
        log_warn("tiles of matrix products are not measured: %s", err.message);
}
