// Part of a row of COLUMNS values, by quads of neighbours: a lane owns up to TURNS quads of a chunk of CHUNK columns. For
// groups of 4 to 16 lanes of CPU drivers, where accesses are what is paid for: 64 bits each, addresses counted in 64 bits
// lane by lane, so that a turn adds a constant. The tensor starts and its rows begin at multiples of 8 bytes; COLUMNS is
// a multiple of 4.
#ifndef ROW_QUADS_GLSL
#define ROW_QUADS_GLSL
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require

layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t v[]; };

layout(constant_id = 3) const uint COLUMNS = 32;

const uint TURNS = 8;
const uint CHUNK = 4 * TURNS * SUBGROUP;
const uint CHUNKS = (COLUMNS + CHUNK - 1) / CHUNK; // of a row
// Over the quads of the chunk that begins at column `first` which lie in the row. What is known beforehand needs no test.
#define FOR_ROW_QUADS(n, first)                                                                                       \
    [[unroll]] for (uint n = 0; n < TURNS; n++)                                                                       \
        if (COLUMNS % CHUNK == 0 || (CHUNKS == 1 && 4 * (n + 1) * SUBGROUP <= COLUMNS) ||                             \
            first + 4 * (n * SUBGROUP + gl_SubgroupInvocationID) < COLUMNS)

// Where the lane's first quad of a chunk lies that begins at element `first`.
uint64_t row_quads(uvec2 base, uint first, uint type)
{
    const uint i = first + 4 * gl_SubgroupInvocationID;
    return pack64(base) + uint64_t(type == 0 ? 4 * i : 2 * i);
}

// Quad n of it.
vec4 load_quad(uint64_t at, uint n, uint type)
{
    if (type == 0)
        return uintBitsToFloat(uvec4(unpack32(U64(at).v[2 * n * SUBGROUP]), unpack32(U64(at).v[2 * n * SUBGROUP + 1])));
    return unpack_halves(unpack32(U64(at).v[n * SUBGROUP]), type);
}

// Rounds to nearest even.
void store_quad(uint64_t at, uint n, uint type, vec4 x)
{
    if (type == 0) {
        const uvec4 words = floatBitsToUint(x);
        U64(at).v[2 * n * SUBGROUP] = pack64(words.xy);
        U64(at).v[2 * n * SUBGROUP + 1] = pack64(words.zw);
    } else {
        U64(at).v[n * SUBGROUP] = pack64(pack_halves(x, type));
    }
}

#endif
