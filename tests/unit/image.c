// Decoding, orientation, alpha, resizing, patches, PNG writing, drawing; against tests/data/fixtures/images.
#include "compute/base/fault.h"
#include "compute/base/hash.h"
#include "compute/base/json.h"
#include "compute/checkpoint/safetensors.h"
#include "compute/image/draw.h"
#include "compute/image/patch.h"
#include "compute/image/png.h"
#include "compute/image/resize.h"
#include "tests/unit/image.h"

// The PNG beside expected.json that holds what image `name` must become at `stage`.
static struct image expected(const char *name, const char *stage)
{
    char path[256], flat[64];
    snprintf(flat, sizeof flat, "%s", name);
    *strchr(flat, '.') = '_';
    snprintf(path, sizeof path, "fixtures/images/expected/%s.%s.png", flat, stage);
    return decode_data(path);
}

static json_t *expected_table(void)
{
    json_t *table = vireo_json_load(test_data("fixtures/images/expected.json"), 1 << 20, &err);
    REQUIRE(table);
    return table;
}

static void images_decode_as_the_reference_does(void **state)
{
    (void)state;
    json_t *table = expected_table(), *entry;
    const char *name;
    int seen = 0;
    json_object_foreach(json_object_get(table, "images"), name, entry) {
        char path[256];
        snprintf(path, sizeof path, "fixtures/images/%s", name);
        struct file_bytes bytes = read_data(path);
        struct image_info info;
        REQUIRE_OK(image_probe((uint8_t *)bytes.data, bytes.size, NULL, &info, &err));
        struct image im = decode_data(path), want = expected(name, "decoded");
        const json_t *hw = json_object_get(entry, "decoded_hw");
        REQUIRE_INT(info.height, json_integer_value(json_array_get(hw, 0)));
        REQUIRE_INT(info.width, json_integer_value(json_array_get(hw, 1)));
        REQUIRE_STRING(image_format_name(info.format), json_string_value(json_object_get(entry, "format")));
        const char *mode = json_string_value(json_object_get(entry, "mode"));
        bool alpha = strcmp(mode, "RGBA") == 0 || strcmp(mode, "LA") == 0 ||
                     strcmp(name, "palette_transparent.png") == 0;
        if (info.format == IMAGE_JPEG)
            require_same(&im, &want, strstr(name, "420") ? 16 : 4, strstr(name, "420") ? 1.5 : 1, name);
        else
            require_same(&im, &want, alpha ? 1 : 0, 1, name);
        image_finish(&im);
        image_finish(&want);
        file_bytes_free(&bytes);
        seen++;
    }
    REQUIRE_INT(seen, 14);
    json_decref(table);
}

static void resizing_and_pixel_values_match_byte_for_byte(void **state)
{
    (void)state;
    json_t *table = expected_table(), *entry;
    const char *name;
    struct image_processor p = image_processor_qwen2_5_vl();
    p.max_pixels = 50176;
    json_object_foreach(json_object_get(table, "images"), name, entry) {
        struct image decoded = expected(name, "decoded"), want = expected(name, "resized"), sized;
        uint32_t h, w;
        REQUIRE_OK(image_smart_resize(decoded.height, decoded.width, 28, 3136, 50176, &h, &w, &err));
        REQUIRE_INT(h, want.height);
        REQUIRE_INT(w, want.width);
        REQUIRE_OK(image_resize(&decoded, w, h, &sized, &err));
        require_same(&sized, &want, 0, 0, name);
        struct patches q, again;
        REQUIRE_OK(image_patches(&p, &decoded, &q, &err));
        const json_t *grid = json_object_get(entry, "grid_thw");
        REQUIRE_INT(q.t, json_integer_value(json_array_get(grid, 0)));
        REQUIRE_INT(q.h, json_integer_value(json_array_get(grid, 1)));
        REQUIRE_INT(q.w, json_integer_value(json_array_get(grid, 2)));
        REQUIRE_INT(q.columns, 1176);
        uint32_t thw[3];
        uint64_t tokens;
        REQUIRE_OK(image_grid(&p, decoded.height, decoded.width, thw, &tokens, &err));
        REQUIRE_INT(thw[1] * thw[2], q.rows);
        REQUIRE_INT(tokens * 4, q.rows);
        // The reference's values were hashed as float32 bytes: not one bit may differ.
        uint8_t digest[HASH_BYTES];
        char text[HASH_TEXT];
        REQUIRE(hash_bytes(q.values, q.rows * q.columns * 4, digest));
        hash_text(digest, text);
        REQUIRE_STRING(text, json_string_value(json_object_get(entry, "pixel_values_sha256_f32le")));
        REQUIRE_OK(image_cut_patches(&p, &sized, 1, &again, &err));
        REQUIRE(memcmp(q.values, again.values, q.rows * q.columns * 4) == 0);
        patches_finish(&q);
        patches_finish(&again);
        image_finish(&decoded);
        image_finish(&want);
        image_finish(&sized);
    }
    json_decref(table);
}

