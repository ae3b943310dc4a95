// Rotary embedding in place on the q and k columns of qkv [rows, q | k | v], half-split: with c, s of the row's
// position on the axis of half-dimension i, y[i] = x[i] c - x[i + D/2] s, y[i + D/2] = x[i + D/2] c + x[i] s.
// Optionally stores the rotated k and the v of the row in its slot of a pool. sign -1: rotates back (gradient).
// Source: transformers modeling_qwen2_5_vl.py, apply_multimodal_rotary_pos_emb and apply_rotary_pos_emb_vision.
// Args: rope_args (args/rope.h). Dispatch: ceil(rows * half_dim / SUBGROUP) groups of one subgroup.
// One lane is one half-dimension of one row, for all heads: cosine and sine are loaded once.
// Sum: none; products are rounded before they are added, as in the reference. All-zero args: nothing is touched.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/rope.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { rope_args p; };

void main()
{
    uint item = group_index() * SUBGROUP + gl_LocalInvocationID.x;
    if (item >= p.rows * p.half_dim)
        return;
    uint row = item / p.half_dim, i = item % p.half_dim, head_dim = 2 * p.half_dim;

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
    float c = F32(p.table).v[at], s = F32(p.table).v[at + p.frequencies] * p.sign;

    uint slot = has_address(p.slot) ? U32(p.slot).v[row] : ROPE_SKIP;
    uint pool = slot * p.kv_heads * head_dim + i;
    uint x = row * p.stride + i;
    for (uint h = 0; h < p.heads + p.kv_heads; h++, x += head_dim) {
        float a = F32(p.qkv).v[x], b = F32(p.qkv).v[x + p.half_dim];
        precise float y = a * c - b * s, z = b * c + a * s;
        F32(p.qkv).v[x] = y;
        F32(p.qkv).v[x + p.half_dim] = z;
        if (slot != ROPE_SKIP && h >= p.heads) {
            uint to = pool + (h - p.heads) * head_dim;
            F32(p.k).v[to] = y;
            F32(p.k).v[to + p.half_dim] = z;
        }
    }
    if (slot == ROPE_SKIP)
        return;
    for (uint h = 0; h < p.kv_heads; h++, x += head_dim, pool += head_dim) {
        F32(p.v).v[pool] = F32(p.qkv).v[x];
        F32(p.v).v[pool + p.half_dim] = F32(p.qkv).v[x + p.half_dim];
    }
}
