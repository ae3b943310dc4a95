// Build tool: writes a SPIR-V file as C, `const uint32_t kernel_<name>[]` and its size in bytes.
// Usage: embed NAME IN.spv OUT.c
//        embed NAME --absent OUT.c    no compiler here takes this shader: 0 bytes, which gpu_kernel_runs refuses
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(int count, char **argument)
{
    if (count != 4) {
        fprintf(stderr, "usage: embed NAME IN.spv OUT.c\n");
        return 64;
    }
    const char *name = argument[1];
    const bool absent = strcmp(argument[2], "--absent") == 0;
    FILE *in = absent ? NULL : fopen(argument[2], "rb"), *out = fopen(argument[3], "wb");
    if ((!in && !absent) || !out) {
        fprintf(stderr, "embed: cannot open %s\n", in ? argument[3] : argument[2]);
        return 1;
    }
    fprintf(out, "#include <stdint.h>\nextern const uint32_t kernel_%s[], kernel_%s_bytes;\n", name, name);
    fprintf(out, "const uint32_t kernel_%s[] = {", name);
    uint32_t words = 0;
    for (uint32_t word; in && fread(&word, sizeof word, 1, in) == 1; words++) {
        if (words == 0 && word != 0x07230203) {
            fprintf(stderr, "embed: %s is not SPIR-V of this machine's byte order\n", argument[2]);
            return 1;
        }
        fprintf(out, "%s0x%08x,", words % 8 == 0 ? "\n" : " ", (unsigned)word);
    }
    fprintf(out, "%s};\nconst uint32_t kernel_%s_bytes = %u;\n", absent ? "0" : "\n", name, (unsigned)(words * 4));
    if (in)
        fclose(in);
    return (words == 0 && !absent) || fclose(out) != 0;
}
