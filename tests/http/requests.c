// Bad requests and bad bodies: each gets its 4xx, and afterwards the server is up and has lost nothing.
//   requests                        a server of this process, without workers
//   requests URL [--model NAME]     a running server on loopback without keys; with --model also jobs and chats
#include "compute/worker/worker.h"
#include "tests/http/bad_bodies.h"
#include "tests/http/bad_requests.h"
#include "tests/http/serving.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct vireo_error err;
static int port, passed, failed;
static const char *model;
static char file_id[64];
static char answer[65536];
static bool ended; // the server closed, cleanly

static void fail_case(const char *why, const char *what)
{
    failed++;
    printf("FAIL %s: %s\n%.600s\n", why, what, answer);
}

// The answer is whole: its header, and as many bytes behind it as it says.
static bool is_whole(size_t used)
{
    const char *body = strstr(answer, "\r\n\r\n"), *length = strstr(answer, "Content-Length: ");
    return body && length && length < body && used >= (size_t)(body + 4 - answer) + strtoul(length + 16, NULL, 10);
}

// Sends, reads until the server closes, or 100 ms behind a whole answer (is there a second one?), or 5 s without a
// byte.
// The socket is not half-closed: libmicrohttpd takes that for a client that left. Returns the status; 0: none.
static int ask(const char *bytes, size_t length)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 5};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t used = 0;
    answer[0] = 0;
    ended = false;
    if (fd < 0 || connect(fd, (void *)&to, sizeof to) != 0) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (length) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0)
            break; // it may answer before all is sent
        bytes += sent;
        length -= (size_t)sent;
    }
    for (;;) {
        if (is_whole(used)) {
            limit = (struct timeval){.tv_usec = 100000};
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        }
        ssize_t got = recv(fd, answer + used, sizeof answer - used - 1, 0);
        if (got <= 0) {
            ended = got == 0;
            break;
        }
        used += (size_t)got;
        answer[used] = 0;
        if (used == sizeof answer - 1)
            break;
    }
    close(fd);
    return strncmp(answer, "HTTP/1.", 7) == 0 ? (int)strtol(answer + 9, NULL, 10) : 0;
}

static json_t *error_of(void)
{
    const char *body = strstr(answer, "\r\n\r\n");
    json_error_t where;
    json_t *root = body ? json_loads(body + 4, JSON_DISABLE_EOF_CHECK, &where) : NULL;
    json_t *error = json_incref(json_object_get(root, "error"));
    json_decref(root);
    static const char *const keys[] = {"message", "type", "param", "code"};
    for (int i = 0; i < 4; i++)
        if (!json_object_get(error, keys[i])) {
            json_decref(error);
            return NULL;
        }
    return error;
}

static bool has_json_type(void)
{
    const char *end = strstr(answer, "\r\n\r\n"), *type = strstr(answer, "\r\nContent-Type: application/json\r\n");
    return end && type && type < end;
}

static void try_request(const struct bad_request *r)
{
    char what[128];
    int status = ask(r->bytes, r->length);
    if (r->status == CLOSED && !answer[0] && ended) {
        passed++;
        return;
    }
    json_t *error = error_of();
    bool shaped = error && has_json_type();
    json_decref(error);
    snprintf(what, sizeof what, "status %d, expected %d%s", status, r->status, shaped ? "" : ", not the API's error shape");
    if (status < 400 || status > 499 || (r->status > 0 && status != r->status) || !shaped)
        fail_case(r->why, what);
    else if (strstr(answer + 9, "HTTP/1.1 2"))
        fail_case(r->why, "a second answer: the rest of the request was read as another");
    else
        passed++;
}

// $FILE and $MODEL filled in.
static void expand(const char *text, char *out, size_t size)
{
    size_t used = 0;
    while (*text && used + 1 < size) {
        const char *with = strncmp(text, "$FILE", 5) == 0 ? file_id : strncmp(text, "$MODEL", 6) == 0 ? model : NULL;
        if (with) {
            used += (size_t)snprintf(out + used, size - used, "%s", with);
            text += text[1] == 'F' ? 5 : 6;
        } else {
            out[used++] = *text++;
        }
    }
    out[used < size ? used : size - 1] = 0;
}

