// /v1/vireo/images. Pixels are never decoded here: only the header is read, for format and size.
#include "compute/base/file.h"
#include "compute/dataset/data_uri.h"
#include "compute/image/decode.h"
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/routes/dataset_import.h"
#include "server/store/blob.h"

#include <string.h>

enum { IMAGES_BYTES = 512 << 20, IMAGES_COUNT = 10000 };

struct incoming {
    struct store_image *images;
    size_t count, capacity;
};

static bool reserve(struct request *req, struct incoming *in, size_t count, struct vireo_error *err)
{
    if (count > IMAGES_COUNT)
        return vireo_fail(err, VIREO_TOO_LARGE, "A request may hold %d images, not %zu.", IMAGES_COUNT, count);
    in->images = arena_array(request_arena(req), struct store_image, count ? count : 1);
    return in->images || vireo_fail_memory(err, count * sizeof *in->images);
}

static bool from_parts(struct request *req, struct incoming *in, struct vireo_error *err)
{
    size_t count = 0;
    char place[160];
    for (const struct http_part *p = request_parts(req); p; p = p->next)
        count += p->path != NULL;
    if (!reserve(req, in, count, err))
        return false;
    // All are looked at before the first is kept.
    for (const struct http_part *p = request_parts(req); p; p = p->next) {
        if (!p->path)
            continue;
        struct store_image *image = &in->images[in->count];
        snprintf(place, sizeof place, "%s[%zu]", p->name, in->count);
        if (!image_describe_file(p->path, place, image, err))
            return false;
        image->filename = p->filename ? p->filename : "";
        image->sha256 = p->sha256;
        in->count++;
    }
    for (const struct http_part *p = request_parts(req); p; p = p->next)
        if (p->path && !blob_adopt(app_of(req)->store, request_take_part(req, p), p->sha256, err))
            return false;
    return true;
}

// {"image": "data:…"}, {"images": ["data:…", {"name": "a.png", "data": "data:…"}]}
static bool from_json(struct request *req, struct incoming *in, struct vireo_error *err)
{
    json_t *body, *list;
    if (!request_json_object(req, &body, err))
        return false;
    json_t *single = json_object_get(body, "image");
    list = json_object_get(body, "images");
    if (!single == !list)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "images",
                               "The body needs either 'image' or 'images'.");
    if (list && !json_is_array(list))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", "images", "'images' must be an array.");
    size_t count = list ? json_array_size(list) : 1;
    if (!reserve(req, in, count, err))
        return false;
    const uint8_t **bytes = arena_array(request_arena(req), const uint8_t *, count ? count : 1);
    if (!bytes)
        return vireo_fail_memory(err, count * sizeof *bytes);
    for (size_t i = 0; i < count; i++) {
        json_t *item = list ? json_array_get(list, i) : single;
        const char *uri = json_string_value(json_is_object(item) ? json_object_get(item, "data") : item);
        const char *name = json_string_value(json_is_object(item) ? json_object_get(item, "name") : NULL);
        char place[64];
        snprintf(place, sizeof place, list ? "images[%zu]" : "image", i);
        if (!uri)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", place, "%s must be a data: URI.", place);
        size_t size;
        if (!data_uri_decode(uri, strlen(uri), image_default_limits.bytes, place, request_arena(req), &bytes[i], &size,
                             err) ||
            !image_describe(bytes[i], size, place, &in->images[i], err))
            return false;
        in->images[i].filename = name ? name : "";
    }
    for (size_t i = 0; i < count; i++) {
        char *sha = arena_take(request_arena(req), 65);
        if (!sha || !blob_put(app_of(req)->store, bytes[i], (size_t)in->images[i].bytes, sha, err))
            return sha ? false : vireo_fail_memory(err, 65);
        in->images[i].sha256 = sha;
    }
    in->count = count;
    return true;
}

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    struct incoming in = {0};
    if (!(request_parts(req) ? from_parts(req, &in, err) : from_json(req, &in, err)))
        return false;
    if (!in.count)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "file",
                               "The request holds no image.");
    if (!store_image_add(app_of(req)->store, in.images, in.count, request_arena(req), err))
        return false;
    json_t *data = json_array();
    for (size_t i = 0; i < in.count; i++)
        json_array_append_new(data, api_image(&in.images[i]));
    return response_json(res, json_pack("{s:s, s:o}", "object", "list", "data", data), err);
}

static json_t *image_json(const void *row)
{
    return api_image(row);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_page page;
    struct store_image *rows;
    size_t count;
    bool more;
    return routes_page(req, 100, 1000, &page, err) &&
           store_image_list(app_of(req)->store, &page, request_arena(req), &rows, &count, &more, err) &&
           routes_list(res, rows, count, sizeof *rows, more, image_json, err);
}

static bool find(struct request *req, struct store_image *i, struct vireo_error *err)
{
    return store_image_find(app_of(req)->store, request_path_value(req, "id"), request_arena(req), i, err);
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_image i;
    return find(req, &i, err) && response_json(res, api_image(&i), err);
}

static bool delete(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *id = request_path_value(req, "id");
    return store_image_delete(app_of(req)->store, id, err) && response_json(res, api_deleted(id, "vireo.image"), err);
}

// The type is that of the bytes (they were looked at), never what a client said: safe for <img>.
static bool content(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_image i;
    char path[BLOB_PATH], type[32];
    if (!find(req, &i, err))
        return false;
    if (!blob_path(app_of(req)->store, i.sha256, path))
        return vireo_fail(err, VIREO_CORRUPT, "an image has no digest");
    snprintf(type, sizeof type, "image/%s", i.format);
    return response_file(res, &(struct response_file){.path = path, .etag = i.sha256, .type = type, .immutable = true},
                         err);
}

const struct route route_images[] = {
    {"POST", "/v1/vireo/images", HTTP_TRAIN, HTTP_BODY_FORM | HTTP_BODY_RAW | HTTP_BODY_JSON, IMAGES_BYTES, create},
    {"GET", "/v1/vireo/images", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/vireo/images/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {"DELETE", "/v1/vireo/images/{id}", HTTP_TRAIN, HTTP_BODY_JSON, 0, delete},
    {"GET", "/v1/vireo/images/{id}/content", HTTP_READ, HTTP_BODY_NONE, 0, content},
    {0},
};
