// Whether tests/nullgpu compiles what a device was asked for: called behind op tests and models.
#ifndef VIREO_TESTS_NULLGPU_CREATED_H
#define VIREO_TESTS_NULLGPU_CREATED_H

#include "compute/gpu/internal.h"
#include "tests/nullgpu/variants.h"

#include <stdio.h>

// What a GPU runs where a CPU driver ran `kernel`, as far as the constants are the same ones.
static inline enum gpu_kernel created_on_gpus(enum gpu_kernel kernel)
{
    switch (kernel) {
    case KERNEL_ATTENTION_FWD:
    case KERNEL_ATTENTION_FWD_WIDE:
    case KERNEL_ATTENTION_DECODE:
        return KERNEL_ATTENTION_TILE_FWD;
    case KERNEL_ATTENTION_BWD_QUERY:
    case KERNEL_ATTENTION_BWD_QUERY_WIDE:
        return KERNEL_ATTENTION_TILE_BWD_QUERY;
    case KERNEL_ATTENTION_BWD_KEY:
    case KERNEL_ATTENTION_BWD_KEY_WIDE:
        return KERNEL_ATTENTION_TILE_BWD_KEY;
    default:
        return kernel;
    }
}

// Constants that are no matter of a list: widths of rows, head sizes and, of the family for CPU drivers, items a lane; of coopmat
// what the device says, its subgroup and its matrices.
static inline bool created_is_free(const struct variant *v, bool for_cpus, uint32_t j)
{
    if (variant_is_width(v, j))
        return true;
    return variant_has_name(v, "attention") ? j == 0 || (for_cpus && j == 1)
                                            : variant_has_name(v, "gemm_coopmat") && (j == 1 || (j >= 7 && j <= 9));
}

static inline bool created_is_known(enum gpu_kernel kernel, const uint32_t *constants, uint32_t count)
{
    struct variant v = {.kernel = kernel};
    const bool for_cpus = variant_is_for_cpus(&v);
    if (for_cpus && !variant_has_name(&v, "attention"))
        return true; // products: GPUs have others, of other constants
    const enum gpu_kernel wanted = created_on_gpus(kernel);
    for (uint32_t i = 0; variant_combination(&v, wanted, i); i++) {
        bool same = true;
        for (uint32_t j = 0; same && j < v.count && j < count; j++) // without the last ones: as the kernel has them
            same = constants[j] == v.constants[j] || created_is_free(&v, for_cpus, j) ||
                   (kernel == KERNEL_ATTENTION_DECODE && j == 2); // rows a group; keys in pages
        if (same)
            return true;
    }
    return false;
}

// Prints the pipelines of `dev` that variants.h lacks. Returns how many.
static inline int created_unknown(const struct gpu_device *dev)
{
    int unknown = 0;
    for (uint32_t i = 0; i < dev->pipelines.capacity; i++) {
        const struct gpu_pipeline *p = dev->pipelines.table[i];
        if (!p || created_is_known(p->kernel, p->constants, p->constant_count))
            continue;
        printf("tests/nullgpu/variants.h lacks %s", gpu_kernel_name(p->kernel));
        for (uint32_t j = 0; j < p->constant_count; j++)
            printf("%c%u", j ? ',' : ' ', p->constants[j]);
        printf("\n");
        unknown++;
    }
    return unknown;
}

#endif
