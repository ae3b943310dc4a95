// Makes the argument headers readable by C and by GLSL: one struct for both sides, never mirrored by hand.
// In C an ADDRESS is the 64-bit device address; in GLSL it is the same eight bytes as a uvec2.
#ifdef __STDC__
#ifndef VIREO_SHADERS_ARGS_TYPES_H
#define VIREO_SHADERS_ARGS_TYPES_H
#include <stdint.h>
#define ADDRESS uint64_t
#define UINT uint32_t
#define INT int32_t
#define FLOAT float
#endif
#else
#ifndef ARGS_TYPES
#define ARGS_TYPES
#define ADDRESS uvec2
#define UINT uint
#define INT int
#define FLOAT float
#endif
#endif
