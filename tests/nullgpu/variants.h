// Every kernel with the specialisation constants the program creates it with. That none is missing is checked where op tests
// and models create pipelines (created.h).
#ifndef VIREO_TESTS_NULLGPU_VARIANTS_H
#define VIREO_TESTS_NULLGPU_VARIANTS_H

#include "compute/nn/gemm_tile.h"
#include "tests/nullgpu/modules.h"

#include <stdbool.h>
#include <string.h>

struct variant {
    enum gpu_kernel kernel;
    uint32_t count, constants[GPU_MAX_CONSTANTS];
};

static inline bool variant_has_name(const struct variant *v, const char *start)
{
    return strncmp(gpu_kernel_name(v->kernel), start, strlen(start)) == 0;
}

// Storage types as kernels number them: f32, bf16, fp16.
enum { VARIANT_TYPES = 3 };

// Constant j is the width of a row that a lane holds in registers.
static inline bool variant_is_width(const struct variant *v, uint32_t j)
{
    return j == 2 && (variant_has_name(v, "norm") || variant_has_name(v, "swiglu"));
}

// The `i`-th variant of its kernel. False: it has fewer.
static inline bool variant_constants(struct variant *v, uint32_t i)
{
    static const uint32_t head_dims[] = {32, 64, 80, 128}; // the presets', Qwen2.5-VL's vision tower and its text model
    if (variant_has_name(v, "gemm_tile")) {
        // Every tile; then the largest for any layout, then with a bf16 C, then in fp16 where it has 16 bits; NT in every tile
        // with SwiGLU.
        enum { SWIGLU = GEMM_TILES + 3 };
        const bool f16 = i == GEMM_TILES + 2, swiglu = i >= SWIGLU;
        const struct gemm_types types = {i == GEMM_TILES + 1 ? 1 : f16 ? 2 : 0, f16 ? 2 : 1, swiglu};
        v->count = GEMM_TILE_CONSTANTS;
        if (i >= (variant_has_name(v, "gemm_tile_nt") ? SWIGLU + GEMM_TILES : SWIGLU))
            return false;
        gemm_tile_constants(&gemm_tiles[swiglu ? i - SWIGLU : i < GEMM_TILES ? i : 0], types, i != GEMM_TILES, v->constants);
    } else if (variant_has_name(v, "gemm_coopmat")) {
        // Every tile, then the largest with narrow loads, then with a bf16 C, then NT in every tile with SwiGLU. compile() sets
        // the real subgroup size.
        enum { SWIGLU = GEMM_COOPMATS + 3 };
        static const uint8_t matrix[3] = {16, 16, 16};
        const bool swiglu = i >= SWIGLU;
        const struct gemm_types types = {i == GEMM_COOPMATS + 2, 2, swiglu};
        v->count = GEMM_COOPMAT_CONSTANTS;
        if (i >= (variant_has_name(v, "gemm_coopmat_nt") ? SWIGLU + GEMM_COOPMATS : SWIGLU))
            return false;
        gemm_coopmat_constants(&gemm_coopmats[swiglu ? i - SWIGLU : i < GEMM_COOPMATS ? i : 0], types,
                               i == GEMM_COOPMATS ? 4 : i == GEMM_COOPMATS + 1 ? 1 : 8, 1, matrix, v->constants);
    } else if (variant_has_name(v, "gemv")) {
        // C, aligned, the type of 16 bits, SwiGLU.
        static const uint32_t all[][GEMV_CONSTANTS] = {{0, 1, 1, 0}, {0, 0, 1, 0}, {1, 1, 1, 0}, {2, 1, 2, 0}, {0, 1, 1, 1}};
        v->count = GEMV_CONSTANTS;
        if (i >= sizeof all / sizeof all[0])
            return false;
        memcpy(v->constants, all[i], sizeof all[i]);
    } else if (variant_has_name(v, "gemm")) {
        // The family for CPU drivers, as below.
        v->count = 1;
        return i < 1; // C in f32
    } else if (variant_has_name(v, "attention_tile")) {
        // Head sizes, aligned, in f32 and in bf16; keys in pages; no alignment, head sizes that take no whole quads; fp16.
        v->count = 8;
        v->constants[0] = i < 8 ? head_dims[i % 4] : i == 9 ? 39 : 128;
        v->constants[1] = i != 9;
        v->constants[2] = i == 8;
        for (int type = 3; type < 8; type++)
            v->constants[type] = i == 10 ? 2 : i >= 4 && i < 9;
        return i < 11;
    } else if (variant_has_name(v, "attention")) {
        // The family for CPU drivers: GPUs run it on request only, and spill.
        v->count = 8;
        v->constants[0] = 32;
        v->constants[1] = 1;
        return i < 1;
    } else {
        // Row operators: constants are storage types, but for these.
        v->count = module_constants(v->kernel);
        for (uint32_t j = 0; j < v->count; j++) {
            const bool lanes = v->kernel == KERNEL_ROPE && j == 2, flag = j == 3; // values a lane, 1 or 2; what norm also sums
            const uint32_t values = variant_is_width(v, j) || (variant_has_name(v, "swiglu") && j > 0) ? 1
                                    : lanes || flag                                                    ? 2
                                                                                                       : VARIANT_TYPES;
            v->constants[j] = variant_is_width(v, j) ? 64 : i % values + lanes;
            i /= values;
        }
        return i == 0;
    }
    return true;
}

