// y[i] = source[i] >= 0 ? table[source[i]] : images[-1 - source[i]]; also the gather of rows (images 0).
// Args: embed_args (args/embedding.h). Constant 1: type of the table.
// Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup.
// Sum: none. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/embedding.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TABLE = 0;
layout(push_constant, scalar) uniform Args { embed_args p; };

const uint PER_LANE = 32;

void main()
{
    uint chunks = (p.columns + PER_LANE * SUBGROUP - 1) / (PER_LANE * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = (group_index() % chunks) * (PER_LANE * SUBGROUP) + gl_LocalInvocationID.x;
    if (row >= p.rows)
        return;
    int source = I32(p.source).v[row];
    bool image = source < 0 && has_address(p.images);
    uint from = image ? uint(-1 - source) : uint(source);
    bool there = from < (image ? p.images_rows : p.table_rows);
    for (uint n = 0; n < PER_LANE && c < p.columns; n++, c += SUBGROUP) {
        float x = uintBitsToFloat(0x7fc00000u);
        if (there) {
            if (image)
                x = F32(p.images).v[from * p.images_stride + c];
            else
                x = load_float(p.table, from * p.table_stride + c, TABLE);
        }
        F32(p.y).v[row * p.columns + c] = x;
    }
}
