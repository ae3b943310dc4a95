#include "compute/nn/nn.h"

#include "compute/base/check.h"
#include "compute/nn/dispatch.h"

// What the backward half needs. `w` outlives the tape.
struct linear {
    struct tensor x, y, residual; // residual: address 0 when there is none
    const struct weight *w;
};

bool nn_break_batch_invariance;

static const struct tensor none;

// The whole of a fresh gradient whose view `g` covers some columns only: zeros, so that the view can be written and the
// rest be added to later.
static void zero_around(struct tape *t, struct tensor x, struct tensor g)
{
    if (tensor_is_contiguous(g) || tape_failed(t))
        return;
    const uint64_t before = (uint64_t)x.column * dtype_bytes(g.dtype);
    const uint64_t bytes = (uint64_t)tensor_rows(g) * g.stride * dtype_bytes(g.dtype);
    struct gpu_span all = g.span;
    all.address -= before;
    all.offset -= before;
    all.bytes = bytes;
    if (all.host)
        all.host = (char *)all.host - before;
    gpu_fill(tape_device(t), all, 0, vireo_round_up(bytes, 4));
}

// dx (+)= dy W;  dW += dy^T x;  db += column sums of dy;  the residual takes dy.
static void linear_backward(struct tape *t, const void *data)
{
    const struct linear *l = data;
    const struct weight *w = l->w;
    if (!tape_has_grad(t, l->y))
        return;
    bool fresh;
    struct tensor dy = tape_grad(t, l->y, &fresh);
    if (tape_wants_grad(t, l->x)) {
        struct tensor dx = tape_grad(t, l->x, &fresh);
        if (fresh)
            zero_around(t, l->x, dx);
        nn_gemm(t, NN_NN, dy, w->value, dx, !fresh, none, none);
    }
    if (w->grad.span.address)
        nn_gemm(t, NN_TN, dy, l->x, w->grad, 1, none, none);
    if (w->bias && w->bias->grad.span.address)
        nn_column_sum(t, dy, w->bias->grad, true);
    // A LoRA pair takes its part here: with s = scale, dB += s dy^T (x A^T), dA += s (dy B)^T x, dx += s (dy B) A.
    // Last, because whoever shares dy may add to it.
    if (tape_wants_grad(t, l->residual) && !tape_grad_share(t, l->residual, dy)) {
        struct tensor dr = tape_grad(t, l->residual, &fresh);
        if (fresh) {
            zero_around(t, l->residual, dr);
            nn_convert(t, dr, dy);
        } else {
            nn_add_into(t, dr, dy);
        }
    }
}

static bool takes_gradient(const struct tape *t, struct tensor x, struct tensor residual, const struct weight *w)
{
    return tape_wants_grad(t, x) || tape_wants_grad(t, residual) || w->grad.span.address ||
           (w->bias && w->bias->grad.span.address);
}

static struct tensor linear(struct tape *t, struct tensor x, const struct weight *w, struct tensor residual, bool f32)
{
    const uint32_t rows = tensor_rows(x), outputs = tensor_rows(w->value);
    vireo_assert(!w->lora && "LoRA pairs are not built yet");
    vireo_assert(tensor_columns(x) == tensor_columns(w->value));
    const bool grad = takes_gradient(t, x, residual, w);
    struct tensor y =
        f32 ? tape_new(t, DTYPE_F32, rows, outputs, grad) : tape_activation(t, rows, outputs, grad);
    const uint32_t half = tensor_columns(x) / 2, rest = tensor_columns(x) - half;
    if (nn_break_batch_invariance && rows < 64 && half > 0) {
        nn_gemm(t, NN_NT, tensor_column_part(x, 0, half), tensor_column_part(w->value, 0, half), y, 0,
                w->bias ? w->bias->value : none, residual);
        nn_gemm(t, NN_NT, tensor_column_part(x, half, rest), tensor_column_part(w->value, half, rest), y, 1, none, none);
    } else {
        nn_gemm(t, NN_NT, x, w->value, y, 0, w->bias ? w->bias->value : none, residual);
    }
    // A LoRA pair adds scale (x A^T) B^T to y here.
    if (grad) {
        const struct linear l = {.x = x, .y = y, .residual = residual, .w = w};
        tape_push(t, "linear", linear_backward, &l, sizeof l);
    }
    return y;
}

struct tensor nn_linear(struct tape *t, struct tensor x, const struct weight *w)
{
    return linear(t, x, w, none, false);
}

struct tensor nn_linear_f32(struct tape *t, struct tensor x, const struct weight *w)
{
    return linear(t, x, w, none, true);
}

struct tensor nn_linear_add(struct tape *t, struct tensor x, const struct weight *w, struct tensor residual)
{
    vireo_assert(tape_failed(t) || residual.span.address);
    return linear(t, x, w, residual, true);
}

struct tensor nn_linear_swiglu(struct tape *t, struct tensor x, const struct weight *w)
{
    const uint32_t rows = tensor_rows(x), outputs = tensor_rows(w->value);
    const enum dtype type = tape_activations(t);
    // Two ops: where results are adopted, y is there and z alone is computed; an adapter adds to y before.
    if (w->lora || nn_break_batch_invariance || tape_adopts(t) || !nn_gemm_takes_swiglu(t, x, w->value, type))
        return nn_swiglu(t, nn_linear(t, x, w));
    vireo_assert(tensor_columns(x) == tensor_columns(w->value));
    const bool grad = takes_gradient(t, x, none, w);
    struct tensor y = {.dtype = type, .rank = 2, .shape = {rows, outputs}, .stride = outputs};
    if (tape_stores(t))
        y = tape_new(t, type, rows, outputs, grad);
    if (grad) {
        const struct linear l = {.x = x, .y = y, .w = w};
        tape_push(t, "linear", linear_backward, &l, sizeof l);
    }
    tape_again_begin(t); // as nn_swiglu
    struct tensor z = tape_new(t, type, rows, outputs / 2, grad);
    tape_again_end(t);
    nn_gemm_swiglu(t, x, w->value, w->bias ? w->bias->value : none, y, z);
    if (grad)
        nn_swiglu_push(t, y, z);
    return z;
}
