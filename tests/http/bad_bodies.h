// Bodies that must get a 4xx in the API's error shape, with the field that is wrong where `param` says so.
// $FILE stands for the id of an uploaded file of one good row, $MODEL for a model that exists.
#ifndef VIREO_TESTS_HTTP_BAD_BODIES_H
#define VIREO_TESTS_HTTP_BAD_BODIES_H

#include <stddef.h>

struct bad_body {
    const char *method, *path, *type, *body;
    int status;        // 0: any 4xx
    const char *param; // NULL: any
};
#define JSON_ "application/json"
#define FORM_ "multipart/form-data; boundary=B"
#define PART_(head, body) "--B\r\nContent-Disposition: form-data; " head "\r\n\r\n" body "\r\n"
#define DEEP8 "[[[[[[[["
#define KEYS "POST", "/v1/vireo/keys", JSON_
#define IMAGES "POST", "/v1/vireo/images"
#define DATASETS "POST", "/v1/vireo/datasets"
#define FILES "POST", "/v1/files"
#define RUN "POST", "/v1/fine_tuning/alpha/graders/run", JSON_
#define VALIDATE "POST", "/v1/fine_tuning/alpha/graders/validate", JSON_

static const struct bad_body bad_bodies[] = {
    // JSON as such
    {KEYS, "{\"name\":", 400, NULL},
    {KEYS, "{\"name\":\"x\"} trailing", 400, NULL},
    {KEYS, "{\"name\":\"x\",\"name\":\"y\"}", 400, NULL},
    {KEYS, "{\"name\":\"\xff\xfe\"}", 400, NULL},
    {KEYS, "{\"name\":\"a\\u0000b\"}", 400, NULL},
    {KEYS, "{'name':'x'}", 400, NULL},
    {KEYS, "{\"name\":NaN}", 400, NULL},
    {KEYS, "[]", 400, NULL},
    {KEYS, "\"text\"", 400, NULL},
    {KEYS, "{\"a\":" DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 DEEP8 "1", 400, NULL},
    {"POST", "/v1/vireo/keys", "text/plain", "{\"name\":\"x\"}", 415, NULL},
    {"POST", "/v1/vireo/keys", "application/x-www-form-urlencoded", "name=x", 415, NULL},
    {"POST", "/v1/vireo/keys", FORM_, PART_("name=\"name\"", "x") "--B--\r\n", 415, NULL},
    // keys and sessions
    {KEYS, "{}", 400, "name"},
    {KEYS, "{\"name\":7}", 400, "name"},
    {KEYS, "{\"name\":\"\"}", 400, "name"},
    {KEYS, "{\"name\":\"x\",\"scopes\":[]}", 400, "scopes"},
    {KEYS, "{\"name\":\"x\",\"scopes\":[\"read\",\"fly\"]}", 400, "scopes[1]"},
    {KEYS, "{\"name\":\"x\",\"scopes\":\"read\"}", 400, "scopes"},
    {KEYS, "{\"name\":\"x\",\"expires_in\":1}", 400, "expires_in"},
    {KEYS, "{\"name\":\"x\",\"expires_in\":1e9}", 400, "expires_in"},
    {KEYS, "{\"name\":\"x\",\"unknown\":1,\"vireo\":{\"strict\":true}}", 400, "unknown"},
    {"POST", "/v1/vireo/session", JSON_, "{\"key\":\"sk-vireo-wrong\"}", 401, NULL},
    {"POST", "/v1/vireo/session", JSON_, "{}", 400, "key"},
    // files
    {FILES, FORM_, PART_("name=\"purpose\"", "fine-tune") "--B--\r\n", 400, "file"},
    {FILES, FORM_, PART_("name=\"file\"; filename=\"a\"", "x") "--B--\r\n", 400, "purpose"},
    {FILES, FORM_, PART_("name=\"file\"; filename=\"a\"", "") PART_("name=\"purpose\"", "vision") "--B--\r\n", 400,
     "file"},
    {FILES, FORM_, PART_("name=\"file\"; filename=\"a\"", "x") PART_("name=\"purpose\"", "evil") "--B--\r\n", 400,
     "purpose"},
    {FILES, FORM_, PART_("name=\"file\"; filename=\"a\"", "x") PART_("name=\"purpose\"", "vision"), 400, NULL},
    {FILES, FORM_, "no boundary at all", 400, NULL},
    {FILES, FORM_, PART_("nam=\"file\"", "x") "--B--\r\n", 400, NULL},
    {FILES, "multipart/form-data", "--B--\r\n", 400, NULL},
    {FILES, "multipart/form-data; boundary=", "--B--\r\n", 400, NULL},
    {FILES, JSON_, "{}", 415, NULL},
    {FILES, FORM_, PART_("name=\"file\"", "x") PART_("name=\"purpose\"", "vision")
     PART_("name=\"expires_after[seconds]\"", "9999") "--B--\r\n", 400, "expires_after.anchor"},
    // images
    {IMAGES, JSON_, "{}", 400, "images"},
    {IMAGES, JSON_, "{\"image\":\"https://example.com/a.png\"}", 400, "image"},
    {IMAGES, JSON_, "{\"image\":\"data:image/png;base64,AAAA\"}", 400, "image"},
    {IMAGES, JSON_, "{\"images\":[{\"name\":\"x\"}]}", 400, "images[0]"},
    {IMAGES, "image/png", "\x89PNG\r\n\x1a\n", 400, NULL},
    {IMAGES, "image/gif", "GIF89a", 400, NULL},
    {IMAGES, FORM_, PART_("name=\"note\"", "x") "--B--\r\n", 400, NULL},
    // datasets
    {DATASETS, JSON_, "{}", 400, "name"},
    {DATASETS, JSON_, "{\"name\":\"x\"}", 400, "files"},
    {DATASETS, JSON_, "{\"name\":\"x\",\"files\":[7]}", 400, "files[0]"},
    {DATASETS, JSON_, "{\"name\":\"x\",\"files\":[\"file-nope\"]}", 404, "files[0]"},
    {DATASETS, JSON_, "{\"name\":\"x\",\"files\":[\"$FILE\"],\"images\":[\"img_nope\"]}", 404, "images[0]"},
    {DATASETS, JSON_, "{\"name\":\"x\",\"files\":[\"$FILE\"],\"images\":[{\"id\":\"img_nope\"}]}", 400,
     "images[0].name"},
    {DATASETS, JSON_, "{\"name\":\"a/b\",\"files\":[\"$FILE\"]}", 400, "name"},
    {DATASETS, JSON_, "{\"name\":\"x\",\"files\":[\"$FILE\"],\"format\":\"coco\"}", 400, "format"},
    {DATASETS, FORM_, PART_("name=\"name\"", "x") PART_("name=\"file\"; filename=\"r.jsonl\"",
                                                        "{\"messages\":[]}") "--B--\r\n",
     400, NULL},
    {DATASETS, FORM_, PART_("name=\"name\"", "x") PART_("name=\"file\"; filename=\"r.jsonl\"",
                                                        "not json") "--B--\r\n", 400,
     NULL},
    {DATASETS, FORM_, PART_("name=\"name\"", "x") PART_("name=\"file\"; filename=\"i.zip\"",
                                                        "PK\x03\x04garbage") "--B--\r\n",
     400, NULL},
    // graders
    {RUN, "{}", 400, "model_sample"},
    {RUN, "{\"model_sample\":\"x\"}", 400, "grader"},
    {RUN, "{\"model_sample\":\"x\",\"grader\":{\"type\":\"python\",\"source\":\"import os\"}}", 400, NULL},
    {RUN, "{\"model_sample\":\"x\",\"grader\":[]}", 400, "grader"},
    {VALIDATE, "{\"grader\":{}}", 400, "grader.type"},
    {VALIDATE, "{\"grader\":{\"type\":\"rule\",\"name\":\"a\",\"rule\":\"magic\"}}", 400, "grader.rule"},
    {VALIDATE, "{\"grader\":{\"type\":\"multi\",\"name\":\"a\",\"graders\":{},\"calculate_output\":\"1\"}}", 400, NULL},
};

