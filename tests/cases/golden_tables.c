// Tables without a model's arithmetic: windows, positions, the chat template, sampling.
#include "tests/cases/golden.h"

#include "compute/base/json.h"
#include "compute/image/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *rows_of(struct golden *g, const char *file, json_t **whole)
{
    struct vireo_error err;
    *whole = vireo_json_load(golden_path(g, "cases/%s", file), 64 << 20, &err);
    if (!*whole)
        golden_fail(g, "%s: %s", file, err.message);
    json_t *rows = json_object_get(*whole, "rows");
    return rows;
}

static struct image_grid grid_of(const json_t *thw, uint32_t merge)
{
    struct image_grid x = {(uint32_t)json_integer_value(json_array_get(thw, 0)),
                           (uint32_t)json_integer_value(json_array_get(thw, 1)),
                           (uint32_t)json_integer_value(json_array_get(thw, 2)), 0};
    x.tokens = x.t * x.h * x.w / (merge * merge);
    return x;
}

static void window_table(struct golden *g)
{
    json_t *whole, *rows = rows_of(g, "window_index.json", &whole), *row;
    size_t i;
    uint32_t wrong = 0;
    g->name = "window_index";
    json_array_foreach(rows, i, row)
    {
        const json_t *thw = json_object_get(row, "grid_thw"), *index = json_object_get(row, "window_index");
        const json_t *ends = json_object_get(row, "cu_window_seqlens");
        struct model_vision_config c = {
            .window_size = (uint32_t)json_integer_value(json_object_get(row, "window_size")),
            .patch_size = (uint32_t)json_integer_value(json_object_get(row, "patch_size")),
            .spatial_merge_size = (uint32_t)json_integer_value(json_object_get(row, "merge"))};
        uint32_t unit = c.spatial_merge_size * c.spatial_merge_size, total = 0, windows;
        struct image_grid grids[16];
        for (size_t k = 0; k < json_array_size(thw) && k < 16; k++) {
            grids[k] = grid_of(json_array_get(thw, k), c.spatial_merge_size);
            total += grids[k].tokens;
        }
        uint32_t *got = calloc(total + 1, 4), *end = calloc(total + 1, 4);
        vision_window_index(&c, grids, (uint32_t)json_array_size(thw), got, end, &windows);
        bool same = json_array_size(index) == total && (!ends || json_array_size(ends) == windows + 1);
        for (uint32_t k = 0; same && k < total; k++)
            same = json_integer_value(json_array_get(index, k)) == got[k];
        for (uint32_t k = 0; same && ends && k < windows; k++)
            same = json_integer_value(json_array_get(ends, k + 1)) == (json_int_t)end[k] * unit;
        wrong += !same;
        free(got);
        free(end);
    }
    golden_report(g, "rows that differ", json_array_size(rows) ? wrong : 1, 0);
    json_decref(whole);
}

static void rope_table(struct golden *g, const struct model *m)
{
    json_t *whole, *rows = rows_of(g, "rope_index.json", &whole), *row;
    size_t i;
    uint32_t wrong = 0, checked = 0, merge = m->config.vision.spatial_merge_size;
    g->name = "rope_index";
    json_array_foreach(rows, i, row)
    {
        const json_t *ids = json_object_get(row, "input_ids"), *mask = json_object_get(row, "attention_mask");
        const json_t *thw = json_object_get(row, "image_grid_thw"), *want = json_object_get(row, "position_ids_thw");
        const json_t *deltas = json_object_get(row, "rope_deltas");
        size_t next = 0;
        for (size_t b = 0; b < json_array_size(ids); b++) {
            const json_t *line = json_array_get(ids, b);
            uint32_t list[4096], place[4096], n = 0, images = 0;
            struct image_grid grids[16];
            for (size_t k = 0; k < json_array_size(line) && n < 4096; k++)
                if (json_integer_value(json_array_get(json_array_get(mask, b), k))) {
                    place[n] = (uint32_t)k;
                    list[n++] = (uint32_t)json_integer_value(json_array_get(line, k));
                }
            for (uint32_t k = 0; k < n; k++)
                if (list[k] == m->config.image_token_id && (k == 0 || list[k - 1] != m->config.image_token_id))
                    grids[images++] = grid_of(json_array_get(thw, next++), merge);
            struct vireo_error err;
            struct prompt p;
            bool same = prompt_from_ids(m, list, n, grids, images, &g->host, &p, &err);
            for (uint32_t k = 0; same && k < n; k++)
                for (int axis = 0; axis < 3; axis++)
                    same =
                        same && json_integer_value(json_array_get(json_array_get(json_array_get(want, (size_t)axis), b),
                                                                  place[k])) == p.positions[k][axis];
            same = same && json_integer_value(json_array_get(deltas, b)) == (json_int_t)p.next_position - (json_int_t)n;
            wrong += !same;
            checked++;
        }
    }
    golden_report(g, "sequences that differ", checked ? wrong : 1, 0);
    json_decref(whole);
}

