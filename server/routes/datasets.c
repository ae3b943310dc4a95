// /v1/vireo/datasets
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/dataset/unpack.h"
#include "compute/image/decode.h"
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/routes/dataset_import.h"
#include "server/store/blob.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool check_name(const char *name, struct vireo_error *err)
{
    if (!name)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "name", "Missing parameter 'name'.");
    size_t length = strlen(name);
    bool good = length >= 1 && length <= 64;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        good = good && *c >= 0x20 && *c != 0x7f && *c != '/';
    return good || vireo_fail_param(err, "name",
                                    "Invalid value for 'name': expected 1 to 64 characters without '/' and control "
                                    "characters, got '%.80s'.", name);
}

enum upload { ROWS, IMAGE, ARCHIVE };

// By the first bytes.
static enum upload kind_of(const char *path)
{
    uint8_t head[UNPACK_HEAD];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, head, sizeof head) : -1;
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return ROWS;
    return unpack_is_archive(head, (size_t)got) ? ARCHIVE : image_sniff(head, (size_t)got) != IMAGE_UNKNOWN ? IMAGE : ROWS;
}

// --- from a form: parts tell by their first bytes what they are ------------------------------------------------------

static bool from_form(struct request *req, struct import *in, const char **name, struct vireo_error *err)
{
    const struct http_part *field = request_part(req, "name");
    *name = field ? field->value : NULL;
    for (const struct http_part *p = request_parts(req); p; p = p->next) {
        const char *label = p->filename ? p->filename : "file";
        if (!p->path)
            continue;
        enum upload kind = kind_of(p->path);
        bool ok = kind == ARCHIVE ? import_add_archive(in, p->path, err)
                  : kind == IMAGE ? import_add_image_file(in, label, p->path, err)
                                  : import_add_rows(in, label, p->path, err);
        if (!ok)
            return false;
    }
    return true;
}

// --- from JSON: files and images that are on the server already ------------------------------------------------------

static bool stored_path(struct request *req, const char *id, const char *param, struct store_file *file,
                        const char **path, struct vireo_error *err)
{
    struct arena *a = request_arena(req);
    char *place = arena_take(a, BLOB_PATH);
    if (!place)
        return vireo_fail_memory(err, BLOB_PATH);
    if (!store_file_find(app_of(req)->store, id, a, file, err)) {
        if (err)
            snprintf(err->param, sizeof err->param, "%s", param);
        return false;
    }
    if (!blob_path(app_of(req)->store, file->sha256, place) || !file_exists(place))
        return vireo_fail_param(err, param, "The file '%.60s' has no content any more.", id);
    *path = place;
    return true;
}

static bool add_image_item(struct request *req, struct import *in, const json_t *item, const char *param,
                           struct vireo_error *err)
{
    const char *id = json_string_value(item), *name = NULL, *path;
    if (json_is_object(item)) {
        if (!json_get_string_required(item, param, "id", &id, err) ||
            !json_get_string_required(item, param, "name", &name, err))
            return false;
    } else if (!id) {
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", param,
                               "%s must be an image id, the file id of an archive, or {\"name\", \"id\"}.", param);
    }
    if (strncmp(id, "file-", 5) != 0) {
        if (import_add_image(in, name, id, err))
            return true;
        if (err && err->code == VIREO_NOT_FOUND)
            snprintf(err->param, sizeof err->param, "%s", param);
        return false;
    }
    struct store_file file;
    if (!stored_path(req, id, param, &file, &path, err))
        return false;
    if (kind_of(path) == ARCHIVE)
        return import_add_archive(in, path, err);
    return import_add_image_file(in, name ? name : file.filename, path, err);
}

static bool from_json(struct request *req, struct import *in, const char **name, struct vireo_error *err)
{
    json_t *body, *files = NULL, *images = NULL;
    static const char *const known[] = {"name", "files", "images", "format", "vireo", NULL};
    static const char *const formats[] = {"auto", "vlm_r1", "openai", NULL};
    const char *format = NULL;
    char param[64];
    if (!request_json_object(req, &body, err) || !request_ignore_unknown(req, known, err) ||
        !json_get_string_required(body, "", "name", name, err) || !json_get_array(body, "", "files", &files, err) ||
        !json_get_array(body, "", "images", &images, err) || !json_get_string(body, "", "format", &format, err))
        return false;
    bool built = !format;
    for (int k = 0; format && formats[k]; k++)
        built = built || strcmp(format, formats[k]) == 0;
    if (!built)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "format",
                               "Invalid value for 'format': built are auto, vlm_r1 and openai (each row tells its own "
                               "form), got '%.40s'.", format);
    if (!json_array_size(files))
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "files",
                               "'files' must name at least one file of JSON lines.");
    for (size_t k = 0; k < json_array_size(files); k++) {
        const char *id = json_string_value(json_array_get(files, k)), *path;
        struct store_file file;
        snprintf(param, sizeof param, "files[%zu]", k);
        if (!id)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", param, "%s must be a file id.", param);
        if (!stored_path(req, id, param, &file, &path, err))
            return false;
        bool archive = kind_of(path) == ARCHIVE;
        if (archive ? !import_add_archive(in, path, err) : !import_add_rows(in, file.filename, path, err))
            return false;
    }
    for (size_t k = 0; k < json_array_size(images); k++) {
        snprintf(param, sizeof param, "images[%zu]", k);
        if (!add_image_item(req, in, json_array_get(images, k), param, err))
            return false;
    }
    return true;
}

