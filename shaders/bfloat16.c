// Build tool: exchanges the 16-bit float type of a SPIR-V module for bfloat16. GLSL compilers that know this type are newer
// than those at hand; a module that only names it as the component of matrices differs in nothing else.
// Usage: bfloat16 IN.spv OUT.spv
// Source: SPV_KHR_bfloat16. Refused (exit 1): a module that uses the type otherwise, or has none.
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { OP_EXTENSION = 10, OP_CAPABILITY = 17, OP_TYPE_FLOAT = 22, OP_TYPE_POINTER = 32, OP_CONSTANT = 43 };
enum { FLOAT16 = 9, BFLOAT16_TYPE = 5116, BFLOAT16_MATRIX = 5118 };
enum { ENCODING_BFLOAT16 = 0 };

static uint32_t in[1 << 18], out[(1 << 18) + 32];

static const uint32_t extension[] = {
    // OpExtension "SPV_KHR_bfloat16"
    6u << 16 | OP_EXTENSION, 0x5f565053, 0x5f52484b, 0x6f6c6662, 0x36317461, 0,
};

// False: not understood.
static bool exchange(uint32_t count, uint32_t *written)
{
    uint32_t n = 5, type = 0;
    bool named = false;
    for (uint32_t i = 0; i < 5; i++)
        out[i] = in[i];
    for (uint32_t i = 5, length; i < count; i += length) {
        const uint32_t op = in[i] & 0xffff;
        length = in[i] >> 16;
        if (length == 0 || i + length > count)
            return false;
        if (op == OP_CAPABILITY && in[i + 1] == FLOAT16) {
            out[n++] = in[i];
            out[n++] = BFLOAT16_TYPE;
            out[n++] = in[i];
            out[n++] = BFLOAT16_MATRIX;
            continue;
        }
        if (op != OP_CAPABILITY && !named) { // capabilities come first, extensions next
            for (size_t w = 0; w < sizeof extension / sizeof extension[0]; w++)
                out[n++] = extension[w];
            named = true;
        }
        for (uint32_t w = 0; w < length; w++)
            out[n++] = in[i + w];
        if (op == OP_TYPE_FLOAT && in[i + 2] == 16) {
            type = in[i + 1];
            out[n - length] = (length + 1) << 16 | OP_TYPE_FLOAT;
            out[n++] = ENCODING_BFLOAT16;
        } else if (type && op == OP_CONSTANT && in[i + 1] == type) {
            return false;
        } else if (type && op > OP_TYPE_FLOAT && op <= OP_TYPE_POINTER) { // vectors, arrays, structs of it
            for (uint32_t w = 2; w < length; w++)
                if (in[i + w] == type)
                    return false;
        }
    }
    *written = n;
    return type != 0;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: bfloat16 IN.spv OUT.spv\n");
        return 64;
    }
    FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
    uint32_t count = from ? (uint32_t)fread(in, 4, sizeof in / 4, from) : 0, n = 0;
    bool ok = from && to && count > 5 && count < sizeof in / 4 && in[0] == 0x07230203 && exchange(count, &n) &&
              fwrite(out, 4, n, to) == n;
    ok = (!to || fclose(to) == 0) && ok;
    if (from)
        fclose(from);
    if (!ok)
        fprintf(stderr, "bfloat16: %s is no module whose 16-bit type can be exchanged\n", argv[1]);
    return !ok;
}
