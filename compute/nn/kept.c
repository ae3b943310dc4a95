#include "compute/nn/kept.h"

#include "compute/base/fault.h"
#include "compute/nn/dispatch.h"
#include "shaders/args/gather_rows.h"

#include <stdlib.h>

struct run {
    uint32_t rows, first, count; // its tensors are tensors[first .. first + count)
};

struct kept {
    struct gpu_arena *memory;
    uint64_t most;
    struct run *runs;
    struct tensor *tensors;
    uint32_t run_count, run_room, tensor_count, tensor_room;
    bool incomplete;
};

struct kept *kept_create(struct gpu_arena *memory, uint64_t most_bytes, struct vireo_error *err)
{
    struct kept *k = vireo_calloc(1, sizeof *k);
    if (!k) {
        vireo_fail_memory(err, sizeof *k);
        return NULL;
    }
    k->memory = memory;
    k->most = most_bytes;
    return k;
}

void kept_destroy(struct kept **kept)
{
    if (!*kept)
        return;
    free((*kept)->runs);
    free((*kept)->tensors);
    free(*kept);
    *kept = NULL;
}

void kept_clear(struct kept *k)
{
    k->run_count = k->tensor_count = 0;
    k->incomplete = false;
}

bool kept_complete(const struct kept *k)
{
    return !k->incomplete;
}

uint32_t kept_runs(const struct kept *k)
{
    return k->run_count;
}

uint32_t kept_begin(struct kept *k, uint32_t rows)
{
    if (k->incomplete)
        return KEPT_NOWHERE;
    if (k->run_count == k->run_room) {
        uint32_t room = k->run_room ? 2 * k->run_room : 64;
        struct run *runs = vireo_realloc(k->runs, room * sizeof *runs);
        if (!runs) {
            k->incomplete = true;
            return KEPT_NOWHERE;
        }
        k->runs = runs;
        k->run_room = room;
    }
    k->runs[k->run_count] = (struct run){.rows = rows, .first = k->tensor_count};
    return k->run_count++;
}

void kept_end(struct kept *k)
{
    // Every run has what the first has.
    if (k->run_count > 1 && k->runs[k->run_count - 1].count != k->runs[0].count)
        k->incomplete = true;
}

// Rows of x for each row of its run; 0: no whole number.
static uint32_t rows_each(struct tensor x, const struct run *r)
{
    return r->rows && tensor_rows(x) % r->rows == 0 ? tensor_rows(x) / r->rows : 0;
}

static bool alike(const struct kept *k, struct tensor x, const struct run *r)
{
    if (rows_each(x, r) == 0 || (uint64_t)tensor_columns(x) * dtype_bytes(x.dtype) % 4 != 0)
        return false; // rows that share a word cannot be moved one by one
    const struct run *first = &k->runs[0];
    if (r == first)
        return true;
    if (r->count >= first->count)
        return false;
    struct tensor y = k->tensors[first->first + r->count];
    return x.dtype == y.dtype && tensor_columns(x) == tensor_columns(y) && rows_each(x, r) == rows_each(y, first);
}

struct tensor kept_new(struct kept *k, enum dtype type, uint32_t rows, uint32_t columns)
{
    struct tensor x = {.dtype = type, .rank = 2, .shape = {rows, columns}, .stride = columns};
    if (k->incomplete)
        return x;
    struct run *r = &k->runs[k->run_count - 1];
    const uint64_t bytes = (uint64_t)rows * columns * dtype_bytes(type);
    k->incomplete = vireo_fault("kept.new") || !alike(k, x, r) || gpu_arena_used(k->memory) + bytes > k->most;
    if (!k->incomplete && k->tensor_count == k->tensor_room) {
        uint32_t room = k->tensor_room ? 2 * k->tensor_room : 1024;
        struct tensor *tensors = vireo_realloc(k->tensors, room * sizeof *tensors);
        k->incomplete = !tensors;
        if (tensors) {
            k->tensors = tensors;
            k->tensor_room = room;
        }
    }
    if (k->incomplete)
        return x;
    struct vireo_error ignored; // less memory than was thought: nothing is kept then
    struct tensor made = tensor_matrix(k->memory, type, rows, columns, &ignored);
    if (!made.span.address) {
        k->incomplete = true;
        return x;
    }
    k->tensors[k->tensor_count++] = made;
    r->count++;
    return made;
}

