// Neighbouring values of one head's row, of type 0 f32, 1 bf16, 2 fp16, four at a time in as few loads and stores as there
// can be.
//
// WIDE 1: 64 bits at a time (needs the int64 feature). The row starts at a multiple of 8 bytes and holds whole loads:
// an even number of f32 or a multiple of four 16-bit ones. WIDE 0: any number of f32, an even number of 16-bit ones.
// `left`: how many values of the row there are from `at` on; what lies behind is not touched, and loaded as 0.
#ifndef HEAD_VALUES_GLSL
#define HEAD_VALUES_GLSL

#if WIDE
#extension GL_EXT_shader_explicit_arithmetic_types_int64 : require
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer U64 { uint64_t v[]; };
#endif

vec4 load_four(uvec2 base, uint at, uint left, uint type)
{
    uvec2 a = uvec2(0), b = uvec2(0);
    if (type != 0) {
#if WIDE
        a = unpack32(U64(base).v[at >> 2]);
#else
        a.x = U32(base).v[at >> 1];
        if (left > 2)
            a.y = U32(base).v[(at >> 1) + 1];
#endif
        return unpack_halves(a, type);
    }
#if WIDE
    a = unpack32(U64(base).v[at >> 1]);
    if (left > 2)
        b = unpack32(U64(base).v[(at >> 1) + 1]);
#else
    a.x = U32(base).v[at];
    if (left > 1)
        a.y = U32(base).v[at + 1];
    if (left > 2)
        b.x = U32(base).v[at + 2];
    if (left > 3)
        b.y = U32(base).v[at + 3];
#endif
    return uintBitsToFloat(uvec4(a, b));
}

void store_four(uvec2 base, uint at, uint left, uint type, vec4 x)
{
    if (type != 0) {
        uvec2 a = pack_halves(x, type);
#if WIDE
        U64(base).v[at >> 2] = pack64(a);
#else
        U32(base).v[at >> 1] = a.x;
        if (left > 2)
            U32(base).v[(at >> 1) + 1] = a.y;
#endif
        return;
    }
    uvec4 a = floatBitsToUint(x);
#if WIDE
    U64(base).v[at >> 1] = pack64(a.xy);
    if (left > 2)
        U64(base).v[(at >> 1) + 1] = pack64(a.zw);
#else
    U32(base).v[at] = a.x;
    if (left > 1)
        U32(base).v[at + 1] = a.y;
    if (left > 2)
        U32(base).v[at + 2] = a.z;
    if (left > 3)
        U32(base).v[at + 3] = a.w;
#endif
}

// x[0 .. n) from element `at` on; n is a constant. x is an array expression: x[d] must be writable.
#define LOAD_ROW(x, n, base, at, type)                                                                                \
    [[unroll]] for (uint d_ = 0; d_ < (n); d_ += 4) {                                                                 \
        vec4 four_ = load_four(base, (at) + d_, (n)-d_, type);                                                        \
        [[unroll]] for (uint i_ = 0; i_ < 4; i_++)                                                                    \
            if (d_ + i_ < (n))                                                                                        \
                x[d_ + i_] = four_[i_];                                                                               \
    }

// The same for two rows. First a load of each line of the caches, so that the waits for memory are one: a CPU looks
// ahead no further than a few loads of a whole subgroup.
#define LOAD_FOUR_(x, d, n, base, at, type)                                                                           \
    {                                                                                                                 \
        vec4 four_ = load_four(base, (at) + (d), (n) - (d), type);                                                    \
        [[unroll]] for (uint i_ = 0; i_ < 4; i_++)                                                                    \
            if ((d) + i_ < (n))                                                                                       \
                x[(d) + i_] = four_[i_];                                                                              \
    }
#define LOAD_ROWS(x, y, n, base_x, base_y, at, type)                                                                  \
    {                                                                                                                 \
        [[unroll]] for (uint d_ = 0; d_ < (n); d_ += 16) {                                                            \
            LOAD_FOUR_(x, d_, n, base_x, at, type)                                                                    \
            LOAD_FOUR_(y, d_, n, base_y, at, type)                                                                    \
        }                                                                                                             \
        [[unroll]] for (uint d_ = 0; d_ < (n); d_ += 4)                                                               \
            if (d_ % 16 != 0) {                                                                                       \
                LOAD_FOUR_(x, d_, n, base_x, at, type)                                                                \
                LOAD_FOUR_(y, d_, n, base_y, at, type)                                                                \
            }                                                                                                         \
    }

#endif
