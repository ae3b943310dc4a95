// JSONL rows of three forms, their faults, and the order of training.
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/dataset/jsonl.h"
#include "compute/dataset/order.h"
#include "tests/check.h"

static struct vireo_error err;

// A PNG's signature and a little more: the loader looks at the first bytes only.
#define PNG_URI "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAE="

static bool parse(const char *text, const struct jsonl_options *options, struct dataset *d, struct jsonl_report *report)
{
    static const struct jsonl_options none;
    err = (struct vireo_error){0};
    return jsonl_parse(text, strlen(text), options ? options : &none, d, report, &err);
}

static void text_of_part(const struct chat_message *m, size_t part, char *out, size_t size)
{
    REQUIRE(part < m->part_count && m->parts[part].kind == CHAT_TEXT);
    snprintf(out, size, "%.*s", (int)m->parts[part].length, m->parts[part].text);
}

static void sft_rows_keep_the_order_of_parts(void **state)
{
    (void)state;
    struct dataset d;
    char text[64];
    REQUIRE_OK(parse("{\"id\":\"a\",\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\","
                     "\"content\":["
                     "{\"type\":\"text\",\"text\":\"before\"},{\"type\":\"image_url\",\"image_url\":{\"url\":"
                     "\"x/1.png\"}},"
                     "{\"type\":\"text\",\"text\":\"after\"},{\"type\":\"image_url\",\"image_url\":{\"url\":"
                     "\"2.png\"}}]},"
                     "{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"A\"},{\"type\":\"text\","
                     "\"text\":\"B\"}]}],"
                     "\"solution\":[1,2]}\n\n{\"messages\":[{\"role\":\"user\",\"content\":["
                     "{\"type\":\"image_url\",\"image_url\":{\"url\":\"2.png\"}}]},{\"role\":\"assistant\","
                     "\"content\":\"C\"}]}\r\n",
                     NULL, &d, NULL));
    REQUIRE_INT(d.count, 2);
    REQUIRE_INT(d.image_count, 2);
    REQUIRE_INT(d.form_count[SAMPLE_SFT], 2);
    const struct sample *s = &d.samples[0];
    REQUIRE_STRING(s->id, "a");
    REQUIRE_STRING(s->target, "AB");
    REQUIRE_INT(s->prompt.count, 2);
    REQUIRE_INT(s->prompt.messages[1].part_count, 4);
    text_of_part(&s->prompt.messages[1], 0, text, sizeof text);
    REQUIRE_STRING(text, "before");
    REQUIRE_INT(s->prompt.messages[1].parts[1].kind, CHAT_IMAGE);
    REQUIRE_INT(s->prompt.messages[1].parts[3].image, 1);
    REQUIRE_INT(s->image_count, 2);
    REQUIRE_STRING(d.images[s->images[0]].name, "x/1.png");
    REQUIRE(json_object_get(s->item, "solution") && !json_object_get(s->item, "messages"));
    REQUIRE(dataset_has_item_key(&d, "solution") && !dataset_has_item_key(&d, "nothing"));
    s = &d.samples[1];
    REQUIRE_STRING(s->id, "row-3");
    REQUIRE_INT(s->line, 3);
    REQUIRE_INT(s->images[0], 1); // the same picture once
    REQUIRE(s->prompt.arena == &d.arena);
    dataset_finish(&d);
}

static void answers_may_be_left_out_of_training(void **state)
{
    (void)state;
    struct dataset d;
    REQUIRE_OK(parse("{\"messages\":[{\"role\":\"user\",\"content\":\"1\"},{\"role\":\"assistant\",\"content\":\"a\","
                     "\"weight\":0},"
                     "{\"role\":\"user\",\"content\":\"2\"},{\"role\":\"assistant\",\"content\":\"b\",\"weight\":1}]}"
                     "", NULL, &d, NULL));
    REQUIRE_NEAR(d.samples[0].weight, 1, 0);
    REQUIRE_NEAR(d.samples[0].prompt.messages[1].weight, 0, 0);
    REQUIRE_INT(d.samples[0].prompt.count, 3);
    dataset_finish(&d);
}

