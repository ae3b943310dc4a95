// `vireo chat`
#include "server/cli/cli.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: vireo chat --model NAME [--image FILE|ID] [--system TEXT] [--temperature T] [--max-tokens N] [--seed N] TEXT\n\n"
    "Asks once and prints the answer as it comes. Pictures stand behind the text unless --image-first is given.\n";

static char *data_uri(const char *path, struct vireo_error *err)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char head[] = "data:image/png;base64,"; // the server looks at the bytes, not at the type
    struct file_bytes bytes;
    if (!file_read(path, 20 << 20, &bytes, err))
        return NULL;
    const unsigned char *in = (const unsigned char *)bytes.data;
    char *out = vireo_alloc(sizeof head + (bytes.size + 2) / 3 * 4), *p = out;
    if (out) {
        memcpy(p, head, sizeof head - 1);
        p += sizeof head - 1;
        for (size_t i = 0; i < bytes.size; i += 3) {
            size_t left = bytes.size - i;
            unsigned v = (unsigned)in[i] << 16 | (left > 1 ? (unsigned)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
            *p++ = digits[v >> 18];
            *p++ = digits[v >> 12 & 63];
            *p++ = left > 1 ? digits[v >> 6 & 63] : '=';
            *p++ = left > 2 ? digits[v & 63] : '=';
        }
        *p = 0;
    } else {
        vireo_fail_memory(err, bytes.size);
    }
    file_bytes_free(&bytes);
    return out;
}

static json_t *image_part(const char *reference, struct vireo_error *err)
{
    bool id = strncmp(reference, "img_", 4) == 0 || strncmp(reference, "file-", 5) == 0;
    char *uri = id ? NULL : data_uri(reference, err);
    json_t *part = id || uri ? json_pack("{s:s,s:{s:s}}", "type", "image_url", "image_url", "url", id ? reference : uri) : NULL;
    free(uri);
    return part;
}

struct answer {
    bool failed;
};

static bool on_chunk(void *context, const char *event, const char *data, const char *id)
{
    struct answer *a = context;
    struct vireo_error err;
    if (strcmp(data, "[DONE]") == 0)
        return false;
    json_t *o = vireo_json_parse(data, strlen(data), &err), *error = json_object_get(o, "error");
    const char *text = json_string_value(
        json_object_get(json_object_get(json_array_get(json_object_get(o, "choices"), 0), "delta"), "content"));
    if (error) {
        const char *message = json_string_value(json_object_get(error, "message"));
        fprintf(stderr, "\nvireo: %s\n", message ? message : "the server ended the answer");
        a->failed = true;
    }
    if (text) {
        fputs(text, stdout);
        fflush(stdout);
    }
    json_decref(o);
    return !a->failed;
}

int cli_chat(int argc, char **argv)
{
    struct cli_client_options client = {0};
    const char *model = NULL, *image = NULL, *system = NULL, *temperature = NULL, *tokens = NULL, *seed = NULL, *rest[1];
    bool first = false;
    const struct cli_option options[] = {
        {"--model", "NAME which model", &model, NULL},
        {"--image", "FILE a picture, or the id of an uploaded one", &image, NULL},
        {"--image-first", "-the picture stands before the text", NULL, &first},
        {"--system", "TEXT system message", &system, NULL},
        {"--temperature", "T 0: always the likeliest token", &temperature, NULL},
        {"--max-tokens", "N longest answer", &tokens, NULL},
        {"--seed", "N the same seed gives the same answer", &seed, NULL},
        {"--data", "DIR reach the server that has this folder open", &client.data, NULL},
        {0},
    };
    size_t count;
    int status;
    long long n = 0;
    if (!cli_parse(argc, argv, usage, options, &client, rest, 1, &count, &status))
        return status;
    if (!model || count != 1) {
        fputs(usage, stderr);
        return CLI_USAGE;
    }
    struct vireo_error err;
    json_t *content = json_array(), *messages = json_array(), *body;
    json_t *text = json_pack("{s:s,s:s}", "type", "text", "text", rest[0]), *picture = image ? image_part(image, &err) : NULL;
    if (image && !picture)
        return cli_report(&err);
    if (picture && first)
        json_array_append_new(content, picture);
    json_array_append_new(content, text);
    if (picture && !first)
        json_array_append_new(content, picture);
    if (system)
        json_array_append_new(messages, json_pack("{s:s,s:s}", "role", "system", "content", system));
    json_array_append_new(messages, json_pack("{s:s,s:o}", "role", "user", "content", content));
    body = json_pack("{s:s,s:o,s:b}", "model", model, "messages", messages, "stream", 1);
    if (temperature)
        json_object_set_new(body, "temperature", json_real(strtod(temperature, NULL)));
    if (tokens && cli_number("--max-tokens", tokens, 1, 1 << 20, &n))
        json_object_set_new(body, "max_completion_tokens", json_integer(n));
    if (seed && cli_number("--seed", seed, 0, INT64_MAX, &n))
        json_object_set_new(body, "seed", json_integer(n));
    struct http_client *c = cli_client(&client);
    struct answer a = {0};
    bool done = c && http_client_stream(c, "POST", "/v1/chat/completions", body, on_chunk, &a, &err);
    json_decref(body);
    if (!c)
        return CLI_UNREACHABLE;
    http_client_destroy(&c);
    if (!done)
        return cli_report(&err);
    putchar('\n');
    return a.failed ? CLI_FAILED : CLI_DONE;
}
