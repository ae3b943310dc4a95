// What the kernels of a draw share: the settings of a row and the logits it draws from.
#ifndef DRAW_GLSL
#define DRAW_GLSL
#include "shaders/lib/softmax_stats.glsl"
#include "shaders/args/sample_steps.h"

layout(push_constant, scalar) uniform Args { sample_args p; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Settings { sample_row v[]; };

#define NO_ID 0xffffffffu

// The ids that nobody may draw, read once.
struct bans {
    uint id[SAMPLE_BANS];
};
bans read_bans()
{
    bans b;
    [[unroll]] for (uint i = 0; i < SAMPLE_BANS; i++)
        b.id[i] = i < p.banned_count ? U32(p.banned).v[i] : NO_ID;
    return b;
}

bool is_banned(bans b, uint c)
{
    bool banned = false;
    [[unroll]] for (uint i = 0; i < SAMPLE_BANS; i++)
        banned = banned || c == b.id[i];
    return banned;
}

// The logit of id c as it is drawn from, of logit x: banned ids have none.
float drawn_logit(bans b, float x, uint c)
{
    return is_banned(b, c) ? NEGATIVE_INFINITY : x;
}

float row_threshold(uint row)
{
    return has_address(p.threshold) ? F32(p.threshold).v[row] : NEGATIVE_INFINITY;
}

#endif
