// The base layer: errors, arena, JSON getters, hashes, Philox, half floats, files, threads.
#include "compute/base/arena.h"
#include "compute/base/check.h"
#include "compute/base/error.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/half.h"
#include "compute/base/hash.h"
#include "compute/base/json.h"
#include "compute/base/philox.h"
#include "compute/base/thread.h"
#include "tests/check.h"

#include <unistd.h>

static struct vireo_error err;

static void explain_puts_context_in_front(void **state)
{
    (void)state;
    REQUIRE(!vireo_fail_param(&err, "a.b", "bad %d", 7));
    vireo_explain(&err, "line %d: ", 3);
    REQUIRE_STRING(err.message, "line 3: bad 7");
    REQUIRE_STRING(err.param, "a.b");
    REQUIRE_INT(err.code, VIREO_INVALID);
}

static void arena_zeroes_aligns_and_rewinds(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 128);
    struct arena_mark start = arena_mark(&a);
    for (int i = 0; i < 50; i++) {
        unsigned char *p = arena_take(&a, 40);
        REQUIRE(p && ((uintptr_t)p & 15) == 0);
        for (int j = 0; j < 40; j++)
            REQUIRE_INT(p[j], 0);
        memset(p, 0xff, 40);
    }
    REQUIRE(!arena_take_array(&a, SIZE_MAX / 2, 4));
    REQUIRE(arena_failed(&a));
    arena_rewind(&a, start);
    REQUIRE_INT(a.held_bytes, 0);
    arena_finish(&a);
}

static void json_names_the_field_that_is_wrong(void **state)
{
    (void)state;
    const char text[] = "{\"n\": 3.5, \"s\": 1, \"c\": \"red\"}";
    json_t *o = vireo_json_parse(text, strlen(text), &err);
    REQUIRE(o);
    const char *s = NULL;
    int64_t n = 0;
    int choice = -1;
    static const char *const colours[] = {"red", "blue", NULL};
    REQUIRE_FAIL(json_get_integer(o, "body", "n", 0, 9, &n, &err), VIREO_INVALID);
    REQUIRE_STRING(err.param, "body.n");
    REQUIRE_FAIL(json_get_string(o, "", "s", &s, &err), VIREO_INVALID);
    REQUIRE_STRING(err.param, "s");
    REQUIRE_OK(json_get_choice(o, "", "c", colours, &choice, &err));
    REQUIRE_INT(choice, 0);
    REQUIRE_OK(json_get_string(o, "", "absent", &s, &err));
    REQUIRE(s == NULL);
    json_decref(o);
    REQUIRE(!vireo_json_parse("{\"a\":1,\"a\":2}", 13, &err));
    char deep[200];
    memset(deep, '[', sizeof deep);
    REQUIRE(!vireo_json_parse(deep, sizeof deep, &err));
    REQUIRE_STRING(err.kind, "invalid_json");
}

static void sha256_of_abc(void **state)
{
    (void)state;
    uint8_t digest[HASH_BYTES];
    char text[HASH_TEXT];
    REQUIRE(hash_bytes("abc", 3, digest));
    hash_text(digest, text);
    REQUIRE_STRING(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// Known answers of Random123 (kat_vectors, philox4x32 10 rounds).
static void philox_matches_known_answers(void **state)
{
    (void)state;
    struct philox zero = philox(0, 0, 0, 0, 0);
    REQUIRE_INT(zero.v[0], 0x6627e8d5u);
    REQUIRE_INT(zero.v[3], 0x9b00dbd8u);
    struct philox pi = philox((uint64_t)0x299f31d0u << 32 | 0xa4093822u, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344);
    REQUIRE_INT(pi.v[0], 0xd16cfe09u);
    REQUIRE_INT(pi.v[1], 0x94fdcceb);
}

static void half_floats_round_to_nearest_even(void **state)
{
    (void)state;
    REQUIRE_INT(float_to_bf16(1.00390625f), 0x3f80); // halfway, even below
    REQUIRE_INT(float_to_bf16(1.01171875f), 0x3f82); // halfway, even above
    REQUIRE_INT(float_to_fp16(65504.f), 0x7bff);
    REQUIRE_INT(float_to_fp16(65520.f), 0x7c00);
    REQUIRE_INT(float_to_fp16(5.9604645e-8f), 1);
    for (uint32_t h = 0; h < 0x7c00; h++)
        REQUIRE_INT(float_to_fp16(fp16_to_float((uint16_t)h)), h);
}

static void failed_write_leaves_the_old_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/vireo-base-XXXXXX", path[64];
    REQUIRE(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a", folder);
    REQUIRE_OK(file_write_atomic(path, "old", 3, &err));
    static const char *const points[] = {"file.open", "file.write", "file.fsync", "file.close", "file.rename"};
    for (size_t i = 0; i < VIREO_COUNT(points); i++) {
        char rule[64];
        snprintf(rule, sizeof rule, "fail:%s:1", points[i]);
        vireo_fault_set(rule);
        REQUIRE(!file_write_atomic(path, "new", 3, &err));
        vireo_fault_set("");
        struct file_bytes bytes;
        REQUIRE_OK(file_read(path, 10, &bytes, &err));
        REQUIRE_STRING(bytes.data, "old");
        file_bytes_free(&bytes);
    }
    REQUIRE_OK(file_remove_tree(folder, &err));
    REQUIRE(!file_exists(folder));
}

static void square(void *context, size_t i)
{
    ((size_t *)context)[i] = i * i;
}

static void thread_for_visits_each_index_once(void **state)
{
    (void)state;
    static size_t squares[1000];
    thread_for(1000, 4, square, squares);
    for (size_t i = 0; i < 1000; i++)
        REQUIRE_INT(squares[i], i * i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(explain_puts_context_in_front),
        cmocka_unit_test(arena_zeroes_aligns_and_rewinds),
        cmocka_unit_test(json_names_the_field_that_is_wrong),
        cmocka_unit_test(sha256_of_abc),
        cmocka_unit_test(philox_matches_known_answers),
        cmocka_unit_test(half_floats_round_to_nearest_even),
        cmocka_unit_test(failed_write_leaves_the_old_file),
        cmocka_unit_test(thread_for_visits_each_index_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
