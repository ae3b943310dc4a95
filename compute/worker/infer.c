// The inference worker: one loaded model. The main thread owns the device and turns the engine; a thread reads frames, two
// prepare requests (decode pictures under limits, cut patches, tokenise), so that a large picture delays nobody's tokens.
#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/base/thread.h"
#include "compute/image/decode.h"
#include "compute/engine/prefix.h"
#include "compute/worker/answer.h"
#include "compute/worker/link.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "infer"
#include "compute/base/log.h"

enum { PREPARERS = 2, MAX_IMAGES = 16, DEFAULT_TOKENS = 4096, FORGOTTEN = 64 };
static const uint64_t max_request_pixels = 100000000;

struct worker {
    struct link *link;
    struct gpu_device *dev;
    struct model *model;
    struct engine *engine;
    uint32_t kv_tokens;
    struct queue *to_prepare; // struct request
    struct queue *ready;      // struct item
    uint64_t cancelled[FORGOTTEN]; // ids cancelled before they were ready
    size_t cancelled_next;
    uint64_t generations; // engine ids
    double stats_sent;
};

struct request;
struct sample {
    struct request *request;
    struct answer answer;
};
struct request {
    struct worker *w;
    uint64_t id;
    json_t *message;
    struct arena arena;
    struct vireo_error error;
    bool failed;
    struct prompt prompt;
    struct patches *patches; // [image_count]
    const struct patches **images;
    uint8_t (*digests)[HASH_BYTES]; // of the patches
    uint32_t image_count, image_tokens, n, open;
    uint32_t cached_tokens; // of the prompt, as the engine said with the first token
    struct sampling sampling;
    struct answer_rules rules;
    struct sample *samples; // [n]
    struct request *next;   // in the list of running ones
};

struct item {
    struct request *ready; // or
    uint64_t cancel;       // id
    bool is_cancel;
};

// ---- preparing (any thread)

static void free_request(struct request *r)
{
    for (uint32_t i = 0; r->patches && i < r->image_count; i++)
        patches_finish(&r->patches[i]);
    for (uint32_t i = 0; r->samples && i < r->n; i++)
        answer_finish(&r->samples[i].answer);
    json_decref(r->message);
    arena_finish(&r->arena);
    free(r);
}

static bool read_chat(struct request *r, struct chat *chat, struct vireo_error *err)
{
    size_t m, p;
    json_t *message, *part;
    chat_init(chat, &r->arena);
    json_array_foreach (json_object_get(r->message, "messages"), m, message) {
        if (!chat_add_message(chat, json_string_value(json_object_get(message, "role")), err))
            return false;
        json_array_foreach (json_object_get(message, "parts"), p, part) {
            json_t *text = json_object_get(part, "text");
            bool done = text ? chat_add_text(chat, json_string_value(text), json_string_length(text), err)
                             : chat_add_image(chat, (uint32_t)json_integer_value(json_object_get(part, "image")), err);
            if (!done)
                return false;
        }
        json_t *name = json_object_get(message, "name");
        if (json_is_string(name) && !chat_set_name(chat, json_string_value(name), err))
            return false;
    }
    return true;
}

static bool load_image(struct request *r, uint32_t i, uint64_t *pixels_left, struct vireo_error *err)
{
    const json_t *image = json_array_get(json_object_get(r->message, "images"), i);
    const char *path = json_string_value(json_object_get(image, "path"));
    const char *param = json_string_value(json_object_get(image, "param"));
    struct image_processor processor = r->w->model->processor;
    uint64_t least = (uint64_t)json_integer_value(json_object_get(r->message, "min_pixels"));
    uint64_t most = (uint64_t)json_integer_value(json_object_get(r->message, "max_pixels"));
    if (least)
        processor.min_pixels = least;
    if (most)
        processor.max_pixels = most;
    struct file_bytes bytes = {0};
    struct image_info info;
    struct image pixels = {0};
    bool done = path && file_read(path, image_default_limits.bytes, &bytes, err) &&
                image_probe((const uint8_t *)bytes.data, bytes.size, NULL, &info, err);
    if (done && (uint64_t)info.width * info.height > *pixels_left)
        done = vireo_fail_kind(err, VIREO_TOO_LARGE, "image_too_large", param,
                               "The images of a request may have 100 million pixels together.");
    if (done) {
        *pixels_left -= (uint64_t)info.width * info.height;
        done = image_decode((const uint8_t *)bytes.data, bytes.size, NULL, &pixels, err) &&
               image_patches(&processor, &pixels, &r->patches[i], err);
    }
    if (!done && !err->param[0] && param)
        snprintf(err->param, sizeof err->param, "%s", param);
    if (!done && err->code == VIREO_IO) // the path is the server's business
        vireo_fail_kind(err, VIREO_NOT_FOUND, "file_not_found", param, "The image is no longer there.");
    image_finish(&pixels);
    file_bytes_free(&bytes);
    return done;
}