static void case_image_gives_the_models_input(void **state)
{
    (void)state;
    struct safetensors *s;
    REQUIRE_OK(safetensors_open(test_data("fixtures/cases/one_image.safetensors"), &s, &err));
    const struct safetensor *t = safetensors_find(s, "pixel_values");
    REQUIRE(t);
    struct image_processor p = image_processor_qwen2_5_vl();
    p.max_pixels = 50176;
    struct image im = decode_data("fixtures/cases/images/case0.png");
    struct patches q;
    REQUIRE_OK(image_patches(&p, &im, &q, &err));
    REQUIRE_INT(q.rows, t->shape[0]);
    REQUIRE_INT(q.columns, t->shape[1]);
    float *want = malloc(t->bytes);
    REQUIRE_OK(safetensors_floats(t, 0, t->count, want, &err));
    for (size_t i = 0; i < t->count; i++)
        REQUIRE_NEAR(q.values[i], want[i], 2e-6);
    free(want);
    patches_finish(&q);
    image_finish(&im);
    safetensors_close(&s);
}

static void clips_repeat_the_last_frame(void **state)
{
    (void)state;
    struct image_processor p = image_processor_qwen2_5_vl();
    p.patch_size = 2;
    struct image frames[3];
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(image_init(&frames[i], 4, 4, &err));
        memset(frames[i].rgb, 100 * i, 48);
    }
    struct patches q;
    REQUIRE_OK(image_cut_patches(&p, frames, 3, &q, &err));
    REQUIRE_INT(q.t, 2);
    REQUIRE_INT(q.rows, 8);
    REQUIRE_INT(q.columns, 24);
    float black = (0.0f - p.mean[0]) / p.std[0], bright = ((float)(200 / 255.0) - p.mean[0]) / p.std[0];
    REQUIRE_NEAR(q.values[0], black, 0);
    REQUIRE_NEAR(q.values[4], ((float)(100 / 255.0) - p.mean[0]) / p.std[0], 0); // second frame of the first pair
    REQUIRE_NEAR(q.values[4 * 24], bright, 0);
    REQUIRE_NEAR(q.values[4 * 24 + 4], bright, 0);
    patches_finish(&q);
    image_finish(&frames[1]);
    REQUIRE_OK(image_init(&frames[1], 4, 8, &err));
    REQUIRE_FAIL(image_cut_patches(&p, frames, 3, &q, &err), VIREO_INVALID);
    for (int i = 0; i < 3; i++)
        image_finish(&frames[i]);
}

