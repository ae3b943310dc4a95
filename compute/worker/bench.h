// Benchmarks behind `vireo bench <name> --json`. Each fills *out with a new JSON object that the caller decrefs; none
// is part of a result that must repeat. Times are wall and CPU seconds of this process, on a device that nobody else
// uses.
//
// Every result, or each pass of it, also holds "roofline" (bench_roofline.h): {"what", "flops" and "bytes" counted from the
// shapes, "seconds" (the least, wall), "gflop_per_s", "gbyte_per_s", "roofline_fraction", "bound": "compute"|"memory"};
// `vireo bench` measures the device's rates after the benchmark and adds them as "device_rate": {"gflop_per_s",
// "gbyte_per_s"}.
#ifndef VIREO_WORKER_BENCH_H
#define VIREO_WORKER_BENCH_H

#include "compute/base/error.h"

#include <jansson.h>

struct gpu_device;

// Matrix products through nn_gemm.
//   config: {"shapes": [{"product": "nt"|"nn"|"tn", "m", "n", "k", "a_type": "f32"|"bf16"|"f16", "b_type", "c_type",
//                        "beta": 0|1}], "seconds": least length of a run, "runs"}; all optional, NULL for the defaults
//            (f32, beta 0, 0.05 s, 5 runs, and the shapes of docs/performance.md, each in f32 and in bf16).
//   *out:   {"device", "results": [{product, m, n, k, a_type, b_type, c_type, beta, runs, "repeats" of the product a
//            run, "seconds_min", "seconds_median", "cpu_seconds_min",
//            "cpu_seconds_median" of one product, "gflops" of the fastest run, "gflops_median",
//            "gflops_per_cpu_second" of the run that used least}]}
// A product is 2 m n k operations. Compiling is left out: one product runs before the first run.
bool bench_gemm(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);

// Attention through nn_attention, forward and backward.
//   config: {"shapes": [{"kind": "text"|"window"|"decode"|"paged", "heads", "kv_heads", "head_dim", "groups", "prompt",
//   "completions",
//                        "length"}], "seconds": least length of a run, "runs"}; all optional, NULL for the defaults
//                        (0.05 s,
//            5 runs, and a list of common shapes).
//            text: `groups` times [prompt, completions x length], packed, each completion attends the prompt and
//            itself; window: `groups` segments of `length` rows that attend each other; decode: one row a completion,
//            keys in a pool: the prompt of its group and `length` of its own (no backward pass); paged: the same
//            with lists of pages of 16 slots, as the engine decodes: whole pages of the prompt are shared.
//   *out:   {"device", "results": [{the shape, "rows", "pairs" of query and key, "runs", "forward", "backward"}]},
//   where
//            each pass is {"repeats" a run, "seconds_min", "seconds_median" of one pass, "cpu_seconds_min",
//            "cpu_seconds_median", "gflops" of the fastest run, "gflops_median", "gflops_per_cpu_second"}
// A forward pass counts 4 x pairs x heads x head_dim operations, a backward pass 2.5 times that: what the mathematics
// needs, recomputed scores once. Compiling is left out.
bool bench_attention(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);

// Whole training steps (GRPO; SFT on the same rows) through the trainer, from encoded image files and text to updated
// weights.
//   config: {"model": config.json, "image": side in pixels, "prompts", "group", "new_tokens", "text_tokens", "beta",
//   "dtype":
//            "fp32"|"bf16"|"fp16", "runs", "profile": bool}. Every completion has new_tokens tokens. The first step is left
//            out (it compiles).
//   *out:   {"device", "seconds_min": {"step", "data", "rollout", "reward", "reference", "update", "optimizer"},
//   "seconds_median",
//            "cpu_seconds_min", "cpu_seconds_median" (CPU seconds of all threads), "tokens_per_s" (completion tokens),
//            "peak_bytes": {"device", "rss"}, "flops": {"counted": what the dispatches of a step declared, "necessary":
//            bench_cost.h, "ratio"}, "plan_bytes": the memory plan of these sizes, "idle_share": median share of a step in
//            which the device did not compute, "runs"}; with profile also "profile": [{"kernel", "count", "seconds", "gflops"}]
//            (timing each dispatch slows the step down)
bool bench_grpo(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);
bool bench_sft(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);

// The engine alone: `prompts` prompts of text_tokens random ids, `group` completions each of new_tokens tokens.
//   config: {"model", "prompts", "group", "new_tokens", "text_tokens", "dtype", "runs"}, as for grpo; others are ignored.
//   *out:   {"device", "sequences", "new_tokens", "runs", "seconds_min": {"run", "prefill"}, "seconds_median",
//            "cpu_seconds_min": {"run"}, "cpu_seconds_median", "tokens_per_s", "tokens_per_cpu_second"}
bool bench_decode(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);

// The engine's prompts alone: `prompts` prompts of text_tokens ids and one picture of noise, new ones in every run, to
// their first tokens; cutting the pictures into patches is left out.
//   config: {"model", "image", "prompts", "text_tokens", "dtype", "runs"}, as for grpo; others are ignored.
//   *out:   {"device", "prompts", "prompt_tokens" of one, "runs", "seconds_min": {"run"}, "seconds_median",
//            "cpu_seconds_min", "tokens_per_s", "tokens_per_cpu_second"}
bool bench_prefill(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);

// nn_logprob over `rows` rows of f32 hidden states and a head of `dtype`.
//   config: {"rows", "hidden_size", "vocab_size", "dtype", "runs"}; all optional, NULL for the defaults.
//   *out:   {"device", the configuration, "forward", "forward_backward"}, each {"seconds_min", "seconds_median",
//            "cpu_seconds_min", "gflops", "gflops_per_cpu_second"}
// Forward counts 2 rows hidden_size vocab_size operations, forward and backward three times that.
bool bench_logprob(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);

// model_load of a folder with random weights of the configuration, weights only.
//   config: {"model", "dtype", "runs"}
//   *out:   {"device", "runs", "bytes" of the weights, "seconds_min": {"load"}, "seconds_median", "cpu_seconds_min",
//            "bytes_per_s", "peak_bytes": {"device", "rss"}}
bool bench_load(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err);

#endif
