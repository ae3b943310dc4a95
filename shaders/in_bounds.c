// Build tool: tells the driver that what a kernel reads through `readonly` buffer references lies within 4 GiB behind the
// address: OpAccessChain becomes OpInBoundsAccessChain, which GLSL cannot say. RADV then adds a 32-bit offset of the lane to
// an address of the whole subgroup in the load itself; else each load costs four instructions for a 64-bit address.
// Usage: in_bounds IN.spv OUT.spv
// Refused (exit 1): a module without such an access.
#include "shaders/spirv_edit.h"

#include <string.h>

enum { OP_TYPE_POINTER = 32, OP_FUNCTION = 54, OP_ACCESS_CHAIN = 65, OP_IN_BOUNDS_ACCESS_CHAIN = 66, OP_MEMBER_DECORATE = 72 };
enum { NON_WRITABLE = 24, PHYSICAL_STORAGE_BUFFER = 5349 };
enum { IDS = 1 << 18 };

static bool is_read_only[IDS]; // structures, pointers to them, values of these

static uint32_t mark(uint32_t count)
{
    uint32_t *const words = out;
    memcpy(words, in, count * sizeof *in);
    uint32_t changed = 0;
    bool in_function = false;
    if (words[3] > IDS)
        return 0;
    for (uint32_t i = 5, length; i < count; i += length) {
        const uint32_t op = words[i] & 0xffff;
        length = words[i] >> 16;
        if (length == 0 || i + length > count)
            return 0;
        in_function = in_function || op == OP_FUNCTION;
        if (op == OP_MEMBER_DECORATE && words[i + 3] == NON_WRITABLE)
            is_read_only[words[i + 1]] = true;
        else if (op == OP_TYPE_POINTER && words[i + 2] == PHYSICAL_STORAGE_BUFFER && is_read_only[words[i + 3]])
            is_read_only[words[i + 1]] = true;
        else if (op == OP_ACCESS_CHAIN && is_read_only[words[i + 3]]) {
            words[i] = length << 16 | OP_IN_BOUNDS_ACCESS_CHAIN;
            changed++;
        } else if (in_function && length > 2 && words[i + 1] < IDS && words[i + 2] < IDS && is_read_only[words[i + 1]])
            is_read_only[words[i + 2]] = true; // a value of such a pointer type
    }
    return changed ? count : 0;
}

int main(int argc, char **argv)
{
    return spirv_edit(argc, argv, "in_bounds", mark, "with accesses to mark");
}
