// to[i] = row places[i].y of source places[i].x: rows of `words` words from many tensors into one. Bits are moved, not
// read as numbers.
// Args: gather_rows_args (args/gather_rows.h). Defines: WIDE 1: 64 bits a load; `words` must be even.
// Dispatch: rows * ceil(words / (64 * SUBGROUP)) groups of one subgroup.
// Sum: none. All-zero args: no row, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/gather_rows.h"
#if WIDE
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer WORDS { uint64_t v[]; };
#else
#define WORDS U32
#endif

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { gather_rows_args p; };

const uint PER_GROUP = 64 * SUBGROUP; // words

void main()
{
    uint chunks = (p.words + PER_GROUP - 1) / PER_GROUP;
    if (chunks == 0)
        return;
    uint row = group_index() / chunks, first = (group_index() % chunks) * PER_GROUP;
    if (row >= p.rows)
        return;
    uvec2 place = U32x2(p.places).v[row];
    WORDS from = WORDS(U32x2(p.runs).v[place.x]), to = WORDS(p.to);
    uint end = min(first + PER_GROUP, p.words) >> WIDE;
    uint source = (place.y * p.words) >> WIDE, target = (row * p.words) >> WIDE;
    for (uint c = (first >> WIDE) + gl_LocalInvocationID.x; c < end; c += SUBGROUP)
        to.v[target + c] = from.v[source + c];
}
