// A training job from its specification to the saved model: data, rollouts, rewards, updates, validation, checkpoints.
//
// One thread owns the device, and everything that leaves goes through the hooks on it; others prepare the next step's data
// (feed.h) and make texts and rewards (grading.c). Same specification, device and files: same bits, also across any number
// of kills and resumes.
#ifndef VIREO_TRAIN_TRAINER_H
#define VIREO_TRAIN_TRAINER_H

#include "compute/gpu/device.h"
#include "compute/wire/spec.h"

enum train_order { TRAIN_GO, TRAIN_CANCEL, TRAIN_PAUSE };

struct train_hooks {
    void *context;
    // Milestones for the event list. level: "info", "warn", "error".
    void (*event)(void *context, const char *level, const char *message);
    // Once, before the first step: plan (bytes by purpose), total_steps, steps_per_epoch, trained parameters,
    // micro_batch_size, leaves, device, kernels, resumed_from (0: fresh). Borrowed.
    void (*started)(void *context, const json_t *facts);
    // One a step: TRL's metric names, "step", "total_steps", "step_time", "eta_seconds". Borrowed.
    void (*metrics)(void *context, uint32_t step, const json_t *metrics);
    // GRPO, one a step when log_completions: the groups with prompt text, image references, item, completions, rewards,
    // reward parts, reasons, advantages, log-probs, boxes. Borrowed.
    void (*groups)(void *context, uint32_t step, const json_t *groups);
    // A checkpoint folder is complete. Borrowed metrics of that step.
    void (*checkpoint)(void *context, uint32_t step, const char *folder, const json_t *metrics);
    // Progress inside long phases (loading, validation), share in [0, 1].
    void (*progress)(void *context, const char *phase, double share);
    // Asked at every step boundary: TRAIN_GO, or how to end. Both ends write a checkpoint of the present step first.
    enum train_order (*ask)(void *context);
};

enum train_end { TRAIN_DONE, TRAIN_CANCELLED, TRAIN_PAUSED, TRAIN_FAILED };

// Runs the job (JOB_SFT, JOB_GRPO) until it is done or told to stop; resumes from the newest valid checkpoint in
// work_folder. TRAIN_FAILED: err. The final model is in output_folder exactly when TRAIN_DONE is returned.
enum train_end train_run(const struct job_spec *spec, struct gpu_device *dev, const struct train_hooks *hooks,
                         struct vireo_error *err);

// JOB_EVALUATE: *out = {"n", "mean_reward", "reward_std", "reward_ci95", "rewards": {name: mean},
// "completions_mean_length", "rows": [{id, completion(s), rewards, reward, finish_reason, truth, boxes}]}; a new
// reference.
bool evaluate_run(const struct job_spec *spec, struct gpu_device *dev, const struct train_hooks *hooks, json_t **out,
                  struct vireo_error *err);

// What a plan is made from beside the specification.
struct plan_facts {
    json_t *config;                            // config.json of the job's model
    uint64_t tokenizer_bytes, training_bytes;  // of files
    uint64_t pictures;                         // distinct ones that the rows name; 0: not known
    uint32_t cpu_lanes;                        // of the device's vectors; 0: it is no CPU
};
// Reads the files' part; the caller sets `pictures` and `cpu_lanes`.
bool plan_facts_read(const struct job_spec *spec, struct plan_facts *out, struct vireo_error *err);
void plan_facts_finish(struct plan_facts *facts);
// What the job will need, in bytes by purpose, before anything is allocated: {"weights", "gradients", "optimizer",
// "reference", "kv", "activations", "kept_activations", "vision_features", "staging", "total", "available"} of the device, and
// of the worker's process "host" (what is not the device's) and "resident" (its peak: host, and on a CPU device the device's
// bytes that are touched, which are the process's own). From the facts and the job's sizes; opens nothing. Fails with
// VIREO_DEVICE_MEMORY and the numbers when `available` is too small, naming what would make it fit.
bool train_plan(const struct job_spec *spec, const struct plan_facts *facts, uint64_t available, json_t **out,
                struct vireo_error *err);

#endif