static void smart_resize_matches_the_table(void **state)
{
    (void)state;
    json_t *table = vireo_json_load(test_data("fixtures/cases/smart_resize.json"), 1 << 20, &err), *row;
    REQUIRE(table);
    size_t i;
    json_array_foreach(json_object_get(table, "rows"), i, row) {
        json_int_t v[7];
        for (size_t k = 0; k < 7; k++)
            v[k] = json_integer_value(json_array_get(row, k));
        uint32_t h = 0, w = 0;
        bool done = image_smart_resize((uint32_t)v[0], (uint32_t)v[1], (uint32_t)v[2], (uint64_t)v[3], (uint64_t)v[4],
                                       &h, &w, &err);
        if (v[5] < 0) {
            REQUIRE(!done);
            REQUIRE_STRING(err.kind, "invalid_image_aspect_ratio");
        } else if (!done || h != v[5] || w != v[6]) {
            fail_msg("row %zu: %lld x %lld gives %u x %u, expected %lld x %lld", i, (long long)v[0], (long long)v[1],
                     h, w,
                     (long long)v[5], (long long)v[6]);
        }
    }
    REQUIRE(i > 300);
    json_decref(table);
    // Sizes where h/beta/f and h/(beta*f) fall on different sides of a whole number; values by Python's arithmetic.
    static const uint32_t close[][5] = {
        {4216, 4216, 12845056, 3556, 3556}, {3268, 817, 200704, 868, 196}, {2820, 2820, 50176, 196, 196}};
    for (i = 0; i < 3; i++) {
        uint32_t h, w;
        REQUIRE_OK(image_smart_resize(close[i][0], close[i][1], 28, 3136, close[i][2], &h, &w, &err));
        REQUIRE_INT(h, close[i][3]);
        REQUIRE_INT(w, close[i][4]);
    }
}

static void all_eight_orientations_turn_as_viewers_do(void **state)
{
    (void)state;
    // 3 x 2 pixels a b c / d e f; what each orientation shows, row by row, and its width.
    static const struct {
        const char *shown;
        uint32_t width;
    } want[] = {{"abcdef", 3}, {"cbafed", 3}, {"fedcba", 3}, {"defabc", 3},
                {"adbecf", 2}, {"daebfc", 2}, {"fcebda", 2}, {"cfbead", 2}};
    for (int o = 1; o <= 8; o++) {
        struct image im;
        REQUIRE_OK(image_init(&im, 3, 2, &err));
        for (int i = 0; i < 6; i++)
            memset(im.rgb + 3 * i, 'a' + i, 3);
        REQUIRE_OK(image_orient(&im, o, &err));
        char shown[7] = {0};
        for (int i = 0; i < 6; i++)
            shown[i] = (char)im.rgb[3 * i + 1];
        REQUIRE_STRING(shown, want[o - 1].shown);
        REQUIRE_INT(im.width, want[o - 1].width);
        image_finish(&im);
    }
}

static void alpha_composes_as_pillow_does(void **state)
{
    (void)state;
    // Values of Pillow's formula worked out by hand: white stays white, black under alpha a gives 255 - a.
    for (int a = 0; a < 256; a++) {
        uint8_t rgb[3];
        image_over_white((uint8_t[4]){0, 255, 128, (uint8_t)a}, 1, rgb);
        REQUIRE_INT(rgb[0], 255 - a);
        REQUIRE_INT(rgb[1], 255);
        REQUIRE_NEAR(rgb[2], (128.0 * a + 255.0 * (255 - a)) / 255, 0.51);
    }
}

static void webp_decodes_with_alpha_and_orientation(void **state)
{
    (void)state;
    if (!image_format_built(IMAGE_WEBP)) {
        struct file_bytes bytes = read_data("images/rgb.webp");
        struct image_info info;
        REQUIRE_FAIL(image_probe((uint8_t *)bytes.data, bytes.size, NULL, &info, &err), VIREO_UNSUPPORTED);
        file_bytes_free(&bytes);
        return;
    }
    struct image plain = decode_data("images/rgb.webp"), alpha = decode_data("images/alpha.webp");
    struct image turned = decode_data("images/exif.webp");
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 5; x++) {
            uint8_t pixel[4] = {(uint8_t)(40 * x + 10), (uint8_t)(80 * y + 5), (uint8_t)(200 - 30 * x),
                                (uint8_t)(51 * x)};
            uint8_t white[3];
            image_over_white(pixel, 1, white);
            REQUIRE(memcmp(plain.rgb + (y * 5 + x) * 3, pixel, 3) == 0);
            REQUIRE(memcmp(alpha.rgb + (y * 5 + x) * 3, white, 3) == 0);
            REQUIRE(memcmp(turned.rgb + (x * 3 + 2 - y) * 3, pixel, 3) == 0);
        }
    image_finish(&plain);
    image_finish(&alpha);
    image_finish(&turned);
}

