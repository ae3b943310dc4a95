// y[i] = source[i] >= 0 ? table[source[i]] : images[-1 - source[i]]; also the gather of rows (images 0).
// Args: embed_args (args/embedding.h). Constants: 1 type of the table, 2 of images, 3 of y (0 f32, 1 bf16, 2 f16).
// Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup; a lane owns pairs.
// Sum: none. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#include "shaders/args/embedding.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TABLE = 0;
layout(constant_id = 2) const uint IMAGES = 0;
layout(constant_id = 3) const uint Y = 0;
layout(push_constant, scalar) uniform Args { embed_args p; };

const uint PAIRS = 16;

// Any two neighbours: rows of 16 bits may start in the middle of a word.
vec2 neighbours(uvec2 base, uint i, bool pair, uint type)
{
    return vec2(load_float(base, i, type), load_float(base, pair ? i + 1 : i, type));
}

void main()
{
    uint chunks = (p.columns + 2 * PAIRS * SUBGROUP - 1) / (2 * PAIRS * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = 2 * ((group_index() % chunks) * (PAIRS * SUBGROUP) + gl_LocalInvocationID.x);
    if (row >= p.rows)
        return;
    int source = I32(p.source).v[row];
    bool image = source < 0 && has_address(p.images);
    uint from = image ? uint(-1 - source) : uint(source);
    bool there = from < (image ? p.images_rows : p.table_rows);
    for (uint n = 0; n < PAIRS && c < p.columns; n++, c += 2 * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        vec2 x = vec2(uintBitsToFloat(0x7fc00000u));
        if (there) {
            if (image)
                x = neighbours(p.images, from * p.images_stride + c, pair, IMAGES);
            else
                x = neighbours(p.table, from * p.table_stride + c, pair, TABLE);
        }
        store_two(p.y, row * p.columns + c, pair, Y, x);
    }
}
