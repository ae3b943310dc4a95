// safetensors files and shards: golden files, hostile files, what is written read back.
#include "compute/base/half.h"
#include "compute/checkpoint/shards.h"
#include "tests/unit/scratch.h"

static struct vireo_error err;

static bool open_text(const char *header, size_t data_bytes, struct safetensors **out)
{
    size_t length = strlen(header), total = 8 + length + data_bytes;
    uint8_t *bytes = calloc(1, total);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(length >> (8 * i));
    memcpy(bytes + 8, header, length);
    bool done = safetensors_open_bytes(bytes, total, out, &err);
    if (done)
        safetensors_close(out);
    free(bytes);
    return done;
}

static void good_headers_open(void **state)
{
    (void)state;
    struct safetensors *s;
    REQUIRE_OK(open_text("{}", 0, &s));
    REQUIRE_OK(open_text("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}   ", 4, &s));
    REQUIRE_OK(open_text("{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                         "\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[3,3]},"
                         "\"b\":{\"dtype\":\"I64\",\"shape\":[1,1],\"data_offsets\":[3,11]}}",
                         11, &s));
}

static void bad_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *says;
    } bad[] = {
        {"", 0, "cut off"},
        {"[]", 0, "cut off"},
        {"{", 0, "header"},
        {" {}", 0, "cut off"},
        {"{} x", 0, "header"},
        {"{}", 1, "behind the last"},
        {"{\"a\":3}", 0, "missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "missing"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype F33"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "dimension"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "dimension"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, "do not match"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "inside the file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "inside the file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "inside the file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8, "missing"},
        // 2^62 + 1
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4, "64 bits"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "64 bits"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "gap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
         "\"data_offsets\":[1,3]}}",
         3, "overlaps"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
         "\"data_offsets\":[0,1]}}",
         1, "uplicate"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "name"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct safetensors *s;
        if (open_text(bad[i].header, bad[i].data, &s))
            fail_msg("%s opens", bad[i].header);
        if ((err.code != VIREO_CORRUPT && err.code != VIREO_UNSUPPORTED) || !strstr(err.message, bad[i].says))
            fail_msg("%s: [%s] %s", bad[i].header, vireo_code_name(err.code), err.message);
    }
    struct safetensors *s;
    uint8_t huge[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'};
    REQUIRE_FAIL(safetensors_open_bytes(huge, 16, &s, &err), VIREO_CORRUPT);
    REQUIRE_FAIL(safetensors_open_bytes(huge, 7, &s, &err), VIREO_CORRUPT);
    REQUIRE_FAIL(safetensors_open_bytes(NULL, 0, &s, &err), VIREO_CORRUPT);
    REQUIRE_FAIL(safetensors_open(in_scratch("absent"), &s, &err), VIREO_IO);
}

struct memory {
    uint8_t *bytes;
    size_t count, most; // writes fail beyond `most`
};

static bool to_memory(void *context, const void *bytes, size_t count, struct vireo_error *e)
{
    struct memory *m = context;
    if (m->count + count > m->most)
        return vireo_fail(e, VIREO_NO_SPACE, "full");
    memcpy(m->bytes + m->count, bytes, count);
    m->count += count;
    return true;
}

static void written_files_read_back_in_every_type(void **state)
{
    (void)state;
    static const struct safetensors_entry entries[] = {
        {"wide.\xc3\xa4", SAFETENSORS_F32, 2, {3, 4}}, {"empty", SAFETENSORS_F32, 2, {0, 4}},
        {"half", SAFETENSORS_BF16, 1, {5}},           {"other half", SAFETENSORS_F16, 3, {1, 5, 1}},
        {"raw", SAFETENSORS_U8, 1, {3}},              {"nothing", SAFETENSORS_I64, 1, {0}},
    };
    static const char *const metadata[] = {"format", "pt", "a", "b\"", NULL};
    float values[12];
    for (int i = 0; i < 12; i++)
        values[i] = (float)i * 0.3f - 1;
    struct memory first = {malloc(4096), 0, 4096}, second = {malloc(4096), 0, 4096};
    for (int round = 0; round < 2; round++) {
        struct memory *m = round ? &second : &first;
        struct safetensors_writer *w;
        REQUIRE_OK(safetensors_write_begin(&w, (struct byte_sink){to_memory, m}, entries, 6, metadata, &err));
        REQUIRE_INT(m->count % 64, 0);
        REQUIRE_OK(safetensors_write_floats(w, values, 7, &err)); // in pieces
        REQUIRE_OK(safetensors_write_floats(w, values + 7, 5, &err));
        REQUIRE_OK(safetensors_write_floats(w, values, 5, &err));
        REQUIRE_OK(safetensors_write_floats(w, values, 5, &err));
        REQUIRE_OK(safetensors_write_bytes(w, "xyz", 3, &err));
        REQUIRE_OK(safetensors_write_end(&w, &err));
        REQUIRE(!w);
    }
    REQUIRE_INT(first.count, second.count);
    REQUIRE(memcmp(first.bytes, second.bytes, first.count) == 0);
    struct safetensors *s;
    REQUIRE_OK(safetensors_open_bytes(first.bytes, first.count, &s, &err));
    REQUIRE_INT(safetensors_count(s), 6);
    REQUIRE_STRING(safetensors_metadata(s, "a"), "b\"");
    REQUIRE(!safetensors_metadata(s, "c"));
    float back[12];
    REQUIRE_OK(safetensors_floats(safetensors_find(s, "wide.\xc3\xa4"), 0, 12, back, &err));
    REQUIRE(memcmp(back, values, sizeof back) == 0);
    REQUIRE_OK(safetensors_floats(safetensors_find(s, "wide.\xc3\xa4"), 4, 4, back, &err)); // one row
    REQUIRE(memcmp(back, values + 4, 16) == 0);
    REQUIRE_OK(safetensors_floats(safetensors_find(s, "half"), 1, 4, back, &err));
    REQUIRE_NEAR(back[0], bf16_to_float(float_to_bf16(values[1])), 0);
    REQUIRE_OK(safetensors_floats(safetensors_find(s, "other half"), 0, 5, back, &err));
    REQUIRE_NEAR(back[4], fp16_to_float(float_to_fp16(values[4])), 0);
    int32_t integers[3];
    REQUIRE_OK(safetensors_integers(safetensors_find(s, "raw"), 0, 3, integers, &err));
    REQUIRE_INT(integers[2], 'z');
    REQUIRE_FAIL(safetensors_floats(safetensors_find(s, "raw"), 0, 3, back, &err), VIREO_UNSUPPORTED);
    REQUIRE_FAIL(safetensors_floats(safetensors_find(s, "half"), 3, 3, back, &err), VIREO_INVALID);
    REQUIRE_FAIL(safetensors_floats(safetensors_find(s, "half"), UINT64_MAX, 2, back, &err), VIREO_INVALID);
    REQUIRE_FAIL(safetensors_integers(safetensors_find(s, "half"), 0, 1, integers, &err), VIREO_UNSUPPORTED);
    REQUIRE(!safetensors_find(s, "hal"));
    safetensors_close(&s);
    safetensors_close(&s);
    free(first.bytes);
    free(second.bytes);
}

static void wrong_use_of_the_writer_is_an_error(void **state)
{
    (void)state;
    struct memory m = {malloc(4096), 0, 4096};
    struct byte_sink sink = {to_memory, &m};
    struct safetensors_writer *w;
    struct safetensors_entry twice[] = {{"a", SAFETENSORS_U8, 1, {1}}, {"a", SAFETENSORS_U8, 1, {1}}};
    REQUIRE_FAIL(safetensors_write_begin(&w, sink, twice, 2, NULL, &err), VIREO_INVALID);
    struct safetensors_entry huge = {"a", SAFETENSORS_F32, 2, {1ull << 62, 4}};
    REQUIRE_FAIL(safetensors_write_begin(&w, sink, &huge, 1, NULL, &err), VIREO_INVALID);
    REQUIRE_OK(safetensors_write_begin(&w, sink, twice, 1, NULL, &err));
    REQUIRE_FAIL(safetensors_write_end(&w, &err), VIREO_INTERNAL); // data missing
    REQUIRE_OK(safetensors_write_begin(&w, sink, twice, 1, NULL, &err));
    REQUIRE_FAIL(safetensors_write_bytes(w, "ab", 2, &err), VIREO_INTERNAL); // too much
    REQUIRE_FAIL(safetensors_write_end(&w, &err), VIREO_IO);
    m.most = m.count + 10;
    REQUIRE_FAIL(safetensors_write_begin(&w, sink, twice, 1, NULL, &err), VIREO_NO_SPACE);
    free(m.bytes);
}

// ---- shards

static void names_normalise_and_come_back(void **state)
{
    (void)state;
    static const struct {
        enum shards_layout layout;
        const char *stored, *normalised;
    } names[] = {
        {SHARDS_HUB, "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"},
        {SHARDS_HUB, "visual.merger.ln_q.weight", "visual.merger.ln_q.weight"},
        {SHARDS_HUB, "lm_head.weight", "lm_head.weight"},
        {SHARDS_NESTED, "model.visual.blocks.3.norm1.weight", "visual.blocks.3.norm1.weight"},
        {SHARDS_NESTED, "model.language_model.embed_tokens.weight", "model.embed_tokens.weight"},
        {SHARDS_NESTED, "lm_head.weight", "lm_head.weight"},
        {SHARDS_OUTER, "language_model.model.norm.weight", "model.norm.weight"},
        {SHARDS_OUTER, "language_model.lm_head.weight", "lm_head.weight"},
        {SHARDS_OUTER, "visual.merger.ln_q.weight", "visual.merger.ln_q.weight"},
    };
    char name[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        REQUIRE(shards_normalise(names[i].stored, name, sizeof name));
        REQUIRE_STRING(name, names[i].normalised);
        REQUIRE(shards_stored_name(names[i].layout, names[i].normalised, name, sizeof name));
        REQUIRE_STRING(name, names[i].stored);
    }
    REQUIRE(!shards_normalise("model.norm.weight", name, 5));
}

static void both_published_layouts_are_one_model(void **state)
{
    (void)state;
    struct shards *hub, *nested;
    REQUIRE_OK(shards_open(test_data("fixtures/tiny-qwen2_5_vl"), &hub, &err));
    REQUIRE_OK(shards_open(test_data("fixtures/tiny-qwen2_5_vl-bf16-sharded"), &nested, &err));
    REQUIRE_INT(shards_layout(hub), SHARDS_HUB);
    REQUIRE_INT(shards_layout(nested), SHARDS_NESTED);
    REQUIRE_INT(shards_files(hub), 1);
    REQUIRE_INT(shards_files(nested), 3);
    REQUIRE(shards_count(hub) > 80);
    REQUIRE_INT(shards_count(hub), shards_count(nested));
    REQUIRE_INT(shards_parameters(hub), shards_parameters(nested));
    REQUIRE_INT(shards_bytes(nested), 781536); // as the index says
    REQUIRE_INT(shards_bytes(hub), 2 * 781536);
    for (size_t i = 0; i < shards_count(hub); i++) {
        const struct safetensor *a = shards_at(hub, i), *b = shards_at(nested, i);
        REQUIRE_STRING(a->name, b->name);
        REQUIRE(shards_find(hub, a->name) == a);
        REQUIRE(shards_get(nested, a->name, a->rank, a->shape, &err) == b);
        char name[256];
        REQUIRE(shards_stored_name(SHARDS_NESTED, a->name, name, sizeof name));
        REQUIRE_STRING(name, shards_name_on_disk(nested, a->name));
        float x, y;
        REQUIRE_OK(safetensors_floats(a, a->count - 1, 1, &x, &err));
        REQUIRE_OK(safetensors_floats(b, a->count - 1, 1, &y, &err));
        REQUIRE_NEAR(y, bf16_to_float(float_to_bf16(x)), 0);
    }
    uint64_t shape[] = {1024, 65};
    REQUIRE(!shards_get(hub, "model.embed_tokens.weight", 2, shape, &err));
    REQUIRE_STRING(err.message,
                   "Tensor model.embed_tokens.weight has the shape [1024, 64]; the configuration asks for [1024, 65].");
    REQUIRE(!shards_get(hub, "lm_head.weight", 2, shape, &err));
    REQUIRE_INT(err.code, VIREO_CORRUPT);
    shards_close(&hub);
    shards_close(&nested);
}

static void write_tensor_file(const char *path, const char *const *names, size_t count, uint8_t value)
{
    struct safetensors_entry entries[8];
    struct safetensors_writer *w;
    struct memory m = {malloc(65536), 0, 65536};
    for (size_t i = 0; i < count; i++)
        entries[i] = (struct safetensors_entry){names[i], SAFETENSORS_U8, 1, {1}};
    REQUIRE_OK(safetensors_write_begin(&w, (struct byte_sink){to_memory, &m}, entries, count, NULL, &err));
    for (size_t i = 0; i < count; i++)
        REQUIRE_OK(safetensors_write_bytes(w, &value, 1, &err));
    REQUIRE_OK(safetensors_write_end(&w, &err));
    REQUIRE_OK(file_write_atomic(path, m.bytes, m.count, &err));
    free(m.bytes);
}

static void indexes_that_lie_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *index, *says;
    } bad[] = {
        {"{}", "weight_map"},
        {"{\"weight_map\":{}}", "weight_map"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", "hold 2"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\"}}", "tensor c is not in"},
        {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", "not there"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", "file name"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", "file name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "file name"},
        {"{\"weight_map\":{\"a\":\"one.bin\"}}", "file name"},
        {"{\"weight_map\":{\"a\":7}}", "file name"},
        {"{\"weight_map\":", "JSON"},
    };
    struct shards *s;
    char index[512];
    REQUIRE_FAIL(shards_open(scratch, &s, &err), VIREO_NOT_FOUND);
    snprintf(index, sizeof index, "%s", in_scratch("model.safetensors.index.json"));
    write_tensor_file(in_scratch("one.safetensors"), (const char *[]){"a", "b"}, 2, 1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        REQUIRE_OK(file_write_atomic(index, bad[i].index, strlen(bad[i].index), &err));
        if (shards_open(scratch, &s, &err))
            fail_msg("%s opens", bad[i].index);
        if (err.code != VIREO_CORRUPT || !strstr(err.message, bad[i].says))
            fail_msg("%s: [%s] %s", bad[i].index, vireo_code_name(err.code), err.message);
    }
    static const char good[] = "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}";
    REQUIRE_OK(file_write_atomic(index, good, strlen(good), &err));
    REQUIRE_OK(shards_open(scratch, &s, &err));
    shards_close(&s);
    // The single file wins over the index.
    write_tensor_file(in_scratch("model.safetensors"), (const char *[]){"only"}, 1, 1);
    REQUIRE_OK(shards_open(scratch, &s, &err));
    REQUIRE_INT(shards_count(s), 1);
    shards_close(&s);
    // Two spellings of one name.
    write_tensor_file(in_scratch("model.safetensors"), (const char *[]){"visual.x", "model.visual.x"}, 2, 1);
    REQUIRE_FAIL(shards_open(scratch, &s, &err), VIREO_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_headers_open),
        IN_SCRATCH(bad_headers_are_refused),
        cmocka_unit_test(written_files_read_back_in_every_type),
        cmocka_unit_test(wrong_use_of_the_writer_is_an_error),
        cmocka_unit_test(names_normalise_and_come_back),
        cmocka_unit_test(both_published_layouts_are_one_model),
        IN_SCRATCH(indexes_that_lie_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