static double number_or(const json_t *o, const char *key, double otherwise)
{
    const json_t *value = json_object_get(o, key);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

static bool read_sampling(struct request *r, struct vireo_error *err)
{
    const json_t *o = json_object_get(r->message, "sampling"), *bias = json_object_get(o, "logit_bias");
    const struct generation_config *g = &r->w->model->generation;
    struct sampling *s = &r->sampling;
    uint64_t used = r->prompt.count, room = r->w->kv_tokens > used ? (r->w->kv_tokens - used) / r->n : 0;
    uint32_t positions = r->w->model->text_rope_positions;
    uint64_t rest = positions > r->prompt.next_position ? positions - r->prompt.next_position : 0;
    *s = (struct sampling){
        .temperature = (float)number_or(o, "temperature", g->do_sample ? g->temperature : 0),
        .top_p = (float)number_or(o, "top_p", g->do_sample ? g->top_p : 1),
        .top_k = (uint32_t)number_or(o, "top_k", g->do_sample ? g->top_k : 0),
        .min_p = (float)number_or(o, "min_p", 0),
        .repetition_penalty = (float)number_or(o, "repetition_penalty", g->repetition_penalty > 0 ? g->repetition_penalty : 1),
        .frequency_penalty = (float)number_or(o, "frequency_penalty", 0),
        .presence_penalty = (float)number_or(o, "presence_penalty", 0),
        .logprob_temperature = 1,
        .seed = (uint64_t)json_integer_value(json_object_get(o, "seed")),
        .max_tokens = (uint32_t)number_or(o, "max_tokens", 0),
        .ignore_eos = json_is_true(json_object_get(o, "ignore_eos")),
        .top_logprobs = (uint32_t)number_or(r->message, "top_logprobs", 0),
    };
    if (!s->max_tokens)
        s->max_tokens = (uint32_t)VIREO_MAX(1, VIREO_MIN(VIREO_MIN(room, rest), DEFAULT_TOKENS));
    if (json_object_size(bias) == 0)
        return true;
    uint32_t *ids = arena_array(&r->arena, uint32_t, json_object_size(bias));
    float *values = arena_array(&r->arena, float, json_object_size(bias));
    if (!ids || !values)
        return vireo_fail_memory(err, json_object_size(bias) * 8);
    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)bias, key, value) {
        unsigned long id = strtoul(key, NULL, 10);
        if (id >= r->w->model->config.text.vocab_size)
            return vireo_fail_param(err, "logit_bias", "Invalid value for 'logit_bias': this model has no token %.20s.", key);
        ids[s->bias_count] = (uint32_t)id;
        values[s->bias_count++] = (float)json_number_value(value);
    }
    s->bias_ids = ids;
    s->bias_values = values;
    return true;
}

