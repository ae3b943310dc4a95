#include "compute/models/batch.h"

#include "compute/base/check.h"

#include <string.h>

enum { NO_SLOT = 0xffffffff };

bool vision_window_index(const struct model_vision_config *c, const struct image_grid *grids, uint32_t count,
                         uint32_t *index, uint32_t *window_ends, uint32_t *windows)
{
    uint32_t side = c->window_size / c->spatial_merge_size / c->patch_size, used = 0, base = 0;
    if (side == 0)
        return false;
    *windows = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t a = grids[i].h / c->spatial_merge_size, b = grids[i].w / c->spatial_merge_size;
        for (uint32_t frame = 0; frame < grids[i].t; frame++)
            for (uint32_t y = 0; y < a; y += side)
                for (uint32_t x = 0; x < b; x += side) {
                    for (uint32_t r = y; r < VIREO_MIN(y + side, a); r++)
                        for (uint32_t q = x; q < VIREO_MIN(x + side, b); q++)
                            index[used++] = base + (frame * a + r) * b + q;
                    window_ends[(*windows)++] = used;
                }
        base += grids[i].t * a * b;
    }
    return true;
}

// Bidirectional attention inside consecutive segments: ends[s] is the first row behind segment s.
static struct nn_spans segment_spans(struct tape *t, struct arena *a, const uint32_t *ends, uint32_t segments,
                                     uint32_t rows)
{
    struct nn_spans spans = {0};
    uint32_t(*query)[4] = arena_take_array(a, rows, sizeof *query);
    uint32_t(*key)[2] = arena_take_array(a, rows, sizeof *key);
    if (!query || !key) {
        tape_fail(t, VIREO_NO_MEMORY, "out of host memory for attention spans");
        return spans;
    }
    for (uint32_t s = 0, first = 0; s < segments; first = ends[s++]) {
        uint32_t n = ends[s] - first;
        for (uint32_t i = first; i < ends[s]; i++) {
            query[i][0] = first;
            query[i][1] = 0;
            query[i][2] = first;
            query[i][3] = n;
            key[i][0] = first;
            key[i][1] = ends[s];
        }
        spans.most_keys = VIREO_MAX(spans.most_keys, n);
        spans.pairs += (double)n * n;
    }
    spans.query = tape_upload_matrix(t, DTYPE_U32, rows, 4, query);
    if (tape_takes_gradients(t))
        spans.key = tape_upload_matrix(t, DTYPE_U32, rows, 2, key);
    return spans;
}

static bool fill_pixels(const struct patches *const *images, uint32_t count, const uint32_t *index, uint32_t merged,
                        uint32_t unit, float *pixels)
{
    // Rows of all images in order, found by walking: index is a permutation of groups of `unit` rows.
    uint32_t columns = (uint32_t)images[0]->columns, base = 0;
    uint32_t group = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t groups = (uint32_t)(images[i]->rows / unit);
        // Window order stays inside an image, so its groups fill [base, base + groups) of the output.
        for (uint32_t g = 0; g < groups; g++, group++)
            memcpy(pixels + (size_t)group * unit * columns,
                   images[i]->values + (size_t)(index[group] - base) * unit * columns,
                   (size_t)unit * columns * sizeof(float));
        base += groups;
    }
    return group == merged;
}

