#include "server/cli/draw.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/image/decode.h"
#include "compute/image/draw.h"
#include "compute/image/png.h"
#include "compute/rewards/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 4, PICTURE = 252, MARGIN = 14, CAPTION = 34, HEAD = 44, MOST = 48, LIMIT = 256 << 20 };
enum { PAPER = 0xffffff, INK = 0x202020, PALE = 0x707070, TRUTH = 0x18a048, BEFORE = 0xe06010, AFTER = 0x2050e0 };

// One thing to show. Strings are borrowed from the parsed files.
struct tile {
    const char *id, *question, *picture;
    double truth[4], box[2][4];
    bool answered[2], found[2]; // a row of the evaluation; a box in it
};

static json_t *rows_of(json_t *file)
{
    if (json_is_array(file))
        return file;
    static const char *const names[] = {"rows", "data"};
    for (size_t i = 0; i < 2; i++)
        if (json_is_array(json_object_get(file, names[i])))
            return json_object_get(file, names[i]);
    json_t *result = json_object_get(file, "result");
    return result ? rows_of(result) : NULL;
}

static const char *completion_of(const json_t *row)
{
    const json_t *samples = json_object_get(row, "samples");
    const char *text = json_string_value(json_object_get(json_array_get(samples, 0), "completion"));
    return text ? text : json_string_value(json_object_get(row, "completion"));
}

static bool read_answers(const char *path, int which, struct tile *tiles, uint32_t count, struct vireo_error *err)
{
    json_t *file = vireo_json_load(path, LIMIT, err), *row;
    if (!file)
        return vireo_explain(err, "%s: ", path);
    json_t *rows = rows_of(file);
    uint32_t matched = 0;
    size_t i;
    json_array_foreach (rows, i, row) {
        const char *id = json_string_value(json_object_get(row, "row_id")), *answer = completion_of(row);
        for (uint32_t k = 0; id && answer && k < count; k++) {
            struct tile *t = &tiles[k];
            if (strcmp(t->id, id) != 0)
                continue;
            struct text all = parse_text_of(answer, strlen(answer)), inside;
            t->answered[which] = true;
            t->found[which] = answer_first(all, &inside) && box_find(inside, 0, t->box[which], NULL, NULL);
            matched++;
        }
    }
    json_decref(file);
    if (!rows)
        return vireo_fail(err, VIREO_INVALID, "%s: holds no rows of an evaluation (\"rows\" or \"data\")", path);
    return matched ||
           vireo_fail(err, VIREO_INVALID, "%s: none of its rows is among the first %u of the data", path, count);
}

// Question and picture of one row in OpenAI's form, as datasets generate writes it.
static bool read_row(const json_t *row, struct tile *t)
{
    const json_t *turn, *part, *box = json_object_get(row, "solution");
    size_t i, k;
    *t = (struct tile){.id = json_string_value(json_object_get(row, "id"))};
    json_array_foreach (json_object_get(row, "messages"), i, turn)
        json_array_foreach (json_object_get(turn, "content"), k, part) {
            const char *text = json_string_value(json_object_get(part, "text"));
            const char *url = json_string_value(json_object_get(json_object_get(part, "image_url"), "url"));
            t->question = text ? text : t->question;
            t->picture = url ? url : t->picture;
        }
    for (i = 0; i < 4; i++)
        t->truth[i] = json_number_value(json_array_get(box, i));
    return t->id && t->question && t->picture && json_array_size(box) == 4 && !strchr(t->picture, '/');
}

// *keep holds the strings of the tiles.
static bool read_data(const char *folder, uint32_t most, struct tile *tiles, uint32_t *count, json_t **keep,
                      struct vireo_error *err)
{
    char path[600];
    struct file_bytes bytes;
    snprintf(path, sizeof path, "%s/train.jsonl", folder);
    if (!file_read(path, LIMIT, &bytes, err))
        return false;
    json_t *list = json_array();
    bool done = list || vireo_fail_memory(err, 64);
    uint32_t n = 0;
    for (char *line = bytes.data, *end; done && n < most && *line; line = end + (*end != 0)) {
        end = line + strcspn(line, "\n");
        if (end == line)
            continue;
        json_t *row = vireo_json_parse(line, (size_t)(end - line), err);
        done = row && json_array_append_new(list, row) == 0;
        if (!done)
            vireo_explain(err, "%s: ", path);
        else if (!read_row(row, &tiles[n++]))
            done = vireo_fail(err, VIREO_INVALID,
                              "%s: row %u has no id, question, picture by file name, and solution of four numbers", path, n);
    }
    file_bytes_free(&bytes);
    if (done && n == 0)
        done = vireo_fail(err, VIREO_INVALID, "%s: holds no rows", path);
    *count = n;
    *keep = list;
    return done;
}

// Copies `from`, scaled by whole pixels so that it fits the square at (x, y). Returns the scale as output / input.
static double paste(struct image *to, const struct image *from, uint32_t x, uint32_t y)
{
    uint32_t longest = from->width > from->height ? from->width : from->height;
    uint32_t width = (uint32_t)((uint64_t)from->width * PICTURE / longest);
    uint32_t height = (uint32_t)((uint64_t)from->height * PICTURE / longest);
    for (uint32_t r = 0; r < height; r++)
        for (uint32_t c = 0; c < width; c++) {
            uint64_t source = (uint64_t)r * longest / PICTURE * from->width + (uint64_t)c * longest / PICTURE;
            memcpy(to->rgb + ((uint64_t)(y + r) * to->width + x + c) * 3, from->rgb + source * 3, 3);
        }
    return (double)PICTURE / longest;
}

