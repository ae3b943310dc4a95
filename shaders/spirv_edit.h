// What the build tools that edit SPIR-V modules share: reading, checking, writing. One tool is one file that includes it.
#ifndef VIREO_SHADERS_SPIRV_EDIT_H
#define VIREO_SHADERS_SPIRV_EDIT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { SPIRV_WORDS = 1 << 18, SPIRV_MORE = 32 }; // a module; what an edit may add

static uint32_t in[SPIRV_WORDS], out[SPIRV_WORDS + SPIRV_MORE];

// Reads argv[1] into `in`, has `edit` make `out` of it (the words it wrote; 0: not understood, or nothing to edit) and
// writes argv[2]. `wanted`: what the module should have been.
static int spirv_edit(int argc, char **argv, const char *tool, uint32_t (*edit)(uint32_t count), const char *wanted)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s IN.spv OUT.spv\n", tool);
        return 64;
    }
    FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
    const uint32_t count = from ? (uint32_t)fread(in, 4, SPIRV_WORDS, from) : 0;
    uint32_t n = 0;
    bool ok = from && to && count > 5 && count < SPIRV_WORDS && in[0] == 0x07230203 && (n = edit(count)) != 0 &&
              fwrite(out, 4, n, to) == n;
    ok = (!to || fclose(to) == 0) && ok;
    if (from)
        fclose(from);
    if (!ok)
        fprintf(stderr, "%s: %s is no module %s\n", tool, argv[1], wanted);
    return !ok;
}

#endif
