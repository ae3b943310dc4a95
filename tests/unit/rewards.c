// Rules, formula, templates and graders. The rules' own values are in data/cases/rewards.json (reward_cases).
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/rewards/formula.h"
#include "compute/rewards/grader.h"
#include "compute/rewards/parse.h"
#include "compute/rewards/reward.h"
#include "compute/rewards/template.h"
#include "tests/check.h"

#include <time.h>

static struct vireo_error err;

static struct text t(const char *s)
{
    return parse_text_of(s, strlen(s));
}

static json_t *json(const char *text)
{
    json_t *value = vireo_json_parse(text, strlen(text), &err);
    if (!value)
        fail_msg("%s: %s", text, err.message);
    return value;
}

static void white_space_is_pythons(void **state)
{
    (void)state;
    struct text s = parse_text_strip(t("\x1c\xc2\x85\xe2\x80\x83 a\xe3\x80\x80 b \xe2\x80\xa8\n"));
    REQUIRE(parse_text_is(s, "a\xe3\x80\x80 b"));
    REQUIRE(parse_text_is(parse_text_strip(t("\xe2\x80\x8b")), "\xe2\x80\x8b")); // zero-width space is not white space
    REQUIRE(parse_text_strip(t(" \n\t ")).size == 0);
    REQUIRE(think_answer_whole(t("<think></think>\xc2\xa0\xe2\x80\xa9<answer></answer>")));
}

static void answers_are_found_as_findall_does(void **state)
{
    (void)state;
    struct text a;
    REQUIRE(answer_first(t("<answer>1</answer><answer>2</answer><answer>3"), &a) && parse_text_is(a, "1"));
    REQUIRE(answer_last(t("<answer>1</answer><answer>2</answer><answer>3"), &a) && parse_text_is(a, "2"));
    REQUIRE(answer_last(t("<answer>x<answer>y</answer></answer>"), &a) && parse_text_is(a, "x<answer>y"));
    REQUIRE(!answer_first(t("</answer><answer>"), &a));
}

static void cleaning_follows_clean_text(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {" A.B.. ", "a.b"},     {"a\nb", "a b"},          {"a \nb", "a b"},       {"a\n\n\nb", "a b"},
        {"a\r\nb", "a b"},      {"x .\n", "x "},          {"\xc3\x84\xce\xa9.", "\xc3\xa4\xcf\x89"},
        {"<answer>Q</answer>", "q"}, {"\xff.", "\xff"},   {"...", ""},            {"\xc8\xba", "\xe2\xb1\xa5"},
        {"a\xc2\xa0\nb", "a\xc2\xa0" "b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *out;
        size_t size;
        REQUIRE_OK(parse_text_clean(t(cases[i].in), &out, &size, &err));
        REQUIRE_STRING(out, cases[i].out);
        REQUIRE_INT(size, strlen(cases[i].out));
        free(out);
    }
}