static void written_pngs_read_back(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {{1, 1}, {1, 300}, {300, 1}, {257, 129}, {640, 480}};
    struct image photo = decode_data("fixtures/images/rgb.jpg"); // uses all five row filters
    for (size_t s = 0; s < 5; s++)
        for (int kind = 0; kind < 3; kind++) {
            struct image im, back;
            REQUIRE_OK(image_init(&im, sizes[s][0], sizes[s][1], &err));
            uint32_t seed = 1;
            for (size_t i = 0; i < (size_t)im.width * im.height * 3; i++) {
                seed = seed * 1664525 + 1013904223;
                // noise, a gradient, one colour
                im.rgb[i] = kind == 0 ? (uint8_t)(seed >> 24) : kind == 1 ? (uint8_t)(i / 7) : 77;
            }
            uint8_t *file;
            size_t count;
            REQUIRE_OK(image_write_png(&im, &file, &count, &err));
            REQUIRE_OK(image_decode(file, count, NULL, &back, &err));
            require_same(&back, &im, 0, 0, "written");
            if (kind == 2 && s == 4)
                REQUIRE(count < 20000);
            free(file);
            image_finish(&im);
            image_finish(&back);
        }
    struct image back;
    uint8_t *file;
    size_t count;
    REQUIRE_OK(image_write_png(&photo, &file, &count, &err));
    REQUIRE_OK(image_decode(file, count, NULL, &back, &err));
    require_same(&back, &photo, 0, 0, "photo");
    free(file);
    image_finish(&back);
    image_finish(&photo);
}

static void drawing_stays_inside(void **state)
{
    (void)state;
    struct image im;
    REQUIRE_OK(image_init(&im, 40, 30, &err));
    image_box(&im, 5, 6, 15, 16, 2, 0xff8040);
    REQUIRE_INT(im.rgb[(6 * 40 + 5) * 3], 0xff);
    REQUIRE_INT(im.rgb[(6 * 40 + 5) * 3 + 1], 0x80);
    REQUIRE_INT(im.rgb[(15 * 40 + 14) * 3 + 2], 0x40);
    REQUIRE_INT(im.rgb[(8 * 40 + 7) * 3], 0);    // inside
    REQUIRE_INT(im.rgb[(16 * 40 + 15) * 3], 0);  // outside
    image_dashed_box(&im, 20, 2, 36, 12, 1, 4, 0x0000ff);
    REQUIRE_INT(im.rgb[(2 * 40 + 20) * 3 + 2], 255);
    REQUIRE_INT(im.rgb[(2 * 40 + 24) * 3 + 2], 0);
    REQUIRE_INT(im.rgb[(2 * 40 + 28) * 3 + 2], 255);
    image_fill(&im, INT64_MIN, INT64_MIN, 1, 1, 0x010203);
    REQUIRE_INT(im.rgb[0], 1);
    image_fill(&im, INT64_MAX, INT64_MAX, INT64_MIN, INT64_MIN, 0xffffff);
    image_box(&im, INT64_MIN, INT64_MIN, INT64_MAX, INT64_MAX, INT64_MAX, 0x202020);
    image_dashed_box(&im, INT64_MIN, -5, INT64_MAX, 50, 3, 7, 0xffffff);
    int64_t w, h;
    image_text_size("ab\nW", 2, &w, &h);
    REQUIRE_INT(h, 48);
    REQUIRE(w >= 20 && w <= 40);
    memset(im.rgb, 0, 40 * 30 * 3);
    image_text(&im, 2, 2, 1, 0xffffff, "A\x01\xff\nz");
    image_text(&im, -1000, INT64_MAX, 16, 0xffffff, "far away");
    int lit = 0;
    for (int i = 0; i < 40 * 30; i++)
        lit += im.rgb[3 * i] != 0;
    REQUIRE(lit > 20 && lit < 300);
    image_finish(&im);
}

