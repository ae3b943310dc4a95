#include "compute/nn/nn.h"

#include "compute/nn/softmax.h"
#include "shaders/args/logprob.h"

// Logits held at a time. More rows save reading the head again; these bounds keep the memory small beside the weights.
#define CHUNK_BYTES (64ull << 20)
enum { CHUNK_LEAST = 16, CHUNK_MOST = 1024, SOFTMAX_BLOCK = 4096, LANE_COLUMNS = 32 };

static const struct tensor none;

uint32_t nn_softmax_blocks(uint32_t columns)
{
    return (uint32_t)nn_ceil(columns, SOFTMAX_BLOCK);
}

struct tensor nn_softmax_new(struct tape *t, uint32_t rows, uint32_t columns)
{
    const uint32_t words = sizeof(struct softmax_block) / 4;
    return tape_new(t, DTYPE_U32, rows, nn_softmax_blocks(columns) * words, false);
}

static uint64_t address_of(struct nn_temperature x)
{
    return x.memory.span.address + 4ull * x.word;
}

void nn_softmax_stats(struct tape *t, struct tensor logits, struct nn_temperature temperature, struct tensor blocks)
{
    if (tape_failed(t))
        return;
    vireo_assert(logits.dtype == DTYPE_F32 && nn_is_addressable(logits));
    const uint32_t rows = tensor_rows(logits), columns = tensor_columns(logits);
    const struct softmax_blocks_args args = {
        .logits = logits.span.address,
        .temperature = address_of(temperature),
        .blocks = blocks.span.address,
        .rows = rows,
        .columns = columns,
        .stride = logits.stride,
        .temperature_stride = temperature.stride,
    };
    const struct gpu_use uses[] = {tensor_use(logits, GPU_READ), tensor_use(temperature.memory, GPU_READ),
                                   tensor_use(blocks, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_SOFTMAX_BLOCKS,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = (uint64_t)rows * nn_softmax_blocks(columns),
                                  .bytes = 16.0 * rows * columns},
                uses, VIREO_COUNT(uses));
}

void nn_softmax_finish(struct tape *t, struct tensor logits, struct nn_temperature temperature, struct tensor blocks,
                       struct tensor targets, struct tensor logprob, struct tensor entropy, struct tensor top,
                       struct tensor normaliser)
{
    if (tape_failed(t))
        return;
    const uint32_t rows = tensor_rows(logits), columns = tensor_columns(logits);
    const struct logprob_fwd_args args = {
        .logits = logits.span.address,
        .temperature = address_of(temperature),
        .blocks = blocks.span.address,
        .targets = targets.span.address,
        .logprob = logprob.span.address,
        .entropy = entropy.span.address,
        .top = top.span.address,
        .normaliser = normaliser.span.address,
        .rows = rows,
        .columns = columns,
        .stride = logits.stride,
        .temperature_stride = temperature.stride,
    };
    const struct gpu_use uses[] = {
        tensor_use(logits, GPU_READ),  tensor_use(temperature.memory, GPU_READ), tensor_use(blocks, GPU_READ),
        tensor_use(targets, GPU_READ), tensor_use(logprob, GPU_WRITE),           tensor_use(entropy, GPU_WRITE),
        tensor_use(top, GPU_WRITE),    tensor_use(normaliser, GPU_WRITE),
    };
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_LOGPROB_FWD,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, 1, rows, 1),
                                  .bytes = 32.0 * rows * nn_softmax_blocks(columns)},
                uses, VIREO_COUNT(uses));
}

struct head_step {
    struct tensor x, targets, logprob, normaliser;
    struct tensor logits; // room for one chunk; the forward's own logits when `kept`
    struct nn_temperature temperature;
    const struct weight *head;
    bool kept;
};

// Rows worked on at a time: of V alone, and a multiple of the products' tiles.
static uint32_t chunk_rows(uint32_t vocabulary)
{
    const uint64_t rows = CHUNK_BYTES / (4ull * vocabulary) / CHUNK_LEAST * CHUNK_LEAST;
    return (uint32_t)VIREO_MIN(VIREO_MAX(rows, CHUNK_LEAST), CHUNK_MOST);
}

static struct tensor head_logits(struct tape *t, const struct weight *head, struct tensor x, struct tensor room)
{
    struct tensor logits = tensor_row_part(room, 0, tensor_rows(x));
    nn_gemm(t, NN_NT, x, head->value, logits, 0, head->bias ? head->bias->value : none, none);
    return logits;
}