static bool prepare(struct request *r, struct vireo_error *err)
{
    const json_t *images = json_object_get(r->message, "images"), *stop = json_object_get(r->message, "stop");
    struct model *m = r->w->model;
    r->n = (uint32_t)json_integer_value(json_object_get(r->message, "n"));
    uint32_t count = (uint32_t)json_array_size(images);
    if (count > MAX_IMAGES)
        return vireo_fail_param(err, "messages", "A request may have %d images, this one has %u.", MAX_IMAGES, count);
    r->patches = arena_array(&r->arena, struct patches, count + 1);
    r->images = (const struct patches **)arena_array(&r->arena, struct patches *, count + 1);
    r->digests = arena_take_array(&r->arena, count + 1, sizeof *r->digests);
    struct image_grid *grids = arena_array(&r->arena, struct image_grid, count + 1);
    r->samples = arena_array(&r->arena, struct sample, r->n);
    if (!r->patches || !r->images || !r->digests || !grids || !r->samples)
        return vireo_fail_memory(err, r->n * sizeof *r->samples);
    r->image_count = count;
    uint64_t pixels = max_request_pixels;
    uint32_t unit = m->config.vision.spatial_merge_size * m->config.vision.spatial_merge_size;
    for (uint32_t i = 0; i < count; i++) {
        struct patches *p = &r->patches[i];
        if (!load_image(r, i, &pixels, err))
            return false;
        if (!prefix_image_digest(p, r->digests[i]))
            return vireo_fail_memory(err, HASH_BYTES);
        r->images[i] = p;
        grids[i] = (struct image_grid){p->t, p->h, p->w, (uint32_t)(p->rows / unit)};
        r->image_tokens += grids[i].tokens;
    }
    struct chat chat;
    struct prompt_options options = {.add_generation_prompt = true};
    if (!read_chat(r, &chat, err) || !prompt_build(m, &chat, grids, count, &options, &r->arena, &r->prompt, err) ||
        !read_sampling(r, err))
        return false;
    r->rules = (struct answer_rules){.logprobs = json_is_true(json_object_get(r->message, "logprobs")),
                                     .eos = m->generation.eos_token_id,
                                     .eos_count = r->sampling.ignore_eos ? 0 : m->generation.eos_count};
    for (size_t i = 0; i < json_array_size(stop) && i < ANSWER_STOPS; i++)
        r->rules.stop[r->rules.stop_count++] = json_string_value(json_array_get(stop, i));
    for (uint32_t i = 0; i < r->n; i++) {
        r->samples[i].request = r;
        if (!answer_init(&r->samples[i].answer, m->tokenizer, &r->rules, err))
            return false;
    }
    return true;
}

static void *prepare_requests(void *context)
{
    struct worker *w = context;
    for (struct request *r; (r = queue_pop(w->to_prepare, -1));) {
        struct item *item = vireo_calloc(1, sizeof *item);
        r->failed = !prepare(r, &r->error);
        if (!item) { // nobody could be told: the server's deadline ends the request
            log_error("out of memory");
            free_request(r);
            continue;
        }
        item->ready = r;
        queue_push(w->ready, item);
    }
    return NULL;
}

static void *read_requests(void *context)
{
    struct worker *w = context;
    for (;;) {
        json_t *message = link_receive(w->link, -1);
        uint64_t id = (uint64_t)json_integer_value(json_object_get(message, "id"));
        if (message_kind_of(message) == MESSAGE_CANCEL) {
            struct item *item = vireo_calloc(1, sizeof *item);
            if (item) {
                *item = (struct item){.is_cancel = true, .cancel = id};
                queue_push(w->ready, item);
            }
            json_decref(message);
            continue;
        }
        struct request *r = message_kind_of(message) == MESSAGE_GENERATE ? vireo_calloc(1, sizeof *r) : NULL;
        if (!r) {
            log_error("a message of kind '%s' was dropped", message_name(message_kind_of(message)));
            json_decref(message);
            continue;
        }
        *r = (struct request){.w = w, .id = id, .message = message};
        arena_init(&r->arena, 1 << 14);
        queue_push(w->to_prepare, r);
    }
    return NULL;
}

// ---- answering (main thread)

static void send_token(struct sample *s, json_t *text, json_t *entries)
{
    struct request *r = s->request;
    if (!text)
        return;
    json_t *m = message_new(MESSAGE_TOKEN);
    if (m) {
        json_object_set_new(m, "id", json_integer((json_int_t)r->id));
        json_object_set_new(m, "index", json_integer(s - r->samples));
        json_object_set_new(m, "text", text);
        if (entries)
            json_object_set_new(m, "logprobs", entries);
    }
    link_send(r->w->link, m);
}

static void refuse(struct worker *w, uint64_t id, const struct vireo_error *err)
{
    json_t *m = message_new(MESSAGE_REFUSED);
    if (m) {
        json_object_set_new(m, "id", json_integer((json_int_t)id));
        json_object_set_new(m, "error", message_error(err));
    }
    link_send(w->link, m);
}

static bool on_token(void *user, uint32_t sample, const struct engine_token *token)
{
    struct request *r = user;
    struct sample *s = &r->samples[sample];
    json_t *text, *entries;
    struct vireo_error err;
    r->cached_tokens = token->cached_tokens;
    vireo_fault("worker.token");
    if (!answer_add(&s->answer, token, &text, &entries, &err)) {
        log_error("%s", err.message);
        return false;
    }
    send_token(s, text, entries);
    return !s->answer.stopped;
}