static void rft_rows_hand_their_fields_to_the_grader(void **state)
{
    (void)state;
    struct dataset d;
    REQUIRE_OK(parse("{\"messages\":[{\"role\":\"user\",\"content\":\"where?\"}],\"solution\":[1,2,3,4],\"id\":17}",
                     NULL, &d, NULL));
    REQUIRE_INT(d.samples[0].form, SAMPLE_RFT);
    REQUIRE(d.samples[0].target == NULL);
    REQUIRE_STRING(d.samples[0].id, "17");
    REQUIRE_INT(json_array_size(json_object_get(d.samples[0].item, "solution")), 4);
    dataset_finish(&d);
}

static void vlm_r1_rows_have_images_first_and_a_wrapped_solution(void **state)
{
    (void)state;
    struct dataset d;
    char text[512];
    const struct jsonl_options options = {.question_template = "rec", .want = JSONL_PROMPT};
    REQUIRE_OK(parse("{\"id\":1,\"image\":[\"a.jpg\",\"b.jpg\"],\"conversations\":[{\"from\":\"human\",\"value\":"
                     "\"<image>Find<image> it {x}\"},"
                     "{\"from\":\"gpt\",\"value\":\" <answer> [1, 2, 3, 4] </answer>\"}],\"accu_reward_method\":"
                     "\"iou\",\"extra\":5}\n"
                     "{\"conversations\":[{\"from\":\"human\",\"value\":\"2+2?\"},{\"from\":\"gpt\",\"value\":4}]}\n"
                     "{\"conversations\":[{\"from\":\"human\",\"value\":\"?\"},{\"from\":\"gpt\",\"value\":0.1}]}\n"
                     "{\"conversations\":[{\"from\":\"human\",\"value\":\"?\"},{\"from\":\"gpt\",\"value\":[68,315]}]}",
                     &options, &d, NULL));
    const struct chat_message *m = &d.samples[0].prompt.messages[0];
    REQUIRE_INT(m->part_count, 3);
    REQUIRE(m->parts[0].kind == CHAT_IMAGE && m->parts[1].kind == CHAT_IMAGE);
    text_of_part(m, 2, text, sizeof text);
    REQUIRE_STRING(text,
                   "Find it {x} First output the thinking process in <think> </think> tags and then output the final "
                   "answer "
                         "in <answer> </answer> tags. Output the final answer in JSON format.");
    const json_t *item = d.samples[0].item;
    REQUIRE_STRING(json_string_value(json_object_get(item, "solution")), "<answer> [1, 2, 3, 4] </answer>");
    REQUIRE_STRING(json_string_value(json_object_get(item, "problem")), "Find it {x}");
    REQUIRE_STRING(json_string_value(json_object_get(item, "accu_reward_method")), "iou");
    REQUIRE_INT(json_integer_value(json_object_get(item, "extra")), 5);
    static const char *const solutions[] = {"<answer> 4 </answer>", "<answer> 0.1 </answer>",
                                            "<answer> [68, 315] </answer>"};
    for (int i = 0; i < 3; i++)
        REQUIRE_STRING(json_string_value(json_object_get(d.samples[i + 1].item, "solution")), solutions[i]);
    REQUIRE_STRING(d.samples[1].target, "4");
    dataset_finish(&d);
}

static void templates_are_vlm_r1s(void **state)
{
    (void)state;
    REQUIRE_STRING(question_template("default"),
                   "{Question} First output the thinking process in <think> </think> tags and then "
                                                 "output the final answer in <answer> </answer> tags.");
    REQUIRE_STRING(question_template("ic"),
                   "{Question} First thinks about the reasoning process in the mind and then provides the "
                                            "user with the answer. The reasoning process and answer are enclosed "
                                            "within <think> "
                                            "</think> and <answer> </answer> tags, respectively, i.e., <think> "
                                            "reasoning process "
                                            "here </think><answer> json format answer here </answer>");
    REQUIRE_STRING(question_template("odLength"),
                   "First thinks about the reasoning process in the mind and then provides the user with the answer. "
                   "The reasoning "
                   "process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
                   "respectively, i.e., <think> "
                   "reasoning process here </think><answer> answer here </answer>\n{Question}");
    REQUIRE(strstr(vlm_r1_system_prompt,
                   "A conversation between User and Assistant. The user asks") == vlm_r1_system_prompt);
    REQUIRE(question_template("nope") == NULL);
    struct dataset d;
    const struct jsonl_options bad = {.question_template = "nope"};
    REQUIRE(!parse("{}", &bad, &d, NULL));
    REQUIRE_STRING(err.param, "question_template");
    // The system prompt goes before rows that have none; the template around the last text of the last question.
    const struct jsonl_options o = {.question_template = "odLength", .system_prompt = "P"};
    char text[512];
    REQUIRE_OK(parse("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":"
                     "\"text\",\"text\":\"b\"}]}]}\n"
                     "{\"messages\":[{\"role\":\"system\",\"content\":\"own\"},{\"role\":\"user\",\"content\":\"c\"}"
                     "]}", &o, &d, NULL));
    text_of_part(&d.samples[0].prompt.messages[0], 0, text, sizeof text);
    REQUIRE_STRING(text, "P");
    text_of_part(&d.samples[0].prompt.messages[1], 0, text, sizeof text);
    REQUIRE_STRING(text, "a");
    text_of_part(&d.samples[0].prompt.messages[1], 1, text, sizeof text);
    REQUIRE(strlen(text) > 200 && strcmp(text + strlen(text) - 2, "\nb") == 0);
    text_of_part(&d.samples[1].prompt.messages[0], 0, text, sizeof text);
    REQUIRE_STRING(text, "own");
    dataset_finish(&d);
}

