// What a worker is told to do: a training job or an evaluation, fully resolved, as one JSON object on the wire and one
// struct in the program. Names are TRL's and VLM-R1's. The server resolves defaults and ids to paths; the worker decides
// nothing it is not told, and reports what it decided (micro-batch, leaves, kernels).
#ifndef VIREO_WIRE_SPEC_H
#define VIREO_WIRE_SPEC_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <jansson.h>
#include <stdint.h>

enum job_method { JOB_SFT, JOB_GRPO, JOB_EVALUATE };
enum loss_type { LOSS_GRPO, LOSS_BNPO, LOSS_DR_GRPO, LOSS_DAPO };
enum scale_rewards { SCALE_GROUP, SCALE_BATCH, SCALE_NONE };
enum lr_scheduler { LR_CONSTANT, LR_LINEAR, LR_COSINE, LR_WARMUP_STABLE_DECAY };
enum job_dtype { JOB_AUTO, JOB_FP32, JOB_BF16, JOB_FP16 };
// A set of bits, or: the reference where the device is a CPU, whose reading of a file is a copy within the same memory.
enum job_offload { OFFLOAD_NONE, OFFLOAD_REFERENCE = 1, OFFLOAD_OPTIMIZER = 2, OFFLOAD_ALL = 3, OFFLOAD_AUTO = 4 };

struct job_spec {
    // What and where. Paths are the server's; nothing of them reaches an API answer.
    const char *id;
    enum job_method method;
    const char *model_folder;    // base model
    const char *training_file;   // JSONL; JOB_EVALUATE: the rows to evaluate
    const char *validation_file; // NULL: none
    json_t *images;              // object: id or name as rows have it -> path of the encoded image
    const char *work_folder;     // checkpoints/step-N below it
    const char *output_folder;   // where the final model goes; written to a temporary name, renamed when complete
    uint64_t seed;
    const char *device;          // gpu_device_params.select; NULL: auto
    uint64_t memory_limit;       // bytes the server grants; 0: the device's budget

    // Data.
    uint32_t n_epochs, batch_size; // batch_size: rows (SFT) or prompts (GRPO) a step
    uint32_t max_steps;            // 0: from n_epochs
    bool shuffle;
    uint32_t max_prompt_length;    // rows beyond it are refused when the files are validated
    uint64_t min_pixels, max_pixels; // 0: the model's
    const char *system_prompt, *question_template; // NULL: none

    // Optimiser.
    double learning_rate, warmup_ratio, adam_beta1, adam_beta2, adam_epsilon, weight_decay, max_grad_norm;
    uint32_t warmup_steps; // wins over warmup_ratio when > 0
    enum lr_scheduler lr_scheduler_type;
    uint32_t num_stable_steps, num_decay_steps; // warmup_stable_decay
    double min_lr_ratio;
    enum job_dtype dtype;
    bool freeze_vision, gradient_checkpointing;
    enum job_offload offload; // what lives in files, not in the device's memory; no bit depends on it
    bool keep_activations;     // of GRPO's rollouts for the backward pass, where memory allows; no bit depends on it
    bool keep_features;        // the output of frozen vision towers, across steps, where memory allows; likewise
    uint32_t micro_batch_size; // rows (SFT) or groups (GRPO) computed at once; 0: auto
    uint32_t leaves;           // power of two
    uint32_t max_skipped_steps; // non-finite steps in a row before the job stops
    // Of jobs with fp16 activations (train/loss_scale.h): log2 of the first scale, and steps until it is doubled.
    uint32_t initial_scale_power, loss_scale_window;

    // GRPO.
    json_t *grader;
    uint32_t num_generations, max_completion_length, num_iterations;
    double beta, epsilon, epsilon_high, temperature, top_p, min_p;
    uint32_t top_k;
    enum loss_type loss_type;
    enum scale_rewards scale_rewards;
    double advantage_epsilon; // A = (r - mean) / (std + this); 1e-4
    bool mask_truncated_completions, drop_zero_std_groups, log_completions;
    bool ignore_eos; // benchmarks: every completion has max_completion_length tokens

    // Evaluation (JOB_EVALUATE, and validation inside training).
    uint32_t eval_interval, eval_samples; // steps between validations (0: none); rows of the validation file used (0: all)
    uint32_t eval_generations;            // samples a row; 1
    double eval_temperature;              // 0: greedy

    // Checkpoints.
    uint32_t save_steps, save_total_limit; // 0 steps: only at the end
};

// Every default filled (TRL's, or VLM-R1's for preset "vlm-r1"), nothing else.
void job_spec_defaults(struct job_spec *s, enum job_method method);
// Strings live in `a`; json_t members are new references (job_spec_finish).
bool job_spec_parse(const json_t *o, struct arena *a, struct job_spec *out, struct vireo_error *err);
json_t *job_spec_format(const struct job_spec *s); // NULL without memory
void job_spec_finish(struct job_spec *s);

// Names as in the API.
extern const char *const job_method_names[], *const loss_type_names[], *const scale_rewards_names[],
    *const lr_scheduler_names[], *const job_dtype_names[], *const job_offload_names[];

#endif