bool vision_batch_build(const struct model *m, struct tape *t, const struct patches *const *images, uint32_t count,
                        struct arena *a, struct vision_batch *out, struct vireo_error *err)
{
    const struct model_vision_config *c = &m->config.vision;
    uint32_t unit = c->spatial_merge_size * c->spatial_merge_size, D = c->hidden_size / c->num_heads;
    struct vision_batch b = {.image_count = count, .first = arena_array(a, uint32_t, count + 1)};
    struct image_grid *grids = arena_array(a, struct image_grid, count + 1);
    if (!b.first || !grids)
        return vireo_fail_memory(err, count * sizeof *grids);
    uint32_t columns = c->in_channels * c->temporal_patch_size * c->patch_size * c->patch_size;
    for (uint32_t i = 0; i < count; i++) {
        if (images[i]->columns != columns)
            return vireo_fail(err, VIREO_INTERNAL, "patches have %zu columns, the model wants %u", images[i]->columns,
                              columns);
        b.first[i] = b.merged;
        grids[i] = (struct image_grid){images[i]->t, images[i]->h, images[i]->w, (uint32_t)(images[i]->rows / unit)};
        if (VIREO_MAX(grids[i].h, grids[i].w) > m->vision_rope_positions)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_image", NULL,
                                   "Image has %u x %u patches, at most %u a side.", grids[i].w, grids[i].h,
                                   m->vision_rope_positions);
        b.merged += grids[i].tokens;
    }
    b.first[count] = b.merged;
    b.patches = b.merged * unit;
    uint32_t *index = arena_array(a, uint32_t, b.merged), *ends = arena_array(a, uint32_t, b.merged);
    uint32_t *full_ends = arena_array(a, uint32_t, b.merged);
    uint32_t(*positions)[4] = arena_take_array(a, b.patches, sizeof *positions);
    b.row = arena_array(a, uint32_t, b.merged);
    uint32_t windows = 0, frames = 0, end = 0;
    if (!index || !ends || !full_ends || !positions || !b.row)
        return vireo_fail_memory(err, (size_t)b.patches * 20);
    if (!vision_window_index(c, grids, count, index, ends, &windows))
        return vireo_fail(err, VIREO_INTERNAL, "window of zero size");
    for (uint32_t w = 0; w < windows; w++)
        ends[w] *= unit;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t f = 0; f < grids[i].t; f++)
            full_ends[frames++] = end += grids[i].h * grids[i].w;
    // Patch (2bh + ih, 2bw + iw) of merged token (bh, bw): rows of a group are raster order inside the block.
    for (uint32_t g = 0, image = 0; g < b.merged; g++) {
        b.row[index[g]] = g;
        while (g >= b.first[image + 1])
            image++;
        uint32_t side = c->spatial_merge_size, wide = grids[image].w / side, high = grids[image].h / side;
        uint32_t token = (index[g] - b.first[image]) % (wide * high);
        for (uint32_t k = 0; k < unit; k++) {
            positions[g * unit + k][0] = token / wide * side + k / side;
            positions[g * unit + k][1] = token % wide * side + k % side;
        }
    }
    b.pixels = tape_upload_matrix(t, DTYPE_F32, b.patches, columns, NULL);
    if (!tape_failed(t) && !fill_pixels(images, count, index, b.merged, unit, b.pixels.span.host))
        return vireo_fail(err, VIREO_INTERNAL, "window order does not cover the patches");
    b.rope = (struct nn_rope){.table = m->vision_rope,
                              .frequencies = D / 4,
                              .section = {D / 4, D / 4, 0},
                              .restart = true,
                              .positions = tape_upload_matrix(t, DTYPE_U32, b.patches, 4, positions)};
    b.window = segment_spans(t, a, ends, windows, b.patches);
    b.full = segment_spans(t, a, full_ends, frames, b.patches);
    if (tape_failed(t))
        return vireo_fail(err, VIREO_DEVICE_MEMORY, "no memory for %u image patches", b.patches);
    *out = b;
    return true;
}

void text_rows_init(struct text_rows *r, struct arena *a)
{
    *r = (struct text_rows){.a = a};
}

static bool reserve(struct text_rows *r, uint32_t more)
{
    if (r->failed || more <= r->room - r->count)
        return !r->failed;
    uint32_t room = VIREO_MAX(2 * r->room, r->count + more + 256);
    int32_t *source = arena_array(r->a, int32_t, room);
    uint32_t(*positions)[4] = arena_take_array(r->a, room, sizeof *positions);
    uint32_t(*query)[4] = arena_take_array(r->a, room, sizeof *query);
    uint32_t(*key)[2] = arena_take_array(r->a, room, sizeof *key);
    uint32_t *slot = arena_array(r->a, uint32_t, room);
    if (!source || !positions || !query || !key || !slot) {
        r->failed = true;
        return false;
    }
    if (r->count) {
        memcpy(source, r->source, r->count * sizeof *source);
        memcpy(positions, r->positions, r->count * sizeof *positions);
        memcpy(query, r->query, r->count * sizeof *query);
        memcpy(key, r->key, r->count * sizeof *key);
        memcpy(slot, r->slot, r->count * sizeof *slot);
    }
    r->source = source;
    r->positions = positions;
    r->query = query;
    r->key = key;
    r->slot = slot;
    r->room = room;
    return true;
}

