#include "compute/nn/nn.h"

#include "compute/base/fault.h"
#include "compute/nn/dispatch.h"
#include "shaders/args/update.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

// Elements a group works on: enough groups for small models on many cores, few partial norms for large ones. Even, so
// that a chunk of a bf16 copy begins at a whole word.
enum { UPDATE_CHUNK = 32768 };
_Static_assert(UPDATE_CHUNK % 2 == 0, "a chunk of halves begins at a word");
_Static_assert(sizeof(struct update_chunk) == 48, "as shaders lay it out");

// Ranges of memory a dispatch declares of each kind: tensors by the hundred do not fit, so close ones are declared as
// one range. What lies between may then wait without need; nothing is missed.
enum { RANGES = 5 };
struct ranges {
    struct gpu_use use[RANGES];
    uint32_t count;
};

struct nn_update {
    struct gpu_device *dev;
    struct tensor chunks, partial, state;
    struct ranges grad, master, moments[2], copy;
    uint32_t chunk_count;
    uint64_t elements;
};

static int by_address(const void *a, const void *b)
{
    const struct gpu_use *x = a, *y = b;
    return (x->address > y->address) - (x->address < y->address);
}

static uint64_t gap_after(const struct gpu_use *u)
{
    const uint64_t end = u[0].address + u[0].bytes;
    return u[1].address > end ? u[1].address - end : 0;
}

// Joins neighbours across the smallest gap until RANGES are left. `list` is sorted and consumed.
static struct ranges join(struct gpu_use *list, size_t count)
{
    qsort(list, count, sizeof *list, by_address);
    // Most lists are one arena without gaps: join those first, in one pass.
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (list[i].address == 0)
            continue;
        if (used > 0 && list[i].address <= ((list[used - 1].address + list[used - 1].bytes + 255) & ~(uint64_t)255)) {
            struct gpu_use *last = &list[used - 1];
            const uint64_t end = VIREO_MAX(last->address + last->bytes, list[i].address + list[i].bytes);
            last->bytes = end - last->address;
        } else {
            list[used++] = list[i];
        }
    }
    while (used > RANGES) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < used; i++)
            if (gap_after(&list[i]) < gap_after(&list[best]))
                best = i;
        list[best].bytes = list[best + 1].address + list[best + 1].bytes - list[best].address;
        for (size_t i = best + 1; i + 1 < used; i++)
            list[i] = list[i + 1];
        used--;
    }
    struct ranges r = {.count = (uint32_t)used};
    for (size_t i = 0; i < used; i++)
        r.use[i] = list[i];
    return r;
}

// The tensors of one kind, by the offset of the member in struct nn_update_item.
static bool ranges_of(struct ranges *out, const struct nn_update_item *items, size_t count, size_t offset,
                      struct vireo_error *err)
{
    struct gpu_use *list = vireo_alloc((count ? count : 1) * sizeof *list);
    if (!list)
        return vireo_fail_memory(err, count * sizeof *list);
    for (size_t i = 0; i < count; i++) {
        const struct tensor *x = (const struct tensor *)(const void *)((const char *)&items[i] + offset);
        list[i] = x->span.address ? tensor_use(*x, GPU_READ) : (struct gpu_use){0};
    }
    *out = join(list, count);
    free(list);
    return true;
}

static bool item_is_sane(const struct nn_update_item *x)
{
    const uint64_t count = tensor_count(x->master);
    const struct tensor all[] = {x->master, x->grad, x->m, x->v};
    for (size_t i = 0; i < VIREO_COUNT(all); i++)
        if (!all[i].span.address || all[i].dtype != DTYPE_F32 || tensor_count(all[i]) != count ||
            !tensor_is_contiguous(all[i]))
            return false;
    return !x->copy.span.address || (x->copy.dtype == DTYPE_BF16 && tensor_count(x->copy) == count &&
                                     tensor_is_contiguous(x->copy) && x->copy.span.address % 4 == 0);
}

static void cut(const struct nn_update_item *x, struct update_chunk *out)
{
    const uint64_t count = tensor_count(x->master);
    for (uint64_t first = 0; first < count; first += UPDATE_CHUNK)
        *out++ = (struct update_chunk){
            .master = x->master.span.address + 4 * first,
            .grad = x->grad.span.address + 4 * first,
            .m = x->m.span.address + 4 * first,
            .v = x->v.span.address + 4 * first,
            .copy = x->copy.span.address ? x->copy.span.address + 2 * first : 0,
            .count = (uint32_t)VIREO_MIN(count - first, UPDATE_CHUNK),
            .decay = x->decay,
        };
}

static bool fill(struct nn_update *u, struct gpu_arena *arena, const struct nn_update_item *items, size_t count,
                 struct vireo_error *err)
{
    if (!ranges_of(&u->grad, items, count, offsetof(struct nn_update_item, grad), err) ||
        !ranges_of(&u->master, items, count, offsetof(struct nn_update_item, master), err) ||
        !ranges_of(&u->moments[0], items, count, offsetof(struct nn_update_item, m), err) ||
        !ranges_of(&u->moments[1], items, count, offsetof(struct nn_update_item, v), err) ||
        !ranges_of(&u->copy, items, count, offsetof(struct nn_update_item, copy), err))
        return false;
    u->chunks = tensor_matrix(arena, DTYPE_U32, u->chunk_count, sizeof(struct update_chunk) / 4, err);
    u->partial = tensor_vector(arena, DTYPE_F32, u->chunk_count, err);
    u->state = tensor_vector(arena, DTYPE_U32, sizeof(struct update_state) / 4, err);
    if (!u->chunks.span.address || !u->partial.span.address || !u->state.span.address)
        return false;
    const size_t bytes = u->chunk_count * sizeof(struct update_chunk);
    struct update_chunk *chunks = vireo_alloc(bytes ? bytes : 1), *next = chunks;
    if (!chunks)
        return vireo_fail_memory(err, bytes);
    for (size_t i = 0; i < count; i++) {
        cut(&items[i], next);
        next += nn_ceil(tensor_count(items[i].master), UPDATE_CHUNK);
    }
    const bool done = bytes == 0 || gpu_write(u->dev, u->chunks.span, chunks, bytes, err);
    free(chunks);
    return done;
}