// Attention as models run it in 16 bits, forward without gradients, backward with k and v as columns of qkv; and keys of another
// type, in pages or not. False: there are no more.
static inline bool variant_mixed(struct variant *v, uint32_t i)
{
    static const uint32_t mixed[][6] = {
        // keys in pages; types of qkv, of k and v, of o, of the gradients of o and of qkv
        {0, 1, 0, 1, 1, 1}, // backward
        {0, 1, 1, 1, 0, 0}, {1, 1, 1, 1, 0, 0}, {1, 0, 0, 0, 0, 0}, {0, 1, 0, 1, 0, 0},
        {0, 0, 1, 0, 0, 0}, {1, 1, 0, 1, 0, 0}, {1, 0, 1, 0, 0, 0},
    };
    const uint32_t first = v->kernel == KERNEL_ATTENTION_TILE_FWD, count = first ? sizeof mixed / sizeof mixed[0] : 1;
    if (!variant_has_name(v, "attention_tile") || first + i / 2 >= count)
        return false;
    v->count = 8;
    v->constants[0] = 128;
    v->constants[1] = 1;
    memcpy(v->constants + 2, mixed[first + i / 2], sizeof mixed[0]);
    for (int type = 3; type < 8; type++) // in bf16, then in fp16
        v->constants[type] *= 1 + i % 2;
    return true;
}

static inline bool variant_of_kernel(struct variant *v, enum gpu_kernel kernel, uint32_t i)
{
    *v = (struct variant){.kernel = kernel};
    if (variant_constants(v, i))
        return true;
    uint32_t before = 0;
    while (variant_constants(&(struct variant){.kernel = kernel}, before))
        before++;
    *v = (struct variant){.kernel = kernel};
    return variant_mixed(v, i - before);
}

// Of kernels with many constants the list above has every value of every set of constants, but not every combination.
// A letter a constant: those of one set belong together. NULL: the list is complete.
static inline const char *variant_sets(const struct variant *v)
{
    return variant_has_name(v, "gemm_tile")        ? "abbbbbcde"      // C; tile; alignment; types; SwiGLU
           : variant_has_name(v, "gemm_coopmat")   ? "abbbbbcdddef"   // C; tile; width of loads; the matrices; types; SwiGLU
           : variant_has_name(v, "gemv")           ? "abcd"           // C; alignment; type of 16 bits; SwiGLU
           : variant_has_name(v, "attention_tile") ? "aabccccc"       // head and alignment; pages; types
                                                   : NULL;
}

static inline bool variant_same_set(const struct variant *a, const struct variant *b, const char *sets, char set)
{
    for (uint32_t j = 0; j < a->count; j++)
        if (sets[j] == set && a->constants[j] != b->constants[j])
            return false;
    return true;
}

