// Included first by every kernel: extensions, storage types, group index.
//
// Tensors are device addresses (uvec2, no 64-bit integers needed) plus sizes in push constants. Access goes through the
// reference types below, so that a device without addresses could be served by changing this file alone.
// Storage types: T = float, or bf16/fp16 as 16-bit halves of 32-bit words (two neighbours share a word).
#ifndef TYPES_GLSL
#define TYPES_GLSL

#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_KHR_shader_subgroup_arithmetic : require

// constant_id 0 is the subgroup size in every kernel; workgroups are one subgroup unless a kernel says otherwise.
layout(constant_id = 0) const uint SUBGROUP = 8;

layout(buffer_reference, scalar, buffer_reference_align = 4) buffer F32 { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer U32 { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer I32 { int v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U32x2 { uvec2 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer U32x4 { uvec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer F32x4 { vec4 v[]; };

// Dispatches are one-dimensional; gpu_dispatch spreads many groups over y. The last row may hold spare groups: guard.
uint group_index()
{
    return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
}

bool has_address(uvec2 a)
{
    return (a.x | a.y) != 0;
}

float bf16_low(uint word)
{
    return uintBitsToFloat(word << 16);
}
float bf16_high(uint word)
{
    return uintBitsToFloat(word & 0xffff0000u);
}
// Round to nearest even; NaN stays NaN.
uint to_bf16(float x)
{
    uint u = floatBitsToUint(x);
    uint rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded;
}
uint pack_bf16(float low, float high)
{
    return to_bf16(low) | (to_bf16(high) << 16);
}

// Two neighbours in a word of 16-bit storage: type 1 bf16, 2 fp16. To fp16 as to bf16: nearest even on drivers whose
// conversions are (packHalf2x16 leaves it to them), infinity beyond 65504 (never clipped to it: what is out of range has
// to show, as the loss scale needs it), subnormal below 6.1e-5, 0 below 3e-8.
vec2 unpack_halves(uint word, uint type)
{
    return type == 2 ? unpackHalf2x16(word) : vec2(bf16_low(word), bf16_high(word));
}
uint pack_halves(float low, float high, uint type)
{
    return type == 2 ? packHalf2x16(vec2(low, high)) : pack_bf16(low, high);
}
vec4 unpack_halves(uvec2 words, uint type)
{
    return vec4(unpack_halves(words.x, type), unpack_halves(words.y, type));
}
uvec2 pack_halves(vec4 x, uint type)
{
    return uvec2(pack_halves(x.x, x.y, type), pack_halves(x.z, x.w, type));
}

// Element i of a tensor of 16-bit or 32-bit floats, of type 0 f32, 1 bf16, 2 fp16.
float load_float(uvec2 base, uint i, uint type)
{
    if (type == 0)
        return F32(base).v[i];
    uint word = U32(base).v[i >> 1];
    if (type == 1)
        return (i & 1u) == 0 ? bf16_low(word) : bf16_high(word);
    return unpackHalf2x16((i & 1u) == 0 ? word : word >> 16).x;
}

#endif