static bool read_messages(const json_t *messages, struct chat *out, uint32_t *images)
{
    struct vireo_error err;
    size_t i, k;
    json_t *message, *part;
    *images = 0;
    json_array_foreach(messages, i, message)
    {
        const json_t *content = json_object_get(message, "content");
        if (!chat_add_message(out, json_string_value(json_object_get(message, "role")), &err))
            return false;
        if (json_is_string(content) &&
            !chat_add_text(out, json_string_value(content), json_string_length(content), &err))
            return false;
        json_array_foreach(content, k, part)
        {
            const json_t *text = json_object_get(part, "text");
            if (json_object_get(part, "video") ||
                (json_string_value(json_object_get(part, "type")) &&
                 strcmp(json_string_value(json_object_get(part, "type")), "video") == 0))
                return false;
            if (text ? !chat_add_text(out, json_string_value(text), json_string_length(text), &err)
                     : !chat_add_image(out, (*images)++, &err))
                return false;
        }
    }
    return true;
}

// The ids of the tiny tokenizer through template and prompt; rows with videos or template options are left out.
static void template_table(struct golden *g, const struct model *m)
{
    json_t *whole, *rows = rows_of(g, "chat_template.json", &whole), *row;
    size_t i;
    uint32_t wrong = 0, checked = 0;
    g->name = "chat_template";
    json_array_foreach(rows, i, row)
    {
        const json_t *ids = json_object_get(row, "tiny_ids"), *arguments = json_object_get(row, "arguments");
        struct chat chat;
        uint32_t images;
        chat_init(&chat, &g->host);
        if (json_object_size(arguments) > 1 || !read_messages(json_object_get(row, "messages"), &chat, &images))
            continue;
        struct image_grid one[16];
        for (int k = 0; k < 16; k++)
            one[k] = (struct image_grid){1, 2, 2, 1}; // one token an image: the placeholder itself
        struct prompt_options o = {.specials_in_text = true,
                                   .add_generation_prompt =
                                       json_is_true(json_object_get(arguments, "add_generation_prompt"))};
        struct prompt p;
        struct vireo_error err;
        bool same = prompt_build(m, &chat, one, images, &o, &g->host, &p, &err) && p.count == json_array_size(ids);
        for (uint32_t k = 0; same && k < p.count; k++)
            same = json_integer_value(json_array_get(ids, k)) == p.ids[k];
        if (!same)
            printf("     chat_template row %s differs\n", json_string_value(json_object_get(row, "name")));
        wrong += !same;
        checked++;
    }
    golden_report(g, "rows that differ", checked ? wrong : 1, 0);
    json_decref(whole);
}