static void try_body(const struct bad_body *b)
{
    char body[8192], text[16384], why[256], what[256];
    expand(b->body, body, sizeof body);
    snprintf(why, sizeof why, "%s %s %.120s", b->method, b->path, body);
    int length = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: "
                          "%zu\r\n"
                          "Connection: close\r\n\r\n%s", b->method, b->path, b->type, strlen(body), body);
    int status = ask(text, (size_t)length);
    json_t *error = error_of();
    const char *param = json_string_value(json_object_get(error, "param"));
    snprintf(what, sizeof what, "status %d (expected %d), param %s (expected %s)%s", status, b->status,
             param ? param : "none", b->param ? b->param : "any", error && has_json_type() ? "" : ", not the API's error shape");
    if (!error || !has_json_type() || status < 400 || status > 499 || (b->status && status != b->status) ||
        (b->param && (!param || strcmp(param, b->param) != 0)))
        fail_case(why, what);
    else
        passed++;
    json_decref(error);
}

// --- before and after ------------------------------------------------------------------------------------------------

static const char good_row[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n";

static bool prepare(struct http_client *client)
{
    struct http_client_part parts[] = {{.name = "purpose", .value = "fine-tune"},
                                       {.name = "file", .bytes = good_row, .count = sizeof good_row - 1,
                                        .filename = "r.jsonl"}};
    json_t *file = NULL;
    if (!http_client_form(client, "/v1/files", parts, 2, &file, &err))
        return false;
    snprintf(file_id, sizeof file_id, "%s", json_string_value(json_object_get(file, "id")));
    json_decref(file);
    return true;
}

static long list_size(struct http_client *client, const char *path)
{
    json_t *list = NULL;
    if (!http_client_json(client, "GET", path, NULL, &list, &err))
        return -1;
    long size = (long)json_array_size(json_object_get(list, "data"));
    json_decref(list);
    return size;
}

static void check(bool ok, const char *what)
{
    answer[0] = 0;
    if (ok)
        passed++;
    else
        fail_case("afterwards", what);
}

static void check_after(struct http_client *client, struct serving *own, long files, long keys)
{
    char path[128], *bytes = NULL;
    size_t count = 0;
    check(http_client_json(client, "GET", "/healthz", NULL, NULL, &err), "the server does not answer");
    check(http_client_json(client, "GET", "/readyz", NULL, NULL, &err), "the server is not ready");
    snprintf(path, sizeof path, "/v1/files/%s/content", file_id);
    check(http_client_get(client, path, &bytes, &count, &err) && count == sizeof good_row - 1 &&
              memcmp(bytes, good_row, count) == 0, "the uploaded file is gone or changed");
    free(bytes);
    check(list_size(client, "/v1/files") == files, "a bad request added or removed a file");
    check(list_size(client, "/v1/vireo/keys") == keys, "a bad request made a key");
    if (!own)
        return;
    struct http_gauges gauges;
    usleep(300000);
    http_server_gauges(own->app.http, &gauges);
    check(gauges.in_flight == 0, "requests are still being answered");
    int left = 0;
    DIR *dir = opendir(store_temp_folder(own->app.store));
    for (struct dirent *e; dir && (e = readdir(dir));)
        left += e->d_name[0] != '.';
    if (dir)
        closedir(dir);
    check(left == 0, "temporary files are left");
}

int main(int argc, char **argv)
{
    static struct serving own;
    struct http_client *client;
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return worker_main(argc - 1, argv + 1); // archives are read by a worker, which is this program again
    const char *url = argc > 1 ? argv[1] : NULL;
    model = argc > 3 && strcmp(argv[2], "--model") == 0 ? argv[3] : NULL;
    if (url) {
        client = http_client_create(&(struct http_client_params){.url = url}, &err);
        port = strrchr(url, ':') ? (int)strtol(strrchr(url, ':') + 1, NULL, 10) : 80;
    } else {
        client = serving_start(&own, &err) ? own.client : NULL;
        port = client ? http_server_port(own.app.http) : 0;
    }
    if (!client || !prepare(client)) {
        fprintf(stderr, "requests: %s\n", err.message);
        return 1;
    }
    long files = list_size(client, "/v1/files"), keys = list_size(client, "/v1/vireo/keys");
    for (size_t i = 0; i < sizeof bad_requests / sizeof *bad_requests; i++)
        try_request(&bad_requests[i]);
    for (size_t i = 0; i < sizeof bad_bodies / sizeof *bad_bodies; i++)
        try_body(&bad_bodies[i]);
    for (size_t i = 0; model && i < sizeof bad_worker_bodies / sizeof *bad_worker_bodies; i++)
        try_body(&bad_worker_bodies[i]);
    check_after(client, url ? NULL : &own, files, keys);
    if (url)
        http_client_destroy(&client);
    else
        serving_stop(&own);
    printf("%d passed, %d failed (%zu requests, %zu bodies)\n", passed, failed,
           sizeof bad_requests / sizeof *bad_requests,
           sizeof bad_bodies / sizeof *bad_bodies + (model ? sizeof bad_worker_bodies / sizeof *bad_worker_bodies : 0));
    return failed != 0;
}
