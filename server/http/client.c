#include "server/http/client.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "server/http/response.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_BYTES = 256 << 20, ERROR_BYTES = 64 << 10 };

struct http_client {
    CURL *curl;
    char url[512], key[256], socket_path[512];
    char reason[CURL_ERROR_SIZE];
    long timeout_s;
};

struct answer {
    CURL *curl;
    char *bytes;
    size_t size, capacity;
    bool too_large, no_memory;
    struct file_writer *file; // a good answer's bytes go here instead
    struct vireo_error *file_error;
    bool file_failed;
    struct stream *stream;
};

struct stream {
    bool (*on_event)(void *context, const char *event, const char *data, const char *id);
    void *context;
    char *line, *data;
    size_t line_size, line_capacity, data_size, data_capacity;
    char event[96], id[96];
    bool has_data, stopped, no_memory;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

struct http_client *http_client_create(const struct http_client_params *p, struct vireo_error *err)
{
    pthread_once(&once, init_curl);
    struct http_client *c = vireo_calloc(1, sizeof *c);
    if (!c || !(c->curl = curl_easy_init())) {
        free(c);
        vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
        return NULL;
    }
    const char *url = p->url ? p->url : getenv("VIREO_URL");
    const char *key = p->key ? p->key : getenv("VIREO_KEY");
    snprintf(c->url, sizeof c->url, "%s", url && *url ? url : "http://127.0.0.1:8000");
    while (c->url[0] && c->url[strlen(c->url) - 1] == '/')
        c->url[strlen(c->url) - 1] = 0;
    snprintf(c->key, sizeof c->key, "%s", key ? key : "");
    snprintf(c->socket_path, sizeof c->socket_path, "%s", p->socket_path ? p->socket_path : "");
    c->timeout_s = p->timeout_s ? p->timeout_s : 600;
    return c;
}

void http_client_destroy(struct http_client **c)
{
    if (!*c)
        return;
    curl_easy_cleanup((*c)->curl);
    free(*c);
    *c = NULL;
}

static bool grow(char **bytes, size_t *capacity, size_t wanted)
{
    if (wanted <= *capacity)
        return true;
    size_t more = wanted * 2;
    char *grown = vireo_realloc(*bytes, more);
    if (!grown)
        return false;
    *bytes = grown;
    *capacity = more;
    return true;
}

static bool keep(struct answer *a, const char *bytes, size_t count, size_t limit)
{
    a->too_large = a->size + count > limit;
    a->no_memory = !a->too_large && !grow(&a->bytes, &a->capacity, a->size + count + 1);
    if (a->too_large || a->no_memory)
        return false;
    memcpy(a->bytes + a->size, bytes, count);
    a->size += count;
    a->bytes[a->size] = 0;
    return true;
}

// --- event streams ---------------------------------------------------------------------------------------------------

static bool end_event(struct stream *s)
{
    if (s->has_data) {
        size_t size = s->data_size && s->data[s->data_size - 1] == '\n' ? s->data_size - 1 : s->data_size;
        s->data[size] = 0;
        s->stopped = !s->on_event(s->context, s->event, s->data, s->id);
    }
    s->has_data = false;
    s->data_size = 0;
    s->event[0] = 0;
    return !s->stopped;
}

static bool take_line(struct stream *s)
{
    char *line = s->line;
    line[s->line_size] = 0;
    if (s->line_size && line[s->line_size - 1] == '\r')
        line[--s->line_size] = 0;
    if (!s->line_size)
        return end_event(s);
    char *colon = strchr(line, ':');
    char *value = colon ? colon + 1 : line + s->line_size;
    if (colon)
        *colon = 0;
    if (*value == ' ')
        value++;
    if (strcmp(line, "data") == 0) {
        size_t count = strlen(value);
        if (!grow(&s->data, &s->data_capacity, s->data_size + count + 2)) {
            s->no_memory = true;
            return false;
        }
        memcpy(s->data + s->data_size, value, count);
        s->data_size += count;
        s->data[s->data_size++] = '\n';
        s->has_data = true;
    } else if (strcmp(line, "event") == 0) {
        snprintf(s->event, sizeof s->event, "%s", value);
    } else if (strcmp(line, "id") == 0) {
        snprintf(s->id, sizeof s->id, "%s", value);
    }
    return true;
}

static bool feed_stream(struct stream *s, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] == '\n') {
            if (!grow(&s->line, &s->line_capacity, 1) || !take_line(s))
                return false;
            s->line_size = 0;
            continue;
        }
        if (s->line_size > 16 << 20 || !grow(&s->line, &s->line_capacity, s->line_size + 2)) {
            s->no_memory = true;
            return false;
        }
        s->line[s->line_size++] = bytes[i];
    }
    return true;
}

