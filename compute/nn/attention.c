#include "compute/nn/nn.h"

#include "compute/base/check.h"
#include "compute/nn/dispatch.h"
#include "shaders/args/attention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What the backward pass needs; qkv is the rotated one.
struct attention_step {
    struct tensor qkv, out, lse;
    struct nn_heads heads;
    struct nn_spans spans;
};

_Static_assert(NN_PAGE_LEAST == ATTENTION_BLOCK, "no block straddles two pages");

static const float log2_e = 1.44269504f;

// The q, k or v columns of qkv.
static struct tensor columns(struct tensor qkv, const struct nn_heads *h, uint32_t first_head, uint32_t heads)
{
    return tensor_column_part(qkv, first_head * h->head_dim, heads * h->head_dim);
}

// The kernels of a family as a call runs them: "simd" is for CPU drivers (but old ones), "tile" for GPUs; both are right on
// any device. Each has its own order of sums, so a device has one of them for everything.
enum { CONSTANTS = 8 }; // head_dim, items a lane (tile: aligned), paged, types of qkv, k and v, o, gradients of o, of qkv
struct choice {
    enum gpu_kernel forward, by_query, by_key;
    uint32_t constants[CONSTANTS];
    uint32_t pairs, grad_pairs, grad_keys; // of a workgroup: (row, head) pairs forward, backward; key rows backward
    uint32_t rows, row_heads;              // of a workgroup of KERNEL_ATTENTION_DECODE; else 0
};

// What a call reads and writes. k, v: as the keys lie; go, gqkv: backward only, else address 0.
struct operands {
    struct tensor qkv, k, v, out, go, gqkv;
    const struct nn_kv *kv; // NULL: k and v are columns of qkv
};

static uint32_t type_of(struct tensor x)
{
    return x.span.address ? nn_storage(x.dtype) : 0;
}

// Loads of 64 bits fit every row of every head.
static bool fits_wide(struct tensor x, uint32_t head_dim)
{
    const uint32_t values = 8 / dtype_bytes(x.dtype);
    return !x.span.address || (x.span.address % 8 == 0 && x.stride % values == 0 && head_dim % values == 0);
}

// All rows of every head begin at, and are made of, whole quads.
static bool fits_quads(struct tensor x, uint32_t head_dim)
{
    return !x.span.address ||
           (x.span.address % (4 * dtype_bytes(x.dtype)) == 0 && x.stride % 4 == 0 && head_dim % 4 == 0);
}

// The "simd" family holds whole rows of heads in registers, so its memory accesses are unrolled over head_dim. Lavapipe
// before Mesa 25 makes a chain of branches of each, a lane a branch, and LLVM's pass over coroutines takes time that
// grows with the square of them: for head_dim 80 minutes a kernel (Mesa 22.3, LLVM 15), where "tile" takes seconds.
static bool compiles_loads_lane_by_lane(const struct gpu_caps *caps)
{
    unsigned major; // lavapipe's driver_version is 1 in every version
    return strcmp(caps->driver_name, "llvmpipe") == 0 && sscanf(caps->driver_info, "Mesa %u", &major) == 1 && major < 25;
}

static bool wants_tiles(const struct gpu_caps *caps)
{
    const char *forced = getenv("VIREO_ATTENTION");
    if (forced && forced[0])
        return strcmp(forced, "tile") == 0;
    return caps->type != GPU_CPU || compiles_loads_lane_by_lane(caps);
}

static struct choice choose_tile(const struct attention_step *s, const struct operands *x)
{
    const uint32_t D = s->heads.head_dim;
    const bool aligned = fits_quads(x->qkv, D) && fits_quads(x->k, D) && fits_quads(x->v, D) && fits_quads(x->out, D) &&
                         fits_quads(x->go, D) && fits_quads(x->gqkv, D);
    return (struct choice){
        .forward = KERNEL_ATTENTION_TILE_FWD,
        .by_query = KERNEL_ATTENTION_TILE_BWD_QUERY,
        .by_key = KERNEL_ATTENTION_TILE_BWD_KEY,
        .constants = {D, aligned, x->kv && x->kv->pages.span.address, type_of(x->qkv), type_of(x->k), type_of(x->out),
                      type_of(x->go), type_of(x->gqkv)},
        .pairs = ATTENTION_TILE_PAIRS,
        .grad_pairs = ATTENTION_TILE_BACK,
        .grad_keys = ATTENTION_TILE_BACK,
    };
}