static void numbers_are_pythons_floats_without_its_oddities(void **state)
{
    (void)state;
    double v;
    static const char *const good[] = {"1", " +1.5e3\n", ".5", "5.", "-0", "1E-2", "007"};
    static const double values[] = {1, 1500, 0.5, 5, 0, 0.01, 7};
    static const char *const bad[] = {"", ".", "1e", "e5", "1_0", "inf", "-infinity", "0x1", "1 2", "1,5", "1e999",
                                      "--1",
                                      "\xd9\xa1"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        REQUIRE(number_of_text(t(good[i]), &v));
        REQUIRE_NEAR(v, values[i], 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (number_of_text(t(bad[i]), &v))
            fail_msg("'%s' was read as %g", bad[i], v);
    REQUIRE(number_of_text(t("NaN"), &v) && isnan(v));
}

static void boxes_are_found_and_measured(void **state)
{
    (void)state;
    double b[4], c[4] = {0, 0, 2, 2};
    size_t start, end;
    REQUIRE(box_find(t("[[1, 2,\n3,4] [5,6,7,8]"), 0, b, &start, &end));
    REQUIRE_INT(start, 1);
    REQUIRE_INT(end, 12);
    REQUIRE(b[0] == 1 && b[1] == 2 && b[2] == 3 && b[3] == 4);
    REQUIRE(!box_find(t("[1 ,2,3,4] [1,2,3,4 ] [1,2,3] [-1,2,3,4] [1.0,2,3,4] [1,2,3,4,5]"), 0, b, NULL, NULL));
    REQUIRE_NEAR(box_iou((double[]){1, 0, 3, 2}, c), 1.0 / 3, 1e-15);
    REQUIRE_NEAR(box_iou((double[]){0, 0, INFINITY, 2}, c), 0, 0);
    REQUIRE_NEAR(box_iou((double[]){NAN, 0, 2, 2}, c), 0, 0);
    REQUIRE_NEAR(box_iou((double[]){0, 0, 1e200, 1e200}, (double[]){0, 0, 1e200, 1e200}), 0, 0); // inf / inf
    REQUIRE(box_of_reference(t("<answer> {\"bbox_2d\": [1, 2, 3.5, 4]} </answer>"), b) && b[2] == 3.5);
    REQUIRE(box_of_reference(t("[{\"bbox_2d\": [1,2,3,4], \"label\": \"x\"}]"), b));
    REQUIRE(!box_of_reference(t("[1,2,3]"), b) && !box_of_reference(t("[1,2,3,\"4\"]"), b) && !box_of_reference(t("x"),
                                                                                                                b));
}

static double format_rec_of(const char *completion)
{
    struct reward_input in = {.completion = completion, .completion_bytes = strlen(completion)};
    struct reward_result out;
    REQUIRE_OK(reward_find("format_rec")->score(&in, &out, &err));
    return out.value;
}

static void braces_must_stand_around_the_box(void **state)
{
    (void)state;
    REQUIRE(format_rec_of("<think></think><answer>{ [1,2,3,4] }</answer>") == 1);
    REQUIRE(format_rec_of("<think></think><answer>{} [1,2,3,4] </answer>") == 0);
    REQUIRE(format_rec_of("<think></think><answer>[1,2,3,4] {}</answer>") == 0);
    REQUIRE(format_rec_of("<think></think><answer>{ [1,2,3,4] </answer> }") == 0);
}

// VLM-R1's pattern needs seconds for 6 kB of this; the scanner must stay linear.
static void hostile_text_is_linear(void **state)
{
    (void)state;
    enum { SIZE = 4 << 20 };
    char *text = malloc(SIZE + 1);
    REQUIRE(text != NULL);
    static const char *const pieces[] = {"<think>", "</think>", "<answer>", "{[1,1,1,", "[1, 2, 3, 4]{", "</think> ",
                                         "\n "};
    for (size_t k = 0; k < sizeof pieces / sizeof pieces[0]; k++) {
        size_t n = 0, length = strlen(pieces[k]);
        memcpy(text, "<think></think><answer>", 23);
        for (n = 23; n + length <= SIZE; n += length)
            memcpy(text + n, pieces[k], length);
        text[n] = 0;
        for (size_t i = 0; reward_rules[i]; i++) {
            struct reward_input in = {.completion = text, .completion_bytes = n, .reference = "[1,2,3,4]",
                                      .reference_bytes = 9, .image_size = {1, 1}, .model_size = {1, 1}, .tokens = 5};
            struct reward_result out;
            clock_t start = clock();
            REQUIRE_OK(reward_rules[i]->score(&in, &out, &err));
            double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
            if (seconds > 5)
                fail_msg("%s took %.1f s on 4 MiB of '%s'", reward_rules[i]->name, seconds, pieces[k]);
            REQUIRE(isfinite(out.value));
        }
    }
    free(text);
}

static double value_of(const char *text)
{
    static const char *const names[] = {"a", "b", "odLength"};
    static const double values[] = {3, 0.5, -2};
    struct formula *f = formula_create(text, names, 3, "f", &err);
    if (!f)
        fail_msg("%s: %s", text, err.message);
    double v = formula_value(f, values);
    formula_destroy(&f);
    return v;
}

static void formulas_follow_usual_precedence(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"a + b * 2", 4},      {"(a + b) * 2", 7},   {"-2^2", -4},          {"2^3^2", 512},        {"2**-1", 0.5},
        {"a - b - 1", 1.5},    {"8 / 2 / 2", 2},     {"--a", 3},            {"min(a, b, odLength)", -2},
        {"max(1,2)*3", 6},     {"abs(odLength)", 2}, {"floor(-0.5)", -1},   {"ceil(b)", 1},       {"exp(0)", 1},
        {"sqrt(9)", 3},        {"log(1)", 0},        {"  1.5e1\n", 15},     {".5+5.", 5.5},       {"2*-3", -6},
        {"a^b^0", 3},          {"1e2", 100},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (fabs(value_of(cases[i].text) - cases[i].value) > 1e-12)
            fail_msg("%s = %g, expected %g", cases[i].text, value_of(cases[i].text), cases[i].value);
    REQUIRE(isinf(value_of("1/0")) && isnan(value_of("sqrt(-1)")) && isnan(value_of("max(0/0, 1)")));
}

static void wrong_formulas_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"a"};
    static const char *const bad[] = {"", "a +", "a b", "(a", "a)", "c", "foo(a)", "min(a)", "abs(a, a)", "1..2",
                                      "a & a",
                                      "1e999", "+a", "a * * a", "0x10", "nan", "inf", "min", "a,a", "1a"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct formula *f = formula_create(bad[i], names, 1, "grader.calculate_output", &err);
        if (f)
            fail_msg("'%s' was accepted", bad[i]);
        REQUIRE_INT(err.code, VIREO_INVALID);
        REQUIRE_STRING(err.param, "grader.calculate_output");
    }
    char deep[200];
    memset(deep, '(', 199);
    deep[199] = 0;
    REQUIRE(!formula_create(deep, names, 1, "f", &err) && strstr(err.message, "64"));
    memset(deep, '-', 199);
    REQUIRE(!formula_create(deep, names, 1, "f", &err));
    char nested[600]; // 60 deep is fine, with pending values at each level
    size_t used = 0;
    for (int i = 0; i < 60; i++)
        used += (size_t)snprintf(nested + used, sizeof nested - used, "1+2*(");
    nested[used++] = 'a';
    memset(nested + used, ')', 60);
    nested[used + 60] = 0;
    struct formula *f = formula_create(nested, names, 1, "f", &err);
    REQUIRE_OK(f != NULL);
    formula_destroy(&f);
}