static size_t on_bytes(char *bytes, size_t size, size_t count, void *context)
{
    struct answer *a = context;
    long status = 0;
    (void)size;
    curl_easy_getinfo(a->curl, CURLINFO_RESPONSE_CODE, &status);
    bool good = status >= 200 && status < 300, ok;
    if (good && a->stream) {
        ok = feed_stream(a->stream, bytes, count);
    } else if (good && a->file) {
        ok = file_writer_write(a->file, bytes, count, a->file_error);
        a->file_failed = !ok;
    } else {
        ok = keep(a, bytes, count, good ? ANSWER_BYTES : ERROR_BYTES);
    }
    return ok ? count : 0;
}

// --- one exchange ----------------------------------------------------------------------------------------------------

static bool add_header(struct curl_slist **list, const char *line)
{
    struct curl_slist *grown = curl_slist_append(*list, line);
    if (grown)
        *list = grown;
    return grown != NULL;
}

static bool perform(struct http_client *c, const char *method, const char *path, const char *json, curl_mime *form,
                    struct answer *a, struct vireo_error *err)
{
    char url[1024], authorization[320];
    struct curl_slist *headers = NULL;
    bool ok = add_header(&headers, "Expect:"); // no pause before bodies
    if (c->key[0]) {
        snprintf(authorization, sizeof authorization, "Authorization: Bearer %s", c->key);
        ok = ok && add_header(&headers, authorization);
    }
    if (json)
        ok = ok && add_header(&headers, "Content-Type: application/json");
    snprintf(url, sizeof url, "%s%s", c->url, path);
    CURL *curl = c->curl;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, c->reason);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 20L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, a->stream ? 0L : c->timeout_s);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "vireo");
    if (c->socket_path[0])
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, c->socket_path);
    if (a->stream) // the server sends a keep-alive every 15 s
        curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L), curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, 90L);
    if (json) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, json);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(json));
    } else if (form) {
        curl_easy_setopt(curl, CURLOPT_MIMEPOST, form);
    } else if (strcmp(method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 0L);
    }
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    a->curl = curl;
    c->reason[0] = 0;
    CURLcode code = ok ? curl_easy_perform(curl) : CURLE_OUT_OF_MEMORY;
    curl_slist_free_all(headers);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (a->stream && a->stream->stopped)
        return true;
    if (a->file_failed)
        return false;
    if (a->too_large)
        return vireo_fail(err, VIREO_TOO_LARGE, "the answer of %s %s is too large", method, path);
    if (a->no_memory || (a->stream && a->stream->no_memory) || code == CURLE_OUT_OF_MEMORY)
        return vireo_fail(err, VIREO_NO_MEMORY, "out of memory while reading an answer");
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
        return vireo_fail(err, VIREO_UNAVAILABLE, "cannot reach the server at %s: %s", c->url,
                          c->reason[0] ? c->reason : curl_easy_strerror(code));
    if (code != CURLE_OK)
        return vireo_fail(err, VIREO_IO, "%s %s%s: %s", method, c->url, path,
                          c->reason[0] ? c->reason : curl_easy_strerror(code));
    if (status < 200 || status >= 300) {
        http_error_parse((int)status, a->bytes ? a->bytes : "", a->size, err);
        return false;
    }
    return true;
}

