// Measures which tile of the GPUs' products is the fastest on this device, for compute/gpu/tune.h's table.
//
// For each pair of types, kind of product and class of shapes (gemm_choose.h) that a family for GPUs computes here, every tile
// of that family is timed, by the device's timestamps where it has them, in turns, the least of several. Only tiles of one
// family compete, and those have equal bits: a table never changes a result, nor does a table that was made half.
#ifndef VIREO_NN_GEMM_TUNE_H
#define VIREO_NN_GEMM_TUNE_H

#include "compute/nn/nn.h"

// What was measured of one class. Seconds are those of one product.
struct gemm_tune_row {
    const char *kernel;
    enum nn_product kind;
    uint32_t m, n, k;
    uint32_t tile, formula, tiles; // the winner, and what is taken without a table
    uint32_t rows, columns;        // of C, that the winner's workgroup computes
    double seconds, formula_seconds;
};

struct gemm_tune_params {
    double seconds;                                              // stop when they are over; at least one class is finished
    double most_flops;                                           // skip classes of larger products; 0: none is skipped
    void (*row)(void *context, const struct gemm_tune_row *row); // may be NULL
    void *context;
};

// Replaces what the device's table says about the classes it gets to (the most used ones come first), and saves the table
// where there is a folder. Nothing else may be recorded on the device meanwhile. *measured: classes.
// False + err: memory, a lost device, the file; classes measured until then stay.
bool gemm_tune(struct gpu_device *dev, const struct gemm_tune_params *p, uint32_t *measured, struct vireo_error *err);

// At the start of a process on a GPU with a cache folder and no table yet: gemm_tune within a few seconds. Never on CPU
// drivers, never with VIREO_GEMM. The table is saved empty first, so that a device that is lost by it is not tuned again.
// Failure is logged and changes nothing else.
void gemm_tune_once(struct gpu_device *dev);

#endif