static bool find_image(void *context, enum image_form form, const char *name, char id[JSONL_ID_BYTES],
                       struct vireo_error *e)
{
    ++*(int *)context;
    if (strcmp(name, "missing.png") == 0)
        return vireo_fail(e, VIREO_NOT_FOUND, "no image of this name was uploaded");
    snprintf(id, JSONL_ID_BYTES, "%s-%s", form == IMAGE_ID ? "id" : "name", name);
    return true;
}

static void images_are_resolved_once(void **state)
{
    (void)state;
    struct dataset d;
    int calls = 0;
    const struct jsonl_options o = {.resolver = {find_image, &calls}};
    REQUIRE_OK(parse("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":"
                     "\"a.png\"}},"
                     "{\"type\":\"image_url\",\"image_url\":{\"url\":\"img_0123456789abcdefABCDEFGH\"}},"
                     "{\"type\":\"file\",\"file\":{\"file_id\":\"file-0123456789abcdefABCDEFGH\"}},"
                     "{\"type\":\"image_url\",\"image_url\":{\"url\":\"" PNG_URI "\",\"detail\":\"low\"}},"
                     "{\"type\":\"image_url\",\"image_url\":{\"url\":\"" PNG_URI "\"}},"
                     "{\"type\":\"image_url\",\"image_url\":{\"url\":\"img_1.png\"}},"
                     "{\"type\":\"image_url\",\"image_url\":{\"url\":\"a.png\"}}]}]}", &o, &d, NULL));
    REQUIRE_INT(calls, 4);
    REQUIRE_INT(d.image_count, 5);
    REQUIRE_INT(d.samples[0].image_count, 7);
    REQUIRE_STRING(d.images[0].id, "name-a.png");
    REQUIRE_STRING(d.images[1].id, "id-img_0123456789abcdefABCDEFGH");
    REQUIRE_INT(d.images[3].form, IMAGE_BYTES);
    REQUIRE_INT(d.images[3].byte_count, 20);
    REQUIRE(memcmp(d.images[3].bytes, "\x89PNG", 4) == 0);
    REQUIRE_INT(d.images[4].form, IMAGE_NAME);
    dataset_finish(&d);
    struct jsonl_report report;
    REQUIRE(!parse("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":"
                   "\"missing.png\"}}]}]}", &o,
                   &d, &report));
    REQUIRE_STRING(err.message,
                   "line 1: messages[0].content[0].image_url.url: image 'missing.png': no image of this name was "
                   "uploaded");
}

#define USER(content) "{\"messages\":[{\"role\":\"user\",\"content\":" content "}]}"
#define PART(part) USER("[" part "]")
#define URL(url) PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"" url "\"}}")
#define AFTER(messages) "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}," messages "]}"
#define VLM(question, answer) "{\"conversations\":[" question "," answer "]}"
#define ASK "{\"from\":\"human\",\"value\":\"q\"}"
#define TELL "{\"from\":\"gpt\",\"value\":\"a\"}"

