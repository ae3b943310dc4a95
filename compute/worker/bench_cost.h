// The work that the mathematics of a step needs, from shapes alone: what `vireo bench` holds counted work and seconds
// against.
#ifndef VIREO_WORKER_BENCH_COST_H
#define VIREO_WORKER_BENCH_COST_H

#include "compute/models/model.h"
#include "compute/worker/bench_roofline.h"

// One step: `prompts` prompts of prompt_tokens tokens, each with one picture of `grid_h` x `grid_w` patches, and for each
// `group` completions of new_tokens tokens.
struct bench_step {
    uint32_t prompts, group, new_tokens, prompt_tokens, grid_h, grid_w;
    bool rollout, reference; // SFT has neither
};

// A multiply-add is 2. Source: the cost model of Qwen2.5-VL (2 FLOP a weight and row; 4 A D a pair of query and key in the
// decoder, 4 Hv in a vision block; log-probs of completion tokens alone). Prompt and picture count once a group. Phases:
// rollout (vision, prefill, decode), reference (forward), update (forward and backward; backward is twice the
// products and 2.5 times the attention of the forward).
double bench_step_flops(const struct model_config *c, const struct bench_step *s);

// Prompts with their pictures to the first token of each. Bytes: all weight matrices once (`type`), keys and values of the
// prompts written once.
struct bench_work bench_prefill_work(const struct model_config *c, enum dtype type, const struct bench_step *s);
// Prompts without pictures, and new_tokens tokens of each completion. Bytes: the text model's weight matrices once for the
// prompts and once a decode step; keys and values written once, and read in every decode step, a prompt's once a group.
struct bench_work bench_decode_work(const struct model_config *c, enum dtype type, const struct bench_step *s);

#endif
