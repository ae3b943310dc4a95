#include "compute/train/loss_scale.h"

#include <math.h>

struct loss_scale loss_scale_begin(bool on, uint32_t power, uint32_t window)
{
    return (struct loss_scale){.on = on, .scale = on ? ldexp(1, (int)power) : 1, .window = window};
}

void loss_scale_took(struct loss_scale *s)
{
    if (!s->on || ++s->good < s->window)
        return;
    s->good = 0;
    if (s->scale < ldexp(1, LOSS_SCALE_MOST_POWER))
        s->scale *= 2;
}

bool loss_scale_overflowed(struct loss_scale *s)
{
    if (!s->on || s->scale <= 1)
        return false;
    s->scale /= 2;
    s->good = 0;
    s->overflows++;
    return true;
}
