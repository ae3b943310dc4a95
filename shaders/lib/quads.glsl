// Four neighbours, elements i .. i + 3 (i a multiple of 4) of a tensor of type 0 f32, 1 bf16, 2 f16, by 64-bit loads and
// stores: on CPU drivers an access costs about one scalar access a lane whatever its size, so accesses are what is
// counted. The tensor starts and its rows begin at multiples of 8 bytes.
#ifndef QUADS_GLSL
#define QUADS_GLSL

#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t v[]; };

vec4 load_four(uvec2 base, uint i, uint type)
{
    if (type == 0) {
        uvec2 low = unpack32(U64(base).v[i >> 1]), high = unpack32(U64(base).v[(i >> 1) + 1]);
        return uintBitsToFloat(uvec4(low, high));
    }
    return unpack_halves(unpack32(U64(base).v[i >> 2]), type);
}

// Rounds to nearest even.
void store_four(uvec2 base, uint i, uint type, vec4 x)
{
    if (type == 0) {
        uvec4 words = floatBitsToUint(x);
        U64(base).v[i >> 1] = pack64(words.xy);
        U64(base).v[(i >> 1) + 1] = pack64(words.zw);
    } else {
        U64(base).v[i >> 2] = pack64(pack_halves(x, type));
    }
}

#endif