static void thumbnails_average_areas(void **state)
{
    (void)state;
    struct image im, small;
    REQUIRE_OK(image_init(&im, 4, 2, &err));
    for (int i = 0; i < 8; i++)
        memset(im.rgb + 3 * i, 10 * i, 3); // rows 0 10 20 30 / 40 50 60 70
    REQUIRE_OK(image_thumbnail(&im, 2, &small, &err));
    REQUIRE_INT(small.width, 2);
    REQUIRE_INT(small.height, 1);
    REQUIRE_INT(small.rgb[0], 25);
    REQUIRE_INT(small.rgb[3], 45);
    image_finish(&small);
    REQUIRE_OK(image_thumbnail(&im, 3, &small, &err)); // 3 x 2: a pixel covers 4/3 columns
    REQUIRE_INT(small.width, 3);
    REQUIRE_INT(small.height, 2);
    REQUIRE_INT(small.rgb[0], 3); // (0 * 3 + 10 * 1) / 4 = 2.5
    image_finish(&small);
    REQUIRE_OK(image_thumbnail(&im, 100, &small, &err));
    require_same(&small, &im, 0, 0, "not enlarged");
    image_finish(&small);
    REQUIRE_OK(image_crop(&im, 1, 1, 2, 1, &small, &err));
    REQUIRE_INT(small.rgb[0], 50);
    image_finish(&small);
    REQUIRE_FAIL(image_crop(&im, 3, 0, 2, 1, &small, &err), VIREO_INVALID);
    image_finish(&im);
}

static void crc_is_the_standard_one(void **state)
{
    (void)state;
    const uint8_t digits[] = "123456789";
    REQUIRE_INT(image_crc32(0, digits, 9), 0xcbf43926);
    REQUIRE_INT(image_crc32(image_crc32(0, digits, 4), digits + 4, 5), 0xcbf43926);
}

// Each allocation fails in turn; the leak check of the sanitised build sees what is not freed.
static void no_allocation_is_taken_for_granted(void **state)
{
    (void)state;
    static const char *const files[] = {"fixtures/images/rgb.jpg", "fixtures/images/cmyk.jpg",
                                        "fixtures/images/exif.jpg",
                                        "fixtures/images/rgba.png", "fixtures/images/la.png",
                                        "fixtures/images/palette.png",
                                        "fixtures/images/gray.png", "images/alpha.webp"};
    struct image_processor p = image_processor_qwen2_5_vl();
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        struct file_bytes bytes = read_data(files[f]);
        bool built = image_format_built(image_sniff((uint8_t *)bytes.data, bytes.size)), done = !built;
        int n = 1;
        for (; !done; n++) {
            char rule[32];
            struct image im = {0}, small = {0};
            struct patches q = {0};
            uint8_t *png = NULL;
            size_t count;
            snprintf(rule, sizeof rule, "fail:alloc:%d", n);
            vireo_fault_set(rule);
            done = image_decode((uint8_t *)bytes.data, bytes.size, NULL, &im, &err) &&
                   image_patches(&p, &im, &q, &err) &&
                   image_thumbnail(&im, 20, &small, &err) && image_write_png(&small, &png, &count, &err);
            vireo_fault_set("");
            if (!done && err.code != VIREO_NO_MEMORY)
                fail_msg("%s, allocation %d: %s", files[f], n, err.message);
            free(png);
            patches_finish(&q);
            image_finish(&im);
            image_finish(&small);
        }
        REQUIRE(!built || n > 10);
        file_bytes_free(&bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_decode_as_the_reference_does),
        cmocka_unit_test(resizing_and_pixel_values_match_byte_for_byte),
        cmocka_unit_test(case_image_gives_the_models_input),
        cmocka_unit_test(clips_repeat_the_last_frame),
        cmocka_unit_test(smart_resize_matches_the_table),
        cmocka_unit_test(all_eight_orientations_turn_as_viewers_do),
        cmocka_unit_test(alpha_composes_as_pillow_does),
        cmocka_unit_test(webp_decodes_with_alpha_and_orientation),
        cmocka_unit_test(written_pngs_read_back),
        cmocka_unit_test(drawing_stays_inside),
        cmocka_unit_test(thumbnails_average_areas),
        cmocka_unit_test(crc_is_the_standard_one),
        cmocka_unit_test(no_allocation_is_taken_for_granted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
