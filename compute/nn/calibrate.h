// Ops that show what a device can do at most: `vireo bench` holds its rooflines against them.
#ifndef VIREO_NN_CALIBRATE_H
#define VIREO_NN_CALIBRATE_H

#include "compute/nn/nn.h"

// Multiply-adds in registers, f32: `to` [N], each element the sum of 16 chains of 8 * turns times x = a x + b, chain c from
// c / 16. Returns its floating-point operations, 256 N turns (a multiply-add is 2).
double nn_calibrate_multiply_adds(struct tape *t, struct tensor to, uint32_t turns, float a, float b);

// to = from, both f32 and contiguous with 4 n elements. Returns the bytes moved: read and written.
double nn_calibrate_copy(struct tape *t, struct tensor to, struct tensor from);

#endif