static char *expand(const char *text, const char *item, const char *output, enum template_outcome *outcome)
{
    json_t *i = json(item), *o = vireo_json_parse(output, strlen(output), NULL);
    struct template_values v = {output, strlen(output), o, i};
    struct reward_template *tp = reward_template_create(text, "input", &err);
    char *out, missing[96] = "";
    size_t size;
    if (!tp)
        fail_msg("%s: %s", text, err.message);
    REQUIRE_OK(reward_template_expand(tp, &v, &out, &size, outcome, missing, &err));
    REQUIRE(*outcome == TEMPLATE_OK || missing[0]);
    REQUIRE(!out || strlen(out) == size);
    reward_template_destroy(&tp);
    json_decref(i);
    json_decref(o);
    return out;
}

static void templates_put_in_values(void **state)
{
    (void)state;
    static const char item[] = "{\"s\":\"x {{ item.n }}\",\"n\":7,\"r\":0.1,\"l\":[1,{\"k y\":[true]}],\"z\":null,"
                               "\"a-b\":\"q\"}";
    static const struct {
        const char *text, *out;
    } cases[] = {
        {"{{ item.s }}", "x {{ item.n }}"},   {"a{{item.n}}b{{  item.r  }}c", "a7b0.1c"}, {"{{ item.l }}",
                                                                                           "[1,{\"k y\":[true]}]"},
        {"{{ item.l[1][\"k y\"][0] }}", "true"}, {"{{item['s']}}", "x {{ item.n }}"},    {"{{ item.z }}", "null"},
        {"{{ item.a-b }}", "q"},              {"{{ sample.output_text }}!",
                                               "{\"v\":[5]}!"}, {"{{ sample.output_json.v[0] }}", "5"},
        {"{{ sample.output_tools }}", "[]"},  {"no } braces }}", "no } braces }}"},      {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum template_outcome outcome;
        char *out = expand(cases[i].text, item, "{\"v\":[5]}", &outcome);
        REQUIRE_STRING(out, cases[i].out);
        free(out);
    }
    enum template_outcome outcome;
    REQUIRE(!expand("{{ item.none }}", item, "1", &outcome) && outcome == TEMPLATE_NO_VARIABLE);
    REQUIRE(!expand("{{ item.l[2] }}", item, "1", &outcome) && outcome == TEMPLATE_NO_VARIABLE);
    REQUIRE(!expand("{{ sample.output_json.x }}", item, "{}", &outcome) && outcome == TEMPLATE_NO_MEMBER);
    REQUIRE(!expand("{{ sample.output_json.x }}", item, "{", &outcome) && outcome == TEMPLATE_NOT_JSON);
}

static void wrong_templates_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"{{ item.a", "{{ }}", "{{ foo }}", "{{ sample }}", "{{ sample.x }}",
                                      "{{ item..a }}",
                                      "{{ item.a | upper }}", "{{ item[ }}", "{{ item[-1] }}", "{{ item[\"a] }}",
                                      "{{ sample.output_text.a }}", "{{ item.a + 1 }}", "{{ items.a }}",
                                      "{{ item[9999999999] }}",
                                      "{{ item.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q }}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (reward_template_create(bad[i], "grader.input", &err))
            fail_msg("'%s' was accepted", bad[i]);
        REQUIRE_STRING(err.param, "grader.input");
    }
}

