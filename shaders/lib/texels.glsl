// Memory as texels of 16 bytes: what a CPU driver loads fastest (compute/gpu/view.c). Read only: what a kernel writes, it
// writes by address.
#ifndef TEXELS_GLSL
#define TEXELS_GLSL

#include "shaders/args/views.h"

layout(set = 0, binding = 0, rgba32ui) readonly uniform uimageBuffer views[VIEWS];

uvec4 load_texel(uint view, uint texel)
{
    return imageLoad(views[view], int(texel));
}

#endif
