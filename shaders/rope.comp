// Rotary embedding in place on the q and k columns of qkv [rows, q | k | v], half-split: with c, s of the row's
// position on the axis of half-dimension i, y[i] = x[i] c - x[i + D/2] s, y[i + D/2] = x[i + D/2] c + x[i] s.
// Optionally stores the rotated k and the v of the row in its slot of a pool. sign -1: rotates back (gradient).
// Source: transformers modeling_qwen2_5_vl.py, apply_multimodal_rotary_pos_emb and apply_rotary_pos_emb_vision.
// Args: rope_args (args/rope.h). Constants: 1 type of qkv, 2 of the pool (0 f32, 1 bf16, 2 f16), 3 half-dimensions a
// lane: 2, or 1 where half_dim is odd (f32 only). Dispatch: ceil(rows * half_dim / (LANE * SUBGROUP)) groups of one subgroup.
// A lane does its half-dimensions of one row for all heads: cosine and sine are loaded once.
// Sum: none; products are rounded before they are added, as in the reference. All-zero args: nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/pairs.glsl"
#include "shaders/args/rope.h"

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint X = 0;
layout(constant_id = 2) const uint POOL = 0;
layout(constant_id = 3) const uint LANE = 2;
layout(push_constant, scalar) uniform Args { rope_args p; };

// Cosine and sine of half-dimension i at the row's position.
vec2 angle(uint row, uint i)
{
    uint start = 0, axis = 0;
    if (i >= p.section0) {
        start = p.section0;
        axis = 1;
    }
    if (i >= p.section0 + p.section1) {
        start = p.section0 + p.section1;
        axis = 2;
    }
    uint position = min(U32(p.positions).v[4 * row + axis], p.table_rows - 1);
    uint at = position * (2 * p.frequencies) + (p.restart != 0 ? i - start : i);
    return vec2(F32(p.table).v[at], F32(p.table).v[at + p.frequencies] * p.sign);
}

void main()
{
    const bool pair = LANE == 2;
    uint item = (group_index() * SUBGROUP + gl_LocalInvocationID.x) * LANE;
    if (item >= p.rows * p.half_dim)
        return;
    uint row = item / p.half_dim, i = item % p.half_dim, head_dim = 2 * p.half_dim;
    vec2 first = angle(row, i), second = first;
    if (pair)
        second = angle(row, i + 1);
    vec2 c = vec2(first.x, second.x), s = vec2(first.y, second.y);

    uint slot = has_address(p.slot) ? U32(p.slot).v[row] : ROPE_SKIP;
    uint pool = slot * p.kv_heads * head_dim + i;
    uint x = row * p.stride + i;
    for (uint h = 0; h < p.heads + p.kv_heads; h++, x += head_dim) {
        vec2 a = load_two(p.qkv, x, pair, X), b = load_two(p.qkv, x + p.half_dim, pair, X);
        precise vec2 y = a * c - b * s, z = b * c + a * s;
        store_two(p.qkv, x, pair, X, y);
        store_two(p.qkv, x + p.half_dim, pair, X, z);
        if (slot != ROPE_SKIP && h >= p.heads) {
            uint to = pool + (h - p.heads) * head_dim;
            store_two(p.k, to, pair, POOL, y);
            store_two(p.k, to + p.half_dim, pair, POOL, z);
        }
    }
    if (slot == ROPE_SKIP)
        return;
    for (uint h = 0; h < p.kv_heads; h++, x += head_dim, pool += head_dim) {
        store_two(p.v, pool, pair, POOL, load_two(p.qkv, x, pair, X));
        store_two(p.v, pool + p.half_dim, pair, POOL, load_two(p.qkv, x + p.half_dim, pair, X));
    }
}