static void on_end(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why)
{
    static const char *const reasons[] = {"stop", "length", "cancelled", "failed"};
    struct request *r = user;
    struct sample *s = &r->samples[sample];
    json_t *text, *entries;
    struct vireo_error err;
    r->open--;
    if (reason == ENGINE_FAILED) {
        refuse(r->w, r->id, why);
        return;
    }
    if (reason != ENGINE_CANCELLED && answer_end(&s->answer, &text, &entries, &err))
        send_token(s, text, entries);
    json_t *m = message_new(MESSAGE_END);
    if (m) {
        json_object_set_new(m, "id", json_integer((json_int_t)r->id));
        json_object_set_new(m, "index", json_integer(sample));
        json_object_set_new(m, "reason", json_string(reasons[reason]));
        json_object_set_new(m, "completion_tokens", json_integer(s->answer.tokens));
        json_object_set_new(m, "cached_tokens", json_integer(r->cached_tokens));
    }
    link_send(r->w->link, m);
}

static bool was_cancelled(struct worker *w, uint64_t id)
{
    for (size_t i = 0; i < FORGOTTEN; i++)
        if (w->cancelled[i] == id)
            return true;
    return false;
}

static void start(struct worker *w, struct request *r, struct request **running)
{
    if (was_cancelled(w, r->id)) {
        free_request(r);
        return;
    }
    struct generation g = {.id = r->id,
                           .prompt = &r->prompt,
                           .images = r->images,
                           .digests = r->digests,
                           .scope = json_string_value(json_object_get(r->message, "scope")),
                           .n = r->n,
                           .sampling = r->sampling,
                           .on_token = on_token,
                           .on_end = on_end,
                           .user = r};
    if (r->failed || !engine_submit(w->engine, &g, &r->error)) {
        refuse(w, r->id, &r->error);
        free_request(r);
        return;
    }
    json_t *m = message_new(MESSAGE_ACCEPTED);
    if (m) {
        json_object_set_new(m, "id", json_integer((json_int_t)r->id));
        json_object_set_new(m, "prompt_tokens", json_integer(r->prompt.count));
        json_object_set_new(m, "image_tokens", json_integer(r->image_tokens));
    }
    link_send(w->link, m);
    r->open = r->n;
    r->next = *running;
    *running = r;
}

static void handle(struct worker *w, struct item *item, struct request **running)
{
    if (item->is_cancel) {
        w->cancelled[w->cancelled_next++ % FORGOTTEN] = item->cancel;
        engine_cancel(w->engine, item->cancel);
    } else {
        start(w, item->ready, running);
    }
    free(item);
}

static void send_stats(struct worker *w, bool force)
{
    double now = clock_seconds();
    if (!force && now - w->stats_sent < 1)
        return;
    w->stats_sent = now;
    struct engine_stats s = engine_stats(w->engine);
    json_t *m = message_new(MESSAGE_STATS);
    if (m) {
        json_t *o = json_pack(
            "{s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:i,s:i,s:i,s:f}", "running", (int)s.running, "waiting", (int)s.waiting,
            "prompt_tokens", (json_int_t)s.prompt_tokens, "cached_tokens", (json_int_t)s.cached_tokens, "generated_tokens",
            (json_int_t)s.generated_tokens, "image_tokens", (json_int_t)s.image_tokens, "image_hits",
            (json_int_t)s.image_hits, "preemptions", (json_int_t)s.preemptions, "kv_pages", (int)s.pages, "kv_pages_held",
            (int)s.pages_held, "kv_pages_kept", (int)s.pages_kept, "kv_used", s.kv_used);
        json_object_update(m, o);
        json_decref(o);
    }
    link_send(w->link, m);
}

// Turns the engine until the device fails; the process ends when the server closes the socket.
static int serve(struct worker *w)
{
    struct request *running = NULL;
    bool busy = false;
    struct vireo_error err;
    for (;;) {
        for (struct item *item; (item = queue_pop(w->ready, busy ? 0 : -1));) {
            handle(w, item, &running);
            busy = true;
        }
        if (!engine_step(w->engine, &busy, &err)) {
            log_error("%s", err.message);
            link_send_error(w->link, MESSAGE_FAILED, &err);
            return gpu_device_is_lost(w->dev) ? WORKER_DEVICE_LOST : worker_exit_of(&err);
        }
        for (struct request **at = &running; *at;) {
            struct request *r = *at;
            if (r->open) {
                at = &r->next;
                continue;
            }
            *at = r->next;
            free_request(r);
        }
        send_stats(w, !busy);
    }
}