struct nn_update *nn_update_create(struct gpu_device *dev, struct gpu_arena *arena, const struct nn_update_item *items,
                                   size_t count, struct vireo_error *err)
{
    struct nn_update *u = vireo_calloc(1, sizeof *u);
    if (!u) {
        vireo_fail_memory(err, sizeof *u);
        return NULL;
    }
    u->dev = dev;
    for (size_t i = 0; i < count; i++) {
        vireo_assert(item_is_sane(&items[i]));
        u->elements += tensor_count(items[i].master);
        u->chunk_count += (uint32_t)nn_ceil(tensor_count(items[i].master), UPDATE_CHUNK);
    }
    if (!fill(u, arena, items, count, err))
        nn_update_destroy(&u);
    return u;
}

void nn_update_destroy(struct nn_update **u)
{
    free(*u);
    *u = NULL;
}

// The uses of a dispatch, kind by kind.
struct uses {
    struct gpu_use list[GPU_MAX_USES];
    uint32_t count;
};
static void use_ranges(struct uses *u, const struct ranges *r, enum gpu_access access)
{
    vireo_assert(u->count + r->count <= GPU_MAX_USES);
    for (uint32_t i = 0; i < r->count; i++) {
        u->list[u->count] = r->use[i];
        u->list[u->count++].access = access;
    }
}
static void use_tensor(struct uses *u, struct tensor x, enum gpu_access access)
{
    vireo_assert(u->count < GPU_MAX_USES);
    u->list[u->count++] = tensor_use(x, access);
}

static void squares(struct tape *t, struct nn_update *u, bool zero)
{
    const struct sum_squares_args args = {
        .chunks = u->chunks.span.address,
        .partial = u->partial.span.address,
        .count = u->chunk_count,
        .zero = zero,
    };
    struct uses uses = {0};
    use_tensor(&uses, u->chunks, GPU_READ);
    use_tensor(&uses, u->partial, GPU_WRITE);
    use_ranges(&uses, &u->grad, zero ? GPU_WRITE : GPU_READ);
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_SUM_SQUARES,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = u->chunk_count,
                                  .bytes = 4.0 * (double)u->elements},
                uses.list, uses.count);
}

void nn_update_zero_grad(struct tape *t, struct nn_update *u)
{
    squares(t, u, true);
}

static void fold_norm(struct tape *t, struct nn_update *u, float max_norm)
{
    const struct update_norm_args args = {
        .partial = u->partial.span.address,
        .state = u->state.span.address,
        .count = u->chunk_count,
        .max_norm = max_norm,
    };
    const struct gpu_use uses[] = {tensor_use(u->partial, GPU_READ), tensor_use(u->state, GPU_WRITE)};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_UPDATE_NORM,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = 1,
                                  .bytes = 4.0 * u->chunk_count},
                uses, VIREO_COUNT(uses));
}

static void adamw(struct tape *t, struct nn_update *u, const struct nn_update_params *p)
{
    const double beta1 = p->beta1, beta2 = p->beta2;
    const struct adamw_args args = {
        .chunks = u->chunks.span.address,
        .state = u->state.span.address,
        .count = u->chunk_count,
        .keep = (float)(1 - (double)p->lr * p->weight_decay),
        .beta1 = p->beta1,
        .rest1 = (float)(1 - beta1),
        .beta2 = p->beta2,
        .rest2 = (float)(1 - beta2),
        .rate = (float)(p->lr / (1 - pow(beta1, p->step))),
        .root = (float)(1 / sqrt(1 - pow(beta2, p->step))),
        .eps = p->eps,
    };
    struct uses uses = {0};
    use_tensor(&uses, u->chunks, GPU_READ);
    use_tensor(&uses, u->state, GPU_READ);
    use_ranges(&uses, &u->grad, GPU_READ);
    use_ranges(&uses, &u->master, GPU_READ_WRITE);
    // m, v and the copies share what room for declarations is left; two kinds of one arena are mostly one range.
    struct gpu_use rest[3 * RANGES];
    size_t count = 0;
    const struct ranges *kinds[] = {&u->moments[0], &u->moments[1], &u->copy};
    for (size_t k = 0; k < VIREO_COUNT(kinds); k++)
        for (uint32_t i = 0; i < kinds[k]->count; i++)
            rest[count++] = kinds[k]->use[i];
    const struct ranges joined = join(rest, count);
    use_ranges(&uses, &joined, GPU_READ_WRITE);
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_ADAMW,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = u->chunk_count,
                                  .bytes = 34.0 * (double)u->elements},
                uses.list, uses.count);
}

bool nn_update_step(struct tape *t, struct nn_update *u, const struct nn_update_params *p, double *norm,
                    struct vireo_error *err)
{
    vireo_assert(p->step > 0);
    squares(t, u, false);
    fold_norm(t, u, p->max_grad_norm);
    adamw(t, u, p);
    if (tape_failed(t)) // tape_finish tells why
        return vireo_fail(err, VIREO_INTERNAL, "no optimiser step: the pass before it failed");
    struct update_state state = {0};
    if (norm && u->chunk_count && !gpu_read(u->dev, u->state.span, &state, sizeof state, err))
        return false;
    if (norm)
        *norm = state.norm;
    return true;
}