// 400 with all bad rows beside the API's error, so that a user mends them in one go.
static bool answer_issues(struct response *res, json_t *issues, const struct vireo_error *problem,
                          struct vireo_error *err)
{
    json_t *body = http_error_json(problem);
    json_object_set_new(json_object_get(body, "error"), "vireo", json_pack("{s:o}", "errors", issues));
    response_status(res, http_status(problem));
    return response_json(res, body, err);
}

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_dataset dataset;
    const char *name = NULL;
    json_t *issues = NULL;
    struct vireo_error problem = {0};
    struct import *in = import_create(app_of(req)->store, request_arena(req), err);
    if (!in)
        return false;
    bool ok = (request_parts(req) ? from_form(req, in, &name, &problem) : from_json(req, in, &name, &problem)) &&
              check_name(name, &problem) && import_finish(in, name, &dataset, &issues, &problem);
    import_destroy(&in);
    if (ok)
        return response_json(res, api_dataset(&dataset), err);
    if (json_array_size(issues))
        return answer_issues(res, issues, &problem, err);
    json_decref(issues);
    *err = problem;
    return false;
}

static json_t *dataset_json(const void *row)
{
    return api_dataset(row);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_page page;
    struct store_dataset *rows;
    size_t count;
    bool more;
    return routes_page(req, 100, 1000, &page, err) &&
           store_dataset_list(app_of(req)->store, &page, request_arena(req), &rows, &count, &more, err) &&
           routes_list(res, rows, count, sizeof *rows, more, dataset_json, err);
}

static bool find(struct request *req, struct store_dataset *d, struct vireo_error *err)
{
    return store_dataset_find(app_of(req)->store, request_path_value(req, "id"), request_arena(req), d, err);
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_dataset d;
    return find(req, &d, err) && response_json(res, api_dataset(&d), err);
}

static bool delete(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *id = request_path_value(req, "id");
    return store_dataset_delete(app_of(req)->store, id, err) &&
           response_json(res, api_deleted(id, "vireo.dataset"), err);
}

static bool find_content(struct request *req, struct store_file *file, const char **path, struct vireo_error *err)
{
    struct store_dataset d;
    if (!find(req, &d, err))
        return false;
    if (!d.file_id)
        return vireo_fail_kind(err, VIREO_CONFLICT, "invalid_state", NULL, "The dataset has no rows.");
    return stored_path(req, d.file_id, "id", file, path, err);
}

// GET rows: after = id of the last row seen (its number), q = text that the row must hold.
static bool rows(struct request *req, struct response *res, struct vireo_error *err)
{
    int64_t after = -1, limit = 100;
    const char *q = request_query(req, "q"), *path;
    struct store_file file;
    struct file_map map;
    if (!request_query_integer(req, "limit", 1, 1000, &limit, err) ||
        !request_query_integer(req, "after", 0, 1000000000, &after, err) || !find_content(req, &file, &path, err) ||
        !file_map_open(path, &map, err))
        return false;
    json_t *data = json_array();
    const char *at = (const char *)map.data, *end = at + map.size;
    bool more = false;
    for (int64_t index = 0; at < end && !more; index++) {
        const char *line = at, *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((stop ? stop : end) - line);
        at = stop ? stop + 1 : end;
        if (index <= after)
            continue;
        char *text = q ? arena_copy_bytes(request_arena(req), line, length) : NULL;
        if (q && (!text || !strstr(text, q)))
            continue;
        if ((int64_t)json_array_size(data) == limit) {
            more = true;
            break;
        }
        char id[24];
        snprintf(id, sizeof id, "%lld", (long long)index);
        json_t *row = vireo_json_parse(line, length, NULL);
        json_array_append_new(data, json_pack("{s:s, s:s, s:I, s:o}", "id", id, "object", "vireo.dataset.row", "index",
                                              (json_int_t)index, "row", row ? row : json_null()));
    }
    file_map_close(&map);
    return response_json(res, api_list(data, more), err);
}

// The training file is made at import already; this names it.
static bool export(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *path;
    struct store_file file;
    return find_content(req, &file, &path, err) && response_json(res, api_file(&file), err);
}

const struct route route_datasets[] = {
    {"POST", "/v1/vireo/datasets", HTTP_TRAIN, HTTP_BODY_JSON | HTTP_BODY_FORM, 2ull << 30, create},
    {"GET", "/v1/vireo/datasets", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/vireo/datasets/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {"DELETE", "/v1/vireo/datasets/{id}", HTTP_TRAIN, HTTP_BODY_JSON, 0, delete},
    {"GET", "/v1/vireo/datasets/{id}/rows", HTTP_READ, HTTP_BODY_NONE, 0, rows},
    {"POST", "/v1/vireo/datasets/{id}/export", HTTP_TRAIN, HTTP_BODY_JSON, 0, export},
    {0},
};
