// The picture of evaluations beside the truth (server/cli/draw.h).
#include "server/cli/draw.h"

#include "compute/base/file.h"
#include "compute/dataset/shapes.h"
#include "compute/image/decode.h"
#include "tests/check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/vireo-draw-XXXXXX", data[64], before[64], after[64], out[64];

static void write_text(const char *path, const char *text)
{
    struct vireo_error err;
    REQUIRE(file_write_atomic(path, text, strlen(text), &err));
}

static int set_up(void **state)
{
    struct vireo_error err;
    struct shapes_dataset d = {.kind = SHAPES_RFT, .seed = 7, .count = 6, .objects_min = 2, .objects_max = 3};
    if (!mkdtemp(folder))
        return 1;
    snprintf(data, sizeof data, "%s/data", folder);
    snprintf(before, sizeof before, "%s/before.json", folder);
    snprintf(after, sizeof after, "%s/after.json", folder);
    snprintf(out, sizeof out, "%s/out.png", folder);
    return !shapes_write(&d, data, &err);
}

static int tear_down(void **state)
{
    struct vireo_error err;
    return !file_remove_tree(folder, &err);
}

static const char *answer_of(const char *box)
{
    static char text[400];
    snprintf(text, sizeof text,
             "{\"rows\": [{\"row_id\": \"shapes-7-0\", \"samples\": [{\"completion\": \"<think>x</think><answer>{\\\"bbox_2d\\\": "
             "%s}</answer>\"}]}]}", box);
    return text;
}

// How many pixels of the picture have this colour.
static int count_colour(uint32_t colour)
{
    struct vireo_error err;
    struct file_bytes bytes;
    struct image im;
    REQUIRE(file_read(out, 64 << 20, &bytes, &err));
    REQUIRE(image_decode((const uint8_t *)bytes.data, bytes.size, NULL, &im, &err));
    int n = 0;
    for (size_t i = 0; i < (size_t)im.width * im.height; i++)
        n += im.rgb[3 * i] == colour >> 16 && im.rgb[3 * i + 1] == (colour >> 8 & 255) && im.rgb[3 * i + 2] == (colour & 255);
    image_finish(&im);
    file_bytes_free(&bytes);
    return n;
}

static void boxes_are_drawn_where_the_answers_say(void **state)
{
    struct vireo_error err = {0};
    struct draw_params p = {.data = data, .before = before, .after = after, .out = out, .count = 1};
    write_text(before, answer_of("[0,0,28,28]"));
    write_text(after, answer_of("[14,14,84,84]"));
    REQUIRE(draw_comparison(&p, &err));
    int truth = count_colour(0x18a048), orange = count_colour(0xe06010), blue = count_colour(0x2050e0);
    REQUIRE(truth > 300 && orange > 200);
    // The sides of the blue box, 3 pixels wide and inset by 6, and its sign in the legend.
    int side = (84 - 14) * 3 - 12, box = 4 * 3 * (side - 3), sign = 2 * 3 * (24 + 18 - 6);
    REQUIRE_INT(blue, box + sign);
    // An answer far beyond the picture is drawn at its rim, never elsewhere.
    write_text(after, answer_of("[0,0,99999999999999999999,5]"));
    REQUIRE(draw_comparison(&p, &err));
}

static void an_answer_without_a_box_shows_the_truth_alone(void **state)
{
    struct vireo_error err = {0};
    struct draw_params p = {.data = data, .before = before, .out = out, .count = 2};
    write_text(before, "[{\"row_id\": \"shapes-7-0\", \"samples\": [{\"completion\": \"none\"}]}]");
    REQUIRE(draw_comparison(&p, &err));
    int legend = count_colour(0xe06010);
    write_text(before, answer_of("[0,0,28,28]"));
    REQUIRE(draw_comparison(&p, &err));
    REQUIRE(count_colour(0xe06010) > legend);
}

static void what_is_wrong_is_named(void **state)
{
    struct vireo_error err = {0};
    struct draw_params p = {.data = data, .before = before, .out = out, .count = 0};
    REQUIRE(!draw_comparison(&p, &err));
    REQUIRE_STRING(err.param, "count");
    p.count = 3;
    write_text(before, "{\"mean\": 1}");
    REQUIRE(!draw_comparison(&p, &err));
    REQUIRE(strstr(err.message, "no rows") && strstr(err.message, "before.json"));
    write_text(before, "[{\"row_id\": \"other\", \"completion\": \"x\"}]");
    REQUIRE(!draw_comparison(&p, &err));
    REQUIRE(strstr(err.message, "none of its rows"));
    write_text(before, "{");
    REQUIRE(!draw_comparison(&p, &err));
    p.data = folder;
    REQUIRE(!draw_comparison(&p, &err));
    REQUIRE(strstr(err.message, "train.jsonl"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boxes_are_drawn_where_the_answers_say),
        cmocka_unit_test(an_answer_without_a_box_shows_the_truth_alone),
        cmocka_unit_test(what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
