// Image files as nobody should send them: made by hand, damaged, cut short, too large.
#include "compute/image/png.h"
#include "tests/unit/image.h"

struct maker {
    uint8_t bytes[1 << 16];
    size_t count;
};

static void add32(struct maker *m, uint32_t v)
{
    for (int i = 3; i >= 0; i--)
        m->bytes[m->count++] = (uint8_t)(v >> (8 * i));
}

static void add_chunk(struct maker *m, const char *type, const void *body, size_t count)
{
    add32(m, (uint32_t)count);
    size_t start = m->count;
    memcpy(m->bytes + m->count, type, 4);
    if (count)
        memcpy(m->bytes + m->count + 4, body, count);
    m->count += count + 4;
    add32(m, image_crc32(0, m->bytes + start, count + 4));
}

static void begin_png(struct maker *m, uint32_t width, uint32_t height, int depth, int type)
{
    uint8_t header[13] = {(uint8_t)(width >> 24), (uint8_t)(width >> 16), (uint8_t)(width >> 8), (uint8_t)width,
                          (uint8_t)(height >> 24), (uint8_t)(height >> 16), (uint8_t)(height >> 8), (uint8_t)height,
                          (uint8_t)depth, (uint8_t)type};
    memcpy(m->bytes, "\x89PNG\r\n\x1a\n", 8);
    m->count = 8;
    add_chunk(m, "IHDR", header, 13);
}

// Rows with their filter bytes, in one stored block.
static void end_png(struct maker *m, const void *rows, size_t count)
{
    uint8_t z[4096] = {0x78, 0x01, 0x01, (uint8_t)count, (uint8_t)(count >> 8), (uint8_t)~count,
                       (uint8_t)(~count >> 8)};
    memcpy(z + 7, rows, count);
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < count; i++) {
        a = (a + z[7 + i]) % 65521;
        b = (b + a) % 65521;
    }
    uint8_t sum[4] = {(uint8_t)(b >> 8), (uint8_t)b, (uint8_t)(a >> 8), (uint8_t)a};
    memcpy(z + 7 + count, sum, 4);
    add_chunk(m, "IDAT", z, count + 11);
    add_chunk(m, "IEND", NULL, 0);
}

static void require_pixels(const struct maker *m, const uint8_t *want, size_t count)
{
    struct image im;
    REQUIRE_OK(image_decode(m->bytes, m->count, NULL, &im, &err));
    REQUIRE_INT((size_t)im.width * im.height * 3, count);
    for (size_t i = 0; i < count; i++)
        if (im.rgb[i] != want[i])
            fail_msg("value %zu is %d, expected %d", i, im.rgb[i], want[i]);
    image_finish(&im);
}

