// The factor of the loss in jobs with fp16 activations, whose gradients would else fall below fp16's range.
//
// A step's gradients are computed from the loss times `scale`, a power of two, and the update divides by it (nn_update_params):
// no bit is lost where nothing leaves the range. Gradients that overflow become infinite, the norm shows it, and the step is
// skipped with the scale halved; after `window` steps in a row without one it is doubled. Source: torch.amp.GradScaler and its
// defaults (2^16, 2000); the names of the job's fields are DeepSpeed's.
// Other types run with scale 1 and nothing of this.
#ifndef VIREO_TRAIN_LOSS_SCALE_H
#define VIREO_TRAIN_LOSS_SCALE_H

#include <stdbool.h>
#include <stdint.h>

enum { LOSS_SCALE_MOST_POWER = 32 };

// Part of a checkpoint.
struct loss_scale {
    bool on;
    double scale;       // 2^0 .. 2^32; 1 where not on
    uint32_t window;
    uint32_t good;      // steps since the scale last changed
    uint32_t overflows; // steps skipped so far because gradients overflowed
};

struct loss_scale loss_scale_begin(bool on, uint32_t power, uint32_t window);
// After an update took place.
void loss_scale_took(struct loss_scale *s);
// After one that was skipped because the gradient was not finite. True: lowered, the next step may do better. False: it is off,
// or 1 already, so that the gradient itself is not finite.
bool loss_scale_overflowed(struct loss_scale *s);

#endif
