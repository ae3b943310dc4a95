#include "compute/nn/nn.h"

#include "compute/nn/softmax.h"
#include "shaders/args/sample_steps.h"

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
    if (tape_failed(t) || (!edits && !banned.span.address))
        return logits;
    struct tensor copy = tape_new(t, DTYPE_F32, tensor_rows(logits), tensor_columns(logits), false);
    if (tape_failed(t))
        return logits;
    if (tensor_is_contiguous(logits))
        gpu_copy(tape_device(t), copy.span, logits.span, tensor_bytes(logits));
    else
        nn_convert(t, copy, logits);
    if (edits) {
        vireo_assert(tensor_count(edits->starts) == (uint64_t)tensor_rows(logits) + 1);
        dispatch_edit(t, copy, edits, none);
    }
    if (banned.span.address)
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

// What a draw needs: the logits of the log-prob, those that are drawn from, and the distributions of both, normalised
// block by block.
struct draw {
    struct tensor logits, drawn, rows, threshold, banned, blocks;
};

static struct tensor find_threshold(struct tape *t, struct tensor logits, struct tensor rows)
{
    const uint32_t count = tensor_rows(logits), columns = tensor_columns(logits);
    struct tensor threshold = tape_new(t, DTYPE_F32, count, 1, false);
    const struct sample_filter_args args = {
        .logits = logits.span.address,
        .settings = rows.span.address,
        .threshold = threshold.span.address,
        .rows = count,
        .columns = columns,
        .stride = logits.stride,
    };
    const struct gpu_use uses[] = {tensor_use(logits, GPU_READ), tensor_use(rows, GPU_READ),
                                   tensor_use(threshold, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_SAMPLE_FILTER,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = count,
                                  .bytes = 34 * 4.0 * count * columns},
                uses, VIREO_COUNT(uses));
    return threshold;
}

// One of the kernels of a draw: KERNEL_SAMPLE_BLOCKS writes the blocks, the others read them for what they are asked for.
static void dispatch_draw(struct tape *t, enum gpu_kernel kernel, const struct draw *d, struct tensor token,
                          struct tensor probability)
{
    if (tape_failed(t))
        return;
    const bool blocks = kernel == KERNEL_SAMPLE_BLOCKS, draws = kernel == KERNEL_SAMPLE;
    const uint32_t rows = tensor_rows(d->logits), columns = tensor_columns(d->logits);
    const struct sample_args args = {
        .logits = d->logits.span.address,
        .drawn = d->drawn.span.address,
        .settings = d->rows.span.address,
        .threshold = d->threshold.span.address,
        .banned = d->banned.span.address,
        .blocks = d->blocks.span.address,
        .token = token.span.address,
        .probability = probability.span.address,
        .rows = rows,
        .columns = columns,
        .stride = d->logits.stride,
        .drawn_stride = d->drawn.stride,
        .banned_count = d->banned.span.address ? (uint32_t)tensor_count(d->banned) : 0,
    };
    const struct gpu_use uses[] = {
        tensor_use(d->logits, GPU_READ), tensor_use(d->drawn, GPU_READ),
        tensor_use(d->rows, GPU_READ),   tensor_use(d->threshold, GPU_READ),
        tensor_use(d->banned, GPU_READ), tensor_use(d->blocks, blocks ? GPU_WRITE : GPU_READ),
        tensor_use(token, GPU_WRITE),    tensor_use(probability, GPU_WRITE),
    };
    nn_dispatch(t,
                &(struct nn_step){.kernel = kernel,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = draws ? rows : (uint64_t)rows * nn_softmax_blocks(columns),
                                  .bytes = draws ? 65536.0 * rows : (blocks ? 16.0 : 8.0) * rows * columns},
                uses, VIREO_COUNT(uses));
}

static struct draw prepare(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                           const struct nn_edits *edits)
{
    const uint32_t count = tensor_rows(logits), columns = tensor_columns(logits);
    struct draw d = {.logits = logits, .drawn = logits, .rows = rows};
    if (tape_failed(t))
        return d;
    vireo_assert(logits.dtype == DTYPE_F32 && nn_is_addressable(logits));
    vireo_assert(tensor_count(rows) == (uint64_t)count * ROW_WORDS && tensor_is_contiguous(rows));
    if (edits && !edits->edits.span.address)
        edits = NULL;
    if (banned.span.address && tensor_count(banned) == 0)
        banned = none;
    // Few bans need no copy of the logits, but where somebody reads the copy anyway.
    const bool filter = filters(rows, count);
    if (banned.span.address && !edits && !filter && tensor_count(banned) <= SAMPLE_BANS)
        d.banned = banned;
    else
        d.drawn = edited(t, logits, banned, edits);
    if (filter && !tape_failed(t))
        d.threshold = find_threshold(t, d.drawn, rows);
    d.blocks = nn_softmax_new(t, 2 * count, columns);
    dispatch_draw(t, KERNEL_SAMPLE_BLOCKS, &d, none, none);
    return d;
}

struct nn_sampled nn_sample(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                            const struct nn_edits *edits)
{
    const uint32_t count = tensor_rows(logits);
    struct nn_sampled s = {.all = tape_new(t, DTYPE_U32, 3 * count, 1, false)};
    if (tape_failed(t))
        return s;
    s.token = tensor_row_part(s.all, 0, count);
    s.logprob = tensor_row_part(s.all, count, count);
    s.entropy = tensor_row_part(s.all, 2 * count, count);
    s.logprob.dtype = s.entropy.dtype = DTYPE_F32;
    struct draw d = prepare(t, logits, rows, banned, edits);
    dispatch_draw(t, KERNEL_SAMPLE, &d, s.all, none);
    return s;
}

struct tensor nn_sample_probabilities(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                                      const struct nn_edits *edits)
{
    struct tensor p = tape_new(t, DTYPE_F32, tensor_rows(logits), tensor_columns(logits), false);
    struct draw d = prepare(t, logits, rows, banned, edits);
    dispatch_draw(t, KERNEL_SAMPLE_PROBABILITY, &d, none, p);
    return p;
}
