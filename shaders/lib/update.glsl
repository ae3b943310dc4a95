// What the kernels of the optimiser share: the chunk list and the state the norm leaves.
#ifndef UPDATE_GLSL
#define UPDATE_GLSL
#include "shaders/args/update.h"

layout(buffer_reference, scalar, buffer_reference_align = 8) buffer UpdateChunks { update_chunk v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer UpdateState { update_state v; };

bool is_finite(float x)
{
    return (floatBitsToUint(x) & 0x7f800000u) != 0x7f800000u;
}

#endif