// Rows of a group of the kernel for decoding, where they see the same pages. Four share no better and take long to compile.
enum { SHARING_ROWS = 2 };

// Heads of a row that one group of the kernel for decoding takes: they share loads of keys. The sums of more than four would
// not stay in registers.
static uint32_t row_heads(const struct nn_heads *h)
{
    const uint32_t group = h->heads / h->kv_heads;
    for (uint32_t heads = 4; heads > 1; heads--)
        if (group % heads == 0)
            return heads;
    return 1;
}

// The kernel for rows that are apart fits this call; no bits change.
static bool decodes(const struct gpu_caps *caps, const struct attention_step *s, const struct operands *x)
{
    const uint32_t lanes = caps->subgroup_size;
    return x->kv && x->kv->pages.span.address && x->kv->page_size >= lanes && (lanes == 8 || lanes == 16) &&
           caps->type == GPU_CPU && s->heads.head_dim % 4 == 0;
}

// VIREO_ATTENTION, for tests and measurements: "tile" that family; "simd-1", "simd-2", "simd-4" the other one with so many
// items a lane, "any" without 64-bit loads, all of the same bits. By default GPUs and old CPU drivers take tiles.
//
// Items a lane share the loads of keys where neighbouring rows mostly see the same ones: 1, 2 and 4 give 17, 22 and 27 GFLOP
// per CPU second for 576 keys a row. Rows that decode each have keys of their own and a kernel for that, and short windows
// leave nothing to share. (On GPUs even one spills registers, docs/gpu-report.md.)
static struct choice choose(struct gpu_device *dev, const struct attention_step *s, const struct operands *x)
{
    const char *forced = getenv("VIREO_ATTENTION");
    const struct gpu_caps *caps = gpu_device_caps(dev);
    if (wants_tiles(caps))
        return choose_tile(s, x);
    const uint32_t D = s->heads.head_dim, lanes = caps->subgroup_size;
    // More lanes hold more rows to begin with (measured with 8 and 16).
    const double keys = s->spans.pairs / tensor_rows(s->qkv) * 8 / lanes;
    uint32_t items = x->kv || caps->type != GPU_CPU || keys < 16 ? 1 : keys < 48 ? 2 : 4;
    if (forced && strncmp(forced, "simd-", 5) == 0 && forced[5] >= '1' && forced[5] <= '4')
        items = (uint32_t)(forced[5] - '0');
    const bool wide = caps->int64 && !(forced && strcmp(forced, "any") == 0) && fits_wide(x->qkv, D) &&
                      fits_wide(x->k, D) && fits_wide(x->v, D) && fits_wide(x->out, D) && fits_wide(x->go, D) &&
                      fits_wide(x->gqkv, D);
    if (wide && s->spans.apart && !(forced && forced[0]) && decodes(caps, s, x)) {
        const uint32_t heads = row_heads(&s->heads), rows = s->spans.together ? SHARING_ROWS : 1;
        return (struct choice){
            .forward = KERNEL_ATTENTION_DECODE,
            .constants = {D, heads, rows, type_of(x->qkv), type_of(x->k), type_of(x->out)},
            .rows = rows,
            .row_heads = heads,
        };
    }
    return (struct choice){
        .forward = wide ? KERNEL_ATTENTION_FWD_WIDE : KERNEL_ATTENTION_FWD,
        .by_query = wide ? KERNEL_ATTENTION_BWD_QUERY_WIDE : KERNEL_ATTENTION_BWD_QUERY,
        .by_key = wide ? KERNEL_ATTENTION_BWD_KEY_WIDE : KERNEL_ATTENTION_BWD_KEY,
        .constants = {D, items, x->kv && x->kv->pages.span.address, type_of(x->qkv), type_of(x->k), type_of(x->out),
                      type_of(x->go), type_of(x->gqkv)},
        .pairs = items * lanes,
        .grad_pairs = items * lanes,
        .grad_keys = items * lanes,
    };
}

static uint32_t log2_of(uint32_t power)
{
    uint32_t shift = 0;
    while (power >> (shift + 1))
        shift++;
    return shift;
}

// Groups for so many (row, head) pairs or key rows, `tile` a group, once a kv head.
static uint64_t groups_of(uint64_t count, uint32_t tile, const struct nn_heads *h)
{
    return (count + tile - 1) / tile * h->kv_heads;
}

