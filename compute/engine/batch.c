// The rows of one step, on the device: pictures through the vision tower once, then one packed batch of prompt parts,
// single tokens and samples that are computed again. Every kernel works row by row, so they may share it.
#include "compute/engine/internal.h"

#include "compute/base/check.h"

#include <string.h>

// ---- pictures

// The pictures that a part of a prompt needs, and those that must be computed first.
struct needed {
    struct feature **fresh;
    const struct patches **patches; // of the fresh ones
    uint32_t fresh_count;
    bool known; // some come from the pool
};

// Makes the pictures of the prompt tokens [computed, computed + take) present. Where the pool has no room beside what
// the batch needs already, the part ends before the picture.
static bool gather_pictures(struct engine *e, struct job *j, struct needed *p, struct vireo_error *err)
{
    const uint32_t unit = e->m->config.vision.spatial_merge_size * e->m->config.vision.spatial_merge_size;
    int32_t before = -1;
    for (uint32_t i = j->computed; i < j->computed + j->take; i++) {
        int32_t n = j->prompt.image[i];
        if (n < 0 || n == before)
            continue;
        before = n;
        const struct feature *known = features_find(e->features, j->digests[n]);
        if (known) {
            bool fresh = false;
            for (uint32_t k = 0; k < p->fresh_count && !fresh; k++)
                fresh = p->fresh[k] == known;
            p->known = p->known || !fresh;
            e->stats.image_hits++;
            continue;
        }
        struct feature *f = features_add(e->features, j->digests[n], (uint32_t)(j->g.images[n]->rows / unit));
        if (!f && i == j->computed && p->fresh_count == 0 && !p->known)
            return vireo_fail_memory(err, j->g.images[n]->rows);
        if (!f) {
            j->take = i - j->computed;
            return true;
        }
        p->patches[p->fresh_count] = j->g.images[n];
        p->fresh[p->fresh_count++] = f;
        e->stats.image_tokens += f->count;
    }
    return true;
}

// The vision tower over the fresh pictures; their rows go to the pool, where later batches find them.
static bool compute_pictures(struct engine *e, struct batch *b, const struct needed *p, struct vireo_error *err)
{
    struct tensor pool = features_pool(e->features);
    b->pictures = pool;
    if (p->fresh_count == 0)
        return true;
    if (!vision_batch_build(e->m, b->t, p->patches, p->fresh_count, &e->step, &b->vision, err))
        return false;
    const struct kept_place kept = tape_keep_begin(b->t, e->keep.vision, b->vision.merged);
    struct tensor out = e->m->family->vision(b->t, e->m, &b->vision);
    tape_keep_end(b->t);
    if (tape_failed(b->t))
        return true; // reported by tape_finish
    for (uint32_t i = 0; i < p->fresh_count; i++) {
        struct feature *f = p->fresh[i];
        const uint32_t first = b->vision.first[i];
        f->kept = (struct kept_place){kept.run, first};
        for (uint32_t k = 0; k < f->count; k++)
            f->place[k] = f->first + b->vision.row[first + k] - first;
        struct tensor from = tensor_row_part(out, first, f->count), to = tensor_row_part(pool, f->first, f->count);
        if (from.dtype == to.dtype)
            gpu_copy(e->m->dev, to.span, from.span, tensor_bytes(from));
        else
            nn_convert(b->t, to, from);
    }
    // Where every picture is fresh the text reads them directly.
    b->fresh = !p->known;
    if (b->fresh)
        b->pictures = out;
    return true;
}

// ---- rows

static bool add_pages(struct engine *e, struct batch *b, const uint32_t *pages, uint32_t count)
{
    if (b->page_count + count > b->page_room) {
        uint32_t room = VIREO_MAX(2 * b->page_room, b->page_count + count + 256);
        uint32_t *more = arena_array(&e->step, uint32_t, room);
        if (!more)
            return false;
        if (b->page_count)
            memcpy(more, b->pages, b->page_count * sizeof *more);
        b->pages = more;
        b->page_room = room;
    }
    memcpy(b->pages + b->page_count, pages, count * sizeof *pages);
    b->page_count += count;
    return true;
}