static void unusual_pngs_decode(void **state)
{
    (void)state;
    static struct maker m;
    begin_png(&m, 1, 1, 16, 2); // 16-bit RGB keeps the high bytes
    end_png(&m, (uint8_t[]){0, 0x12, 0xff, 0x80, 0x00, 0xff, 0x01}, 7);
    require_pixels(&m, (uint8_t[]){0x12, 0x80, 0xff}, 3);
    begin_png(&m, 1, 1, 16, 4); // 16-bit gray with alpha 0: white
    end_png(&m, (uint8_t[]){0, 0x12, 0xff, 0, 0}, 5);
    require_pixels(&m, (uint8_t[]){255, 255, 255}, 3);
    begin_png(&m, 8, 1, 1, 0); // one bit a pixel
    end_png(&m, (uint8_t[]){0, 0xa0}, 2);
    require_pixels(&m,
                   (uint8_t[]){255, 255, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 24);
    begin_png(&m, 2, 1, 8, 0); // gray value 7 is transparent
    add_chunk(&m, "tRNS", (uint8_t[]){0, 7}, 2);
    end_png(&m, (uint8_t[]){0, 7, 8}, 3);
    require_pixels(&m, (uint8_t[]){255, 255, 255, 8, 8, 8}, 6);
    begin_png(&m, 3, 1, 8, 3); // palette of two colours, one transparent; index 9 does not exist: black as in Pillow
    add_chunk(&m, "PLTE", (uint8_t[]){10, 20, 30, 40, 50, 60}, 6);
    add_chunk(&m, "tRNS", (uint8_t[]){255, 0}, 2);
    end_png(&m, (uint8_t[]){0, 0, 1, 9}, 4);
    require_pixels(&m, (uint8_t[]){10, 20, 30, 255, 255, 255, 0, 0, 0}, 9);
    begin_png(&m, 2, 1, 8, 2); // eXIf, big-endian, orientation 6: turned by a quarter
    add_chunk(&m, "eXIf", "MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0", 26);
    end_png(&m, (uint8_t[]){0, 1, 2, 3, 4, 5, 6}, 7);
    require_pixels(&m, (uint8_t[]){1, 2, 3, 4, 5, 6}, 6);
    struct image_info info;
    REQUIRE_OK(image_probe(m.bytes, m.count, NULL, &info, &err));
    REQUIRE_INT(info.width, 1);
    REQUIRE_INT(info.height, 2);
}

static void limits_hold_before_any_pixel(void **state)
{
    (void)state;
    static struct maker m;
    struct image_info info;
    struct image im;
    begin_png(&m, 60000, 60000, 8, 2);
    end_png(&m, "", 1);
    REQUIRE_FAIL(image_decode(m.bytes, m.count, NULL, &im, &err), VIREO_TOO_LARGE);
    REQUIRE_STRING(err.kind, "image_too_large");
    begin_png(&m, 16385, 2, 8, 2);
    end_png(&m, "", 1);
    REQUIRE_FAIL(image_probe(m.bytes, m.count, NULL, &info, &err), VIREO_TOO_LARGE);
    begin_png(&m, 2, 16384, 8, 2);
    end_png(&m, "", 1);
    REQUIRE_OK(image_probe(m.bytes, m.count, NULL, &info, &err));
    begin_png(&m, 16384, 2442, 8, 2); // 40,009,728 pixels
    end_png(&m, "", 1);
    REQUIRE_FAIL(image_probe(m.bytes, m.count, NULL, &info, &err), VIREO_TOO_LARGE);
    begin_png(&m, 16384, 2441, 8, 2);
    end_png(&m, "", 1);
    REQUIRE_OK(image_probe(m.bytes, m.count, NULL, &info, &err));
    REQUIRE_FAIL(image_decode(m.bytes, m.count, NULL, &im, &err), VIREO_INVALID);
    begin_png(&m, 0, 5, 8, 2);
    end_png(&m, "", 1);
    REQUIRE_FAIL(image_probe(m.bytes, m.count, NULL, &info, &err), VIREO_INVALID);
    struct image_limits tight = {.bytes = 100, .side = 10, .pixels = 100};
    REQUIRE_FAIL(image_probe((const uint8_t *)"\xff\xd8\xff", 101, &tight, &info, &err), VIREO_TOO_LARGE);
    REQUIRE_STRING(err.kind, "image_file_too_large");
    REQUIRE_FAIL(image_probe((const uint8_t *)"", 0, NULL, &info, &err), VIREO_INVALID);
    REQUIRE_STRING(err.kind, "empty_image_file");
    REQUIRE_FAIL(image_probe((const uint8_t *)"GIF89a------", 12, NULL, &info, &err), VIREO_INVALID);
    REQUIRE_STRING(err.kind, "invalid_image_format");
}

static void png_that_inflates_beyond_its_size_is_refused(void **state)
{
    (void)state;
    // 1 x 1 pixel, and a stream of matches that would unpack to megabytes: literal 0, then length 258, distance 1.
    static struct maker m;
    static uint8_t z[20000] = {0x78, 0x01};
    size_t bit = 16;
#define BITS(value, n)                                                                                                \
    for (int k_ = 0; k_ < (n); k_++, bit++)                                                                           \
    z[bit / 8] |= (uint8_t)(((value) >> k_ & 1) << (bit % 8))
    BITS(3, 3);
    BITS(0x0c, 8); // symbol 0 = 00110000
    while (bit < sizeof z * 8 - 64) {
        BITS(0xa3, 8); // symbol 285 = 11000101
        BITS(0, 5);
    }
#undef BITS
    begin_png(&m, 1, 1, 8, 2);
    add_chunk(&m, "IDAT", z, sizeof z);
    add_chunk(&m, "IEND", NULL, 0);
    struct image im;
    REQUIRE_FAIL(image_decode(m.bytes, m.count, NULL, &im, &err), VIREO_INVALID);
    if (!strstr(err.message, "unpacks to more"))
        fail_msg("%s", err.message);
}

static void jpeg_with_a_thousand_scans_is_refused(void **state)
{
    (void)state;
    struct file_bytes bytes = read_data("fixtures/images/progressive.jpg");
    // The scan headers of the file, over and over, without data.
    static const uint8_t scan[] = {0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0};
    size_t count = bytes.size - 2, extra = 1000 * sizeof scan;
    uint8_t *bomb = malloc(count + extra + 2);
    memcpy(bomb, bytes.data, count);
    for (int i = 0; i < 1000; i++)
        memcpy(bomb + count + i * sizeof scan, scan, sizeof scan);
    memcpy(bomb + count + extra, "\xff\xd9", 2);
    struct image_info info;
    REQUIRE_FAIL(image_probe(bomb, count + extra + 2, NULL, &info, &err), VIREO_TOO_LARGE);
    free(bomb);
    file_bytes_free(&bytes);
}

static void every_truncation_is_an_error(void **state)
{
    (void)state;
    static const char *const files[] = {"fixtures/images/rgb.jpg", "fixtures/images/progressive.jpg",
                                        "fixtures/images/cmyk.jpg",
                                        "fixtures/images/rgba.png", "fixtures/images/palette.png", "images/alpha.webp"};
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        struct file_bytes bytes = read_data(files[f]);
        if (!image_format_built(image_sniff((uint8_t *)bytes.data, bytes.size))) {
            file_bytes_free(&bytes);
            continue;
        }
        for (size_t cut = 1; cut <= bytes.size; cut += cut < 40 || cut > bytes.size - 40 ? 1 : 211) {
            size_t left = bytes.size - cut;
            uint8_t *part = malloc(left ? left : 1); // exact, so that the address sanitiser sees a read behind it
            memcpy(part, bytes.data, left);
            struct image im = {0};
            if (image_decode(part, left, NULL, &im, &err))
                fail_msg("%s without its last %zu bytes decodes", files[f], cut);
            REQUIRE_INT(err.code, VIREO_INVALID);
            REQUIRE(!im.rgb);
            free(part);
        }
        file_bytes_free(&bytes);
    }
}

