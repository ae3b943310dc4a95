// The data worker: foreign bytes without a device. Rows of uploaded files and images are parsed in a sandbox that may only
// compute and speak on the socket it has; what must read or write folders (models) comes from an administrator.
#include "compute/base/arena.h"
#include "compute/base/base64.h"
#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/base/os.h"
#include "compute/dataset/jsonl.h"
#include "compute/image/decode.h"
#include "compute/image/png.h"
#include "compute/rewards/grader.h"
#include "compute/worker/link.h"
#include "compute/worker/model_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "data"
#include "compute/base/log.h"

enum { MAX_FILE = 512 << 20 };
// Address space: a 512 MiB file of rows as JSON values, and room. AddressSanitizer maps terabytes for itself.
#if defined(__SANITIZE_ADDRESS__)
static const uint64_t memory_limit = (uint64_t)1 << 62;
#else
static const uint64_t memory_limit = (uint64_t)16 << 30;
#endif

// ---- thumbnails

static bool make_thumbnail(const json_t *message, json_t **out, struct vireo_error *err)
{
    const json_t *data = json_object_get(message, "image");
    uint32_t side = (uint32_t)json_integer_value(json_object_get(message, "side"));
    size_t count = 0, png_count = 0;
    uint8_t *bytes = base64_decode(json_string_value(data), json_string_length(data), &count), *png = NULL;
    struct image pixels = {0}, small = {0};
    bool done = bytes || vireo_fail_memory(err, json_string_length(data));
    done = done && image_decode(bytes, count, NULL, &pixels, err) && image_thumbnail(&pixels, side, &small, err) &&
           image_write_png(&small, &png, &png_count, err);
    char *text = done ? base64_encode(png, png_count) : NULL;
    if (done)
        done = (text && (*out = json_pack("{s:s,s:i,s:i,s:i,s:i}", "png", text, "width", (int)small.width, "height",
                                          (int)small.height, "image_width", (int)pixels.width, "image_height",
                                          (int)pixels.height))) ||
               vireo_fail_memory(err, png_count);
    image_finish(&pixels);
    image_finish(&small);
    free(text);
    free(png);
    free(bytes);
    return done;
}

// ---- rows of training and validation files

struct references {
    json_t *list;
};

static bool note_reference(void *context, enum image_form form, const char *name, char id[JSONL_ID_BYTES],
                           struct vireo_error *err)
{
    struct references *r = context;
    if (strlen(name) >= JSONL_ID_BYTES && form == IMAGE_ID)
        return vireo_fail(err, VIREO_INVALID, "no image has so long an id");
    snprintf(id, JSONL_ID_BYTES, "%.90s", name); // only noted here: the server resolves the full name
    json_t *o = json_pack("{s:s,s:s}", "form", form == IMAGE_ID ? "id" : "name", "name", name);
    return (o && json_array_append_new(r->list, o) == 0) || vireo_fail_memory(err, 64);
}

// A grader that names an item field no row has would score 0 for ever: better told before the job starts.
static bool check_grader(const struct job_spec *s, const struct dataset *d, struct vireo_error *err)
{
    if (!s->grader)
        return true;
    struct grader *g = grader_create(s->grader, "method.reinforcement.grader", err);
    bool done = g != NULL;
    const char *path, *key;
    for (size_t i = 0; done && (key = grader_item_key(g, i, &path)); i++)
        if (!dataset_has_item_key(d, key))
            done = vireo_fail_kind(err, VIREO_INVALID, "invalid_value", path,
                                   "Invalid value for '%s': it reads item.%.60s, which no row of the training file has.", path,
                                   key);
    grader_destroy(&g);
    return done;
}

static bool check_rows(const struct job_spec *s, const struct file_bytes *bytes, bool validation, struct references *refs,
                       json_t *issues, json_t *facts, uint32_t *pictures, struct vireo_error *err)
{
    struct jsonl_options options = {.want = s->method == JOB_SFT ? JSONL_TARGET : JSONL_PROMPT,
                                    .max_rows = validation ? JSONL_VALIDATION_ROWS : JSONL_TRAIN_ROWS,
                                    .question_template = s->question_template,
                                    .system_prompt = s->system_prompt,
                                    .resolver = {note_reference, refs}};
    struct jsonl_report report = {0};
    struct dataset d;
    if (!jsonl_parse(bytes->data, bytes->size, &options, &d, &report, err)) {
        char text[480];
        for (uint32_t i = 0; i < report.issue_count; i++)
            json_array_append_new(issues, json_string(jsonl_issue_text(&report.issues[i], text, sizeof text)));
        snprintf(err->param, sizeof err->param, "%s", validation ? "validation_file" : "training_file");
        return false;
    }
    json_object_set_new(facts, validation ? "validation_rows" : "rows", json_integer(d.count));
    bool done = d.count > 0 || vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format",
                                               validation ? "validation_file" : "training_file", "The file has no rows.");
    done = done && check_grader(s, &d, err);
    *pictures = d.image_count;
    dataset_finish(&d);
    return done;
}

