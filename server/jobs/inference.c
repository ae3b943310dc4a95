// Chat requests: to the worker that has the model (started where none has), tokens back to whoever asked.
#include "server/jobs/internal.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "chat"
#include "compute/base/log.h"

enum { LOAD_SECONDS = 600, RETRY_SECONDS = 5 };

uint64_t inference_bytes(const struct jobs *j)
{
    uint64_t bytes = 0;
    for (const struct model_worker *w = j->models; w; w = w->next)
        bytes += w->bytes;
    return bytes;
}

static struct model_worker *find_model(struct jobs *j, const char *name)
{
    struct model_worker *w = j->models;
    while (w && strcmp(w->name, name) != 0)
        w = w->next;
    return w;
}

static struct chat_request *find_request(struct model_worker *w, uint64_t id)
{
    struct chat_request *r = w->requests;
    while (r && r->id != id)
        r = r->next;
    return r;
}

static void remove_request(struct jobs *j, struct model_worker *w, struct chat_request *r)
{
    for (struct chat_request **at = &w->requests; *at; at = &(*at)->next)
        if (*at == r) {
            *at = r->next;
            break;
        }
    w->open--;
    j->open_chats--;
    w->used_at = clock_seconds();
    json_decref(r->body);
    free(r);
}

static void fail_request(struct jobs *j, struct model_worker *w, struct chat_request *r, const struct vireo_error *err)
{
    if (err->code != VIREO_CANCELLED)
        j->served.errors++;
    r->events.failed(r->events.context, err);
    remove_request(j, w, r);
}

static void fail_all(struct jobs *j, struct model_worker *w, const struct vireo_error *err)
{
    while (w->requests)
        fail_request(j, w, w->requests, err);
}

static void send_request(struct model_worker *w, struct chat_request *r)
{
    process_send(&w->child->p, r->body); // takes it
    r->body = NULL;
}

static void count_end(struct jobs *j, const char *reason)
{
    static const char *const reasons[] = {"stop", "length", "cancelled"};
    for (size_t i = 0; i < VIREO_COUNT(reasons); i++)
        if (strcmp(reasons[i], reason) == 0)
            j->served.success[i]++;
}

static void model_frame(struct jobs *j, struct child *c, json_t *message)
{
    struct model_worker *w = c->owner;
    enum message_kind kind = message_kind_of(message);
    struct vireo_error err;
    if (kind == MESSAGE_LOADED) {
        const char *name = json_string_value(json_object_get(message, "fingerprint"));
        w->loaded = true;
        w->bytes = (uint64_t)json_integer_value(json_object_get(message, "bytes"));
        snprintf(w->fingerprint, sizeof w->fingerprint, "%s", name ? name : "fp_0");
        c->kill_at = 0;
        w->used_at = clock_seconds();
        log_info("model '%s' loaded, %.1f MiB worker=%d", w->name, (double)w->bytes / (1 << 20), (int)c->p.pid);
        for (struct chat_request *r = w->requests; r; r = r->next)
            send_request(w, r);
        return;
    }
    if (kind == MESSAGE_FAILED) {
        message_read_error(json_object_get(message, "error"), &w->error);
        w->failed = true;
        return;
    }
    if (kind == MESSAGE_STATS) {
        json_decref(w->stats);
        w->stats = json_incref(message);
        return;
    }
    struct chat_request *r = find_request(w, (uint64_t)json_integer_value(json_object_get(message, "id")));
    if (!r)
        return;
    int index = (int)json_integer_value(json_object_get(message, "index"));
    switch (kind) {
    case MESSAGE_ACCEPTED: {
        int prompt = (int)json_integer_value(json_object_get(message, "prompt_tokens"));
        int image = (int)json_integer_value(json_object_get(message, "image_tokens"));
        r->accepted_at = clock_seconds();
        r->accepted = true;
        j->served.prompt_tokens += (uint64_t)prompt;
        j->served.image_tokens += (uint64_t)image;
        r->events.accepted(r->events.context, w->fingerprint, prompt, image);
        break;
    }
    case MESSAGE_TOKEN:
        if (!r->first_token_at) {
            r->first_token_at = clock_seconds();
            j->served.first_token_sum += r->first_token_at - r->submitted_at;
            j->served.first_token_count++;
        }
        r->events.token(r->events.context, index, json_object_get(message, "text"), json_object_get(message, "logprobs"));
        break;
    case MESSAGE_END: {
        const char *reason = json_string_value(json_object_get(message, "reason"));
        int tokens = (int)json_integer_value(json_object_get(message, "completion_tokens"));
        j->served.generated_tokens += (uint64_t)tokens;
        count_end(j, reason ? reason : "stop");
        r->events.end(r->events.context, index, reason ? reason : "stop", tokens,
                      (int)json_integer_value(json_object_get(message, "cached_tokens")));
        if (++r->ended == r->choices) {
            j->served.latency_sum += clock_seconds() - r->submitted_at;
            j->served.latency_count++;
            r->events.done(r->events.context);
            remove_request(j, w, r);
        }
        break;
    }
    case MESSAGE_REFUSED:
        message_read_error(json_object_get(message, "error"), &err);
        fail_request(j, w, r, &err);
        break;
    default: break;
    }
}

