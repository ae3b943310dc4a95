// to = from in another type; to bf16 and fp16: round to nearest even.
// Args: convert_args (args/elementwise.h). Constants: 1 type of `from`, 2 type of `to` (0 f32, 1 bf16, 2 f16).
// Dispatch: rows * ceil(columns / (32 * SUBGROUP)) groups of one subgroup; a lane owns pairs, since two halves
// share a word.
// Sum: none. All-zero args: no column, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/elementwise.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint FROM = 0;
layout(constant_id = 2) const uint TO = 0;
layout(push_constant, scalar) uniform Args { convert_args p; };

const uint PAIRS = 16;

void main()
{
    uint chunks = (p.columns + 2 * PAIRS * SUBGROUP - 1) / (2 * PAIRS * SUBGROUP);
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, c = 2 * ((group_index() % chunks) * (PAIRS * SUBGROUP) + gl_LocalInvocationID.x);
    if (row >= p.rows)
        return;
    uint from = p.from_first + row * p.from_stride, to = row * p.to_stride;
    for (uint n = 0; n < PAIRS && c < p.columns; n++, c += 2 * SUBGROUP) {
        bool pair = c + 1 < p.columns;
        float low = load_float(p.from, from + c, FROM), high = 0;
        if (pair)
            high = load_float(p.from, from + c + 1, FROM);
        if (TO == 0) {
            F32(p.to).v[to + c] = low;
            if (pair)
                F32(p.to).v[to + c + 1] = high;
        } else {
            uint word = pack_halves(low, high, TO), at = (to + c) >> 1;
            if (!pair) // the other half belongs to somebody else
                word = (U32(p.to).v[at] & 0xffff0000u) | (word & 0xffffu);
            U32(p.to).v[at] = word;
        }
    }
}
