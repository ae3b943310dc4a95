// The synthetic scenes: what they show, how their labels err, and the datasets written of them.
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/dataset/jsonl.h"
#include "compute/dataset/shapes.h"
#include "tests/check.h"

#include <unistd.h>

static struct vireo_error err;

static bool fits_question(const struct shapes_object *o, const char *text)
{
    static const char *const forms[] = {"circle", "square", "triangle", "diamond"};
    static const char *const colours[] = {"red", "green", "blue", "yellow", "purple", "cyan"};
    for (int i = 0; i < 4; i++)
        if (strstr(text, forms[i]) && (int)o->form != i)
            return false;
    for (int i = 0; i < 6; i++)
        if (strstr(text, colours[i]) && (int)o->colour != i)
            return false;
    return !(strstr(text, "small") && o->large) && !(strstr(text, "large") && !o->large);
}

static void scenes_keep_their_promises(void **state)
{
    (void)state;
    int counts[4] = {0}, kinds[4] = {0}, large = 0, objects = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        static struct shapes_scene s;
        shapes_scene(11, i, 1, 3, &s);
        REQUIRE(s.object_count >= 1 && s.object_count <= 3 && s.question_count >= 1);
        counts[s.object_count]++;
        for (int k = 0; k < s.object_count; k++) {
            const struct shapes_object *o = &s.objects[k];
            REQUIRE(o->colour <= SHAPES_YELLOW && o->form <= SHAPES_TRIANGLE);
            for (int c = 0; c < 4; c++)
                REQUIRE(o->box[c] % SHAPES_GRID == 0 && o->box[c] >= 0 && o->box[c] <= SHAPES_SIDE);
            REQUIRE_INT(o->box[2] - o->box[0], o->large ? 28 : 14);
            REQUIRE_INT(o->box[3] - o->box[1], o->large ? 28 : 14);
            for (int m = 0; m < k; m++)
                REQUIRE(o->box[0] >= s.objects[m].box[2] || o->box[2] <= s.objects[m].box[0] ||
                        o->box[1] >= s.objects[m].box[3] ||
                        o->box[3] <= s.objects[m].box[1]);
            large += o->large;
            objects++;
        }
        for (int q = 0; q < s.question_count; q++) {
            int fitting = 0;
            for (int k = 0; k < s.object_count; k++)
                fitting += fits_question(&s.objects[k], s.questions[q].text);
            if (fitting != 1 || !fits_question(&s.objects[s.questions[q].target], s.questions[q].text))
                fail_msg("scene %d: '%s' fits %d objects", (int)i, s.questions[q].text, fitting);
            const char *t = s.questions[q].text;
            int words = 1;
            for (const char *c = t; *c; c++)
                words += *c == ' ';
            kinds[words == 4 ? 1 : words == 2 ? 3 : strstr(t, "shape") ? 2 : 0]++;
        }
    }
    for (int i = 1; i <= 3; i++) // uniform over 1..3; crowded or ambiguous scenes shift it a little
        REQUIRE(counts[i] > 850 && counts[i] < 1150);
    for (int i = 0; i < 4; i++)
        REQUIRE(kinds[i] > 1000);
    REQUIRE_NEAR((double)large / objects, 0.47, 0.05); // even odds, but large ones are refused more often
}

// FNV-1a over a scene's pixels: the same bytes on every machine.
static uint64_t digest(const struct shapes_scene *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof s->pixels; i++)
        h = (h ^ s->pixels[i]) * 0x100000001b3u;
    return h;
}

static void scenes_follow_from_seed_and_index(void **state)
{
    (void)state;
    static struct shapes_scene a, b;
    uint64_t all = 0;
    for (uint64_t i = 0; i < 20; i++) {
        shapes_scene(5, i, 2, 3, &a);
        shapes_scene(5, 19 - i, 2, 3, &b);
        shapes_scene(5, i, 2, 3, &b);
        REQUIRE(memcmp(&a, &b, sizeof a) == 0);
        shapes_scene(6, i, 2, 3, &b);
        REQUIRE(memcmp(a.pixels, b.pixels, sizeof a.pixels) != 0);
        all = all * 31 + digest(&a);
    }
    if (all != 0x7a8b5d07235db4adu)
        fail_msg("digest of 20 scenes is 0x%llx", (unsigned long long)all);
}

