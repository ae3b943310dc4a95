// Any text as a chat template, rendered on a fixed conversation. Checked besides the sanitisers: the segments cover the
// output, the limits hold, and a failure has a message.
#include "compute/base/check.h"
#include "compute/chat/template.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "[{\"role\":\"system\",\"content\":\"Be brief.\"},"
    "{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"h\\u00e9 <|im_end|> \"}]},"
    "{\"role\":\"assistant\",\"content\":\"<think>a</think>b\",\"tool_calls\":[{\"type\":\"function\",\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"a\":1.5,\"b\":[1,null,true,\"x\"]}}}]},"
    "{\"role\":\"tool\",\"content\":\"20\"},{\"role\":\"user\",\"content\":\"thanks\"}]";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *messages, *tools;
    struct vireo_error err = {0};
    if (!messages) {
        messages = json_loads(conversation, 0, NULL);
        tools = json_pack("[{s:s, s:{s:s, s:{s:s}}}]", "type", "function", "function", "name", "f", "parameters",
                          "type", "object");
        vireo_assert(messages && tools);
    }
    struct chat_template *t = template_parse((const char *)data, size, &err);
    vireo_assert(t || err.message[0]);
    if (!t)
        return 0;
    struct template_input in = {.messages = messages, .tools = size % 2 ? tools : NULL, .add_generation_prompt = true};
    struct template_output out;
    struct arena a;
    arena_init(&a, 0);
    if (template_render(t, &in, &a, &out, &err)) {
        size_t covered = 0;
        vireo_assert(out.length <= TEMPLATE_MAX_OUTPUT);
        for (size_t i = 0; i < out.segment_count; i++) {
            vireo_assert(out.segments[i].text == out.text + covered && out.segments[i].length > 0);
            vireo_assert(out.segments[i].origin >= TEMPLATE_TOOLS && out.segments[i].origin < 5);
            covered += out.segments[i].length;
        }
        vireo_assert(covered == out.length);
    } else {
        vireo_assert(err.message[0]);
    }
    arena_finish(&a);
    template_destroy(&t);
    return 0;
}