static void sampling_table(struct golden *g)
{
    struct vireo_error err;
    json_t *whole = vireo_json_load(golden_path(g, "cases/sampling.json"), 1 << 20, &err), *c;
    struct safetensors *f = NULL;
    size_t i;
    g->name = "sampling";
    if (!whole || !safetensors_open(golden_path(g, "cases/sampling.safetensors"), &f, &err)) {
        golden_fail(g, "%s", err.message);
        return;
    }
    json_array_foreach(json_object_get(whole, "cases"), i, c)
    {
        size_t n, h, k;
        int number = (int)json_integer_value(json_object_get(c, "case"));
        const float *logits = golden_floats(g, f, arena_format(&g->host, "%d.logits", number), &n);
        const int32_t *history = golden_integers(g, f, arena_format(&g->host, "%d.history", number), &h);
        const float *want = golden_floats(g, f, arena_format(&g->host, "%d.probabilities", number), &k);
        float *got = arena_array(&g->host, float, n + 1);
        struct nn_edit *edits = arena_array(&g->host, struct nn_edit, h + 1);
        uint32_t edit_count = 0;
        for (size_t x = 0; x < h; x++) {
            bool seen = false;
            for (uint32_t y = 0; y < edit_count && !seen; y++)
                seen = edits[y].token == (uint32_t)history[x];
            if (!seen)
                edits[edit_count++] =
                    (struct nn_edit){.token = (uint32_t)history[x],
                                     .penalty = (float)json_number_value(json_object_get(c, "repetition_penalty"))};
        }
        struct sample_row row = {.temperature = (float)json_number_value(json_object_get(c, "temperature")),
                                 .top_k = (uint32_t)json_integer_value(json_object_get(c, "top_k")),
                                 .top_p = (float)json_number_value(json_object_get(c, "top_p")),
                                 .min_p = (float)json_number_value(json_object_get(c, "min_p")),
                                 .logprob_temperature = 1};
        struct tape *t = golden_tape(g, false);
        struct tensor x = tape_upload_matrix(t, DTYPE_F32, 1, (uint32_t)n, logits);
        struct tensor how = tape_upload_matrix(t, DTYPE_U32, 1, sizeof row / 4, &row);
        struct nn_edits e = nn_edits_build(t, (uint32_t[]){0, edit_count}, 1, edits, edit_count);
        struct tensor p = nn_sample_probabilities(t, x, how, (struct tensor){0}, &e);
        if (!tape_failed(t) && !gpu_read(g->dev, p.span, got, n * 4, &err))
            golden_fail(g, "%s", err.message);
        if (!golden_tape_end(g, &t))
            break;
        uint32_t support = 0;
        for (size_t v = 0; v < n; v++)
            support += (got[v] > 0) != (want[v] > 0);
        golden_compare(g, arena_format(&g->host, "%d probabilities", number), got, want, n, 0, 1e-6);
        golden_report(g, arena_format(&g->host, "%d support", number), support, 0);
    }
    safetensors_close(&f);
    json_decref(whole);
}

static void resize_table(struct golden *g)
{
    json_t *whole, *rows = rows_of(g, "smart_resize.json", &whole), *row;
    size_t i;
    uint32_t wrong = 0;
    g->name = "smart_resize";
    json_array_foreach(rows, i, row)
    {
        int64_t v[7];
        for (size_t k = 0; k < 7; k++)
            v[k] = json_integer_value(json_array_get(row, k));
        uint32_t h = 0, w = 0;
        struct vireo_error err;
        bool done = image_smart_resize((uint32_t)v[0], (uint32_t)v[1], (uint32_t)v[2], (uint64_t)v[3], (uint64_t)v[4],
                                       &h, &w, &err);
        wrong += v[5] < 0 ? done : !done || h != v[5] || w != v[6];
    }
    golden_report(g, "rows that differ", json_array_size(rows) ? wrong : 1, 0);
    json_decref(whole);
}

void golden_tables(struct golden *g)
{
    struct arena_mark mark = arena_mark(&g->host);
    g->name = "tables";
    struct model *m = golden_model(g, "tiny-qwen2_5_vl", DTYPE_F32);
    window_table(g);
    resize_table(g);
    sampling_table(g);
    if (m) {
        rope_table(g, m);
        template_table(g, m);
    }
    model_destroy(&m);
    arena_rewind(&g->host, mark);
}
