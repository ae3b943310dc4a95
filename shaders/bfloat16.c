// Build tool: exchanges the 16-bit float type of a SPIR-V module for bfloat16. GLSL compilers that know this type are newer
// than those at hand; a module that only names it as the component of matrices differs in nothing else.
// Usage: bfloat16 IN.spv OUT.spv
// Source: SPV_KHR_bfloat16. Refused (exit 1): a module that uses the type otherwise, or has none.
#include "shaders/spirv_edit.h"

enum { OP_EXTENSION = 10, OP_CAPABILITY = 17, OP_TYPE_FLOAT = 22, OP_TYPE_POINTER = 32, OP_CONSTANT = 43 };
enum { FLOAT16 = 9, BFLOAT16_TYPE = 5116, BFLOAT16_MATRIX = 5118 };
enum { ENCODING_BFLOAT16 = 0 };

static const uint32_t extension[] = {
    // OpExtension "SPV_KHR_bfloat16"
    6u << 16 | OP_EXTENSION, 0x5f565053, 0x5f52484b, 0x6f6c6662, 0x36317461, 0,
};

static uint32_t exchange(uint32_t count)
{
    uint32_t n = 5, type = 0;
    bool named = false;
    for (uint32_t i = 0; i < 5; i++)
        out[i] = in[i];
    for (uint32_t i = 5, length; i < count; i += length) {
        const uint32_t op = in[i] & 0xffff;
        length = in[i] >> 16;
        if (length == 0 || i + length > count)
            return 0;
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
            return 0;
        } else if (type && op > OP_TYPE_FLOAT && op <= OP_TYPE_POINTER) { // vectors, arrays, structs of it
            for (uint32_t w = 2; w < length; w++)
                if (in[i + w] == type)
                    return 0;
        }
    }
    return type ? n : 0;
}

int main(int argc, char **argv)
{
    return spirv_edit(argc, argv, "bfloat16", exchange, "whose 16-bit type can be exchanged");
}