static void light_and_noise_are_as_described(void **state)
{
    (void)state;
    static struct shapes_scene s;
    int noisy = 0, pixels = 0;
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        shapes_scene(21, i, 1, 1, &s);
        const int *box = s.objects[0].box;
        bool clean = true;
        for (int y = 0; y < SHAPES_SIDE; y++)
            for (int x = 0; x < SHAPES_SIDE; x++) {
                if (x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3])
                    continue;
                const uint8_t *p = s.pixels + 3 * (y * SHAPES_SIDE + x);
                clean &= p[2] == 140;
            }
        noisy += !clean;
        for (int y = 0; y < SHAPES_SIDE; y++)
            for (int x = 0; x < SHAPES_SIDE && i < 200; x++) {
                if (x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3])
                    continue;
                const uint8_t *p = s.pixels + 3 * (y * SHAPES_SIDE + x);
                int red = (int)(140 + 45 * (2 * x + 1 - 84) / 84.0), green = (int)(140 + 45 * (2 * y + 1 - 84) / 84.0);
                if (clean)
                    REQUIRE(p[0] == red && p[1] == green);
                else {
                    sum += p[2] - 139.5;
                    squares += (p[2] - 139.5) * (p[2] - 139.5);
                    pixels++;
                }
            }
    }
    REQUIRE(noisy > 240 && noisy < 360); // 300 +- 4 sigma
    REQUIRE_NEAR(sum / pixels, 0, 0.2);
    REQUIRE_NEAR(sqrt(squares / pixels), 12, 0.2);
    shapes_scene(21, 3, 1, 1, &s);
    const struct shapes_object *o = &s.objects[0];
    const uint8_t *centre = s.pixels + 3 * ((o->box[1] + o->box[3]) / 2 * SHAPES_SIDE + (o->box[0] + o->box[2]) / 2);
    static const int colours[4][3] = {{220, 40, 40}, {40, 180, 60}, {50, 80, 220}, {235, 210, 50}};
    for (int c = 0; c < 3; c++)
        REQUIRE(abs(centre[c] - colours[o->colour][c]) <= 15);
    // one offset for all channels
    REQUIRE_INT(centre[0] - colours[o->colour][0] == centre[1] - colours[o->colour][1], 1);
}

static void loose_labels_have_the_documented_rates(void **state)
{
    (void)state;
    static struct shapes_scene s;
    int moved = 0, movable = 0, wrong = 0, several = 0;
    for (uint64_t i = 0; i < 4000; i++) {
        shapes_scene(31, i, 2, 2, &s);
        int target = s.questions[0].target, box[4], again[4];
        shapes_sloppy_box(&s, target, 31, i, box);
        shapes_sloppy_box(&s, target, 31, i, again);
        REQUIRE(memcmp(box, again, sizeof box) == 0);
        // Whose box it is: the one it contains (an edge moves outward only).
        int owner = -1;
        for (int k = 0; k < s.object_count; k++) {
            const int *b = s.objects[k].box;
            bool inside = box[0] <= b[0] && box[1] <= b[1] && box[2] >= b[2] && box[3] >= b[3] && b[0] - box[0] <= 14 &&
                          b[1] - box[1] <= 14 && box[2] - b[2] <= 14 && box[3] - b[3] <= 14;
            if (inside && (owner < 0 || k == target))
                owner = k;
        }
        REQUIRE(owner >= 0);
        several += s.object_count == 2;
        wrong += s.object_count == 2 && owner != target;
        for (int e = 0; e < 4 && owner == target; e++) {
            int edge = s.objects[target].box[e], limit = e < 2 ? 0 : SHAPES_SIDE;
            movable += edge != limit;
            moved += box[e] != edge;
        }
    }
    REQUIRE_NEAR((double)wrong / several, 0.25, 0.03); // 4 sigma is 0.027
    REQUIRE_NEAR((double)moved / movable, 0.5, 0.025);
}

static void answers_are_written_as_the_model_shall(void **state)
{
    (void)state;
    struct shapes_object o = {.form = SHAPES_CIRCLE, .colour = SHAPES_RED, .large = false, .box = {14, 28, 28, 42}};
    char out[SHAPES_ANSWER_BYTES];
    shapes_answer(&o, o.box, out);
    REQUIRE_STRING(out, "<think>small red circle</think><answer>{\"bbox_2d\": [14,28,28,42]}</answer>");
}