struct adoption {
    const struct kept *k;
    uint32_t rows, count, next; // tensors in all, and taken
    bool whole;                 // the kept tensors themselves
    bool held;                  // shapes only (adoption_hold)
    const struct run *only;     // of this run
    struct tensor places, runs; // u32 [rows, 2]; addresses [count * runs], by tensor
    struct adoption_part part;  // whose result is there already; address 0: none
};

static bool is_whole_run(const struct kept *k, const struct kept_place *places, uint32_t rows)
{
    for (uint32_t i = 0; i < rows; i++)
        if (places[i].run != places[0].run || places[i].row != i)
            return false;
    return rows == k->runs[places[0].run].rows;
}

struct adoption *adoption_begin(struct tape *t, const struct kept *k, const struct kept_place *places, uint32_t rows)
{
    struct adoption *a = tape_failed(t) ? NULL : vireo_calloc(1, sizeof *a);
    if (!a) {
        tape_fail(t, VIREO_NO_MEMORY, "out of host memory for kept activations");
        return NULL;
    }
    vireo_assert(kept_complete(k) && rows > 0);
    for (uint32_t i = 0; i < rows; i++)
        vireo_assert(places[i].run < k->run_count && places[i].row < k->runs[places[i].run].rows);
    *a = (struct adoption){.k = k, .rows = rows, .count = k->runs[0].count, .only = &k->runs[places[0].run]};
    a->whole = is_whole_run(k, places, rows);
    if (a->whole)
        return a;
    a->places = tape_upload_matrix(t, DTYPE_U32, rows, 2, places);
    a->runs = tape_upload_matrix(t, DTYPE_U32, a->count * k->run_count, 2, NULL);
    if (!tape_failed(t))
        for (uint32_t i = 0; i < a->count; i++)
            for (uint32_t r = 0; r < k->run_count; r++)
                ((uint64_t *)a->runs.span.host)[(size_t)i * k->run_count + r] =
                    k->tensors[k->runs[r].first + i].span.address;
    return a;
}

// The memory that tensor `index` has in all runs, as few ranges as blocks hold it.
static uint32_t sources(const struct kept *k, uint32_t index, struct gpu_use *uses, uint32_t most)
{
    const struct gpu_block *block[GPU_MAX_USES];
    uint32_t count = 0;
    for (uint32_t r = 0; r < k->run_count; r++) {
        struct gpu_span s = k->tensors[k->runs[r].first + index].span;
        uint32_t at = 0;
        while (at < count && block[at] != s.block)
            at++;
        // More blocks than a dispatch can name: the last range covers the rest, whatever lies between.
        if (at == count && count == most)
            at = most - 1;
        if (at == count) {
            block[count] = s.block;
            uses[count++] = (struct gpu_use){s.address, s.bytes, GPU_READ};
            continue;
        }
        const uint64_t end = VIREO_MAX(uses[at].address + uses[at].bytes, s.address + s.bytes);
        uses[at].address = VIREO_MIN(uses[at].address, s.address);
        uses[at].bytes = end - uses[at].address;
    }
    return count;
}