// logits -> g (onehot - p) / temperature, in place.
static void to_gradient(struct tape *t, const struct head_step *s, struct tensor logits, uint32_t first,
                        struct tensor g)
{
    const uint32_t rows = tensor_rows(logits), columns = tensor_columns(logits);
    struct tensor targets = tensor_row_part(s->targets, first, rows), mine = tensor_row_part(g, first, rows);
    struct tensor normaliser = tensor_row_part(s->normaliser, first, rows);
    const struct logprob_bwd_args args = {
        .logits = logits.span.address,
        .temperature = address_of(s->temperature),
        .targets = targets.span.address,
        .normaliser = normaliser.span.address,
        .g = mine.span.address,
        .rows = rows,
        .columns = columns,
        .stride = logits.stride,
        .temperature_stride = s->temperature.stride,
    };
    const struct gpu_use uses[] = {
        tensor_use(logits, GPU_READ_WRITE), tensor_use(s->temperature.memory, GPU_READ), tensor_use(targets, GPU_READ),
        tensor_use(normaliser, GPU_READ),   tensor_use(mine, GPU_READ),
    };
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_LOGPROB_BWD,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = nn_row_groups(t, rows, columns, LANE_COLUMNS),
                                  .bytes = 16.0 * rows * columns},
                uses, VIREO_COUNT(uses));
}

static void logprob_backward(struct tape *t, const void *data)
{
    const struct head_step *s = data;
    const struct weight *head = s->head;
    if (!tape_has_grad(t, s->logprob))
        return;
    bool given, fresh = false;
    struct tensor g = tape_grad(t, s->logprob, &given), dx = none;
    vireo_assert(tensor_is_contiguous(g));
    if (tape_wants_grad(t, s->x)) {
        dx = tape_grad(t, s->x, &fresh);
        vireo_assert(tape_failed(t) || tensor_is_contiguous(dx));
    }
    const uint32_t rows = tensor_rows(s->x), chunk = tensor_rows(s->logits);
    for (uint32_t first = 0; first < rows && !tape_failed(t); first += chunk) {
        const uint32_t count = VIREO_MIN(chunk, rows - first);
        struct tensor x = tensor_row_part(s->x, first, count);
        struct tensor logits = s->kept ? s->logits : head_logits(t, head, x, s->logits);
        to_gradient(t, s, logits, first, g);
        if (dx.span.address)
            nn_gemm(t, NN_NN, logits, head->value, tensor_row_part(dx, first, count), !fresh, none, none);
        if (head->grad.span.address)
            nn_gemm(t, NN_TN, logits, x, head->grad, 1, none, none);
        if (head->bias && head->bias->grad.span.address)
            nn_column_sum(t, logits, head->bias->grad, true);
    }
}

struct nn_logprob nn_logprob(struct tape *t, struct tensor x, const struct weight *head, struct tensor targets,
                             float temperature)
{
    const uint32_t rows = tensor_rows(x), vocabulary = tensor_rows(head->value);
    const uint32_t chunk = VIREO_MIN(chunk_rows(vocabulary), rows);
    const bool trained = head->grad.span.address || (head->bias && head->bias->grad.span.address);
    const bool grad = tape_takes_gradients(t) && (tape_wants_grad(t, x) || trained);
    struct nn_logprob out = {
        .logprob = tape_new(t, DTYPE_F32, rows, 1, grad),
        .entropy = tape_new(t, DTYPE_F32, rows, 1, false),
        .top = tape_new(t, DTYPE_U32, rows, 1, false),
    };
    struct head_step s = {
        .x = x,
        .targets = targets,
        .logprob = out.logprob,
        .normaliser = tape_new(t, DTYPE_F32, rows, 2, false),
        .logits = tape_new(t, DTYPE_F32, chunk, vocabulary, false),
        .temperature = {.memory = tape_upload(t, DTYPE_F32, 1, &temperature)},
        .head = head,
        .kept = chunk == rows,
    };
    struct tensor blocks = nn_softmax_new(t, chunk, vocabulary);
    vireo_assert(temperature > 0 && !head->lora);
    vireo_assert(tape_failed(t) || tensor_count(targets) == rows);
    for (uint32_t first = 0; first < rows && !tape_failed(t); first += chunk) {
        const uint32_t count = VIREO_MIN(chunk, rows - first);
        struct tensor logits = head_logits(t, head, tensor_row_part(x, first, count), s.logits);
        struct tensor part = tensor_row_part(blocks, 0, count);
        nn_softmax_stats(t, logits, s.temperature, part);
        nn_softmax_finish(t, logits, s.temperature, part, tensor_row_part(targets, first, count),
                          tensor_row_part(out.logprob, first, count), tensor_row_part(out.entropy, first, count),
                          tensor_row_part(out.top, first, count), tensor_row_part(s.normaliser, first, count));
    }
    tape_pin(t, out.logprob);
    tape_pin(t, out.entropy);
    tape_pin(t, out.top);
    if (grad)
        tape_push(t, "logprob", logprob_backward, &s, sizeof s);
    return out;
}