static void generated_datasets_load(void **state)
{
    (void)state;
    char folder[] = "/tmp/vireo-shapes-XXXXXX", path[128];
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/train.jsonl", folder);
    struct shapes_dataset c = {.kind = SHAPES_SFT, .seed = 7, .count = 301, .scenes = 40, .objects_min = 2,
                               .objects_max = 3,
                               .pairs = true, .sloppy = true};
    REQUIRE_OK(shapes_write(&c, folder, &err));
    struct dataset d;
    struct jsonl_options o = {.want = JSONL_TARGET};
    REQUIRE_OK(jsonl_load(path, &o, &d, NULL, &err));
    REQUIRE_INT(d.count, 301);
    REQUIRE(d.image_count > 30 && d.image_count <= 40);
    uint32_t pairs = 0;
    for (uint32_t i = 0; i < d.count; i++) {
        const struct chat_message *m = &d.samples[i].prompt.messages[0];
        REQUIRE(m->part_count == 2 && m->parts[0].kind == CHAT_TEXT && m->parts[1].kind == CHAT_IMAGE);
        REQUIRE(strncmp(m->parts[0].text, "the ", 4) == 0);
        REQUIRE(strncmp(d.samples[i].target, "<think>", 7) == 0);
        if (i && d.samples[i].unit == d.samples[i - 1].unit) {
            pairs++;
            REQUIRE_INT(d.samples[i].images[0], d.samples[i - 1].images[0]);
            REQUIRE(strcmp(m->parts[0].text, d.samples[i - 1].prompt.messages[0].parts[0].text) != 0);
        }
    }
    REQUIRE(pairs > 120);
    for (uint32_t i = 0; i < d.image_count; i++) {
        struct file_bytes bytes;
        snprintf(path, sizeof path, "%s/%s", folder, d.images[i].name);
        REQUIRE_OK(file_read(path, 1 << 20, &bytes, &err));
        REQUIRE(bytes.size > 60 && memcmp(bytes.data, "\x89PNG", 4) == 0);
        file_bytes_free(&bytes);
    }
    dataset_finish(&d);
    // Evaluation: one question a scene, the true box as solution.
    c = (struct shapes_dataset){.kind = SHAPES_RFT, .seed = 8, .count = 20, .objects_min = 2, .objects_max = 3};
    REQUIRE_OK(shapes_write(&c, folder, &err));
    snprintf(path, sizeof path, "%s/train.jsonl", folder);
    o.want = JSONL_PROMPT;
    REQUIRE_OK(jsonl_load(path, &o, &d, NULL, &err));
    REQUIRE_INT(d.image_count, 20);
    for (uint32_t i = 0; i < d.count; i++) {
        static struct shapes_scene s;
        const json_t *item = d.samples[i].item, *solution = json_object_get(item, "solution");
        shapes_scene(8, i, 2, 3, &s);
        int target = (int)json_integer_value(json_object_get(item, "target"));
        REQUIRE_INT(json_array_size(json_object_get(item, "objects")), s.object_count);
        for (size_t k = 0; k < 4; k++)
            REQUIRE_INT(json_integer_value(json_array_get(solution, k)), s.objects[target].box[k]);
    }
    dataset_finish(&d);
    static const struct {
        struct shapes_dataset c;
        const char *param;
    } bad[] = {
        {{.count = 0, .objects_min = 1, .objects_max = 1}, "count"},
        {{.count = 50001, .objects_min = 1, .objects_max = 1}, "count"},
        {{.count = 1, .objects_min = 0, .objects_max = 1}, "objects"},
        {{.count = 1, .objects_min = 3, .objects_max = 2}, "objects"},
        {{.count = 1, .objects_min = 1, .objects_max = 7}, "objects"},
        {{.count = 1, .objects_min = 1, .objects_max = 1, .scenes = 50001}, "scenes"},
        {{.count = 1, .objects_min = 1, .objects_max = 1, .kind = SHAPES_RFT, .sloppy = true}, "sloppy"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        REQUIRE_FAIL(shapes_write(&bad[i].c, folder, &err), VIREO_INVALID);
        REQUIRE_STRING(err.param, bad[i].param);
    }
    vireo_fault_set("fail:file.write:0");
    REQUIRE(!shapes_write(&c, folder, &err));
    vireo_fault_set("");
    REQUIRE_OK(file_remove_tree(folder, &err));
}

static void the_corpus_has_all_words(void **state)
{
    (void)state;
    char **lines;
    static const char *const words[] = {"red", "green", "blue", "yellow", "purple", "cyan", "circle", "square",
                                        "triangle", "diamond",
                                        "small", "large", "shape", "leftmost", "rightmost", "top", "bottom", "largest",
                                        "smallest",
                                        "{\"bbox_2d\": [", "user\n", "assistant\n"};
    REQUIRE_OK(shapes_corpus(1, 600, &lines, &err));
    for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
        int count = 0;
        for (int i = 0; i < 600; i++)
            count += strstr(lines[i], words[w]) != NULL;
        if (count < 10)
            fail_msg("'%s' is in %d lines", words[w], count);
    }
    for (int i = 0; i < 600; i++)
        REQUIRE(strncmp(lines[i], "user\nthe ", 9) == 0 && strcmp(lines[i] + strlen(lines[i]) - 3, "]}\n") == 0);
    free(lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scenes_keep_their_promises),
        cmocka_unit_test(scenes_follow_from_seed_and_index),
        cmocka_unit_test(light_and_noise_are_as_described),
        cmocka_unit_test(loose_labels_have_the_documented_rates),
        cmocka_unit_test(answers_are_written_as_the_model_shall),
        cmocka_unit_test(generated_datasets_load),
        cmocka_unit_test(the_corpus_has_all_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
