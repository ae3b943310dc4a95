// Places in the one descriptor set: blocks of memory that kernels can read as texels (lib/texels.glsl, compute/gpu/view.c).
#define VIEWS 64
