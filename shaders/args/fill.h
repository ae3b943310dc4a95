// Arguments of fill.comp.
#include "shaders/args/types.h"

struct fill_args {
    ADDRESS to;   // [count] floats
    ADDRESS from; // [count] floats, or 0: taken as zeros
    UINT count;
    FLOAT scale, value;
};