static const struct bad_row {
    const char *text, *param, *says;
    enum jsonl_want want;
} bad_rows[] = {
    {"{", "", "column", 0},
    {"nope", "", "Not valid JSON", 0},
    {"{\"a\":1,\"a\":2}", "", "duplicate", 0},
    {"{\"a\":\"\xff\"}", "", "Not valid JSON", 0},
    {"{\"messages\":\"\\u0000\"}", "", "Not valid JSON", 0},
    {"[1]", "", "expected a JSON object, got array", 0},
    {"{}", "messages", "missing", 0},
    {"{\"messages\":[],\"conversations\":[]}", "messages", "not both", 0},
    {"{\"input\":{},\"preferred_output\":[]}", "preferred_output", "preference", 0},
    {"{\"messages\":{}}", "messages", "array", 0},
    {"{\"messages\":[]}", "messages", "1 to 256", 0},
    {"{\"messages\":[5]}", "messages[0]", "expected object, got integer", 0},
    {"{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", "", 0},
    {"{\"messages\":[{\"role\":1,\"content\":\"x\"}]}", "messages[0].role", "string", 0},
    {"{\"messages\":[{\"role\":\"bot\",\"content\":\"x\"}]}", "messages[0].role", "'bot'", 0},
    {"{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages[0].role", "not supported", 0},
    {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "missing", 0},
    {USER("null"), "messages[0].content", "missing", 0},
    {USER("7"), "messages[0].content", "string or array", 0},
    {USER("[]"), "messages[0].content", "at least one", 0},
    {PART("\"x\""), "messages[0].content[0]", "object", 0},
    {PART("{\"text\":\"x\"}"), "messages[0].content[0].type", "", 0},
    {PART("{\"type\":\"input_audio\"}"), "messages[0].content[0].type", "'input_audio'", 0},
    {PART("{\"type\":\"text\"}"), "messages[0].content[0].text", "", 0},
    {PART("{\"type\":\"image_url\"}"), "messages[0].content[0].image_url", "missing", 0},
    {PART("{\"type\":\"image_url\",\"image_url\":\"a.png\"}"), "messages[0].content[0].image_url", "object", 0},
    {PART("{\"type\":\"image_url\",\"image_url\":{}}"), "messages[0].content[0].image_url.url", "", 0},
    {PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"a.png\",\"detail\":\"max\"}}"),
     "messages[0].content[0].image_url.detail",
     "'max'", 0},
    {PART("{\"type\":\"file\",\"file\":{}}"), "messages[0].content[0].file", "file_id", 0},
    {URL("data:image/png,abc"), "messages[0].content[0].image_url.url", "data: URI is not base64", 0},
    {URL("data:image/png;base64,@@@@"), "messages[0].content[0].image_url.url", "data: URI is not base64", 0},
    {URL("data:image/png;base64,aGVsbG8gd29ybGQ="), "messages[0].content[0].image_url.url", "no PNG, JPEG or WebP", 0},
    {URL("https://example.org/a.png"), "messages[0].content[0].image_url.url", "not fetched", 0},
    {URL("ftp://example.org/a.png"), "messages[0].content[0].image_url.url", "file name", 0},
    {URL("../secret.png"), "messages[0].content[0].image_url.url", "relative", 0},
    {URL("a/../../b.png"), "messages[0].content[0].image_url.url", "relative", 0},
    {URL("a//b.png"), "messages[0].content[0].image_url.url", "relative", 0},
    {URL("a/"), "messages[0].content[0].image_url.url", "relative", 0},
    {URL("./a.png"), "messages[0].content[0].image_url.url", "relative", 0},
    {URL("data:image/png;base64,iVBORw0KGgoAA"), "messages[0].content[0].image_url.url", "data: URI is not base64", 0},
    {URL("data:image/png;base64,iVBORw0KGgoAAB"), "messages[0].content[0].image_url.url", "data: URI is not base64", 0},
    {URL("/etc/a.png"), "messages[0].content[0].image_url.url", "relative", 0},
    {URL("C:\\\\a.png"), "messages[0].content[0].image_url.url", "relative", 0},
    {URL(""), "messages[0].content[0].image_url.url", "1 to 255", 0},
    {"{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"a.png\"}}]},"
     "{\"role\":\"user\",\"content\":\"q\"}]}", "messages[0].content[0]", "user messages only", 0},
    {AFTER("{\"role\":\"assistant\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"a.png\"}}]}"),
     "messages[1].content[0]", "user messages only", 0},
    {AFTER("{\"role\":\"system\",\"content\":\"s\"}"), "messages[1].role", "expected 'user'", 0},
    {AFTER("{\"role\":\"assistant\",\"content\":\"\"}"), "messages[1].content", "empty", 0},
    {AFTER("{\"role\":\"assistant\",\"content\":null}"), "messages[1].content", "missing", 0},
    {AFTER("{\"role\":\"assistant\",\"content\":\"a\",\"weight\":2}"), "messages[1].weight", "0 or 1", 0},
    {AFTER("{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}"), "messages", "nothing to train on", 0},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"weight\":1}]}", "messages[0].weight", "only assistant", 0},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}", "messages", "without a question", 0},
    {AFTER("{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"a\"}"),
     "messages[1].role", "'user'", 0},
    {AFTER("{\"role\":\"assistant\",\"content\":\"a\"}"), "messages[1].role", "reinforcement", JSONL_PROMPT},
    {USER("\"q\""), "messages[0].role", "supervised", JSONL_TARGET},
    {"{\"tools\":[{}],\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}", "tools", "not supported", 0},
    {"{\"id\":[],\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}", "id", "string or integer", 0},
    {"{\"id\":\"\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}", "id", "256", 0},
    {"{\"conversations\":5}", "conversations", "array", 0},
    {"{\"conversations\":[" ASK "]}", "conversations", "got 1", 0},
    {VLM("5", TELL), "conversations[0]", "object", 0},
    {VLM("{\"value\":\"q\"}", TELL), "conversations[0].from", "", 0},
    {VLM(TELL, ASK), "conversations[0].from", "'human'", 0},
    {VLM(ASK, ASK), "conversations[1].from", "'gpt'", 0},
    {VLM("{\"from\":\"human\"}", TELL), "conversations[0].value", "missing", 0},
    {VLM("{\"from\":\"human\",\"value\":3}", TELL), "conversations[0].value", "string", 0},
    {VLM(ASK, "{\"from\":\"gpt\",\"value\":\"\"}"), "conversations[1].value", "empty", 0},
    {VLM("{\"from\":\"human\",\"value\":\"<image>q\"}", TELL), "conversations[0].value",
     "1 <image> marks for 0 images", 0},
    {"{\"image\":5,\"conversations\":[" ASK "," TELL "]}", "image", "array of strings", 0},
    {"{\"image\":[\"a.png\",5],\"conversations\":[" ASK "," TELL "]}", "image[1]", "string", 0},
    {"{\"image\":\"../a.png\",\"conversations\":[" ASK "," TELL "]}", "image", "relative", 0},
    {"{\"accu_reward_method\":5,\"conversations\":[" ASK "," TELL "]}", "accu_reward_method", "string", 0},
};

