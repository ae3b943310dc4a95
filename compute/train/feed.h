// The data of training steps, one step ahead: while the device works on a step, the pictures of the next one are read,
// decoded, resized and cut, and its prompts tokenised, on other threads of this process.
//
// What a step gets depends on its number alone, so nothing changes with timing, and a job that was stopped and goes on
// begins with the data of the step it is at: what had been prepared and was not taken is simply made again. An error in
// the data of a step is kept until that step asks for it; a job that ends before never hears of it.
//
// Host memory: the patches and prompts of two steps.
#ifndef VIREO_TRAIN_FEED_H
#define VIREO_TRAIN_FEED_H

#include "compute/train/data.h"

struct feed_params {
    // Borrowed for the life of the feed, and constant in that time; the order belongs to the feed's caller's thread.
    const struct model *model; // tokenizer, template, image processor; no weights are read
    const struct job_spec *spec;
    const struct dataset *data;
    struct order *order;
    uint32_t total_steps; // nothing is prepared for steps from here on
    bool with_target;     // step_data_build
};

struct feed;
// NULL + err without memory.
struct feed *feed_create(const struct feed_params *p, struct vireo_error *err);
void feed_destroy(struct feed **f); // waits for what is being prepared, and drops it

// The data of step number `step` (from 0), which live until the next call; then starts to prepare those of the step
// after it. *epoch: epochs done after this step. Errors: those of step_data_build.
bool feed_take(struct feed *f, uint32_t step, const struct step_data **out, double *epoch, struct vireo_error *err);

#endif