static void draw_box(struct image *to, const double box[4], double scale, uint32_t x, uint32_t y, int inset, uint32_t colour,
                     bool dashed)
{
    int64_t at[4];
    for (int i = 0; i < 4; i++) {
        double v = box[i] < -1e4 ? -1e4 : box[i] > 1e5 ? 1e5 : box[i];
        at[i] = (int64_t)(v * scale + 0.5);
        at[i] = at[i] < 0 ? 0 : at[i] > PICTURE ? PICTURE : at[i]; // what points beyond the picture ends at its rim
    }
    at[0] += x + inset, at[2] += x - inset, at[1] += y + inset, at[3] += y - inset;
    if (dashed)
        image_dashed_box(to, at[0], at[1], at[2], at[3], 3, 8, colour);
    else
        image_box(to, at[0], at[1], at[2], at[3], 3, colour);
}

static void overlap_text(const struct tile *t, int which, char *out, size_t size)
{
    if (!t->answered[which])
        snprintf(out, size, "not asked");
    else if (!t->found[which])
        snprintf(out, size, "no box");
    else
        snprintf(out, size, "%.2f", box_iou(t->truth, t->box[which]));
}

static bool draw_tile(struct image *sheet, const char *folder, const struct tile *t, bool two, uint32_t x, uint32_t y,
                      struct vireo_error *err)
{
    char path[900], first[24], second[24], caption[80];
    struct file_bytes bytes;
    struct image picture;
    snprintf(path, sizeof path, "%s/%s", folder, t->picture);
    if (!file_read(path, LIMIT, &bytes, err))
        return false;
    bool done = image_decode((const uint8_t *)bytes.data, bytes.size, NULL, &picture, err);
    file_bytes_free(&bytes);
    if (!done)
        return vireo_explain(err, "%s: ", path);
    double scale = paste(sheet, &picture, x, y);
    image_finish(&picture);
    draw_box(sheet, t->truth, scale, x, y, 0, TRUTH, false);
    if (t->found[0])
        draw_box(sheet, t->box[0], scale, x, y, 3, BEFORE, true);
    if (t->found[1])
        draw_box(sheet, t->box[1], scale, x, y, 6, AFTER, false);
    overlap_text(t, 0, first, sizeof first);
    overlap_text(t, 1, second, sizeof second);
    snprintf(caption, sizeof caption, two ? "overlap %s -> %s" : "overlap %s", first, second);
    image_text(sheet, x, y + PICTURE + 4, 1, INK, t->question);
    image_text(sheet, x, y + PICTURE + 18, 1, PALE, caption);
    return true;
}

static void draw_legend(struct image *sheet, bool two)
{
    static const struct {
        const char *text;
        uint32_t colour;
    } entries[] = {{"truth", TRUTH}, {"before", BEFORE}, {"after", AFTER}};
    int64_t x = MARGIN, width, height;
    for (int i = 0; i < (two ? 3 : 2); i++) {
        const char *text = i == 1 && !two ? "answer" : entries[i].text;
        if (i == 1)
            image_dashed_box(sheet, x, MARGIN, x + 24, MARGIN + 18, 3, 8, entries[i].colour);
        else
            image_box(sheet, x, MARGIN, x + 24, MARGIN + 18, 3, entries[i].colour);
        image_text(sheet, x + 30, MARGIN + 2, 1, INK, text);
        image_text_size(text, 1, &width, &height);
        x += 30 + width + 24;
    }
}

bool draw_comparison(const struct draw_params *p, struct vireo_error *err)
{
    if (p->count < 1 || p->count > MOST)
        return vireo_fail_param(err, "count", "count is %u: 1 to %d are possible", p->count, MOST);
    struct tile *tiles = vireo_calloc(p->count, sizeof *tiles);
    struct image sheet = {0};
    json_t *keep = NULL;
    uint8_t *png = NULL;
    size_t size = 0;
    uint32_t count = 0;
    if (!tiles)
        return vireo_fail_memory(err, p->count * sizeof *tiles);
    bool done = read_data(p->data, p->count, tiles, &count, &keep, err) && read_answers(p->before, 0, tiles, count, err) &&
                (!p->after || read_answers(p->after, 1, tiles, count, err));
    if (done) {
        uint32_t columns = count < COLUMNS ? count : COLUMNS, rows = (count + COLUMNS - 1) / COLUMNS;
        done = image_init(&sheet, MARGIN + columns * (PICTURE + MARGIN), HEAD + rows * (PICTURE + CAPTION + MARGIN), err);
    }
    if (done) {
        image_fill(&sheet, 0, 0, sheet.width, sheet.height, PAPER);
        draw_legend(&sheet, p->after != NULL);
    }
    for (uint32_t i = 0; done && i < count; i++)
        done = draw_tile(&sheet, p->data, &tiles[i], p->after != NULL, MARGIN + i % COLUMNS * (PICTURE + MARGIN),
                         HEAD + i / COLUMNS * (PICTURE + CAPTION + MARGIN), err);
    done = done && image_write_png(&sheet, &png, &size, err) && file_write_atomic(p->out, png, size, err);
    free(png);
    image_finish(&sheet);
    json_decref(keep);
    free(tiles);
    return done;
}
