// The answers of two evaluations side by side on the pictures they are about: truth, before, after.
#ifndef VIREO_CLI_DRAW_H
#define VIREO_CLI_DRAW_H

#include "compute/base/error.h"

#include <stdint.h>

struct draw_params {
    const char *data;   // folder with train.jsonl and its pictures, as `vireo datasets generate` writes it
    const char *before; // result of an evaluation as JSON: {"rows": [...]}, {"data": [...]} or the list itself
    const char *after;  // another one over the same rows; NULL: only one
    const char *out;    // the PNG to write
    uint32_t count;     // rows shown, the first ones of the data (none is picked); 1 to 48
};

// Boxes are read from the first answer of a row in pixels of the picture (`coords: "absolute"`). Rows are found by their
// id. A row without a readable box shows its truth alone and says so. Errors name the file at fault.
bool draw_comparison(const struct draw_params *p, struct vireo_error *err);

#endif
