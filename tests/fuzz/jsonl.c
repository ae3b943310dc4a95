// Dataset files: any bytes are refused with a line, or load into samples that hold together.
#include "compute/dataset/jsonl.h"
#include "tests/fuzz/require.h"

static bool resolve(void *context, enum image_form form, const char *name, char id[JSONL_ID_BYTES],
                    struct vireo_error *err)
{
    size_t length = strlen(name);
    FUZZ_REQUIRE(length && length <= JSONL_NAME_BYTES && name[0] != '/');
    if (length % 7 == 0)
        return vireo_fail(err, VIREO_NOT_FOUND, "no image of this name was uploaded");
    snprintf(id, JSONL_ID_BYTES, "id-%zu", length);
    return true;
}

static void check(const struct dataset *d)
{
    FUZZ_REQUIRE(d->count == d->form_count[0] + d->form_count[1] + d->form_count[2]);
    for (uint32_t i = 0; i < d->count; i++) {
        const struct sample *s = &d->samples[i];
        FUZZ_REQUIRE(s->prompt.count > 0);
        const struct chat_message *last = &s->prompt.messages[s->prompt.count - 1];
        FUZZ_REQUIRE(strcmp(last->role, "user") == 0 && json_is_object(s->item));
        FUZZ_REQUIRE((s->form == SAMPLE_RFT) == (s->target == NULL));
        FUZZ_REQUIRE(chat_image_parts(&s->prompt) == s->image_count);
        for (uint32_t k = 0; k < s->image_count; k++)
            FUZZ_REQUIRE(s->images[k] < d->image_count && d->images[s->images[k]].id);
        FUZZ_REQUIRE(i == 0 || s->unit == d->samples[i - 1].unit || s->unit == d->samples[i - 1].unit + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct jsonl_options options = {
        .question_template = size % 2 ? "rec" : NULL,
        .system_prompt = size % 3 ? NULL : "S",
        .want = (enum jsonl_want)(size % 5 % 3),
        .max_rows = 200,
        .resolver = {resolve, NULL},
    };
    struct vireo_error err = {0};
    struct jsonl_report report = {0};
    struct dataset d = {0};
    if (jsonl_parse((const char *)data, size, &options, &d, &report, &err)) {
        FUZZ_REQUIRE(report.bad_rows == 0 && report.rows == d.count);
        check(&d);
        dataset_finish(&d);
    } else {
        FUZZ_REQUIRE(err.message[0] && d.count == 0 && report.issue_count <= JSONL_MAX_ISSUES);
    }
    return 0;
}