static void forward(struct tape *t, const struct attention_step *s, struct tensor k, struct tensor v,
                    const struct nn_kv *kv)
{
    const struct nn_heads *h = &s->heads;
    uint32_t rows = tensor_rows(s->qkv), group = h->heads / h->kv_heads;
    struct tensor q = columns(s->qkv, h, 0, h->heads);
    const struct operands x = {.qkv = s->qkv, .k = k, .v = v, .out = s->out, .kv = kv};
    const struct choice choice = choose(tape_device(t), s, &x);
    const bool paged = kv && kv->pages.span.address;
    struct attention_args args = {
        .q = q.span.address,
        .k = k.span.address,
        .v = v.span.address,
        .queries = s->spans.query.span.address,
        .pages = paged ? kv->pages.span.address : 0,
        .o = s->out.span.address,
        .lse = s->lse.span.address,
        .rows = rows,
        .group = group,
        .kv_heads = h->kv_heads,
        .q_stride = q.stride,
        .kv_stride = k.stride,
        .o_stride = s->out.stride,
        .page_shift = paged ? log2_of(kv->page_size) : 0,
        .scale = h->scale * log2_e,
    };
    struct gpu_use uses[] = {
        tensor_use(q, GPU_READ),
        tensor_use(k, GPU_READ),
        tensor_use(v, GPU_READ),
        tensor_use(s->spans.query, GPU_READ),
        tensor_use(s->out, GPU_WRITE),
        tensor_use(s->lse, GPU_WRITE),
        paged ? tensor_use(kv->pages, GPU_READ) : (struct gpu_use){0},
    };
    double width = (double)h->heads * h->head_dim;
    gpu_dispatch(tape_device(t), choice.forward,
                 &(struct gpu_dispatch){
                     .args = &args,
                     .args_bytes = sizeof args,
                     .constants = choice.constants,
                     .constant_count = CONSTANTS,
                     .uses = uses,
                     .use_count = VIREO_COUNT(uses),
                     .groups = choice.rows ? nn_ceil(rows, choice.rows) * (h->heads / choice.row_heads)
                                          : groups_of((uint64_t)rows * group, choice.pairs, h),
                     .flops = 4 * s->spans.pairs * width,
                     .bytes = 8.0 * rows * width + s->spans.pairs * width, // a block of keys serves about 8 rows
                     .label = "attention",
                 });
}

// dq with delta, then dk and dv. Both overwrite (fresh) or add; together they cover all columns of all rows.
static void backward(struct tape *t, const void *data)
{
    const struct attention_step *s = data;
    if (!tape_has_grad(t, s->out) || !tape_wants_grad(t, s->qkv))
        return;
    const struct nn_heads *h = &s->heads;
    uint32_t rows = tensor_rows(s->qkv), group = h->heads / h->kv_heads;
    bool fresh, unused;
    struct tensor go = tape_grad(t, s->out, &unused), g = tape_grad(t, s->qkv, &fresh);
    struct tensor delta = tape_new(t, DTYPE_F32, rows, h->heads, false);
    if (tape_failed(t))
        return;
    // k and v are columns of qkv, as wide as its rows allow.
    const struct operands x = {.qkv = s->qkv, .out = s->out, .go = go, .gqkv = g};
    const struct choice choice = choose(tape_device(t), s, &x);
    struct attention_grad_args args = {
        .qkv = s->qkv.span.address,
        .spans = s->spans.query.span.address,
        .o = s->out.span.address,
        .go = go.span.address,
        .lse = s->lse.span.address,
        .delta = delta.span.address,
        .gqkv = g.span.address,
        .rows = rows,
        .group = group,
        .kv_heads = h->kv_heads,
        .stride = s->qkv.stride,
        .o_stride = s->out.stride,
        .go_stride = go.stride,
        .g_stride = g.stride,
        .add = !fresh,
        .scale = h->scale,
    };
    // The two kernels write different columns of g, but their address ranges overlap: they run one after the other
    // anyway, since the second reads delta.
    struct gpu_use uses[] = {
        tensor_use(s->qkv, GPU_READ),
        tensor_use(s->spans.query, GPU_READ),
        tensor_use(go, GPU_READ),
        tensor_use(s->lse, GPU_READ),
        tensor_use(delta, GPU_WRITE),
        tensor_use(g, fresh ? GPU_WRITE : GPU_READ_WRITE),
        tensor_use(s->out, GPU_READ),
    };
    double width = (double)h->heads * h->head_dim;
    struct gpu_dispatch d = {
        .args = &args,
        .args_bytes = sizeof args,
        .constants = choice.constants,
        .constant_count = CONSTANTS,
        .uses = uses,
        .use_count = VIREO_COUNT(uses),
        .groups = groups_of((uint64_t)rows * group, choice.grad_pairs, h),
        .flops = 6 * s->spans.pairs * width,
        .bytes = 16.0 * rows * width + s->spans.pairs * width,
        .label = "attention.backward_query",
    };
    gpu_dispatch(tape_device(t), choice.by_query, &d);

    args.spans = s->spans.key.span.address;
    uses[1] = tensor_use(s->spans.key, GPU_READ);
    uses[4].access = GPU_READ;
    uses[5].access = GPU_READ_WRITE; // its columns stand beside those of the first
    d.use_count = VIREO_COUNT(uses) - 1;
    d.groups = groups_of(rows, choice.grad_keys, h);
    d.flops = 8 * s->spans.pairs * width;
    d.label = "attention.backward_key";
    gpu_dispatch(tape_device(t), choice.by_key, &d);
}