static void gather(struct tape *t, const struct adoption *a, uint32_t index, struct tensor to)
{
    // Words of a lane, as in the shader; of a group of the wide kernel, and the longest rows it takes (drivers may end
    // a loop after 65535 turns).
    enum { GROUP_WORDS = 64, WIDE_WORDS = 2048, MOST_WIDE = 1 << 18 };
    const struct kept *k = a->k;
    const uint32_t words = (uint32_t)(tensor_count(to) / a->rows * dtype_bytes(to.dtype) / 4);
    struct tensor runs = tensor_row_part(a->runs, index * k->run_count, k->run_count);
    const bool wide = words % 2 == 0 && words <= MOST_WIDE && nn_takes_wide(t, KERNEL_GATHER_ROWS_WIDE);
    const uint32_t each = VIREO_MIN(VIREO_MAX(WIDE_WORDS / VIREO_MAX(words, 1u), 1u),
                                    gpu_device_caps(tape_device(t))->subgroup_size);
    const struct gather_rows_args args = {
        .to = to.span.address,
        .runs = runs.span.address,
        .places = a->places.span.address,
        .rows = a->rows,
        .words = words,
        .rows_each = each,
    };
    struct gpu_use uses[GPU_MAX_USES] = {tensor_use(to, GPU_WRITE), tensor_use(runs, GPU_READ),
                                         tensor_use(a->places, GPU_READ)};
    const uint32_t count = 3 + sources(k, index, uses + 3, GPU_MAX_USES - 3);
    gpu_dispatch(tape_device(t), wide ? KERNEL_GATHER_ROWS_WIDE : KERNEL_GATHER_ROWS,
                 &(struct gpu_dispatch){
                     .args = &args,
                     .args_bytes = sizeof args,
                     .uses = uses,
                     .use_count = count,
                     .groups = wide ? nn_ceil(a->rows, each) : nn_row_groups(t, a->rows, words, GROUP_WORDS),
                     .bytes = 8.0 * a->rows * words,
                 });
}

// Tensor number `index` in memory of its own, or of its run.
static struct tensor put_together(struct tape *t, struct adoption *a, struct gpu_arena *memory, uint32_t index,
                                  struct tensor like, bool *own)
{
    *own = !a->whole;
    if (a->whole)
        return a->k->tensors[a->only->first + index];
    struct tensor x = tensor_matrix(memory, like.dtype, tensor_rows(like), tensor_columns(like), tape_error(t));
    if (x.span.address)
        gather(t, a, index, x);
    else
        tape_fail(t, VIREO_DEVICE_MEMORY, "%s", tape_error(t)->message);
    return x;
}

struct tensor adoption_next(struct tape *t, struct adoption *a, struct gpu_arena *memory, enum dtype type,
                            uint32_t rows, uint32_t columns, bool *own)
{
    struct tensor x = {.dtype = type, .rank = 2, .shape = {rows, columns}, .stride = columns};
    const struct run *r = a->only;
    *own = false;
    if (a->next < a->count)
        x = a->k->tensors[r->first + a->next];
    if (a->next == a->count || x.dtype != type || tensor_columns(x) != columns ||
        (uint64_t)tensor_rows(x) * a->rows != (uint64_t)rows * r->rows) {
        tape_fail(t, VIREO_INTERNAL, "kept activation %u of %u is no %s [%u, %u]", a->next, a->count, dtype_name(type),
                  rows, columns);
        return x;
    }
    const uint32_t index = a->next++;
    if (a->part.made.span.address && index == a->part.result)
        return a->part.made;
    const struct tensor like = {.dtype = type, .rank = 2, .shape = {rows, columns}, .stride = columns};
    if (!a->held)
        return put_together(t, a, memory, index, like, own);
    // The address of the run's own tensor tells adoption_release which one it is.
    const struct gpu_span s = {.address = x.span.address, .bytes = tensor_bytes(like), .block = x.span.block,
                               .offset = x.span.offset};
    x = like;
    x.span = s;
    return x;
}

void adoption_hold(struct adoption *a, struct adoption_part *part)
{
    vireo_assert(!a->held);
    *part = (struct adoption_part){.first = a->next};
    a->held = true;
}

struct tensor adoption_release(struct tape *t, struct adoption *a, struct gpu_arena *memory, struct tensor result,
                               struct adoption_part *part, bool *own)
{
    a->held = *own = false;
    if (tape_failed(t))
        return result;
    part->result = part->first;
    while (part->result < a->next &&
           a->k->tensors[a->only->first + part->result].span.address != result.span.address)
        part->result++;
    vireo_assert(part->result < a->next && "the result of a part is one of its kept tensors");
    part->made = put_together(t, a, memory, part->result, result, own);
    part->made.node = 0;
    result.span = part->made.span;
    return result;
}

void adoption_enter(struct adoption *a, const struct adoption_part *part)
{
    a->next = part->first;
    a->part = *part;
}

bool adoption_holds(const struct adoption *a)
{
    return a->held;
}

bool adoption_all(const struct adoption *a)
{
    return a->next == a->count;
}

void adoption_destroy(struct adoption *a)
{
    free(a);
}