static void bad_rows_name_line_and_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_rows / sizeof bad_rows[0]; i++) {
        const struct bad_row *b = &bad_rows[i];
        struct dataset d;
        struct jsonl_report report;
        const struct jsonl_options o = {.want = b->want};
        char text[1024], line[512];
        const char *good = b->want == JSONL_TARGET ? AFTER("{\"role\":\"assistant\",\"content\":\"a\"}"
                                                           "") : USER("\"q\"");
        snprintf(text, sizeof text, "%s\n\n%s\n%s\n", good, b->text, good);
        if (parse(text, &o, &d, &report))
            fail_msg("%s was accepted", b->text);
        if (report.bad_rows != 1 || report.rows != 3 || report.issue_count != 1 || report.issues[0].line != 3 ||
            strcmp(report.issues[0].param, b->param) != 0 || !strstr(report.issues[0].message, b->says))
            fail_msg("%s: %s (%u bad rows), expected field '%s' and '%s'", b->text,
                     jsonl_issue_text(&report.issues[0], line, sizeof line), report.bad_rows, b->param, b->says);
        REQUIRE_STRING(err.kind, "invalid_file_format");
        REQUIRE_STRING(err.message, jsonl_issue_text(&report.issues[0], line, sizeof line));
    }
}

static void all_bad_rows_are_counted_and_twenty_listed(void **state)
{
    (void)state;
    char text[512];
    size_t n = 0;
    for (int i = 0; i < 30; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "{}\n");
    struct dataset d;
    struct jsonl_report report;
    REQUIRE(!parse(text, NULL, &d, &report));
    REQUIRE_INT(report.bad_rows, 30);
    REQUIRE_INT(report.issue_count, JSONL_MAX_ISSUES);
    REQUIRE_INT(report.issues[19].line, 20);
    REQUIRE(strstr(err.message, "29 more") != NULL);
    const struct jsonl_options few = {.max_rows = 29};
    REQUIRE(!parse(text, &few, &d, &report) && strstr(err.message, "30 rows, at most 29"));
    REQUIRE(!parse("\n \n", NULL, &d, &report) && strstr(err.message, "no rows"));
    REQUIRE(!parse("", NULL, &d, &report));
}

