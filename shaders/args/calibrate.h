// Arguments of calibrate.comp.
#include "shaders/args/types.h"

struct calibrate_args {
    ADDRESS to;   // [count] floats
    ADDRESS from; // [count] floats; copy alone
    UINT count;   // of lanes with a result; copy: of elements, a multiple of 4
    UINT turns;   // multiply-adds alone
    FLOAT a, b;
};
