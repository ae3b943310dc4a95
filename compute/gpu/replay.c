// Command buffers are recorded once and replayed: work of the same shape (a decode step among its like) gives the same
// list of dispatches, arguments and addresses, since arenas hand out the same memory step after step. Each slot keeps
// the list it was filled from; a list that equals it needs no recording. What differs from step to step lies in memory.
#include "compute/gpu/internal.h"

#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

// Longer lists are whole training steps: they do not come twice.
enum { MOST_OPS = 1024 };

// What reached the command buffer, and what its barriers were derived from.
static bool same_op(const struct gpu_op *a, const struct gpu_op *b)
{
    return a->kind == b->kind && a->continues == b->continues && a->pipeline == b->pipeline && a->label == b->label &&
           a->args_bytes == b->args_bytes && a->groups[0] == b->groups[0] && a->groups[1] == b->groups[1] &&
           a->base == b->base && a->from == b->from && a->to == b->to && a->from_offset == b->from_offset &&
           a->to_offset == b->to_offset && a->bytes == b->bytes && a->word == b->word &&
           a->first_use == b->first_use && a->use_count == b->use_count && memcmp(a->args, b->args, a->args_bytes) == 0;
}

static bool same_list(const struct gpu_replay *kept, const struct gpu_record *r)
{
    if (kept->count != r->count || kept->use_count != r->use_count)
        return false;
    for (uint32_t i = 0; i < r->count; i++)
        if (!same_op(&kept->ops[i], &r->ops[i]))
            return false;
    for (uint32_t i = 0; i < r->use_count; i++) {
        const struct gpu_use *a = &kept->uses[i], *b = &r->uses[i];
        if (a->address != b->address || a->bytes != b->bytes || a->access != b->access)
            return false;
    }
    return true;
}

static bool may_replay(const struct gpu_device *dev)
{
    // The shuffle wants another order each time, and timers read other queries.
    return dev->record.count <= MOST_OPS && !dev->params.shuffle_seed && !dev->timers.on;
}

struct gpu_slot *replay_find(struct gpu_device *dev)
{
    if (!may_replay(dev))
        return NULL;
    for (int i = 0; i < GPU_SLOTS; i++) {
        struct gpu_slot *s = &dev->timeline.slots[i];
        if (s->ticket == 0 && s->replay.count > 0 && same_list(&s->replay, &dev->record))
            return s;
    }
    return NULL;
}

void replay_keep(struct gpu_device *dev, struct gpu_slot *slot)
{
    struct gpu_replay *k = &slot->replay;
    const struct gpu_record *r = &dev->record;
    k->count = k->use_count = 0;
    if (!may_replay(dev))
        return;
    if (r->count > k->room) {
        struct gpu_op *more = vireo_realloc(k->ops, r->count * sizeof *more);
        if (!more)
            return; // it is recorded again, then
        k->ops = more;
        k->room = r->count;
    }
    if (r->use_count > k->use_room) {
        struct gpu_use *more = vireo_realloc(k->uses, r->use_count * sizeof *more);
        if (!more)
            return;
        k->uses = more;
        k->use_room = r->use_count;
    }
    memcpy(k->ops, r->ops, r->count * sizeof *k->ops);
    if (r->use_count)
        memcpy(k->uses, r->uses, r->use_count * sizeof *k->uses);
    k->count = r->count;
    k->use_count = r->use_count;
}

void replay_forget(struct gpu_device *dev)
{
    for (int i = 0; i < GPU_SLOTS; i++)
        dev->timeline.slots[i].replay.count = 0;
}

void replay_finish(struct gpu_slot *slot)
{
    free(slot->replay.ops);
    free(slot->replay.uses);
    slot->replay = (struct gpu_replay){0};
}
