#include "compute/nn/nn.h"

#include "compute/nn/dispatch.h"
#include "shaders/args/policy.h"

struct nn_policy nn_policy_loss(struct tape *t, struct tensor logprob, struct tensor old, struct tensor ref,
                                struct tensor advantage, struct tensor weight, const struct nn_policy_params *p)
{
    const uint32_t count = tensor_rows(logprob);
    struct nn_policy out = {
        .loss = tape_new(t, DTYPE_F32, count, 1, false),
        .grad = tape_new(t, DTYPE_F32, count, 1, false),
        .kl = tape_new(t, DTYPE_F32, count, 1, false),
        .ratio = tape_new(t, DTYPE_F32, count, 1, false),
    };
    if (tape_failed(t))
        return out;
    vireo_assert(tensor_count(logprob) == count && tensor_count(old) == count && tensor_count(advantage) == count &&
                 tensor_count(weight) == count);
    vireo_assert(ref.span.address ? tensor_count(ref) == count : p->beta == 0);
    const struct policy_args args = {
        .logprob = logprob.span.address,
        .old = old.span.address,
        .ref = ref.span.address,
        .advantage = advantage.span.address,
        .weight = weight.span.address,
        .loss = out.loss.span.address,
        .grad = out.grad.span.address,
        .kl = out.kl.span.address,
        .ratio = out.ratio.span.address,
        .count = count,
        // Added in double and rounded once, as the reference does.
        .low = (float)(1.0 - (double)p->epsilon_low),
        .high = (float)(1.0 + (double)p->epsilon_high),
        .beta = p->beta,
        .loss_scale = p->loss_scale > 0 ? p->loss_scale : 1,
    };
    const struct gpu_use uses[] = {
        tensor_use(logprob, GPU_READ),   tensor_use(old, GPU_READ),    tensor_use(ref, GPU_READ),
        tensor_use(advantage, GPU_READ), tensor_use(weight, GPU_READ), tensor_use(out.loss, GPU_WRITE),
        tensor_use(out.grad, GPU_WRITE), tensor_use(out.kl, GPU_WRITE), tensor_use(out.ratio, GPU_WRITE),
    };
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_POLICY,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, 1, count, 1),
                                  .bytes = 36.0 * count},
                uses, VIREO_COUNT(uses));
    return out;
}