static void long_rows_and_many_images_are_refused(void **state)
{
    (void)state;
    struct dataset d;
    struct jsonl_report report;
    size_t size = JSONL_ROW_BYTES + 1;
    char *text = malloc(size + 1);
    REQUIRE(text != NULL);
    memset(text, ' ', size);
    text[0] = '{';
    text[size - 1] = '}';
    text[size] = 0;
    REQUIRE(!parse(text, NULL, &d, &report) && strstr(err.message, "bytes, at most"));
    size_t n = (size_t)snprintf(text, size, "{\"image\":[\"a.png\"");
    for (int i = 0; i < JSONL_MAX_IMAGES; i++)
        n += (size_t)snprintf(text + n, size - n, ",\"a.png\"");
    snprintf(text + n, size - n, "],\"conversations\":[" ASK "," TELL "]}");
    REQUIRE(!parse(text, NULL, &d, &report) && strstr(err.message, "image[64]: more than 64"));
    free(text);
}

static void groups_become_units(void **state)
{
    (void)state;
    struct dataset d;
#define GROUPED(g) "{\"group\":" g ",\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}\n"
    REQUIRE_OK(parse(GROUPED("0") GROUPED("0") GROUPED("1") GROUPED("null")
                         GROUPED("null") GROUPED("\"x\"") GROUPED("\"x\""), NULL, &d,
                     NULL));
    static const uint32_t expected[] = {0, 0, 1, 2, 3, 4, 4};
    for (int i = 0; i < 7; i++)
        REQUIRE_INT(dataset_units(&d)[i], expected[i]);
    dataset_finish(&d);
}

static void the_blood_cells_load(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t rows;
    } files[] = {{"bccd/count_train.jsonl", 410}, {"bccd/rec_train.jsonl", 248}, {"bccd/detect_test.jsonl", 72}};
    for (size_t i = 0; i < 3; i++) {
        struct dataset d;
        const struct jsonl_options o = {.want = JSONL_PROMPT};
        REQUIRE_OK(jsonl_load(test_data(files[i].name), &o, &d, NULL, &err));
        REQUIRE_INT(d.count, files[i].rows);
        REQUIRE_INT(d.samples[0].image_count, 1);
        dataset_finish(&d);
    }
}

static void loading_survives_lack_of_memory(void **state)
{
    (void)state;
    bool done = false;
    for (int n = 1; n < 400 && !done; n++) {
        char rule[32];
        struct dataset d;
        snprintf(rule, sizeof rule, "fail:alloc:%d", n);
        vireo_fault_set(rule);
        const struct jsonl_options o = {.question_template = "rec", .system_prompt = "P"};
        done = parse(URL(PNG_URI) "\n" URL("a.png") "\n" "{\"image\":\"b.png\",\"conversations\":[" ASK "," TELL "]}",
                     &o, &d, NULL);
        vireo_fault_set("");
        if (!done)
            REQUIRE_INT(err.code, VIREO_NO_MEMORY);
        else
            dataset_finish(&d);
    }
    REQUIRE(done);
}

static void an_epoch_visits_each_row_once(void **state)
{
    (void)state;
    enum { ROWS = 101, BATCH = 8 };
    struct order *o = order_create(&(struct order_config){.seed = 3, .rows = ROWS, .batch = BATCH, .shuffle = true},
                                   &err);
    REQUIRE_OK(o != NULL);
    REQUIRE_INT(order_batches(o, 3), (3 * ROWS + BATCH - 1) / BATCH);
    uint32_t seen[ROWS] = {0}, out[BATCH], first[ROWS], moved = 0;
    double epoch;
    for (uint64_t p = 0; p < 3 * ROWS; p++) {
        if (p % BATCH == 0)
            order_batch(o, p / BATCH, out, &epoch);
        uint32_t row = out[p % BATCH];
        REQUIRE(row < ROWS && seen[row] == p / ROWS);
        seen[row]++;
        if (p < ROWS)
            first[p] = row;
        else if (p < 2 * ROWS)
            moved += first[p - ROWS] != row;
    }
    REQUIRE(moved > ROWS / 2); // another permutation in the second epoch
    order_batch(o, 0, out, &epoch);
    REQUIRE_NEAR(epoch, (double)BATCH / ROWS, 1e-12);
    order_destroy(&o);
}

