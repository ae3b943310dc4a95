// Arguments of policy.comp.
#include "shaders/args/types.h"

struct policy_args {
    ADDRESS logprob, old, ref, advantage, weight; // f32 [count]; ref may be 0
    ADDRESS loss, grad, kl, ratio;                // f32 [count]
    UINT count;
    FLOAT low, high; // bounds of the ratio: 1 - epsilon_low, 1 + epsilon_high
    FLOAT beta;
    FLOAT loss_scale; // factor of grad alone
};
