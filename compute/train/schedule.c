#include "compute/train/schedule.h"

#include <math.h>

uint32_t warmup_steps_of(const struct job_spec *s, uint32_t total_steps)
{
    return s->warmup_steps ? s->warmup_steps : (uint32_t)ceil(s->warmup_ratio * total_steps);
}

double learning_rate_at(const struct job_spec *s, uint32_t step, uint32_t total_steps)
{
    uint32_t warmup = warmup_steps_of(s, total_steps);
    if (step <= warmup)
        return s->learning_rate * step / warmup;
    // `done` of `span` steps behind the warm-up lie before this one.
    double done = step - warmup - 1, span = total_steps > warmup ? total_steps - warmup : 1;
    switch (s->lr_scheduler_type) {
    case LR_CONSTANT:
        return s->learning_rate;
    case LR_LINEAR:
        return s->learning_rate * (1 - done / span);
    case LR_COSINE:
        return s->learning_rate * 0.5 * (1 + cos(3.14159265358979323846 * done / span));
    case LR_WARMUP_STABLE_DECAY: {
        double stable = s->num_stable_steps;
        double decay = s->num_decay_steps ? s->num_decay_steps : fmax(1, span - stable);
        if (done < stable)
            return s->learning_rate;
        double left = fmax(0, 1 - (done - stable + 1) / decay);
        return s->learning_rate * (s->min_lr_ratio + (1 - s->min_lr_ratio) * left);
    }
    }
    return s->learning_rate;
}