uint32_t text_rows_prompt(struct text_rows *r, const struct prompt *p, const struct vision_batch *vision,
                          const uint32_t *images)
{
    uint32_t first = r->count;
    if (!reserve(r, p->count))
        return first;
    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t row = r->count++;
        r->source[row] = (int32_t)p->ids[i];
        if (p->image[i] >= 0)
            r->source[row] = -1 - (int32_t)vision->row[vision->first[images[p->image[i]]] + p->image_row[i]];
        memcpy(r->positions[row], p->positions[i], sizeof p->positions[i]);
        uint32_t query[4] = {first, 0, first, i + 1};
        memcpy(r->query[row], query, sizeof query);
        r->key[row][0] = row;
        r->key[row][1] = first + p->count;
        r->slot[row] = NO_SLOT;
    }
    return first;
}

uint32_t text_rows_completion(struct text_rows *r, uint32_t prompt_first, uint32_t prompt_count, const uint32_t *ids,
                              uint32_t count, uint32_t position)
{
    uint32_t first = r->count;
    if (!reserve(r, count))
        return first;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = r->count++;
        r->source[row] = (int32_t)ids[i];
        r->positions[row][0] = r->positions[row][1] = r->positions[row][2] = position + i;
        uint32_t query[4] = {prompt_first, prompt_count, first, i + 1};
        memcpy(r->query[row], query, sizeof query);
        r->key[row][0] = row;
        r->key[row][1] = first + count;
        r->slot[row] = NO_SLOT;
    }
    // Every row of the prompt is seen by all rows up to here: completions follow their prompt without a gap.
    for (uint32_t i = 0; i < prompt_count; i++)
        r->key[prompt_first + i][1] = r->count;
    return first;
}

uint32_t text_rows_cached(struct text_rows *r, int32_t source, const uint32_t positions[3], const uint32_t spans[4],
                          uint32_t slot)
{
    if (!reserve(r, 1))
        return r->count;
    uint32_t row = r->count++;
    r->source[row] = source;
    memcpy(r->positions[row], positions, 3 * sizeof *positions);
    memcpy(r->query[row], spans, sizeof r->query[row]);
    r->key[row][0] = r->key[row][1] = 0;
    r->slot[row] = slot;
    return row;
}

bool text_batch_build(const struct model *m, struct tape *t, const struct text_rows *r, struct nn_kv *kv,
                      struct text_batch *out, struct vireo_error *err)
{
    const struct model_text_config *c = &m->config.text;
    if (r->failed)
        return vireo_fail_memory(err, (size_t)r->count * 64);
    struct text_batch b = {.tokens = r->count, .kv = kv};
    for (uint32_t i = 0; i < r->count; i++) {
        for (int axis = 0; axis < 3; axis++)
            if (r->positions[i][axis] >= m->text_rope_positions)
                return vireo_fail_kind(err, VIREO_INVALID, "context_length_exceeded", NULL,
                                       "A token stands at position %u; this model is loaded for %u positions.",
                                       r->positions[i][axis], m->text_rope_positions);
        uint32_t keys = r->query[i][1] + r->query[i][3];
        b.spans.most_keys = VIREO_MAX(b.spans.most_keys, keys);
        b.spans.pairs += keys;
    }
    b.embedding = nn_embedding_build(t, r->source, r->count);
    b.rope = (struct nn_rope){.table = m->text_rope,
                              .frequencies = c->head_dim / 2,
                              .section = {c->mrope_section[0], c->mrope_section[1], c->mrope_section[2]},
                              .positions = tape_upload_matrix(t, DTYPE_U32, r->count, 4, r->positions)};
    b.spans.query = tape_upload_matrix(t, DTYPE_U32, r->count, 4, r->query);
    if (tape_takes_gradients(t))
        b.spans.key = tape_upload_matrix(t, DTYPE_U32, r->count, 2, r->key);
    if (kv) {
        struct tensor slot = tape_upload(t, DTYPE_U32, r->count, r->slot);
        for (uint32_t l = 0; l < c->num_hidden_layers; l++)
            kv[l].slot = slot;
    }
    if (tape_failed(t))
        return vireo_fail(err, VIREO_DEVICE_MEMORY, "no memory for a batch of %u tokens", r->count);
    *out = b;
    return true;
}