// In a type the kernels read and write; two halves share a word.
static bool is_stored(struct tensor x, uint32_t head_dim)
{
    return x.dtype == DTYPE_F32 ||
           ((x.dtype == DTYPE_BF16 || x.dtype == DTYPE_F16) && head_dim % 2 == 0 && x.stride % 2 == 0);
}

struct tensor nn_attention(struct tape *t, struct tensor qkv, const struct nn_heads *h, const struct nn_spans *spans,
                           const struct nn_kv *kv)
{
    uint32_t rows = tensor_rows(qkv);
    bool grad = (!kv || !tape_takes_gradients(t)) && tape_wants_grad(t, qkv);
    struct attention_step s = {
        .qkv = qkv,
        .out = tape_new(t, qkv.dtype, rows, h->heads * h->head_dim, grad),
        .heads = *h,
        .spans = *spans,
    };
    if (grad)
        s.lse = tape_new(t, DTYPE_F32, rows, h->heads, false);
    if (tape_failed(t))
        return s.out;
    if (h->head_dim < 1 || h->head_dim > 128 || h->kv_heads == 0 || h->heads % h->kv_heads != 0) {
        tape_fail(t, VIREO_UNSUPPORTED,
                  "attention with head_dim %u (1 to 128), %u heads and %u kv heads (a divisor of the heads)",
                  h->head_dim, h->heads, h->kv_heads);
        return s.out;
    }
    vireo_assert(tensor_columns(qkv) == (h->heads + 2 * h->kv_heads) * h->head_dim);
    vireo_assert(spans->query.dtype == DTYPE_U32 && spans->query.stride == 4 && tensor_rows(spans->query) >= rows);
    struct tensor k = kv ? kv->k : columns(qkv, h, h->heads, h->kv_heads);
    struct tensor v = kv ? kv->v : columns(qkv, h, h->heads + h->kv_heads, h->kv_heads);
    vireo_assert(k.dtype == v.dtype);
    if (!is_stored(qkv, h->head_dim) || !is_stored(k, h->head_dim)) {
        tape_fail(t, VIREO_UNSUPPORTED,
                  "attention over %s with keys in %s, head_dim %u: built are f32 and, for an even head_dim, bf16 and f16",
                  dtype_name(qkv.dtype), dtype_name(k.dtype), h->head_dim);
        return s.out;
    }
    vireo_assert(tensor_columns(k) == h->kv_heads * h->head_dim && k.stride == v.stride);
    // Kernels count elements in 32 bits.
    if ((uint64_t)rows * qkv.stride > UINT32_MAX || (uint64_t)tensor_rows(k) * k.stride > UINT32_MAX) {
        tape_fail(t, VIREO_TOO_LARGE, "attention over %u rows of %u values: a tensor holds at most 2^32 values", rows,
                  qkv.stride);
        return s.out;
    }
    if (kv && kv->pages.span.address) {
        vireo_assert(kv->pages.dtype == DTYPE_U32 && kv->page_size >= NN_PAGE_LEAST);
        vireo_assert((kv->page_size & (kv->page_size - 1)) == 0);
    }
    if (rows > 0 && !tape_adopts(t))
        forward(t, &s, k, v, kv);
    if (grad && tape_takes_gradients(t)) {
        vireo_assert(spans->key.span.address && spans->key.dtype == DTYPE_U32 && spans->key.stride == 2 &&
                     tensor_rows(spans->key) >= rows);
        tape_push(t, "attention", backward, &s, sizeof s);
    }
    return s.out;
}