static void a_changed_byte_of_a_png_is_found(void **state)
{
    (void)state;
    struct file_bytes bytes = read_data("fixtures/images/rgb.png");
    for (size_t at = 8; at < bytes.size; at += 1009) {
        bytes.data[at] ^= 4;
        struct image im;
        REQUIRE_FAIL(image_decode((uint8_t *)bytes.data, bytes.size, NULL, &im, &err), VIREO_INVALID);
        bytes.data[at] ^= 4;
    }
    file_bytes_free(&bytes);
}

static void jpeg_damage_is_an_error_and_stray_bytes_are_not(void **state)
{
    (void)state;
    struct file_bytes bytes = read_data("fixtures/images/rgb.jpg");
    struct image im;
    // A stretch of the picture's data is missing, the end marker is there: libjpeg warns and would leave gray.
    uint8_t *copy = malloc(bytes.size + 3);
    memcpy(copy, bytes.data, bytes.size);
    memmove(copy + bytes.size - 5000, copy + bytes.size - 2, 2);
    REQUIRE_FAIL(image_decode(copy, bytes.size - 4998, NULL, &im, &err), VIREO_INVALID);
    REQUIRE_STRING(err.kind, "image_parse_error");
    // Three zero bytes behind the first segment, which libjpeg skips with a warning.
    size_t first = 4 + ((size_t)(uint8_t)bytes.data[4] << 8 | (uint8_t)bytes.data[5]);
    memcpy(copy, bytes.data, first);
    memset(copy + first, 0, 3);
    memcpy(copy + first + 3, bytes.data + first, bytes.size - first);
    struct image want = decode_data("fixtures/images/rgb.jpg");
    REQUIRE_OK(image_decode(copy, bytes.size + 3, NULL, &im, &err));
    require_same(&im, &want, 0, 0, "stray bytes");
    image_finish(&im);
    image_finish(&want);
    free(copy);
    file_bytes_free(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unusual_pngs_decode),
        cmocka_unit_test(limits_hold_before_any_pixel),
        cmocka_unit_test(png_that_inflates_beyond_its_size_is_refused),
        cmocka_unit_test(jpeg_with_a_thousand_scans_is_refused),
        cmocka_unit_test(every_truncation_is_an_error),
        cmocka_unit_test(a_changed_byte_of_a_png_is_found),
        cmocka_unit_test(jpeg_damage_is_an_error_and_stray_bytes_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