static void model_exit(struct jobs *j, struct child *c, int status, const char *reason)
{
    struct model_worker *w = c->owner;
    struct vireo_error err;
    if (w->failed && !w->loaded) {
        err = w->error; // could not be loaded: the model's or the device's fault, said as it is
        if (err.code == VIREO_IO || err.code == VIREO_CORRUPT || err.code == VIREO_NOT_FOUND)
            err.code = VIREO_INTERNAL;
        if (err.code == VIREO_DEVICE_MEMORY)
            err.code = VIREO_UNAVAILABLE;
    } else if (w->failed) {
        err = w->error;
    } else {
        vireo_fail_kind(&err, VIREO_UNAVAILABLE, status == WORKER_DEVICE_LOST ? "device_lost" : "worker_failed", NULL,
                        "The model's worker ended while it answered. %s Try again.", reason);
    }
    fail_all(j, w, &err);
    for (struct model_worker **at = &j->models; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    json_decref(w->stats);
    free(w);
}

bool inference_evict_idle(struct jobs *j)
{
    struct model_worker *oldest = NULL;
    for (struct model_worker *w = j->models; w; w = w->next)
        if (!w->open && w->loaded && !w->child->p.killed && (!oldest || w->used_at < oldest->used_at))
            oldest = w;
    if (!oldest)
        return false;
    log_info("model '%s' is unloaded to make room", oldest->name);
    oldest->bytes = 0;
    process_kill(&oldest->child->p);
    return true;
}

void inference_tick(struct jobs *j)
{
    double now = clock_seconds();
    for (struct model_worker *w = j->models; w; w = w->next)
        if (w->loaded && !w->open && !w->child->p.killed && now - w->used_at > j->p.keep_alive_s) {
            log_info("model '%s' is unloaded, nobody used it for %d s", w->name, j->p.keep_alive_s);
            process_kill(&w->child->p);
        }
}

void inference_end_all(struct jobs *j, const struct vireo_error *why)
{
    for (struct model_worker *w = j->models; w; w = w->next)
        fail_all(j, w, why);
}

// The least a model takes: its weights. What is left decides about keys and values (the worker is told).
static bool make_room(struct jobs *j, uint64_t need, struct vireo_error *err)
{
    uint64_t jobs = 0;
    for (int kind = RUN_TRAIN; kind <= RUN_EVALUATE; kind++)
        jobs += j->runs[kind] ? j->runs[kind]->granted : 0;
    while (j->budget && need + jobs + inference_bytes(j) > j->budget && inference_evict_idle(j)) {
    }
    if (!j->budget || need + jobs + inference_bytes(j) <= j->budget)
        return true;
    return vireo_fail_kind(err, VIREO_UNAVAILABLE, "overloaded", "model",
                           "The model needs at least %.2f GiB of device memory; of %.2f GiB jobs hold %.2f and other models %.2f. "
                           "Try again when they have ended.",
                           (double)need / (1 << 30), (double)j->budget / (1 << 30), (double)jobs / (1 << 30),
                           (double)inference_bytes(j) / (1 << 30));
}

struct submitting {
    uint64_t id;
    const struct store_model *model;
    json_t *body;
    const struct inference_events *events;
    struct vireo_error *err;
    bool done;
};

static struct model_worker *start_model(struct jobs *j, const struct store_model *model, struct vireo_error *err)
{
    uint64_t need = (uint64_t)model->bytes + ((uint64_t)64 << 20);
    if (strlen(model->id) >= sizeof ((struct model_worker *)0)->name) {
        vireo_fail(err, VIREO_INVALID, "the model's name is too long");
        return NULL;
    }
    if (!make_room(j, need, err))
        return NULL;
    struct arena arena;
    struct model_worker *w = vireo_calloc(1, sizeof *w);
    if (!w) {
        vireo_fail_memory(err, sizeof *w);
        return NULL;
    }
    arena_init(&arena, 0);
    w->child = child_start(j, "infer", true, err);
    if (!w->child) {
        free(w);
        return NULL;
    }
    snprintf(w->name, sizeof w->name, "%s", model->id);
    w->bytes = need;
    w->used_at = clock_seconds();
    w->child->owner = w;
    w->child->on_frame = model_frame;
    w->child->on_exit = model_exit;
    child_kill(w->child, LOAD_SECONDS);
    json_t *m = message_new(MESSAGE_LOAD);
    uint64_t others = inference_bytes(j);
    for (int kind = RUN_TRAIN; kind <= RUN_EVALUATE; kind++)
        others += j->runs[kind] ? j->runs[kind]->granted : 0;
    const char *path = store_model_path(j->p.store, model, &arena), *cache = job_cache_folder(j, &arena);
    json_object_set_new(m, "folder", json_string(path));
    json_object_set_new(m, "sha256", json_string(model->sha256));
    json_object_set_new(m, "cache_folder", json_string(cache));
    json_object_set_new(m, "memory_limit", json_integer((json_int_t)(j->budget > others ? j->budget - others : 0)));
    if (j->p.device)
        json_object_set_new(m, "device", json_string(j->p.device));
    process_send(&w->child->p, m);
    arena_finish(&arena);
    w->next = j->models;
    j->models = w;
    log_info("loading model '%s' worker=%d", w->name, (int)w->child->p.pid);
    return w;
}

static void submit(struct jobs *j, void *context)
{
    struct submitting *s = context;
    s->done = false;
    if (j->draining) {
        vireo_fail(s->err, VIREO_UNAVAILABLE, "The server is shutting down.");
        return;
    }
    if (j->open_chats >= j->p.queue_limit) {
        vireo_fail_kind(s->err, VIREO_RATE_LIMITED, "queue_full", NULL, "%d requests wait or run already; try again later.",
                        j->open_chats);
        return;
    }
    struct model_worker *w = find_model(j, s->model->id);
    if (w && w->child->p.killed) { // on its way out: a new one takes its place under the same name
        snprintf(w->name, sizeof w->name, "-");
        w = NULL;
    }
    if (!w)
        w = start_model(j, s->model, s->err);
    struct chat_request *r = w ? vireo_calloc(1, sizeof *r) : NULL;
    if (!r) {
        if (w)
            vireo_fail_memory(s->err, sizeof *r);
        return;
    }
    *r = (struct chat_request){.id = s->id, .events = *s->events, .body = json_incref(s->body), .submitted_at = clock_seconds()};
    r->choices = (int)json_integer_value(json_object_get(s->body, "n"));
    struct chat_request **end = &w->requests;
    while (*end)
        end = &(*end)->next;
    *end = r;
    w->open++;
    j->open_chats++;
    if (w->loaded)
        send_request(w, r);
    s->done = true;
}

uint64_t inference_id(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    uint64_t id = j->next_id++;
    pthread_mutex_unlock(&j->lock);
    return id;
}

bool inference_submit(struct jobs *j, uint64_t id, const struct store_model *model, json_t *body,
                      const struct inference_events *events, struct vireo_error *err)
{
    struct submitting s = {.id = id, .model = model, .body = body, .events = events, .err = err};
    json_object_set_new(body, "kind", json_string(message_name(MESSAGE_GENERATE)));
    json_object_set_new(body, "id", json_integer((json_int_t)id));
    bool done = supervisor_call(j, submit, &s, err) && s.done;
    json_decref(body);
    return done;
}

static void cancel(struct jobs *j, void *context)
{
    uint64_t *id = context;
    for (struct model_worker *w = j->models; w; w = w->next) {
        struct chat_request *r = find_request(w, *id);
        if (!r)
            continue;
        if (!r->body) {
            json_t *m = message_new(MESSAGE_CANCEL);
            if (m)
                json_object_set_new(m, "id", json_integer((json_int_t)*id));
            process_send(&w->child->p, m);
        }
        struct vireo_error err;
        vireo_fail(&err, VIREO_CANCELLED, "The client went away.");
        fail_request(j, w, r, &err);
        break;
    }
    free(id);
}

void inference_cancel(void *jobs, uint64_t id)
{
    uint64_t *copy = vireo_alloc(sizeof *copy);
    if (copy)
        *copy = id;
    if (copy && !supervisor_post(jobs, cancel, copy))
        free(copy);
}

struct releasing {
    const char *name;
    struct vireo_error *err;
    bool done;
};
static void release(struct jobs *j, void *context)
{
    struct releasing *c = context;
    struct model_worker *w = find_model(j, c->name);
    c->done = !w || !w->open || vireo_fail_kind(c->err, VIREO_CONFLICT, "resource_in_use", "model",
                                                "%d requests run on the model '%.80s'.", w->open, c->name);
    if (w && c->done)
        process_kill(&w->child->p);
}

bool jobs_model_release(struct jobs *j, const char *model, struct vireo_error *err)
{
    struct releasing c = {.name = model, .err = err};
    return supervisor_call(j, release, &c, err) && c.done;
}
