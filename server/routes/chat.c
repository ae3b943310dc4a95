// POST /v1/chat/completions. The answer is deferred: the supervisor's thread writes it as tokens come.
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/hash.h"
#include "server/api/chat_json.h"
#include "server/api/chunk_json.h"
#include "server/jobs/jobs.h"
#include "server/routes/common.h"
#include "server/store/blob.h"
#include "server/store/files.h"
#include "server/store/images.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "chat"
#include "compute/base/log.h"

enum { CHAT_BODY = 64 << 20 };

struct choice {
    json_t *logprobs;
    char *text;
    size_t length, capacity;
    const char *finish_reason;
    bool started;
};
// One request in flight. Owned by the supervisor's thread from submission on.
struct call {
    struct jobs *jobs;
    uint64_t id;
    struct request *req; // NULL once answered by a stream
    struct sse *stream;
    struct answer_head head;
    char model[256];
    struct answer_usage usage;
    int n;
    bool streaming, logprobs;
    struct choice choices[CHAT_MAX_CHOICES];
    char *files[CHAT_MAX_IMAGES]; // temporary pictures, removed at the end
    size_t file_count;
};

static void free_call(struct call *c)
{
    for (int i = 0; i < c->n; i++) {
        json_decref(c->choices[i].logprobs);
        free(c->choices[i].text);
    }
    for (size_t i = 0; i < c->file_count; i++) {
        unlink(c->files[i]);
        free(c->files[i]);
    }
    sse_unref(&c->stream);
    free(c);
}

static void send_json(struct call *c, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    if (text)
        sse_send(c->stream, text);
    free(text);
    json_decref(o);
}

static void send_delta(struct call *c, int index, json_t *delta, const char *finish_reason, json_t *logprobs)
{
    send_json(c, chunk_json(&c->head, index, delta, finish_reason, c->logprobs ? logprobs : NULL));
}

static void accepted(void *context, const char *fingerprint, int prompt_tokens, int image_tokens)
{
    struct call *c = context;
    snprintf(c->head.fingerprint, sizeof c->head.fingerprint, "%s", fingerprint);
    c->usage.prompt_tokens = prompt_tokens;
    c->usage.image_tokens = image_tokens;
    if (!c->streaming)
        return;
    // Only now: until here the answer could still be an error with its own status.
    struct vireo_error err;
    c->stream = response_stream(request_response(c->req), NULL, &err);
    if (!c->stream) {
        request_answer(c->req, &err);
        c->req = NULL;
        inference_cancel(c->jobs, c->id);
        return;
    }
    request_answer(c->req, NULL);
    c->req = NULL;
    sse_on_gone(c->stream, inference_cancel, c->jobs, c->id);
}

static bool append(struct choice *x, const char *text, size_t length)
{
    if (x->length + length + 1 > x->capacity) {
        size_t capacity = x->capacity ? x->capacity * 2 : 256;
        while (capacity < x->length + length + 1)
            capacity *= 2;
        char *grown = vireo_realloc(x->text, capacity);
        if (!grown)
            return false;
        x->text = grown;
        x->capacity = capacity;
    }
    memcpy(x->text + x->length, text, length);
    x->length += length;
    x->text[x->length] = 0;
    return true;
}

static void first_chunk(struct call *c, int index)
{
    struct choice *x = &c->choices[index];
    if (x->started)
        return;
    x->started = true;
    send_delta(c, index, json_pack("{s:s,s:s}", "role", "assistant", "content", ""), NULL, NULL);
}

static void token(void *context, int index, json_t *text, json_t *logprobs)
{
    struct call *c = context;
    if (index < 0 || index >= c->n)
        return;
    struct choice *x = &c->choices[index];
    if (c->stream) {
        first_chunk(c, index);
        send_delta(c, index, json_pack("{s:O}", "content", text), NULL, logprobs);
        return;
    }
    if (!append(x, json_string_value(text), json_string_length(text)))
        log_error("out of memory while an answer was gathered");
    if (logprobs && c->logprobs) {
        if (!x->logprobs)
            x->logprobs = json_array();
        json_array_extend(x->logprobs, logprobs);
    }
}

static void end(void *context, int index, const char *reason, int completion_tokens, int cached_tokens)
{
    struct call *c = context;
    if (index < 0 || index >= c->n)
        return;
    c->usage.completion_tokens += completion_tokens;
    c->usage.cached_tokens = cached_tokens;
    c->choices[index].finish_reason = strcmp(reason, "length") == 0 ? "length" : "stop";
    if (!c->stream)
        return;
    first_chunk(c, index);
    send_delta(c, index, json_object(), c->choices[index].finish_reason, NULL);
}

static void done(void *context)
{
    struct call *c = context;
    if (c->stream) {
        if (c->head.include_usage)
            send_json(c, chunk_usage_json(&c->head, &c->usage));
        sse_send(c->stream, "[DONE]");
        sse_close(c->stream);
    } else if (c->req) {
        struct vireo_error err;
        json_t *choices = json_array();
        for (int i = 0; i < c->n; i++) {
            struct choice *x = &c->choices[i];
            if (c->logprobs && !x->logprobs)
                x->logprobs = json_array();
            json_array_append_new(choices, choice_json(i, x->text ? x->text : "", x->length,
                                                       x->finish_reason ? x->finish_reason : "stop", x->logprobs));
        }
        bool fine = response_json(request_response(c->req), completion_json(&c->head, choices, &c->usage), &err);
        request_answer(c->req, fine ? NULL : &err);
    }
    free_call(c);
}

