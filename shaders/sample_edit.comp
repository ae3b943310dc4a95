// Changes single logits in place: s -> (s < 0 ? s * penalty : s / penalty) + bias for a row's list of edits, or
// s -> -inf for tokens that no row may draw. A token stands at most once in a row's list.
// Args: sample_edit_args (args/sample_steps.h). Dispatch: rows groups of one subgroup.
// Sum: none. Variants: f32. All-zero args: no row, nothing is touched. Source: transformers, logits_process.py.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/args/sample_steps.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { sample_edit_args p; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Edits { nn_edit v[]; };

const uint RUN = 16384; // most trips of one loop

void main()
{
    uint row = group_index();
    if (row >= p.rows)
        return;
    bool banned = !has_address(p.starts);
    uint first = 0, end = p.banned_count;
    if (!banned) {
        first = U32(p.starts).v[row];
        end = U32(p.starts).v[row + 1];
    }
    for (uint run = first; run < end; run += RUN * SUBGROUP) {
        for (uint k = run + gl_LocalInvocationID.x; k < min(run + RUN * SUBGROUP, end); k += SUBGROUP) {
            if (banned) {
                uint token = U32(p.banned).v[k];
                if (token < p.columns)
                    F32(p.logits).v[row * p.stride + token] = uintBitsToFloat(0xff800000u);
            } else {
                nn_edit e = Edits(p.edits).v[k];
                if (e.token < p.columns) {
                    float s = F32(p.logits).v[row * p.stride + e.token];
                    s = (s < 0 ? s * e.penalty : s / e.penalty) + e.bias;
                    F32(p.logits).v[row * p.stride + e.token] = s;
                }
            }
        }
    }
}
