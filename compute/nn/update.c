#include "compute/nn/nn.h"

#include "compute/base/fault.h"
#include "compute/nn/dispatch.h"
#include "shaders/args/update.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

// Elements a group works on: enough groups for small models on many cores, few partial norms for large ones. Even, so
// that a chunk of a 16-bit copy begins at a whole word.
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

// A run of chunks whose state is on the device together. The store holds the state chunk by chunk, a chunk's m, v and
// master one after the other: so a window is one piece of it.
enum { WINDOW_BYTES = 4 << 20, STORE_ALIGN = 64 };
struct window {
    uint32_t first, count; // chunks
    uint64_t at, bytes;    // in the store
};
struct placed { // an item in the store
    uint64_t at, count;
    uint32_t parts;
};
// Of a chunk's m, v or master in the store.
static uint64_t part_bytes(uint64_t count)
{
    return vireo_round_up(count * sizeof(float), STORE_ALIGN);
}

struct nn_update {
    struct gpu_device *dev;
    struct nn_update_store store; // read NULL: the state is on the device
    struct gpu_arena *memory;     // of the windows
    struct gpu_span slot[2];
    struct window *windows;
    uint32_t window_count;
    struct placed *placed; // [items]
    struct tensor chunks, partial, state;
    struct ranges grad, master, moments[2], copy;
    uint32_t chunk_count;
    uint64_t elements;
    enum dtype copy_type; // of all copies
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

static bool item_is_sane(const struct nn_update_item *x, bool stored)
{
    const uint64_t count = tensor_count(x->master);
    const struct tensor all[] = {x->master, x->grad, x->m, x->v};
    const bool there[] = {!stored || !x->copy.span.address, true, !stored, !stored};
    for (size_t i = 0; i < VIREO_COUNT(all); i++)
        if ((all[i].span.address != 0) != there[i] || all[i].dtype != DTYPE_F32 || tensor_count(all[i]) != count ||
            !tensor_is_contiguous(all[i]))
            return false;
    return !x->copy.span.address || (dtype_bytes(x->copy.dtype) == 2 && tensor_count(x->copy) == count &&
                                     tensor_is_contiguous(x->copy) && x->copy.span.address % 4 == 0);
}

static void cut(const struct nn_update_item *x, struct update_chunk *out)
{
    const uint64_t count = tensor_count(x->master);
    for (uint64_t first = 0; first < count; first += UPDATE_CHUNK)
        *out++ = (struct update_chunk){
            .master = x->master.span.address ? x->master.span.address + 4 * first : 0,
            .grad = x->grad.span.address + 4 * first,
            .m = x->m.span.address ? x->m.span.address + 4 * first : 0,
            .v = x->v.span.address ? x->v.span.address + 4 * first : 0,
            .copy = x->copy.span.address ? x->copy.span.address + 2 * first : 0,
            .count = (uint32_t)VIREO_MIN(count - first, UPDATE_CHUNK),
            .decay = x->decay,
        };
}

uint64_t nn_update_window_bytes(uint64_t bytes)
{
    // At least the largest chunk; of a small model a part too, so that it has the benefit as well.
    const uint64_t least = 3 * part_bytes(UPDATE_CHUNK);
    return VIREO_MIN(VIREO_MAX(least, vireo_round_up(bytes / 4, 256)), (uint64_t)WINDOW_BYTES);
}

uint64_t nn_update_place(const struct nn_update *u, size_t item, uint32_t part, uint64_t first, uint64_t *run)
{
    const struct placed *x = &u->placed[item];
    const uint64_t chunk = first / UPDATE_CHUNK, begin = chunk * UPDATE_CHUNK;
    const uint64_t count = VIREO_MIN(x->count - begin, UPDATE_CHUNK);
    *run = begin + count - first;
    return x->at + chunk * x->parts * part_bytes(UPDATE_CHUNK) + part * part_bytes(count) + 4 * (first - begin);
}

// Places in the store, the windows over it, and the chunks' addresses in them.
static bool make_windows(struct nn_update *u, const struct nn_update_item *items, size_t count,
                         struct update_chunk *chunks, struct vireo_error *err)
{
    u->placed = vireo_calloc(count ? count : 1, sizeof *u->placed);
    u->windows = vireo_calloc(u->chunk_count ? u->chunk_count : 1, sizeof *u->windows);
    if (!u->placed || !u->windows)
        return vireo_fail_memory(err, u->chunk_count * sizeof *u->windows);
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        struct placed *x = &u->placed[i];
        *x = (struct placed){.at = total, .count = tensor_count(items[i].master)};
        x->parts = items[i].copy.span.address ? 3 : 2;
        const uint64_t full = x->count / UPDATE_CHUNK;
        total += x->parts * (full * part_bytes(UPDATE_CHUNK) + part_bytes(x->count % UPDATE_CHUNK));
    }
    const uint64_t room = nn_update_window_bytes(total);
    u->memory = gpu_arena_create(
        u->dev,
        &(struct gpu_arena_params){.name = "optimizer window", .memory = GPU_MEMORY_READBACK, .bytes = 2 * room}, err);
    for (int i = 0; i < 2; i++)
        if (!u->memory || !(u->slot[i] = gpu_arena_take(u->memory, room, err)).address)
            return false;
    uint32_t c = 0;
    uint64_t gap = 0; // behind the last value
    for (size_t i = 0; i < count; i++)
        for (uint64_t first = 0; first < u->placed[i].count; first += UPDATE_CHUNK, c++) {
            uint64_t run;
            const uint64_t at = nn_update_place(u, i, 0, first, &run), part = part_bytes(run);
            const uint64_t bytes = u->placed[i].parts * part;
            struct window *w = u->window_count ? &u->windows[u->window_count - 1] : NULL;
            if (!w || w->bytes + bytes > room) {
                w = &u->windows[u->window_count++];
                *w = (struct window){.first = c, .at = at};
            }
            const uint64_t address = u->slot[(u->window_count - 1) % 2].address + at - w->at;
            chunks[c].m = address;
            chunks[c].v = address + part;
            if (u->placed[i].parts == 3)
                chunks[c].master = address + 2 * part;
            w->count++;
            w->bytes += bytes;
            gap = part - run * sizeof(float);
        }
    if (u->window_count > 0)
        u->windows[u->window_count - 1].bytes -= gap; // the store ends with its last value
    return true;
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
    const bool done = (!u->store.read || make_windows(u, items, count, chunks, err)) &&
                      (bytes == 0 || gpu_write(u->dev, u->chunks.span, chunks, bytes, err));
    free(chunks);
    return done;
}