static void failed(void *context, const struct vireo_error *err)
{
    struct call *c = context;
    if (c->stream) {
        // The status has left already: the error is an event, never a silent cut.
        if (err->code != VIREO_CANCELLED) {
            send_json(c, http_error_json(err));
            sse_send(c->stream, "[DONE]");
        }
        sse_close(c->stream);
    } else if (c->req) {
        request_answer(c->req, err);
    }
    free_call(c);
}

// ---- pictures

static char *temporary_file(struct call *c, const char *folder, const struct chat_image *image, struct vireo_error *err)
{
    char name[48], *path = vireo_alloc(600);
    if (!path) {
        vireo_fail_memory(err, 600);
        return NULL;
    }
    random_id(name, sizeof name, "chat-", 24);
    snprintf(path, 600, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    size_t written = 0;
    while (fd >= 0 && written < image->count) {
        ssize_t n = write(fd, image->bytes + written, image->count - written);
        if (n < 0 && errno != EINTR)
            break;
        written += n > 0 ? (size_t)n : 0;
    }
    bool fine = fd >= 0 && written == image->count;
    if (!fine)
        vireo_fail_errno(err, "a picture could not be kept");
    if (fd >= 0)
        close(fd);
    if (!fine) {
        unlink(path);
        free(path);
        return NULL;
    }
    c->files[c->file_count++] = path;
    return path;
}

static bool stored_path(struct app *app, struct request *req, const struct chat_image *image, char path[BLOB_PATH],
                        struct vireo_error *err)
{
    struct store_image i;
    struct store_file f;
    bool file = strncmp(image->id, "file-", 5) == 0;
    bool found = file ? store_file_find(app->store, image->id, request_arena(req), &f, err)
                      : store_image_find(app->store, image->id, request_arena(req), &i, err);
    if (!found && err->code == VIREO_NOT_FOUND)
        vireo_fail_kind(err, VIREO_NOT_FOUND, "file_not_found", image->param, "No such image: '%.80s'.", image->id);
    return found && (blob_path(app->store, file ? f.sha256 : i.sha256, path) || vireo_fail(err, VIREO_CORRUPT, "bad digest"));
}

static bool add_images(struct app *app, struct request *req, struct call *c, const struct chat_request_json *q,
                       struct vireo_error *err)
{
    json_t *list = json_array();
    bool fine = list != NULL || vireo_fail_memory(err, 64);
    for (size_t i = 0; fine && i < q->image_count; i++) {
        const struct chat_image *image = &q->images[i];
        char path[BLOB_PATH];
        const char *at = path;
        if (image->id)
            fine = stored_path(app, req, image, path, err);
        else
            fine = (at = temporary_file(c, store_temp_folder(app->store), image, err)) != NULL;
        if (fine)
            json_array_append_new(list, json_pack("{s:s,s:s}", "path", at, "param", image->param));
    }
    json_object_set_new(q->message, "images", list);
    return fine;
}

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    json_t *body;
    struct chat_request_json q;
    struct store_model model;
    if (!request_json_object(req, &body, err) || !request_ignore_unknown(req, chat_json_known, err) ||
        !chat_json_read(body, request_arena(req), &q, err))
        return false;
    if (!app->jobs) {
        json_decref(q.message);
        return vireo_fail(err, VIREO_UNAVAILABLE, "This server runs no workers.");
    }
    if (!store_model_find(app->store, q.model, request_arena(req), &model, err)) {
        json_decref(q.message);
        if (err->code == VIREO_NOT_FOUND)
            vireo_fail_kind(err, VIREO_NOT_FOUND, "model_not_found", "model", "The model '%.120s' does not exist.", q.model);
        return false;
    }
    struct call *c = vireo_calloc(1, sizeof *c);
    if (!c) {
        json_decref(q.message);
        return vireo_fail_memory(err, sizeof *c);
    }
    *c = (struct call){.jobs = app->jobs, .req = req, .n = q.n, .streaming = q.stream, .logprobs = q.logprobs};
    snprintf(c->model, sizeof c->model, "%s", q.model);
    random_id(c->head.id, sizeof c->head.id, "chatcmpl-", 24);
    c->head.created = clock_unix();
    c->head.model = c->model;
    c->head.include_usage = q.include_usage;
    if (!add_images(app, req, c, &q, err)) {
        json_decref(q.message);
        free_call(c);
        return false;
    }
    // What was computed for one key may not be found by another: a faster answer would tell of it.
    json_object_set_new(q.message, "scope", json_string(request_caller(req)->key_id));
    struct inference_events events = {accepted, token, end, done, failed, c};
    c->id = inference_id(app->jobs);
    request_on_gone(req, inference_cancel, app->jobs, c->id);
    request_defer(req);
    struct vireo_error why = {0};
    if (!inference_submit(app->jobs, c->id, &model, q.message, &events, &why)) {
        free_call(c);
        request_answer(req, &why);
    }
    return true;
}

const struct route route_chat[] = {
    {"POST", "/v1/chat/completions", HTTP_INFER, HTTP_BODY_JSON, CHAT_BODY, create},
    {0},
};
