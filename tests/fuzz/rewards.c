// Completions: every rule gives a finite number and a valid sentence for any bytes. The input is the completion, or,
// where it holds a zero byte, the completion before it and the reference behind it.
#include "compute/rewards/parse.h"
#include "compute/rewards/reward.h"
#include "tests/fuzz/require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fixed[] = "<answer> [10, 10, 60, 60] </answer>";
    struct vireo_error err;
    char *text = malloc(size + 1);
    FUZZ_REQUIRE(text);
    memcpy(text, data, size);
    text[size] = 0;
    size_t length = strlen(text);
    bool split = length < size;
    struct reward_input in = {
        .completion = text,
        .completion_bytes = length,
        .reference = split ? text + length + 1 : fixed,
        .image_size = {640, 480},
        .model_size = {644, 476},
        .tokens = (int64_t)(size % 2000) - 1,
    };
    in.reference_bytes = split ? size - length - 1 : sizeof fixed - 1;
    for (size_t i = 0; reward_rules[i]; i++) {
        struct reward_result out = {.value = NAN}, again = {.value = NAN};
        FUZZ_REQUIRE(reward_rules[i]->score(&in, &out, &err) && reward_rules[i]->score(&in, &again, &err));
        FUZZ_REQUIRE(isfinite(out.value) && out.value >= -1 && out.value <= 1 && out.value == again.value);
        json_t *reason = json_string(out.reason);
        FUZZ_REQUIRE(reason);
        json_decref(reason);
    }
    // A full match is also found by searching.
    struct text t = parse_text_of(text, length), answer;
    if (think_answer_whole(t))
        FUZZ_REQUIRE(think_answer_head(t, 0) != SIZE_MAX && answer_first(t, &answer));
    free(text);
    return 0;
}
