// The end of gemm.comp's product where it is h = silu(gate) up: a lane's columns are fours of two gates and their ups
// (lib/swiglu.glsl). Adds the bias, stores gate and up where C has an address, then h. With 64-bit accesses alone; the width of
// h is even, rows of C and h begin at multiples of 8 bytes (16 bits: 4).
#ifndef GEMM_SWIGLU_GLSL
#define GEMM_SWIGLU_GLSL

layout(buffer_reference, scalar, buffer_reference_align = 8) writeonly buffer OutU64 { uint64_t v[]; };

// Two neighbours at element i, an even one: 16-bit ones as a word.
void store_pair(uvec2 base, uint i, vec2 x, uint word)
{
    if (C_TYPE == 0)
        OutU64(base).v[i >> 1] = pack64(floatBitsToUint(x));
    else
        U32(base).v[i >> 1] = word;
}

void finish_swiglu(uint m0, uint n0)
{
    // Read once, as in finish().
    const uvec2 c = p.c, h = p.h;
    const uint c_stride = p.c_stride, m = p.m, columns = p.n / 2, zero = p.flags & GEMM_NEVER;
    const bool stores_c = has_address(c);
    [[unroll]] for (uint j = 0; j < COLUMNS; j += 4) {
        const uint column = (n0 + 4 * (gl_SubgroupInvocationID + SUBGROUP * (j / 4))) / 2; // of h
        if (has_address(p.bias)) {
            const uint inside = min(column, columns - 2), type = (p.flags & GEMM_BIAS_HALF) == 0 ? 0 : HALVES;
            [[unroll]] for (uint i = 0; i < 4; i++) {
                const float bias = load_float(p.bias, p.bias_first + swiglu_row(2 * inside + i, columns), type);
                [[unroll]] for (uint q = 0; q < TM; q++)
                    acc[q][j + i] += bias;
            }
        }
        [[unroll]] for (uint q = 0; q < TM; q++) {
            vec4 x = vec4(acc[q][j], acc[q][j + 1], acc[q][j + 2], acc[q][j + 3]);
            // Mesa takes a conversion to fp16 and back for none, unless there is something between that it does not know.
            const uvec2 words = C_TYPE == 0 ? uvec2(0) : pack_halves(x, C_TYPE) | zero;
            if (C_TYPE != 0)
                x = unpack_halves(words, C_TYPE);
            const vec2 z = swiglu(x.xy, x.zw);
            if (m0 + q < m && column < columns) {
                if (stores_c) {
                    store_pair(c, (m0 + q) * c_stride + column, x.xy, words.x);
                    store_pair(c, (m0 + q) * c_stride + columns + column, x.zw, words.y);
                }
                store_pair(h, (m0 + q) * columns + column, z, C_TYPE == 0 ? 0 : pack_halves(z.x, z.y, C_TYPE));
            }
        }
    }
}

#endif
