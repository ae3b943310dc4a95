// to = a + b, element by element, in f32. `to` may be a or b.
// Args: add_args (args/elementwise.h). Constants: 1 type of `to`, 2 of a, 3 of b (0 f32, 1 bf16, 2 f16).
// Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup; a lane owns pairs, since two halves share a word.
// Sum: none. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint TO = 0;
layout(constant_id = 2) const uint A = 0;
layout(constant_id = 3) const uint B = 0;
layout(push_constant, scalar) uniform Args { add_args p; };

const uint PAIRS = 16;

void main()
{
    uint chunks = (p.columns + 2 * PAIRS * SUBGROUP - 1) / (2 * PAIRS * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = 2 * ((group_index() % chunks) * (PAIRS * SUBGROUP) + gl_LocalInvocationID.x);
    if (row >= p.rows)
        return;
    for (uint n = 0; n < PAIRS && c < p.columns; n++, c += 2 * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        vec2 a = load_two(p.a, row * p.a_stride + c, pair, A), b = load_two(p.b, row * p.b_stride + c, pair, B);
        store_two(p.to, row * p.to_stride + c, pair, TO, a + b);
    }
}
