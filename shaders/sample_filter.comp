// The smallest logit of a row that may be drawn, from top-k (ties kept), then top-p, then min-p.
//
// All three keep the head of the sorted row, so they come down to one threshold. No sorting: floats are taken as
// integers in the same order (`ordered`), and the threshold's integer is found two bits a pass, 16 passes, each of
// which counts the logits (top-k) or adds the probabilities (top-p) not below three candidates.
//   top-k: the largest key with count(>= key) >= k.
//   top-p: among those, the largest key with mass(>= key) >= p * mass: then the mass above a kept token is < p.
//   min-p: logit >= max + temperature * log(min_p).
// Args: sample_filter_args (args/sample_steps.h). Dispatch: rows groups of one subgroup.
// Sum: counts are exact; masses by 32 strided partials and a tree within blocks of SOFTMAX_BLOCK, blocks in order; a
// sum of the same order over fewer terms is never larger, so the search is consistent.
// Variants: f32. All-zero args: no row, nothing is touched. Source: transformers, logits_process.py.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "shaders/lib/types.glsl"
#include "shaders/lib/softmax_stats.glsl"
#include "shaders/args/sample_steps.h"

layout(local_size_x_id = 0) in;
layout(push_constant, scalar) uniform Args { sample_filter_args p; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Settings { sample_row v[]; };

uint ordered(float x)
{
    uint u = floatBitsToUint(x);
    return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}

float from_ordered(uint k)
{
    return uintBitsToFloat((k & 0x80000000u) != 0 ? k & 0x7fffffffu : ~k);
}

float row_max(uint base)
{
    float best = NEGATIVE_INFINITY;
    for (uint first = 0; first < p.columns; first += SOFTMAX_BLOCK) {
        uint end = min(first + SOFTMAX_BLOCK, p.columns);
        for (uint c = first + gl_LocalInvocationID.x; c < end; c += SUBGROUP)
            best = max(best, F32(p.logits).v[base + c]);
    }
    return subgroupMax(best);
}

// count[i] = number of logits with key >= `at` + i * `step` (i = 1, 2, 3).
uvec3 row_counts(uint base, uint at, uint step)
{
    uvec3 count = uvec3(0);
    for (uint first = 0; first < p.columns; first += SOFTMAX_BLOCK) {
        uint end = min(first + SOFTMAX_BLOCK, p.columns);
        for (uint c = first + gl_LocalInvocationID.x; c < end; c += SUBGROUP) {
            uint k = ordered(F32(p.logits).v[base + c]);
            count += uvec3(k >= at + step ? 1 : 0, k >= at + 2 * step ? 1 : 0, k >= at + 3 * step ? 1 : 0);
        }
    }
    return uvec3(subgroupAdd(count.x), subgroupAdd(count.y), subgroupAdd(count.z));
}

// The same for sums of exp((x - most) * inverse).
vec3 row_masses(uint base, uint at, uint step, float most, float inverse)
{
    vec3 mass = vec3(0);
    for (uint first = 0; first < p.columns; first += SOFTMAX_BLOCK) {
        uint end = min(first + SOFTMAX_BLOCK, p.columns);
        float a[MOST_PARTIALS], b[MOST_PARTIALS], c[MOST_PARTIALS];
        clear_partials(a);
        clear_partials(b);
        clear_partials(c);
        for (uint block = first; block < end; block += PARTIALS) {
            FOR_PARTIALS(j) {
                uint i = partial_index(block, j);
                if (lane_has_partials() && i < end) {
                    float x = F32(p.logits).v[base + i];
                    uint k = ordered(x);
                    float e = softmax_exp((x - most) * inverse);
                    a[j] += k >= at + step ? e : 0;
                    b[j] += k >= at + 2 * step ? e : 0;
                    c[j] += k >= at + 3 * step ? e : 0;
                }
            }
        }
        mass += vec3(fold_sum(a), fold_sum(b), fold_sum(c));
    }
    return mass;
}

void main()
{
    uint row = group_index();
    if (row >= p.rows)
        return;
    sample_row s = Settings(p.settings).v[row];
    uint base = row * p.stride;
    float threshold = NEGATIVE_INFINITY;
    bool drawn = s.temperature >= 1e-7;
    bool by_k = drawn && s.top_k > 0 && s.top_k < p.columns;
    bool by_p = drawn && s.top_p < 1.0;
    bool by_min = drawn && s.min_p > 0;
    uint least = 0;
    if (by_k) {
        for (int bit = 30; bit >= 0; bit -= 2) {
            uvec3 n = row_counts(base, least, 1u << bit);
            uint digit = n.z >= s.top_k ? 3 : n.y >= s.top_k ? 2 : n.x >= s.top_k ? 1 : 0;
            least += digit << bit;
        }
        threshold = from_ordered(least);
    }
    if (by_p || by_min) {
        float most = row_max(base);
        if (by_p) {
            float inverse = inverse_temperature(s.temperature);
            // A step of 0 counts all that top-k left. It is at least what is wanted, so the search ends at or above it.
            float wanted = max(s.top_p, 0.0) * row_masses(base, least, 0, most, inverse).x;
            uint at = 0;
            for (int bit = 30; bit >= 0; bit -= 2) {
                vec3 m = row_masses(base, at, 1u << bit, most, inverse);
                uint digit = m.z > 0 && m.z >= wanted ? 3 : m.y > 0 && m.y >= wanted ? 2
                    : m.x > 0 && m.x >= wanted ? 1 : 0;
                at += digit << bit;
            }
            threshold = max(threshold, from_ordered(max(at, least)));
        }
        if (by_min)
            threshold = max(threshold, min(most, most + s.temperature * log(s.min_p)));
    }
    if (gl_LocalInvocationID.x == 0)
        F32(p.threshold).v[row] = threshold;
}
