// What a benchmark's work could take at the least on this device, beside what it took.
//
// A benchmark counts the floating-point operations and the bytes of memory that its shapes need and calls
// bench_roofline_set; bench.c measures the device's rates and completes every "roofline" object at the end.
#ifndef VIREO_WORKER_BENCH_ROOFLINE_H
#define VIREO_WORKER_BENCH_ROOFLINE_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stdio.h>

struct gpu_device;

// A multiply-add is 2 operations. Bytes: each operand is read once, each result written once.
struct bench_work {
    double flops, bytes;
};

// row["roofline"] = {"what" (the format), "flops", "bytes", "seconds", "gflop_per_s", "gbyte_per_s"}.
bool bench_roofline_set(json_t *row, struct bench_work work, double seconds, struct vireo_error *err, const char *format,
                        ...) __attribute__((format(printf, 5, 6)));

// What the device reaches at most, by the kernels of compute/nn/calibrate.h: f32 multiply-adds without memory, and a copy
// between buffers of 64 MiB, by a kernel or by the device's own command. The best of many short runs, within a second.
struct bench_rate {
    double flop_per_s, byte_per_s;
};
bool bench_rate_measure(struct gpu_device *dev, struct bench_rate *out, struct vireo_error *err);

// Adds "device_rate": {"gflop_per_s", "gbyte_per_s"} to `out`, and to every "roofline" object in it "bound": "compute" or
// "memory", whichever takes longer at the device's rates, and "roofline_fraction": that time over "seconds". Above 1
// where operands stay in a cache, or where matrix units work.
bool bench_roofline_complete(json_t *out, struct bench_rate rate, struct vireo_error *err);

// The result of a benchmark as tables to read: rooflines, then seconds by phase, then the other figures.
void bench_print(FILE *to, const json_t *result);

#endif