struct nn_update *nn_update_create(struct gpu_device *dev, struct gpu_arena *arena, const struct nn_update_item *items,
                                   size_t count, struct vireo_error *err)
{
    return nn_update_create_stored(dev, arena, items, count, &(struct nn_update_store){0}, err);
}

struct nn_update *nn_update_create_stored(struct gpu_device *dev, struct gpu_arena *arena,
                                          const struct nn_update_item *items, size_t count,
                                          const struct nn_update_store *store, struct vireo_error *err)
{
    struct nn_update *u = vireo_calloc(1, sizeof *u);
    if (!u) {
        vireo_fail_memory(err, sizeof *u);
        return NULL;
    }
    u->dev = dev;
    u->store = *store;
    for (size_t i = 0; i < count; i++) {
        vireo_assert(item_is_sane(&items[i], store->read != NULL));
        if (items[i].copy.span.address) {
            vireo_assert(u->copy_type == DTYPE_F32 || u->copy_type == items[i].copy.dtype);
            u->copy_type = items[i].copy.dtype;
        }
        u->elements += tensor_count(items[i].master);
        u->chunk_count += (uint32_t)nn_ceil(tensor_count(items[i].master), UPDATE_CHUNK);
    }
    if (!fill(u, arena, items, count, err))
        nn_update_destroy(&u);
    return u;
}

