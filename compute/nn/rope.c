#include "compute/nn/nn.h"

#include "compute/base/check.h"
#include "compute/base/half.h"
#include "compute/nn/dispatch.h"
#include "shaders/args/rope.h"

#include <math.h>

void nn_rope_table(float theta, uint32_t dim, uint32_t frequencies, uint32_t positions, bool round_bf16, float *out)
{
    for (uint32_t f = 0; f < frequencies; f++) {
        float inverse = 1.0f / powf(theta, (float)(2 * f) / (float)dim);
        if (round_bf16)
            inverse = bf16_to_float(float_to_bf16(inverse));
        for (uint32_t p = 0; p < positions; p++) {
            float angle = (float)p * inverse;
            float *row = out + (size_t)p * 2 * frequencies;
            row[f] = cosf(angle);
            row[frequencies + f] = sinf(angle);
        }
    }
}

struct rope_step {
    struct tensor x; // qkv or its gradient
    struct nn_heads heads;
    struct nn_rope rope;
};

static void rotate(struct tape *t, const struct rope_step *s, const struct nn_kv *kv, float sign)
{
    const struct nn_heads *h = &s->heads;
    const struct nn_rope *r = &s->rope;
    uint32_t rows = tensor_rows(s->x), half = h->head_dim / 2;
    struct rope_args args = {
        .qkv = s->x.span.address,
        .table = r->table.span.address,
        .positions = r->positions.span.address,
        .slot = kv ? kv->slot.span.address : 0,
        .k = kv ? kv->k.span.address : 0,
        .v = kv ? kv->v.span.address : 0,
        .rows = rows,
        .heads = h->heads,
        .kv_heads = h->kv_heads,
        .stride = s->x.stride,
        .half_dim = half,
        .section0 = r->section[0],
        .section1 = r->section[1],
        .restart = r->restart,
        .frequencies = r->frequencies,
        .table_rows = tensor_rows(r->table),
        .sign = sign,
    };
    struct gpu_use uses[6] = {
        tensor_use(s->x, GPU_READ_WRITE),
        tensor_use(r->table, GPU_READ),
        tensor_use(r->positions, GPU_READ),
    };
    if (kv) {
        uses[3] = tensor_use(kv->slot, GPU_READ);
        uses[4] = tensor_use(kv->k, GPU_WRITE);
        uses[5] = tensor_use(kv->v, GPU_WRITE);
    }
    // Two half-dimensions a lane: in 16 bits they share a word.
    const bool wide = nn_takes_wide(t, KERNEL_ROPE_WIDE) && half % 4 == 0 && nn_is_wide(s->x) &&
                      (!kv || (nn_is_wide(kv->k) && nn_is_wide(kv->v)));
    const uint32_t lane = wide ? 4 : half % 2 == 0 ? 2 : 1, width = gpu_device_caps(tape_device(t))->subgroup_size;
    const uint32_t constants[3] = {nn_storage(s->x.dtype), kv ? nn_storage(kv->k.dtype) : 0, lane};
    double values = (double)rows * h->head_dim * (h->heads + h->kv_heads);
    gpu_dispatch(tape_device(t), wide ? KERNEL_ROPE_WIDE : KERNEL_ROPE,
                 &(struct gpu_dispatch){
                     .args = &args,
                     .args_bytes = sizeof args,
                     .constants = constants,
                     .constant_count = wide ? 2 : 3,
                     .uses = uses,
                     .use_count = kv ? 6 : 3,
                     .groups = nn_ceil((uint64_t)rows * half, lane * width),
                     .flops = 3 * values,
                     .bytes = 8 * values,
                     .label = sign < 0 ? "rope.backward" : kv ? "rope.store" : "rope",
                 });
}

static void rope_backward(struct tape *t, const void *data)
{
    struct rope_step s = *(const struct rope_step *)data;
    if (!tape_has_grad(t, s.x))
        return;
    bool fresh;
    s.x = tape_grad(t, s.x, &fresh);
    if (!tape_failed(t))
        rotate(t, &s, NULL, -1);
}

static bool shapes_fit(struct tape *t, struct tensor qkv, const struct nn_heads *h, const struct nn_rope *rope)
{
    uint32_t half = h->head_dim / 2, widest = 0, sum = 0;
    for (int i = 0; i < 3; i++) {
        sum += rope->section[i];
        widest = VIREO_MAX(widest, rope->section[i]);
    }
    if (h->head_dim % 2 != 0 || sum != half) {
        tape_fail(t, VIREO_INVALID, "rotary sections %u + %u + %u must add up to half of head_dim %u", rope->section[0],
                  rope->section[1], rope->section[2], h->head_dim);
        return false;
    }
    if (qkv.dtype != DTYPE_F32 && half % 2 != 0) {
        tape_fail(t, VIREO_UNSUPPORTED, "a head_dim of %u in %s is not built: a multiple of 4 is", h->head_dim,
                  dtype_name(qkv.dtype));
        return false;
    }
    vireo_assert(qkv.dtype == DTYPE_F32 || (dtype_bytes(qkv.dtype) == 2 && qkv.stride % 2 == 0));
    vireo_assert(tensor_columns(qkv) == (h->heads + 2 * h->kv_heads) * h->head_dim);
    vireo_assert(rope->frequencies >= (rope->restart ? widest : half));
    vireo_assert(rope->table.dtype == DTYPE_F32 && rope->table.stride == 2 * rope->frequencies);
    vireo_assert(tensor_rows(rope->table) > 0);
    vireo_assert(rope->positions.dtype == DTYPE_U32 && rope->positions.stride == 4);
    vireo_assert(tensor_rows(rope->positions) >= tensor_rows(qkv));
    return true;
}

struct tensor nn_rope_store(struct tape *t, struct tensor qkv, const struct nn_heads *h, const struct nn_rope *rope,
                            const struct nn_kv *kv)
{
    if (tape_failed(t) || !shapes_fit(t, qkv, h, rope))
        return qkv;
    if (kv) {
        uint32_t width = h->kv_heads * h->head_dim;
        const enum dtype type = kv->k.dtype;
        if ((type != DTYPE_F32 && dtype_bytes(type) != 2) || kv->v.dtype != type ||
            (type != DTYPE_F32 && h->head_dim % 4 != 0)) {
            tape_fail(t, VIREO_UNSUPPORTED, "a key/value pool in %s for head_dim %u is not built", dtype_name(type),
                      h->head_dim);
            return qkv;
        }
        vireo_assert(kv->k.stride == width && kv->v.stride == width);
        vireo_assert(kv->slot.dtype == DTYPE_U32 && tensor_count(kv->slot) >= tensor_rows(qkv));
    }
    struct rope_step s = {.x = qkv, .heads = *h, .rope = *rope};
    if (!tape_adopts(t)) // what was kept is rotated
        rotate(t, &s, kv, 1);
    if (tape_wants_grad(t, qkv))
        tape_push(t, "rope", rope_backward, &s, sizeof s);
    return qkv;
}