// Only where the server has workers.
#define JOBS "POST", "/v1/fine_tuning/jobs", JSON_
#define CHAT "POST", "/v1/chat/completions", JSON_
#define JOB_(more) "{\"model\":\"$MODEL\",\"training_file\":\"$FILE\"," more "}"
#define ASK_ "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define CHAT_(more) "{\"model\":\"$MODEL\"," ASK_ "," more "}"

static const struct bad_body bad_worker_bodies[] = {
    {JOBS, "{}", 400, "model"},
    {JOBS, "{\"model\":\"$MODEL\"}", 400, "training_file"},
    {JOBS, "{\"model\":\"nope\",\"training_file\":\"$FILE\"}", 404, "model"},
    {JOBS, "{\"model\":\"$MODEL\",\"training_file\":\"file-nope\"}", 404, "training_file"},
    {JOBS, JOB_("\"validation_file\":\"file-nope\""), 404, "validation_file"},
    {JOBS, JOB_("\"seed\":-1"), 400, "seed"},
    {JOBS, JOB_("\"suffix\":\"with space\""), 400, "suffix"},
    {JOBS, JOB_("\"method\":{\"type\":\"dpo\"}"), 400, NULL},
    {JOBS, JOB_("\"method\":{\"type\":\"reinforcement\"}"), 400, NULL},
    {JOBS, JOB_("\"vireo\":{\"group_size\":1}"), 400, NULL},
    {JOBS, JOB_("\"vireo\":{\"temperature\":-1}"), 400, NULL},
    {JOBS, JOB_("\"vireo\":{\"no_such_key\":1}"), 400, NULL},
    {JOBS, JOB_("\"metadata\":{\"a\":1}"), 400, NULL},
    {CHAT, "{" ASK_ "}", 400, "model"},
    {CHAT, "{\"model\":\"$MODEL\"}", 400, "messages"},
    {CHAT, "{\"model\":\"nope\"," ASK_ "}", 404, "model"},
    {CHAT, "{\"model\":\"$MODEL\",\"messages\":[]}", 400, "messages"},
    {CHAT, "{\"model\":\"$MODEL\",\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}", 400, "messages[0].role"},
    {CHAT, CHAT_("\"temperature\":3"), 400, "temperature"},
    {CHAT, CHAT_("\"top_p\":0"), 400, "top_p"},
    {CHAT, CHAT_("\"n\":129"), 400, "n"},
    {CHAT, CHAT_("\"max_tokens\":5,\"max_completion_tokens\":5"), 400, NULL},
    {CHAT, CHAT_("\"top_logprobs\":3"), 400, NULL},
    {CHAT, CHAT_("\"tools\":[{\"type\":\"function\"}]"), 400, "tools"},
    {CHAT, CHAT_("\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]"), 400, "stop"},
    {CHAT, "{\"model\":\"$MODEL\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
     "{\"url\":\"http://169.254.169.254/\"}}]}]}", 400, "messages[0].content[0].image_url.url"},
    {CHAT, "{\"model\":\"$MODEL\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
     "{\"url\":\"data:image/png;base64,AAAA\"}}]}]}", 400, "messages[0].content[0].image_url.url"},
    {CHAT, "{\"model\":\"$MODEL\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"video\"}]}]}", 400, NULL},
};

#endif
