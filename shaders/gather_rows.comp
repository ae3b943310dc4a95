// to[i] = row places[i].y of source places[i].x: rows of `words` words from many tensors into one. Bits are moved, not
// read as numbers.
// Args: gather_rows_args (args/gather_rows.h). Dispatch: rows * ceil(words / (64 * SUBGROUP)) groups of one subgroup.
// -DWIDE=1, for CPU drivers: 64 bits a load, `words` even; ceil(rows / rows_each) groups, rows_each <= SUBGROUP: places and
// addresses of a group's rows are read at once, since every load costs the same.
// Sum: none. All-zero args: no row, nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/gather_rows.h"
#if WIDE
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t v[]; };
#endif

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { gather_rows_args p; };

#if WIDE
void main()
{
    const uint lane = gl_SubgroupInvocationID, first = group_index() * p.rows_each;
    const uint end = min(p.rows, first + p.rows_each);
    if (first >= end)
        return;
    const uint64_t step = 4 * uint64_t(p.words);
    const uvec2 place = U32x2(p.places).v[min(first + lane, end - 1)];
    const uvec2 mine = unpack32(U64(p.runs).v[place.x] + place.y * step); // where the row of this lane lies
    uint64_t target = pack64(p.to) + first * step;
    const uint count = p.words >> 1, whole = count / SUBGROUP;
    for (uint row = first; row < end; row++, target += step) {
        const uint64_t source = pack64(uvec2(subgroupBroadcast(mine.x, row - first), subgroupBroadcast(mine.y, row - first)));
        uint64_t from = source + 8 * lane, to = target + 8 * lane;
        for (uint n = 0; n < whole; n++, from += 8 * SUBGROUP, to += 8 * SUBGROUP)
            U64(to).v[0] = U64(from).v[0];
        if (whole * SUBGROUP + lane < count)
            U64(to).v[0] = U64(from).v[0];
    }
}
#else
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
    U32 from = U32(U32x2(p.runs).v[place.x]), to = U32(p.to);
    uint end = min(first + PER_GROUP, p.words), source = place.y * p.words, target = row * p.words;
    for (uint c = first + gl_LocalInvocationID.x; c < end; c += SUBGROUP)
        to.v[target + c] = from.v[source + c];
}
#endif
