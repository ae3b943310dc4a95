// What a frozen vision tower makes of a picture never changes: it is computed once and found again by the picture's digest,
// by later micro-batches and steps, as long as the pool has room. The reference's tower is frozen, and with freeze_vision
// the policy's is too; that one is the same tower of the same base model, so both read one pool. Same bits as computing it
// again, since no row of a forward depends on what shares the batch.
//
// An epoch visits every picture once. What was seen longest ago is thus what comes again soonest: where the pool is too
// small for the data the newest go, and the rest is found in every epoch.
#include "compute/train/internal.h"
#include "compute/train/plan.h"

#include "compute/base/check.h"
#include "compute/base/log.h"

#include <string.h>

#define LOG_MODULE "train"

bool pictures_open(struct trainer *t, uint32_t longest_prompt, struct vireo_error *err)
{
    const struct job_spec *s = t->spec;
    if (!s->keep_features || !(t->reference || s->freeze_vision))
        return true;
    const struct model_config *c = &t->model->config;
    const uint64_t row = (uint64_t)c->text.hidden_size * dtype_bytes(t->model->activations);
    const uint64_t other = gpu_device_counters(t->dev).bytes_held + keep_reserved(t, longest_prompt) + PLAN_KEEP_SLACK;
    uint64_t there = gpu_device_caps(t->dev)->budget_bytes;
    if (s->memory_limit)
        there = VIREO_MIN(there, s->memory_limit);
    const uint64_t wanted = plan_features_bytes(c, t->model->activations, t->data.image_count, longest_prompt);
    const uint64_t rows = VIREO_MIN(wanted, there > other ? there - other : 0) / row;
    if (rows < longest_prompt)
        return true; // memory is short
    t->feature_memory =
        gpu_arena_create(t->dev, &(struct gpu_arena_params){.name = "vision features", .bytes = rows * row + 256}, err);
    t->features = t->feature_memory ? features_create(t->feature_memory, t->model->activations, (uint32_t)rows,
                                                      c->text.hidden_size, err)
                                    : NULL;
    if (t->features)
        features_newest_go(t->features);
    return t->features != NULL;
}

void pictures_close(struct trainer *t)
{
    features_destroy(&t->features);
    gpu_arena_destroy(&t->feature_memory);
}

void pictures_begin_step(struct trainer *t)
{
    if (t->features)
        features_unpin(t->features);
}

// Puts the rows of picture `i` of a batch whose result is `from` into the pool, unless that is full of this step's.
static void store(struct trainer *t, const uint8_t digest[HASH_BYTES], const struct vision_batch *b, uint32_t i,
                  struct tensor from)
{
    const uint32_t first = b->first[i], count = b->first[i + 1] - first;
    const struct tensor pool = features_pool(t->features);
    if (from.dtype != pool.dtype || features_find(t->features, digest))
        return;
    struct feature *f = features_add(t->features, digest, count);
    if (!f)
        return;
    for (uint32_t k = 0; k < count; k++)
        f->place[k] = f->first + b->row[first + k] - first;
    const struct tensor to = tensor_row_part(pool, f->first, count);
    gpu_copy(t->dev, to.span, tensor_row_part(from, first, count).span, tensor_bytes(to));
}

// Known rows and those of `b` (the pictures without known[i], in order) side by side, as one batch would have made them.
static bool put_together(struct trainer *t, struct tape *tape, const struct picture_list *list,
                         const struct feature *const *known, const struct vision_batch *b, struct tensor computed,
                         struct vision_batch *out, struct tensor *features, struct vireo_error *err)
{
    struct arena *a = &t->step_arena;
    struct vision_batch all = {.image_count = list->count, .first = arena_array(a, uint32_t, list->count + 1)};
    for (uint32_t i = 0, n = 0; all.first && i < list->count; i++) {
        all.first[i] = all.merged;
        all.merged += known[i] ? known[i]->count : b->first[n + 1] - b->first[n];
        n += !known[i];
        all.first[i + 1] = all.merged;
    }
    all.row = all.first ? arena_array(a, uint32_t, all.merged) : NULL;
    if (!all.row)
        return vireo_fail_memory(err, (list->count + all.merged) * sizeof *all.row);
    const struct tensor pool = features_pool(t->features);
    const struct tensor rows = tape_new(tape, pool.dtype, all.merged, tensor_columns(pool), false);
    for (uint32_t i = 0, n = 0; !tape_failed(tape) && i < list->count; i++) {
        const uint32_t first = all.first[i], count = all.first[i + 1] - first;
        const struct feature *f = known[i];
        for (uint32_t k = 0; k < count; k++)
            all.row[first + k] = first + (f ? f->place[k] - f->first : b->row[b->first[n] + k] - b->first[n]);
        const struct tensor from = tensor_row_part(f ? pool : computed, f ? f->first : b->first[n], count);
        const struct tensor to = tensor_row_part(rows, first, count);
        gpu_copy(t->dev, to.span, from.span, tensor_bytes(to));
        n += !f;
    }
    *out = all;
    *features = rows;
    return true;
}

bool pictures_compute(struct trainer *t, struct tape *tape, const struct model *m, const struct picture_list *list,
                      struct vision_batch *out, struct tensor *features, struct vireo_error *err)
{
    struct arena *a = &t->step_arena;
    const bool frozen = t->features && (m == t->reference || t->spec->freeze_vision);
    const struct feature **known = (const struct feature **)arena_array(a, struct feature *, list->count);
    const struct patches **patches = (const struct patches **)arena_array(a, struct patches *, list->count);
    uint32_t *index = arena_array(a, uint32_t, list->count), n = 0;
    if (!known || !patches || !index)
        return vireo_fail_memory(err, list->count * 20);
    for (uint32_t i = 0; i < list->count; i++) {
        known[i] = frozen ? features_find(t->features, list->pictures[i]->digest) : NULL;
        if (!known[i]) {
            patches[n] = &list->pictures[i]->patches;
            index[n++] = i;
        }
    }
    struct vision_batch b = {0};
    struct tensor computed = {0};
    if (n > 0) {
        if (!vision_batch_build(m, tape, patches, n, a, &b, err))
            return false;
        computed = m->family->vision(tape, m, &b);
    }
    log_debug("step %u, %s: %u pictures computed, %u known", t->step + 1, m == t->reference ? "reference" : "policy", n,
              list->count - n);
    bool done = true;
    if (n == list->count) {
        *out = b;
        *features = computed;
    } else {
        done = put_together(t, tape, list, known, &b, computed, out, features, err);
    }
    // After the reading: what is stored may take the place of known pictures of other steps, never of this one's.
    for (uint32_t i = 0; frozen && done && !tape_failed(tape) && i < n; i++)
        store(t, list->pictures[index[i]]->digest, &b, i, computed);
    return done;
}