static void wrong_graders_name_the_field(void **state)
{
    (void)state;
    static const struct {
        const char *text, *param, *kind;
    } bad[] = {
        {"[]", "g", "invalid_type"},
        {"{}", "g.type", ""},
        {"{\"type\":5}", "g.type", ""},
        {"{\"type\":\"nope\"}", "g.type", ""},
        {"{\"type\":\"python\",\"source\":\"\"}", "g.type", "unsupported_value"},
        {"{\"type\":\"score_model\"}", "g.type", "unsupported_value"},
        {"{\"type\":\"text_similarity\"}", "g.type", "unsupported_value"},
        {"{\"type\":\"rule\"}", "g.rule", ""},
        {"{\"type\":\"rule\",\"rule\":\"nope\"}", "g.rule", "unsupported_value"},
        {"{\"type\":\"rule\",\"rule\":\"iou\",\"refrence\":\"x\"}", "g.refrence", "unknown_parameter"},
        {"{\"type\":\"rule\",\"rule\":\"iou\",\"params\":{\"coords\":\"x\"}}", "g.params.coords", ""},
        {"{\"type\":\"rule\",\"rule\":\"iou\",\"params\":{\"cords\":\"absolute\"}}", "g.params.cords",
         "unknown_parameter"},
        {"{\"type\":\"rule\",\"rule\":\"format\",\"params\":{\"a\":1}}", "g.params.a", "unknown_parameter"},
        {"{\"type\":\"rule\",\"rule\":\"format\",\"reference\":\"x\"}", "g.reference", ""},
        {"{\"type\":\"rule\",\"rule\":\"iou\",\"reference\":\"{{ item.\"}", "g.reference", ""},
        {"{\"type\":\"rule\",\"rule\":\"format_rec\",\"params\":{\"family\":\"llava\"}}", "g.params.family", ""},
        {"{\"type\":\"rule\",\"rule\":\"accuracy\",\"params\":{\"method\":\"accuracy\"}}", "g.params.method",
         "unsupported_value"},
        {"{\"type\":\"string_check\",\"input\":\"a\",\"reference\":\"b\"}", "g.operation", ""},
        {"{\"type\":\"string_check\",\"input\":\"a\",\"reference\":\"b\",\"operation\":\"gt\"}", "g.operation", ""},
        {"{\"type\":\"string_check\",\"reference\":\"b\",\"operation\":\"eq\"}", "g.input", ""},
        {"{\"type\":\"string_check\",\"input\":1,\"reference\":\"b\",\"operation\":\"eq\"}", "g.input", ""},
        {"{\"type\":\"multi\"}", "g.graders", ""},
        {"{\"type\":\"multi\",\"graders\":5}", "g.graders", "invalid_type"},
        {"{\"type\":\"multi\",\"graders\":{},\"calculate_output\":\"1\"}", "g.graders", ""},
        {"{\"type\":\"multi\",\"graders\":{\"f\":{\"type\":\"rule\",\"rule\":\"format\"}}}", "g.calculate_output", ""},
        {"{\"type\":\"multi\",\"graders\":{\"f\":{\"type\":\"rule\",\"rule\":\"format\"}},\"calculate_output\":\"x\"}",
         "g.calculate_output", ""},
        {"{\"type\":\"multi\",\"graders\":{\"f-g\":{\"type\":\"rule\",\"rule\":\"format\"}},\"calculate_output\":"
         "\"1\"}",
         "g.graders.f-g", ""},
        {"{\"type\":\"multi\",\"graders\":{\"iou\":{\"type\":\"rule\",\"rule\":\"no\"}},\"calculate_output\":\"1\"}",
         "g.graders.iou.rule", "unsupported_value"},
        {"{\"type\":\"multi\",\"graders\":[{\"type\":\"rule\",\"rule\":\"format\"},{\"type\":\"rule\",\"rule\":"
         "\"format\"}],"
         "\"calculate_output\":\"format\"}", "g.graders[1]", ""},
        {"{\"type\":\"multi\",\"graders\":{\"m\":{\"type\":\"multi\"}},\"calculate_output\":\"m\"}",
         "g.graders.m.type", ""},
        {"{\"type\":\"multi\",\"graders\":{\"m\":7},\"calculate_output\":\"m\"}", "g.graders.m", "invalid_type"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *d = json(bad[i].text);
        err = (struct vireo_error){0};
        struct grader *g = grader_create(d, "g", &err);
        if (g)
            fail_msg("%s was accepted", bad[i].text);
        if (strcmp(err.param, bad[i].param) != 0 || (bad[i].kind[0] && strcmp(err.kind, bad[i].kind) != 0))
            fail_msg("%s: param %s kind %s, expected %s %s (%s)", bad[i].text, err.param, err.kind, bad[i].param,
                     bad[i].kind,
                     err.message);
        json_decref(d);
    }
}

static struct grade run(const char *definition, const char *text, const char *item)
{
    json_t *d = json(definition), *i = item ? json(item) : NULL;
    struct grader *g = grader_create(d, "grader", &err);
    struct grade grade;
    if (!g)
        fail_msg("%s: %s", definition, err.message);
    json_decref(d);
    struct grader_sample s = {.text = text, .text_bytes = strlen(text)};
    REQUIRE_OK(grader_run(g, &s, i, &grade, &err));
    // What is normalised and compiled again must grade the same.
    json_t *again = grader_to_json(g, &err);
    REQUIRE(again != NULL);
    struct grader *h = grader_create(again, "grader", &err);
    REQUIRE_OK(h != NULL);
    struct grade twin;
    REQUIRE_OK(grader_run(h, &s, i, &twin, &err));
    REQUIRE(twin.reward == grade.reward && twin.failed == grade.failed && twin.count == grade.count);
    grader_destroy(&g);
    grader_destroy(&h);
    json_decref(again);
    json_decref(i);
    return grade;
}

static const char rec[] = "{\"type\":\"multi\",\"name\":\"rec\",\"graders\":{\"iou\":{\"type\":\"rule\",\"rule\":"
                          "\"iou\","
                          "\"params\":{\"coords\":\"absolute\"}},\"format\":{\"type\":\"rule\",\"rule\":\"format\"}},"
                          "\"calculate_output\":\"iou + 0.5 * format\"}";

static void multi_adds_up_its_parts(void **state)
{
    (void)state;
    struct grade g = run(rec, "<think>x</think><answer>[0,0,14,28]</answer>", "{\"solution\":[0,0,14,14]}");
    REQUIRE_NEAR(g.reward, 1.0, 1e-12);
    REQUIRE_INT(g.count, 2);
    REQUIRE_NEAR(g.parts[0].value, 0.5, 1e-12);
    REQUIRE_NEAR(g.parts[1].value, 1, 0);
    REQUIRE(!g.failed && !g.errors.sample_parse_error && strstr(g.parts[0].reason, "IoU 0.5"));
    // No readable box: format still pays, the flag is set, and it is not the data's fault.
    g = run(rec, "<think>x</think><answer>none</answer>", "{\"solution\":[0,0,14,14]}");
    REQUIRE_NEAR(g.reward, 0.5, 1e-12);
    REQUIRE(g.errors.sample_parse_error && g.parts[0].errors.sample_parse_error && !g.failed);
}

static void faults_of_the_data_are_told_from_faults_of_the_text(void **state)
{
    (void)state;
    struct grade g = run(rec, "<think>x</think><answer>[0,0,14,28]</answer>", "{\"answer\":1}");
    REQUIRE(g.failed && g.errors.invalid_variable_error && g.parts[0].value == 0 && g.reward == 0.5);
    g = run(rec, "<think>x</think><answer>[0,0,14,28]</answer>", "{\"solution\":\"a box\"}");
    REQUIRE(g.failed && g.errors.other_error);
    g = run(rec, "x", NULL);
    REQUIRE(g.failed && g.errors.invalid_variable_error);
    static const char json_check[] = "{\"type\":\"string_check\",\"name\":\"hit\",\"input\":\"{{ "
                                     "sample.output_json.a[0] }}\","
                                     "\"reference\":\"5\",\"operation\":\"eq\"}";
    g = run(json_check, "{\"a\":[5]}", NULL);
    REQUIRE(g.reward == 1 && !g.failed);
    g = run(json_check, "not json", NULL);
    REQUIRE(g.reward == 0 && g.errors.sample_parse_error && !g.failed);
    g = run(json_check, "{\"b\":1}", NULL);
    REQUIRE(g.reward == 0 && g.errors.invalid_variable_error && !g.failed);
    g = run("{\"type\":\"multi\",\"graders\":{\"f\":{\"type\":\"rule\",\"rule\":\"format\"}},\"calculate_output\":"
            "\"1 / f\"}", "x",
            NULL);
    REQUIRE(g.reward == 0 && g.errors.other_error && g.failed);
}

static void string_checks_compare(void **state)
{
    (void)state;
    static const struct {
        const char *operation, *text, *reference;
        double value;
    } cases[] = {
        {"eq", "abc", "abc", 1}, {"eq", "Abc", "abc", 0},   {"ne", "abc", "abd", 1},   {"ne", "a", "a", 0},
        {"like", "xabcx", "abc", 1}, {"like", "xAbcx", "abc", 0}, {"ilike", "x\xc3\x84" "Bx", "\xc3\xa4" "b",
                                                                   1}, {"ilike", "a", "b", 0},
        {"like", "aaab", "aab", 1}, {"like", "", "a", 0}, {"like", "a", "", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char definition[256], item[64];
        snprintf(definition, sizeof definition,
                 "{\"type\":\"string_check\",\"name\":\"hit\",\"input\":\"{{ sample.output_text }}\","
                 "\"reference\":\"{{ item.label }}\",\"operation\":\"%s\"}", cases[i].operation);
        snprintf(item, sizeof item, "{\"label\":\"%s\"}", cases[i].reference);
        struct grade g = run(definition, cases[i].text, item);
        if (g.reward != cases[i].value)
            fail_msg("%s %s %s = %g", cases[i].text, cases[i].operation, cases[i].reference, g.reward);
    }
}

static void sizes_come_from_the_job_or_the_item(void **state)
{
    (void)state;
    static const char definition[] = "{\"type\":\"rule\",\"rule\":\"iou\"}", text[] = "<answer>[20, 20, 120, "
                                                                                      "120]</answer>";
    struct grade g = run(definition, text,
                         "{\"solution\":[10,10,60,60],\"image_size\":[140,140],\"image_grid_thw\":[1,20,20]}");
    REQUIRE_NEAR(g.reward, 1, 1e-12);
    g = run(definition, text, "{\"solution\":[10,10,60,60],\"image_size\":[[140,140]],\"image_grid_thw\":[[1,20,20]]}");
    REQUIRE_NEAR(g.reward, 1, 1e-12);
    g = run(definition, text, "{\"solution\":[10,10,60,60]}");
    REQUIRE(g.failed && strstr(g.reason, "image_size"));
    json_t *d = json(definition), *item = json("{\"solution\":\"<answer> [10, 10, 60, 60] </answer>\"}");
    struct grader *compiled = grader_create(d, "grader", &err);
    struct grader_sample s = {.text = text, .text_bytes = sizeof text - 1, .image_size = {140, 140},
                              .model_size = {280, 280}};
    REQUIRE_OK(grader_run(compiled, &s, item, &g, &err));
    REQUIRE_NEAR(g.reward, 1, 1e-12);
    grader_destroy(&compiled);
    json_decref(d);
    json_decref(item);
}

static void vlm_r1_lines_become_graders(void **state)
{
    (void)state;
    static const char *const names[] = {"accuracy", "format"};
    json_t *d = grader_from_vlm_r1(names, 2, "iou", false, (double[]){1, 0.5}, &err);
    struct grader *g = grader_create(d, "grader", &err);
    REQUIRE_OK(g != NULL);
    REQUIRE_STRING(grader_part_name(g, 0), "accuracy");
    // The row's own method overrides: here counting.
    json_t *item = json("{\"solution\":\"<answer> 3 </answer>\",\"accu_reward_method\":\"numeric\"}");
    struct grader_sample s = {.text = "<think>a</think><answer>3.0</answer>", .text_bytes = 36};
    struct grade grade;
    REQUIRE_OK(grader_run(g, &s, item, &grade, &err));
    REQUIRE_NEAR(grade.reward, 1.5, 1e-12);
    const char *path;
    REQUIRE_STRING(grader_item_key(g, 0, &path), "solution");
    REQUIRE_STRING(path, "grader.graders.accuracy.reference");
    REQUIRE(grader_item_key(g, 1, &path) == NULL);
    json_decref(item);
    grader_destroy(&g);
    json_decref(d);
    d = grader_from_vlm_r1(names, 2, NULL, true, NULL, &err);
    REQUIRE_STRING(json_string_value(json_object_get(json_object_get(json_object_get(d, "graders"), "format"), "rule")),
                   "format_rec");
    json_decref(d);
    static const char *const bad[] = {"accuracy", "acuracy"}, *const twice[] = {"format", "format"};
    REQUIRE(!grader_from_vlm_r1(bad, 2, NULL, false, NULL, &err));
    REQUIRE_STRING(err.param, "reward_funcs[1]");
    REQUIRE(!grader_from_vlm_r1(twice, 2, NULL, false, NULL, &err));
    REQUIRE(!grader_from_vlm_r1(names, 0, NULL, false, NULL, &err));
    REQUIRE(!grader_from_vlm_r1(names, 2, NULL, false, (double[]){1, NAN}, &err));
}

static void reasons_are_valid_utf8(void **state)
{
    (void)state;
    struct grade g = run("{\"type\":\"rule\",\"rule\":\"all_match\"}",
                         "\xff\xfe" "0123456789012345678901234567890123456\xc3\xa4\xc3\xa4",
                         "{\"solution\":\"x\"}");
    json_t *s = json_string(g.reason);
    REQUIRE(s != NULL);
    json_decref(s);
}

// Each allocation fails in turn: an error, never a wrong grade, a crash or a leak (the sanitised build looks for
// those).
static void lack_of_memory_is_an_error(void **state)
{
    (void)state;
    json_t *d = json("{\"type\":\"multi\",\"graders\":{\"a\":{\"type\":\"rule\",\"rule\":\"numeric\"},\"b\":"
                     "{\"type\":\"string_check\","
                     "\"input\":\"{{ item.solution }}\",\"reference\":\"3\",\"operation\":\"ilike\"}},"
                     "\"calculate_output\":\"a + b\"}");
    json_t *item = json("{\"solution\":\"3\"}");
    struct grader_sample s = {.text = "3", .text_bytes = 1};
    bool done = false;
    for (int n = 1; n < 200 && !done; n++) {
        char rule[32];
        struct grade grade;
        snprintf(rule, sizeof rule, "fail:alloc:%d", n);
        vireo_fault_set(rule);
        struct grader *g = grader_create(d, "grader", &err);
        done = g && grader_run(g, &s, item, &grade, &err);
        vireo_fault_set("");
        grader_destroy(&g);
        if (done)
            REQUIRE_NEAR(grade.reward, 2, 0);
        else
            REQUIRE_INT(err.code, VIREO_NO_MEMORY);
    }
    REQUIRE(done);
    json_decref(d);
    json_decref(item);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_is_pythons),
        cmocka_unit_test(answers_are_found_as_findall_does),
        cmocka_unit_test(cleaning_follows_clean_text),
        cmocka_unit_test(numbers_are_pythons_floats_without_its_oddities),
        cmocka_unit_test(boxes_are_found_and_measured),
        cmocka_unit_test(braces_must_stand_around_the_box),
        cmocka_unit_test(hostile_text_is_linear),
        cmocka_unit_test(formulas_follow_usual_precedence),
        cmocka_unit_test(wrong_formulas_are_refused),
        cmocka_unit_test(templates_put_in_values),
        cmocka_unit_test(wrong_templates_are_refused),
        cmocka_unit_test(wrong_graders_name_the_field),
        cmocka_unit_test(multi_adds_up_its_parts),
        cmocka_unit_test(faults_of_the_data_are_told_from_faults_of_the_text),
        cmocka_unit_test(string_checks_compare),
        cmocka_unit_test(sizes_come_from_the_job_or_the_item),
        cmocka_unit_test(vlm_r1_lines_become_graders),
        cmocka_unit_test(reasons_are_valid_utf8),
        cmocka_unit_test(lack_of_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