// ---- loading

// Key and value slots: what a quarter of the granted memory holds, within reason.
static uint32_t choose_kv_tokens(const struct worker *w, uint64_t limit)
{
    struct engine_params one = {.kv_tokens = 1024};
    uint64_t bytes = engine_kv_bytes(&w->model->config, w->model->activations, &one) / 1024, granted = limit;
    if (!granted)
        granted = gpu_device_caps(w->dev)->budget_bytes;
    uint64_t tokens = VIREO_MIN(granted / 4, (uint64_t)4 << 30) / VIREO_MAX(1, bytes);
    return (uint32_t)VIREO_MAX(2048, VIREO_MIN(tokens, 65536));
}

static void fingerprint(const struct worker *w, const json_t *message, char out[24])
{
    const struct gpu_caps *c = gpu_device_caps(w->dev);
    const char *sha256 = json_string_value(json_object_get(message, "sha256"));
    char text[900], digest_hex[HASH_TEXT];
    uint8_t digest[HASH_BYTES] = {0};
    snprintf(text, sizeof text, "%s|%s|%s|%s|%u|%s", sha256 ? sha256 : "", VIREO_VERSION, c->name, c->driver_info,
             c->subgroup_size, dtype_name(w->model->dtype));
    hash_bytes(text, strlen(text), digest);
    hash_text(digest, digest_hex);
    snprintf(out, 24, "fp_%.12s", digest_hex);
}

static bool load(struct worker *w, const json_t *message, struct vireo_error *err)
{
    const char *folder = json_string_value(json_object_get(message, "folder"));
    uint64_t limit = (uint64_t)json_integer_value(json_object_get(message, "memory_limit"));
    w->dev = worker_open_device(message, err);
    if (!w->dev)
        return false;
    struct model_load_params p = {.dtype = DTYPE_U32};
    w->model = model_load(w->dev, folder, &p, err);
    if (!w->model)
        return false;
    if (!w->model->chat_template)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "model", "The model has no chat template.");
    w->kv_tokens = choose_kv_tokens(w, limit);
    struct engine_params e = {.kv_tokens = w->kv_tokens,
                              .max_sequences = 128,
                              .max_batch_tokens = VIREO_MIN(w->kv_tokens, 16384)};
    w->engine = engine_create(w->model, &e, err);
    w->to_prepare = queue_create(256);
    w->ready = queue_create(1024);
    return w->engine && ((w->to_prepare && w->ready) || vireo_fail_memory(err, 1024));
}

int worker_infer(struct link *l)
{
    struct vireo_error err;
    static struct worker w; // lives as long as the process; its threads use it
    w.link = l;
    json_t *message = link_receive(l, -1);
    if (message_kind_of(message) != MESSAGE_LOAD)
        return WORKER_USAGE;
    if (!load(&w, message, &err)) {
        log_error("%s", err.message);
        link_send_error(l, MESSAGE_FAILED, &err);
        return worker_exit_of(&err);
    }
    pthread_t thread;
    bool started = pthread_create(&thread, NULL, read_requests, &w) == 0;
    for (int i = 0; started && i < PREPARERS; i++)
        started = pthread_create(&thread, NULL, prepare_requests, &w) == 0;
    json_t *loaded = started ? message_new(MESSAGE_LOADED) : NULL;
    if (!loaded)
        return WORKER_NO_MEMORY;
    char name[24];
    fingerprint(&w, message, name);
    json_object_set_new(loaded, "fingerprint", json_string(name));
    json_object_set_new(loaded, "bytes", json_integer((json_int_t)gpu_device_counters(w.dev).bytes_held));
    json_object_set_new(loaded, "kv_tokens", json_integer(w.kv_tokens));
    json_object_set_new(loaded, "device", json_string(gpu_device_caps(w.dev)->name));
    json_object_set_new(loaded, "dtype", json_string(dtype_name(w.model->dtype)));
    link_send(l, loaded);
    return serve(&w);
}