static void the_order_depends_on_the_step_alone(void **state)
{
    (void)state;
    struct order_config c = {.seed = 9, .rows = 50, .batch = 16, .shuffle = true};
    struct order *a = order_create(&c, &err), *b = order_create(&c, &err);
    uint32_t x[40][16], y[16];
    for (uint64_t s = 0; s < 40; s++)
        order_batch(a, s, x[s], NULL);
    for (uint64_t s = 40; s-- > 0;) { // backwards: nothing is carried along
        order_batch(b, s, y, NULL);
        REQUIRE(memcmp(x[s], y, sizeof y) == 0);
    }
    order_destroy(&b);
    c.seed = 10;
    b = order_create(&c, &err);
    order_batch(b, 0, y, NULL);
    REQUIRE(memcmp(x[0], y, sizeof y) != 0);
    order_destroy(&a);
    order_destroy(&b);
}

static void dropping_leaves_out_the_incomplete_batch(void **state)
{
    (void)state;
    struct order *o = order_create(&(struct order_config){.seed = 1, .rows = 10, .batch = 4, .drop_last = true}, &err);
    uint32_t out[4];
    REQUIRE_INT(order_batches(o, 3), 6);
    order_batch(o, 2, out, NULL); // not shuffled: the second epoch starts at row 0 again
    REQUIRE_INT(out[0], 0);
    order_destroy(&o);
    o = order_create(&(struct order_config){.seed = 1, .rows = 10, .batch = 4}, &err);
    REQUIRE_INT(order_batches(o, 1), 3);
    order_batch(o, 2, out, NULL);
    REQUIRE(out[0] == 8 && out[1] == 9 && out[2] == 0 && out[3] == 1);
    order_destroy(&o);
    o = order_create(&(struct order_config){.rows = 3, .batch = 4, .drop_last = true}, &err);
    REQUIRE_INT(order_batches(o, 5), 0);
    order_destroy(&o);
    o = order_create(&(struct order_config){.rows = 2, .batch = 4}, &err); // a batch larger than the data repeats rows
    order_batch(o, 0, out, NULL);
    REQUIRE(out[0] == 0 && out[1] == 1 && out[2] == 0 && out[3] == 1);
    order_destroy(&o);
    REQUIRE_FAIL(order_create(&(struct order_config){.rows = 0, .batch = 1}, &err), VIREO_INVALID);
    REQUIRE_FAIL(order_create(&(struct order_config){.rows = 1, .batch = 0}, &err), VIREO_INVALID);
}

static void units_stay_together(void **state)
{
    (void)state;
    uint32_t unit[60], out[60], at = 0, swapped = 0;
    for (uint32_t i = 0; i < 60; i++)
        unit[i] = i / 3;
    struct order *o = order_create(&(struct order_config){.seed = 5, .rows = 60, .batch = 60, .shuffle = true,
                                                          .unit = unit}, &err);
    order_batch(o, 0, out, NULL);
    for (; at < 60; at += 3) {
        REQUIRE(out[at] % 3 == 0 && out[at + 1] == out[at] + 1 && out[at + 2] == out[at] + 2);
        swapped += out[at] != at;
    }
    REQUIRE(swapped > 10);
    order_destroy(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sft_rows_keep_the_order_of_parts),
        cmocka_unit_test(answers_may_be_left_out_of_training),
        cmocka_unit_test(rft_rows_hand_their_fields_to_the_grader),
        cmocka_unit_test(vlm_r1_rows_have_images_first_and_a_wrapped_solution),
        cmocka_unit_test(templates_are_vlm_r1s),
        cmocka_unit_test(images_are_resolved_once),
        cmocka_unit_test(bad_rows_name_line_and_field),
        cmocka_unit_test(all_bad_rows_are_counted_and_twenty_listed),
        cmocka_unit_test(long_rows_and_many_images_are_refused),
        cmocka_unit_test(groups_become_units),
        cmocka_unit_test(the_blood_cells_load),
        cmocka_unit_test(loading_survives_lack_of_memory),
        cmocka_unit_test(an_epoch_visits_each_row_once),
        cmocka_unit_test(the_order_depends_on_the_step_alone),
        cmocka_unit_test(dropping_leaves_out_the_incomplete_batch),
        cmocka_unit_test(units_stay_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
