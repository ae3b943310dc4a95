#include "compute/nn/nn.h"

#include "compute/nn/softmax.h"
#include "shaders/args/sample_steps.h"

#include <stddef.h>

static const struct tensor none;
enum { ROW_WORDS = sizeof(struct sample_row) / 4, EDIT_WORDS = sizeof(struct nn_edit) / 4 };

struct nn_edits nn_edits_build(struct tape *t, const uint32_t *starts, uint32_t rows, const struct nn_edit *edits,
                               uint32_t count)
{
    vireo_assert(starts[rows] == count);
    struct nn_edits e = {.starts = tape_upload(t, DTYPE_U32, rows + 1, starts)};
    if (count)
        e.edits = tape_upload_matrix(t, DTYPE_U32, count, EDIT_WORDS, edits);
    return e;
}

static struct nn_temperature field(struct tensor rows, size_t offset)
{
    return (struct nn_temperature){.memory = rows, .word = (uint32_t)(offset / 4), .stride = ROW_WORDS};
}

static void dispatch_edit(struct tape *t, struct tensor logits, const struct nn_edits *e, struct tensor banned)
{
    if (tape_failed(t))
        return;
    const struct sample_edit_args args = {
        .logits = logits.span.address,
        .starts = e ? e->starts.span.address : 0,
        .edits = e ? e->edits.span.address : 0,
        .banned = e ? 0 : banned.span.address,
        .rows = tensor_rows(logits),
        .columns = tensor_columns(logits),
        .stride = logits.stride,
        .banned_count = e ? 0 : (uint32_t)tensor_count(banned),
    };
    const struct gpu_use uses[] = {
        tensor_use(e ? e->starts : none, GPU_READ),
        tensor_use(e ? e->edits : none, GPU_READ),
        tensor_use(e ? none : banned, GPU_READ),
        tensor_use(logits, GPU_READ_WRITE),
    };
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_SAMPLE_EDIT,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = args.rows,
                                  .bytes = 4096.0 * args.rows},
                uses, VIREO_COUNT(uses));
}

// The logits that are drawn from: edits, then bans, on a copy. Without either the logits themselves.
static struct tensor edited(struct tape *t, struct tensor logits, struct tensor banned, const struct nn_edits *edits)
{
    const bool edit = edits && edits->edits.span.address, ban = banned.span.address && tensor_count(banned) > 0;
    if (tape_failed(t) || (!edit && !ban))
        return logits;
    struct tensor copy = tape_new(t, DTYPE_F32, tensor_rows(logits), tensor_columns(logits), false);
    if (tape_failed(t))
        return logits;
    if (tensor_is_contiguous(logits))
        gpu_copy(tape_device(t), copy.span, logits.span, tensor_bytes(logits));
    else
        nn_convert(t, copy, logits);
    if (edit) {
        vireo_assert(tensor_count(edits->starts) == (uint64_t)tensor_rows(logits) + 1);
        dispatch_edit(t, copy, edits, none);
    }
    if (ban)
        dispatch_edit(t, copy, NULL, banned);
    return copy;
}

// Whether some row cuts tokens off. Rows that the host cannot read are taken to.
static bool filters(struct tensor rows, uint32_t count)
{
    const struct sample_row *r = rows.span.host;
    for (uint32_t i = 0; r && i < count; i++)
        if (r[i].top_k > 0 || !(r[i].top_p >= 1) || r[i].min_p > 0)
            return true;
    return !r;
}

// What a draw needs: the distribution of every row, normalised block by block.
struct draw {
    struct tensor logits, rows, threshold, blocks;
};