void nn_update_destroy(struct nn_update **update)
{
    struct nn_update *u = *update;
    if (!u)
        return;
    gpu_arena_destroy(&u->memory);
    free(u->windows);
    free(u->placed);
    free(u);
    *update = NULL;
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

static void fold_norm(struct tape *t, struct nn_update *u, const struct nn_update_params *p)
{
    const struct update_norm_args args = {
        .partial = u->partial.span.address,
        .state = u->state.span.address,
        .count = u->chunk_count,
        .max_norm = p->max_grad_norm,
        .unscale = p->loss_scale > 0 ? 1 / p->loss_scale : 1,
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

// Chunks [first, first + count); their state in `window`, or on the device for good where its address is 0.
static void adamw(struct tape *t, struct nn_update *u, const struct nn_update_params *p, uint32_t first, uint32_t count,
                  struct gpu_span window)
{
    const double beta1 = p->beta1, beta2 = p->beta2;
    const struct adamw_args args = {
        .chunks = u->chunks.span.address + first * sizeof(struct update_chunk),
        .state = u->state.span.address,
        .count = count,
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
    size_t rest_count = 0;
    const struct ranges *kinds[] = {&u->moments[0], &u->moments[1], &u->copy};
    for (size_t k = 0; k < VIREO_COUNT(kinds); k++)
        for (uint32_t i = 0; i < kinds[k]->count; i++)
            rest[rest_count++] = kinds[k]->use[i];
    const struct ranges joined = join(rest, rest_count);
    use_ranges(&uses, &joined, GPU_READ_WRITE);
    vireo_assert(uses.count < GPU_MAX_USES);
    uses.list[uses.count++] =
        (struct gpu_use){.address = window.address, .bytes = window.bytes, .access = GPU_READ_WRITE};
    nn_dispatch(t,
                &(struct nn_step){.kernel = KERNEL_ADAMW,
                                  .args = &args,
                                  .args_bytes = sizeof args,
                                  .groups = count,
                                  .constants = {nn_storage(u->copy_type ? u->copy_type : DTYPE_BF16)},
                                  .constant_count = 1,
                                  .bytes = 34.0 * (double)u->elements * count / VIREO_MAX(u->chunk_count, 1u)},
                uses.list, uses.count);
}

// The device works on one window while the host writes back the one before the last and reads the next.
static bool adamw_windows(struct tape *t, struct nn_update *u, const struct nn_update_params *p,
                          struct vireo_error *err)
{
    uint64_t ticket[2] = {0};
    for (uint32_t i = 0; i < u->window_count + 2; i++) {
        const uint32_t s = i % 2;
        if (i >= 2) {
            const struct window *w = &u->windows[i - 2];
            if (!gpu_wait(u->dev, ticket[s], err) ||
                !u->store.write(u->store.context, w->at, u->slot[s].host, w->bytes, err))
                return false;
        }
        if (i < u->window_count) {
            const struct window *w = &u->windows[i];
            if (!u->store.read(u->store.context, w->at, u->slot[s].host, w->bytes, err))
                return false;
            adamw(t, u, p, w->first, w->count, gpu_span_part(u->slot[s], 0, w->bytes));
            ticket[s] = gpu_submit(u->dev, err);
            if (!ticket[s])
                return false;
        }
    }
    return true;
}

bool nn_update_step(struct tape *t, struct nn_update *u, const struct nn_update_params *p, double *norm,
                    struct vireo_error *err)
{
    vireo_assert(p->step > 0);
    struct update_state state = {0};
    const bool stored = u->store.read != NULL;
    squares(t, u, false);
    fold_norm(t, u, p);
    if (!stored)
        adamw(t, u, p, 0, u->chunk_count, (struct gpu_span){0});
    if (tape_failed(t)) // tape_finish tells why
        return vireo_fail(err, VIREO_INTERNAL, "no optimiser step: the pass before it failed");
    if ((norm || stored) && u->chunk_count && !gpu_read(u->dev, u->state.span, &state, sizeof state, err))
        return false;
    if (norm)
        *norm = state.norm;
    return !stored || !state.finite || adamw_windows(t, u, p, err);
}