static bool parse_answer(struct answer *a, json_t **out, struct vireo_error *err)
{
    if (!out)
        return true;
    json_error_t where;
    json_t *value = json_loadb(a->bytes ? a->bytes : "", a->size, JSON_DECODE_ANY, &where);
    if (!value)
        return vireo_fail(err, VIREO_INTERNAL, "the server's answer is no JSON: %s", where.text);
    *out = value;
    return true;
}

bool http_client_json(struct http_client *c, const char *method, const char *path, const json_t *body, json_t **out,
                      struct vireo_error *err)
{
    struct answer a = {0};
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (body && !text)
        return vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    bool ok = perform(c, method, path, text, NULL, &a, err) && parse_answer(&a, out, err);
    free(text);
    free(a.bytes);
    return ok;
}

bool http_client_form(struct http_client *c, const char *path, const struct http_client_part *parts, size_t count,
                      json_t **out, struct vireo_error *err)
{
    struct answer a = {0};
    curl_mime *form = curl_mime_init(c->curl);
    bool ok = form != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        const struct http_client_part *p = &parts[i];
        curl_mimepart *part = curl_mime_addpart(form);
        ok = part && curl_mime_name(part, p->name) == CURLE_OK;
        if (ok && p->file) {
            if (!file_exists(p->file)) {
                curl_mime_free(form);
                return vireo_fail(err, VIREO_NOT_FOUND, "no such file: %s", p->file);
            }
            ok = curl_mime_filedata(part, p->file) == CURLE_OK;
        } else if (ok) {
            ok = curl_mime_data(part, p->bytes ? p->bytes : p->value, p->bytes ? p->count : CURL_ZERO_TERMINATED) ==
                 CURLE_OK;
        }
        if (ok && p->filename)
            ok = curl_mime_filename(part, p->filename) == CURLE_OK;
        else if (ok && p->bytes)
            ok = curl_mime_filename(part, "data") == CURLE_OK;
    }
    ok = (ok || vireo_fail(err, VIREO_NO_MEMORY, "out of memory while making a form")) &&
         perform(c, "POST", path, NULL, form, &a, err) && parse_answer(&a, out, err);
    curl_mime_free(form);
    free(a.bytes);
    return ok;
}

bool http_client_get(struct http_client *c, const char *path, char **out, size_t *count, struct vireo_error *err)
{
    struct answer a = {0};
    if (!perform(c, "GET", path, NULL, NULL, &a, err)) {
        free(a.bytes);
        return false;
    }
    if (!a.bytes && !(a.bytes = vireo_calloc(1, 1)))
        return vireo_fail_memory(err, 1);
    *out = a.bytes;
    *count = a.size;
    return true;
}

bool http_client_download(struct http_client *c, const char *path, const char *file, struct vireo_error *err)
{
    struct file_writer writer;
    if (!file_writer_open(&writer, file, err))
        return false;
    struct answer a = {.file = &writer, .file_error = err};
    bool ok = perform(c, "GET", path, NULL, NULL, &a, err) && file_writer_commit(&writer, err);
    file_writer_abandon(&writer);
    free(a.bytes);
    return ok;
}

bool http_client_stream(struct http_client *c, const char *method, const char *path, const json_t *body,
                        bool (*on_event)(void *context, const char *event, const char *data, const char *id),
                        void *context, struct vireo_error *err)
{
    struct stream s = {.on_event = on_event, .context = context};
    struct answer a = {.stream = &s};
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    bool ok = (!body || text) || vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    ok = ok && perform(c, method, path, text, NULL, &a, err);
    free(text);
    free(s.line);
    free(s.data);
    free(a.bytes);
    return ok;
}

const char *http_escape(char *buffer, size_t size, const char *text)
{
    size_t used = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c && used + 4 < size; c++) {
        bool plain = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     strchr("-._~:", *c);
        if (plain)
            buffer[used++] = (char)*c;
        else
            used += (size_t)snprintf(buffer + used, 4, "%%%02X", *c);
    }
    buffer[used] = 0;
    return buffer;
}