static _Noreturn void check(struct link *l, const json_t *message)
{
    struct vireo_error err = {0};
    struct arena arena;
    struct job_spec s;
    arena_init(&arena, 0);
    if (!job_spec_parse(json_object_get(message, "spec"), &arena, &s, &err)) {
        link_send_error(l, MESSAGE_FAILED, &err);
        _exit(WORKER_FAILED);
    }
    struct file_bytes train = {0}, validation = {0};
    json_t *plan = NULL, *issues = json_array(), *out = message_new(MESSAGE_CHECKED);
    struct references refs = {json_array()};
    uint64_t available = (uint64_t)json_integer_value(json_object_get(message, "available"));
    bool done = (issues && out && refs.list) || vireo_fail_memory(&err, 64);
    // Everything that needs files comes first: inside the sandbox none can be opened.
    struct plan_facts facts = {0};
    uint32_t pictures = 0, unused;
    done = done && plan_facts_read(&s, &facts, &err) &&
           file_read(s.training_file, MAX_FILE, &train, &err) &&
           (!s.validation_file || file_read(s.validation_file, MAX_FILE, &validation, &err)) &&
           os_sandbox_compute_only(&err) && check_rows(&s, &train, false, &refs, issues, out, &pictures, &err) &&
           (!s.validation_file || check_rows(&s, &validation, true, &refs, issues, out, &unused, &err));
    facts.pictures = pictures;
    facts.cpu_lanes = (uint32_t)json_integer_value(json_object_get(message, "cpu_lanes"));
    done = done && train_plan(&s, &facts, available ? available : UINT64_MAX, &plan, &err);
    plan_facts_finish(&facts);
    if (done) {
        json_object_set_new(out, "plan", plan);
        json_object_set_new(out, "references", refs.list);
        link_send(l, out);
        _exit(WORKER_DONE); // in the sandbox: no exit handler of a library could do its work
    }
    json_t *failed = message_new(MESSAGE_FAILED);
    if (failed) {
        json_object_set_new(failed, "error", message_error(&err));
        json_object_set_new(failed, "issues", issues);
    }
    link_send(l, failed);
    _exit(WORKER_FAILED);
}

// ---- models

static int inspect(struct link *l, const json_t *message)
{
    struct vireo_error err = {0};
    const char *folder = json_string_value(json_object_get(message, "folder"));
    const char *preset = json_string_value(json_object_get(message, "preset"));
    const char *source = json_string_value(json_object_get(message, "source"));
    uint64_t seed = (uint64_t)json_integer_value(json_object_get(message, "seed"));
    json_t *facts = NULL;
    bool done = folder != NULL || vireo_fail(&err, VIREO_INTERNAL, "no folder was named");
    if (done && preset)
        done = model_folder_init(preset, seed, folder, &err);
    if (done && source)
        done = model_folder_copy(source, folder, &err);
    done = done && model_folder_inspect(folder, &facts, &err);
    if (!done) {
        link_send_error(l, MESSAGE_FAILED, &err);
        return WORKER_FAILED;
    }
    json_t *m = message_new(MESSAGE_INSPECTED);
    if (m)
        json_object_set_new(m, "facts", facts);
    link_send(l, m);
    return WORKER_DONE;
}

int worker_data(struct link *l)
{
    struct vireo_error err;
    if (!os_limit_memory(memory_limit, &err))
        log_warn("%s", err.message);
    bool sandboxed = false;
    for (;;) {
        json_t *message = link_receive(l, -1), *out = NULL;
        switch (message_kind_of(message)) {
        case MESSAGE_CHECK: check(l, message);
        case MESSAGE_UNPACK: worker_unpack(l, message);
        case MESSAGE_INSPECT:
        case MESSAGE_INIT: return inspect(l, message);
        case MESSAGE_THUMBNAIL: break;
        default: log_error("unknown request"); return WORKER_USAGE;
        }
        err = (struct vireo_error){0};
        if (!sandboxed && !(sandboxed = os_sandbox_compute_only(&err)))
            return WORKER_FAILED;
        bool done = make_thumbnail(message, &out, &err);
        json_t *answer = message_new(done ? MESSAGE_THUMBNAIL : MESSAGE_REFUSED);
        if (answer) {
            json_object_set(answer, "id", json_object_get(message, "id"));
            if (done)
                json_object_update(answer, out);
            else
                json_object_set_new(answer, "error", message_error(&err));
        }
        json_decref(out);
        link_send(l, answer);
        json_decref(message);
    }
}
