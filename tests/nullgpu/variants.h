// Every kernel with the specialisation constants the program creates it with.
#ifndef VIREO_TESTS_NULLGPU_VARIANTS_H
#define VIREO_TESTS_NULLGPU_VARIANTS_H

#include "compute/nn/gemm_tile.h"

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

// The `i`-th variant of its kernel. False: it has fewer.
static inline bool variant_constants(struct variant *v, uint32_t i)
{
    static const uint32_t head_dims[] = {32, 64, 80, 128}; // the presets', Qwen2.5-VL's vision tower and its text model
    if (variant_has_name(v, "gemm_tile")) {
        // Every tile; then the largest for any layout, then with a bf16 C, then in fp16 where it has 16 bits.
        const bool f16 = i == GEMM_TILES + 2;
        const struct gemm_types types = {i == GEMM_TILES + 1 ? 1 : f16 ? 2 : 0, f16 ? 2 : 1};
        v->count = GEMM_TILE_CONSTANTS;
        if (i > GEMM_TILES + 2)
            return false;
        gemm_tile_constants(&gemm_tiles[i < GEMM_TILES ? i : 0], types, i != GEMM_TILES, v->constants);
    } else if (variant_has_name(v, "gemm_coopmat")) {
        // Every tile, then the largest with narrow loads, then with a bf16 C. compile() sets the real subgroup size.
        static const uint8_t matrix[3] = {16, 16, 16};
        const bool narrow = i >= GEMM_COOPMATS;
        const struct gemm_types types = {i == GEMM_COOPMATS + 2, 2};
        v->count = GEMM_COOPMAT_CONSTANTS;
        if (i > GEMM_COOPMATS + 2)
            return false;
        gemm_coopmat_constants(&gemm_coopmats[narrow ? 0 : i], types,
                               i == GEMM_COOPMATS ? 4 : i == GEMM_COOPMATS + 1 ? 1 : 8, 1, matrix, v->constants);
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
    } else if (v->kernel == KERNEL_CONVERT) {
        v->count = 2;
        v->constants[0] = i / 3; // from, to: f32, bf16, f16
        v->constants[1] = i % 3;
        return i < 9;
    } else if (v->kernel == KERNEL_NORM_FWD || v->kernel == KERNEL_NORM_BWD || v->kernel == KERNEL_EMBED_FWD) {
        v->count = 1;
        v->constants[0] = i; // type of the weight
        return i < 3;
    } else {
        v->count = 0;
        return i < 1;
    }
    return true;
}

// All variants of all kernels, numbered from 0. False behind the last.
static inline bool variant_at(uint32_t number, struct variant *out)
{
    for (int k = 0; k < KERNEL_COUNT; k++) {
        memset(out, 0, sizeof *out);
        out->kernel = (enum gpu_kernel)k;
        for (uint32_t i = 0; variant_constants(out, i); i++)
            if (number-- == 0)
                return true;
    }
    return false;
}

static inline uint32_t variant_invocations(const struct variant *v, uint32_t subgroup)
{
    return variant_has_name(v, "gemm_tile")      ? v->constants[1]
           : variant_has_name(v, "gemm_coopmat") ? v->constants[1] * subgroup
           : variant_has_name(v, "attention_tile") ? 128
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
        return v->constants[1] == gemm_tiles[0].invocations && v->constants[0] == 0 && v->constants[6] == 1;
    if (variant_has_name(v, "gemm_coopmat"))
        return v->constants[1] == 4 && v->constants[0] == 0 && v->constants[6] == 8;
    return !variant_is_for_cpus(v) && !variant_has_name(v, "attention");
}

// What docs/gpu-report.md has a row for.
static inline bool variant_is_reported(const struct variant *v)
{
    if (variant_has_name(v, "gemm_tile"))
        return v->constants[0] == 0 && v->constants[6] == 1;
    if (variant_has_name(v, "gemm_coopmat"))
        return v->constants[0] == 0 && v->constants[6] == 8;
    if (variant_has_name(v, "gemm"))
        return v->constants[0] == 0;
    // Not in fp16, which loads and stores as bf16 does.
    return variant_has_name(v, "attention_tile") && v->constants[0] >= 80 && v->constants[2] == 0 && v->constants[3] != 2;
}

#endif
