// Harness of the op tests: each op against a plain C reference and finite differences, on every variant the device has.
//
// A family of ops is one file tests/kernels/case_<family>.c exporting `const struct CMUnitTest cases_<family>[]` and its
// count, or several (meson.build); tests/kernels/kernels.c runs them all on one device. Rules for a case: sizes 1, prime,
// just past a tile, large; outputs compared with a double-precision reference; guard words behind outputs; the same bits
// twice and in another batch (rows are independent of what shares the batch); gradients against the reference's
// derivative and, on a small size, against central finite differences.
#ifndef VIREO_TESTS_KERNELS_H
#define VIREO_TESTS_KERNELS_H

#include "compute/nn/nn.h"
#include "tests/check.h"

extern struct gpu_device *test_device;          // made once by kernels.c (VIREO_DEVICE selects; default: best)
extern struct gpu_arena *test_arena, *test_upload; // grow; rewound between cases by kernels.c
extern struct vireo_error err;

// A tape on the arenas above.
struct tape *test_tape(bool grad);
struct tape *test_tape_of(enum dtype activations, bool grad); // test_tape: f32
void test_tape_end(struct tape **t); // fails the test if the tape failed; waits

// Deterministic values in [-1, 1], by seed and index.
float test_value(uint32_t seed, uint32_t i);
void test_values(float *out, size_t n, uint32_t seed);
// What a tensor of this type holds of x.
float test_rounded(enum dtype type, float x);
void test_round_all(enum dtype type, float *x, size_t n);

// Host -> device and back; type conversion included (the values read back are what the device holds).
struct tensor test_tensor(enum dtype type, uint32_t rows, uint32_t columns, const float *values);
struct tensor test_tensor_u32(uint32_t rows, uint32_t columns, const uint32_t *values);
void test_read(struct tensor x, float *out);
void test_read_u32(struct tensor x, uint32_t *out);
// A weight with value (and, if grad, a zeroed gradient).
struct weight test_weight(enum dtype type, uint32_t rows, uint32_t columns, const float *values, bool grad);

// Largest |a - b| / (1 + |b|); fails the test with the place and both values when above the tolerance or NaN.
void test_near(const char *what, const float *a, const double *b, size_t n, double tolerance);
// Bit-equal.
void test_same_bits(const char *what, const float *a, const float *b, size_t n);
// Makes x (an input, no producer) take a gradient on this tape, so that an op's dx can be read after tape_backward.
struct tensor test_leaf(struct tape *t, uint32_t rows, uint32_t columns, const float *values);
struct tensor test_leaf_of(struct tape *t, enum dtype type, uint32_t rows, uint32_t columns, const float *values);

#endif