static bool add_draw(struct engine *e, struct batch *b, struct job *j, struct sequence *s, uint32_t row)
{
    if (b->row_count == b->row_room) {
        uint32_t room = VIREO_MAX(2 * b->row_room, 64);
        struct row *rows = arena_array(&e->step, struct row, room);
        uint32_t *hidden_row = arena_array(&e->step, uint32_t, room);
        if (!rows || !hidden_row)
            return false;
        if (b->row_count) {
            memcpy(rows, b->rows, b->row_count * sizeof *rows);
            memcpy(hidden_row, b->hidden_row, b->row_count * sizeof *hidden_row);
        }
        b->rows = rows;
        b->hidden_row = hidden_row;
        b->row_room = room;
    }
    b->hidden_row[b->row_count] = row;
    b->rows[b->row_count++] = (struct row){j, s};
    return true;
}

static uint32_t slot_of(const uint32_t *pages, uint32_t key)
{
    return pages[key / PAGE_TOKENS] * PAGE_TOKENS + key % PAGE_TOKENS;
}

// Which row of b->pictures the token of a picture reads.
static uint32_t picture_row(struct engine *e, const struct batch *b, const struct needed *p, const struct job *j,
                            uint32_t token)
{
    const struct feature *f = features_find(e->features, j->digests[j->prompt.image[token]]);
    vireo_assert(f);
    if (!b->fresh)
        return f->place[j->prompt.image_row[token]];
    uint32_t n = 0;
    while (p->fresh[n] != f)
        n++;
    return b->vision.row[b->vision.first[n] + j->prompt.image_row[token]];
}

static void tell_image(struct engine *e, const struct job *j, uint32_t token)
{
    const int32_t n = j->prompt.image[token];
    if (e->keep.vision && n >= 0)
        e->keep.on_image(e->keep.user, j->g.images[n], features_find(e->features, j->digests[n])->kept);
}

// The next part of a prompt; with its last token every sample that has drawn nothing draws its first one.
static bool prefill(struct engine *e, struct batch *b, const struct needed *p, struct job *j)
{
    const uint32_t list = b->page_count, end = j->computed + j->take;
    if (!add_pages(e, b, j->pages, j->page_count))
        return false;
    uint32_t row = 0;
    for (uint32_t i = j->computed; i < end; i++) {
        if (i == j->computed || j->prompt.image[i] != j->prompt.image[i - 1])
            tell_image(e, j, i);
        const uint32_t spans[4] = {list, i + 1, 0, 0};
        int32_t source = (int32_t)j->prompt.ids[i];
        if (j->prompt.image[i] >= 0)
            source = -1 - (int32_t)picture_row(e, b, p, j, i);
        row = text_rows_cached(&b->text, source, j->prompt.positions[i], spans, slot_of(j->pages, i));
    }
    j->computed = end;
    bool done = true;
    for (uint32_t i = 0; done && end == j->prompt.count && i < j->g.n; i++)
        if (!j->sequences[i].ended && j->sequences[i].count == 0)
            done = add_draw(e, b, j, &j->sequences[i], row);
    return done;
}

// The tail of the prompt stands in the same page as the sample's first tokens: every sample but the first gets a copy.
static void copy_tail(struct engine *e, struct job *j, const struct sequence *s)
{
    const uint32_t tail = j->prompt.count % PAGE_TOKENS, from = j->pages[j->page_count - 1] * PAGE_TOKENS;
    if (tail == 0 || s->sample == 0)
        return;
    for (uint32_t l = 0; l < e->m->config.text.num_hidden_layers; l++)
        for (int value = 0; value < 2; value++) {
            struct tensor pool = value ? e->kv[l].v : e->kv[l].k;
            struct tensor to = tensor_row_part(pool, s->own[0] * PAGE_TOKENS, tail);
            gpu_copy(e->m->dev, to.span, tensor_row_part(pool, from, tail).span, tensor_bytes(to));
        }
}

