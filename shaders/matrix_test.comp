// Does the compiler know matrix units? Compiled by shaders/meson.build, never run.
// Args: none. Dispatch: never. Sum: none.
#version 460
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
layout(local_size_x = 32) in;
shared uvec4 tile[64];
void main()
{
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> x;
    coopMatLoad(x, tile, 0, 2, gl_CooperativeMatrixLayoutRowMajor);
    coopMatStore(x, tile, 0, 2, gl_CooperativeMatrixLayoutRowMajor);
}