static struct draw prepare(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                           const struct nn_edits *edits)
{
    const uint32_t count = tensor_rows(logits), columns = tensor_columns(logits);
    struct draw d = {.rows = rows};
    if (tape_failed(t))
        return d;
    vireo_assert(logits.dtype == DTYPE_F32 && nn_is_addressable(logits));
    vireo_assert(tensor_count(rows) == (uint64_t)count * ROW_WORDS && tensor_is_contiguous(rows));
    d.logits = edited(t, logits, banned, edits);
    if (filters(rows, count)) {
        d.threshold = tape_new(t, DTYPE_F32, count, 1, false);
        const struct sample_filter_args args = {
            .logits = d.logits.span.address,
            .settings = rows.span.address,
            .threshold = d.threshold.span.address,
            .rows = count,
            .columns = columns,
            .stride = d.logits.stride,
        };
        const struct gpu_use uses[] = {tensor_use(d.logits, GPU_READ), tensor_use(rows, GPU_READ),
                                       tensor_use(d.threshold, GPU_WRITE)};
        nn_dispatch(t,
                    &(struct nn_step){.kernel = KERNEL_SAMPLE_FILTER,
                                      .args = &args,
                                      .args_bytes = sizeof args,
                                      .groups = count,
                                      .bytes = 34 * 4.0 * count * columns},
                    uses, VIREO_COUNT(uses));
    }
    d.blocks = nn_softmax_new(t, count, columns);
    nn_softmax_stats(t, d.logits, field(rows, offsetof(struct sample_row, temperature)), d.threshold, d.blocks);
    return d;
}

// Either token or probability is wanted.
static void finish(struct tape *t, enum gpu_kernel kernel, const struct draw *d, struct tensor token,
                   struct tensor probability)
{
    if (tape_failed(t))
        return;
    const uint32_t rows = tensor_rows(d->logits), columns = tensor_columns(d->logits);
    const struct sample_args args = {
        .logits = d->logits.span.address,
        .settings = d->rows.span.address,
        .threshold = d->threshold.span.address,
        .blocks = d->blocks.span.address,
        .token = token.span.address,
        .probability = probability.span.address,
        .rows = rows,
        .columns = columns,
        .stride = d->logits.stride,
    };
    const struct gpu_use uses[] = {
        tensor_use(d->logits, GPU_READ), tensor_use(d->rows, GPU_READ), tensor_use(d->threshold, GPU_READ),
        tensor_use(d->blocks, GPU_READ), tensor_use(token, GPU_WRITE),  tensor_use(probability, GPU_WRITE),
    };
    nn_dispatch(t,
                &(struct nn_step){.kernel = kernel,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = token.span.address ? rows : (uint64_t)rows * nn_softmax_blocks(columns),
                                  .bytes = token.span.address ? 65536.0 * rows : 8.0 * rows * columns},
                uses, VIREO_COUNT(uses));
}

struct nn_sampled nn_sample(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                            const struct nn_edits *edits)
{
    const uint32_t count = tensor_rows(logits), columns = tensor_columns(logits);
    struct nn_sampled s = {.all = tape_new(t, DTYPE_U32, 3 * count, 1, false)};
    if (tape_failed(t))
        return s;
    s.token = tensor_row_part(s.all, 0, count);
    s.logprob = tensor_row_part(s.all, count, count);
    s.entropy = tensor_row_part(s.all, 2 * count, count);
    s.logprob.dtype = s.entropy.dtype = DTYPE_F32;
    struct draw d = prepare(t, logits, rows, banned, edits);
    finish(t, KERNEL_SAMPLE, &d, s.token, none);
    // Recorded is the log-prob of the untouched logits, by the kernels and the layout that training uses.
    const struct nn_temperature recorded = field(rows, offsetof(struct sample_row, logprob_temperature));
    struct tensor blocks = nn_softmax_new(t, count, columns);
    nn_softmax_stats(t, logits, recorded, none, blocks);
    nn_softmax_finish(t, logits, recorded, blocks, s.token, s.logprob, s.entropy, none, none);
    return s;
}

struct tensor nn_sample_probabilities(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                                      const struct nn_edits *edits)
{
    struct tensor p = tape_new(t, DTYPE_F32, tensor_rows(logits), tensor_columns(logits), false);
    struct draw d = prepare(t, logits, rows, banned, edits);
    finish(t, KERNEL_SAMPLE_PROBABILITY, &d, none, p);
    return p;
}