// The next tokens of a sample: the newest one, or those since it was preempted. The newest one's row draws.
static bool decode(struct engine *e, struct batch *b, struct job *j, struct sequence *s)
{
    const uint32_t list = b->page_count, P = j->prompt.count, whole = P / PAGE_TOKENS;
    if (s->fed == 0)
        copy_tail(e, j, s);
    if (!add_pages(e, b, j->pages, whole) || !add_pages(e, b, s->own, s->own_count))
        return false;
    uint32_t row = 0;
    for (uint32_t end = s->fed + s->take; s->fed < end; s->fed++) {
        const uint32_t spans[4] = {list, P + s->fed + 1, 0, 0}, position = j->prompt.next_position + s->fed;
        row = text_rows_cached(&b->text, (int32_t)s->ids[s->fed], (uint32_t[]){position, position, position}, spans,
                               slot_of(s->own, P % PAGE_TOKENS + s->fed));
    }
    return s->fed < s->count || add_draw(e, b, j, s, row);
}

// How rows share keys: which kernel of attention suits.
static void find_sharing(const struct batch *b, struct nn_spans *spans)
{
    const struct text_rows *r = &b->text;
    uint32_t alike = 0;
    spans->apart = true;
    for (uint32_t i = 1; i < r->count; i++) {
        const uint32_t *before = r->query[i - 1], *mine = r->query[i]; // first entry of the page list, keys
        spans->apart = spans->apart && before[0] != mine[0];
        alike += before[1] > 0 && mine[1] > 0 && b->pages[before[0]] == b->pages[mine[0]];
    }
    spans->together = 2 * alike >= r->count;
}

bool batch_run(struct engine *e, struct batch *b, struct tensor *hidden, struct vireo_error *err)
{
    uint32_t images = 0;
    for (struct job *j = e->running; j; j = j->next)
        images += j->take ? j->prompt.image_count : 0;
    struct needed p = {
        .fresh = arena_array(&e->step, struct feature *, images + 1),
        .patches = (const struct patches **)arena_array(&e->step, struct patches *, images + 1),
    };
    if (!p.fresh || !p.patches)
        return vireo_fail_memory(err, images * 16);
    features_unpin(e->features);
    for (struct job *j = e->running; j; j = j->next)
        if (!gather_pictures(e, j, &p, err))
            return false;
    if (!compute_pictures(e, b, &p, err))
        return false;
    text_rows_init(&b->text, &e->step);
    bool done = true;
    for (struct job *j = e->running; done && j; j = j->next) {
        if (j->take)
            done = prefill(e, b, &p, j);
        for (uint32_t i = 0; done && i < j->g.n; i++)
            if (j->sequences[i].take)
                done = decode(e, b, j, &j->sequences[i]);
    }
    *hidden = (struct tensor){0};
    if (!done || b->text.failed)
        return vireo_fail_memory(err, (size_t)b->text.count * 64);
    if (b->text.count == 0)
        return true;
    struct tensor pages = tape_upload(b->t, DTYPE_U32, b->page_count, b->pages);
    for (uint32_t l = 0; l < e->m->config.text.num_hidden_layers; l++) {
        e->kv[l].pages = pages;
        e->kv[l].page_size = PAGE_TOKENS;
    }
    struct text_batch text;
    if (!text_batch_build(e->m, b->t, &b->text, e->kv, &text, err))
        return false;
    find_sharing(b, &text.spans);
    const struct kept_place kept = tape_keep_begin(b->t, e->keep.text, text.tokens);
    *hidden = e->m->family->text(b->t, e->m, &text, b->pictures);
    tape_keep_end(b->t);
    hidden->node = 0; // what follows is not kept
    for (uint32_t i = 0; e->place && i < b->text.count; i++)
        e->place[b->text.slot[i]] = (struct kept_place){kept.run, i};
    return true;
}

bool batch_tell_places(struct engine *e, const struct job *j, const struct sequence *s)
{
    const uint32_t P = j->prompt.count;
    struct kept_place *places = arena_array(&e->step, struct kept_place, P + s->fed);
    if (!places)
        return false;
    for (uint32_t i = 0; i < P; i++)
        places[i] = e->place[slot_of(j->pages, i)];
    for (uint32_t i = 0; i < s->fed; i++)
        places[P + i] = e->place[slot_of(s->own, P % PAGE_TOKENS + i)];
    e->keep.on_sample(j->g.user, s->sample, places, P + s->fed);
    return true;
}