// The `i`-th of all combinations. False: there are fewer.
static inline bool variant_combination(struct variant *v, enum gpu_kernel kernel, uint32_t i)
{
    *v = (struct variant){.kernel = kernel};
    const char *sets = variant_sets(v);
    if (!sets)
        return variant_of_kernel(v, kernel, i);
    struct variant all[64];
    uint32_t count = 0;
    while (count < 64 && variant_of_kernel(&all[count], kernel, count))
        count++;
    *v = all[0];
    for (char set = 'a'; strchr(sets, set); set++) {
        // The values of this set, each where it is first seen.
        uint32_t values = 0, from[64];
        for (uint32_t k = 0; k < count; k++) {
            uint32_t seen = 0;
            while (seen < values && !variant_same_set(&all[from[seen]], &all[k], sets, set))
                seen++;
            if (seen == values)
                from[values++] = k;
        }
        for (uint32_t j = 0; j < v->count; j++)
            if (sets[j] == set)
                v->constants[j] = all[from[i % values]].constants[j];
        i /= values;
    }
    return i == 0;
}

// Variants of all kernels, numbered from 0: those of the list, or all combinations. False behind the last.
static inline bool variant_at(uint32_t number, bool combinations, struct variant *out)
{
    for (int k = 0; k < KERNEL_COUNT; k++)
        for (uint32_t i = 0; combinations ? variant_combination(out, (enum gpu_kernel)k, i)
                                          : variant_of_kernel(out, (enum gpu_kernel)k, i);
             i++)
            if (number-- == 0)
                return true;
    return false;
}

static inline uint32_t variant_invocations(const struct variant *v, uint32_t subgroup)
{
    return variant_has_name(v, "gemm_tile")      ? v->constants[1]
           : variant_has_name(v, "gemm_coopmat") ? v->constants[1] * subgroup
           : variant_has_name(v, "attention_tile") || variant_has_name(v, "gemv") ? 128
                                                   : subgroup;
}

// The families for CPU drivers, which GPUs run on request only: attention keeps a row of the head in each lane's registers,
// products a whole tile.
static inline bool variant_is_for_cpus(const struct variant *v)
{
    return (variant_has_name(v, "attention") && !variant_has_name(v, "attention_tile")) ||
           (variant_has_name(v, "gemm") && !variant_has_name(v, "gemm_tile") && !variant_has_name(v, "gemm_coopmat"));
}

// Where a spill is a failure. Not: what takes no part of a step's time, nor the families for CPU drivers.
static inline bool variant_is_hot(const struct variant *v)
{
    const bool other_family = variant_is_for_cpus(v);
    return !variant_has_name(v, "sample") && !other_family && v->kernel != KERNEL_FILL_F32;
}

// A size of subgroup that is not the device's own choice is for the debug switch: one variant of each kernel will do.
static inline bool variant_matters(const struct variant *v, bool own_size)
{
    if (own_size)
        return true;
    if (variant_has_name(v, "gemm_tile"))
        return v->constants[1] == gemm_tiles[0].invocations && v->constants[0] == 0 && v->constants[6] == 1 && !v->constants[8];
    if (variant_has_name(v, "gemm_coopmat"))
        return v->constants[1] == 4 && v->constants[0] == 0 && v->constants[6] == 8 && !v->constants[11];
    if (variant_has_name(v, "gemv"))
        return v->constants[0] == 0 && v->constants[1] == 1 && !v->constants[3];
    for (uint32_t j = 0; j < v->count; j++)
        if (!variant_is_width(v, j) && v->constants[j] > (v->kernel == KERNEL_ROPE && j == 2))
            return false;
    return !variant_is_for_cpus(v) && !variant_has_name(v, "attention");
}

// What docs/gpu-report.md has a row for.
static inline bool variant_is_reported(const struct variant *v)
{
    if (variant_has_name(v, "gemm_tile"))
        return v->constants[0] == 0 && v->constants[6] == 1 && !v->constants[8];
    if (variant_has_name(v, "gemm_coopmat"))
        return v->constants[0] == 0 && v->constants[6] == 8 && !v->constants[11];
    if (variant_has_name(v, "gemm"))
        return v->constants[0] == 0;
    if (!variant_has_name(v, "attention_tile") || v->constants[0] < 80 || v->constants[2] != 0 || v->constants[3] > 1)
        return false;
    for (int type = 4; type < 8; type++) // all operands in f32 or all in bf16
        if (v->constants[type] != v->constants[3])
            return false;
    return true;
}

#endif
