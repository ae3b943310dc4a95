// The calculate_output formula of a multi grader: numbers, names, + - * / ^ **, unary minus, parentheses, and min max
// abs floor ceil exp sqrt log (min and max take two or more arguments). ^ and ** are the power, bind tighter than
// unary minus and group to the right: -2^2 = -4, 2^3^2 = 512. A name is the reward of that sub-grader.
#ifndef VIREO_REWARDS_FORMULA_H
#define VIREO_REWARDS_FORMULA_H

#include "compute/base/error.h"

#include <stddef.h>

enum { FORMULA_BYTES = 4096, FORMULA_DEPTH = 64 };

struct formula; // immutable

// Compiles `text`; names must be among `names` [count]. The error names `path`, the column and what was expected.
struct formula *formula_create(const char *text, const char *const *names, size_t count, const char *path,
                               struct vireo_error *err);
void formula_destroy(struct formula **f);
// Value for the rewards given in the order of `names`; may be NaN or infinite (1 / 0, log(-1)): the caller checks.
double formula_value(const struct formula *f, const double *values);

#endif
