// /v1/files
#include "compute/base/clock.h"
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/store/blob.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES = 512 << 20 };

static const char *const purposes[] = {"fine-tune", "batch", "vision", "user_data", "evals", "assistants", NULL};
static const char *const more_purposes[] = {"fine-tune-results", "batch_output", "assistants_output", NULL};

static bool is_one_of(const char *const *list, const char *text)
{
    for (; *list; list++)
        if (strcmp(*list, text) == 0)
            return true;
    return false;
}

static const char *field(const struct request *req, const char *name)
{
    const struct http_part *part = request_part(req, name);
    return part ? part->value : NULL;
}

// expires_after[anchor], expires_after[seconds]
static bool read_expiry(const struct request *req, int64_t created_at, int64_t *expires_at, struct vireo_error *err)
{
    const char *anchor = field(req, "expires_after[anchor]"), *seconds = field(req, "expires_after[seconds]");
    if (!anchor && !seconds)
        return true;
    if (!anchor || strcmp(anchor, "created_at") != 0)
        return vireo_fail_param(err, "expires_after.anchor", "expires_after.anchor must be 'created_at'.");
    long long value = seconds && strlen(seconds) < 9 && strspn(seconds, "0123456789") == strlen(seconds)
                          ? strtoll(seconds, NULL, 10)
                          : 0;
    if (value < 3600 || value > 2592000)
        return vireo_fail_param(err, "expires_after.seconds",
                                "expires_after.seconds must be an integer from 3600 to 2592000, got '%.40s'.",
                                seconds ? seconds : "");
    *expires_at = created_at + value;
    return true;
}

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *purpose = field(req, "purpose");
    const struct http_part *part = request_part(req, "file");
    const int64_t created_at = clock_unix();
    int64_t expires_at = 0;
    if (!part || !part->path)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "file",
                               "The form needs a part 'file' with the content.");
    if (!purpose)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "purpose",
                               "The form needs a field 'purpose'.");
    if (!is_one_of(purposes, purpose))
        return vireo_fail_param(err, "purpose",
                                "Invalid value for 'purpose': expected one of fine-tune, batch, vision, user_data, evals, "
                                "assistants, got '%.40s'.", purpose);
    if (!part->bytes)
        return vireo_fail_param(err, "file", "The file is empty.");
    if (!read_expiry(req, created_at, &expires_at, err))
        return false;
    struct app *app = app_of(req);
    struct store_file f = {.filename = part->filename ? part->filename : "file",
                           .purpose = purpose,
                           .sha256 = part->sha256,
                           .status = "processed",
                           .bytes = (int64_t)part->bytes,
                           .created_at = created_at,
                           .expires_at = expires_at};
    return blob_adopt(app->store, request_take_part(req, part), part->sha256, err) &&
           store_file_add(app->store, &f, request_arena(req), err) && response_json(res, api_file(&f), err);
}

static json_t *file_json(const void *row)
{
    return api_file(row);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct store_page page;
    struct store_file *rows;
    size_t count;
    bool more;
    const char *purpose = request_query(req, "purpose");
    if (!routes_page(req, 10000, 10000, &page, err))
        return false;
    if (purpose && !is_one_of(purposes, purpose) && !is_one_of(more_purposes, purpose))
        return vireo_fail_param(err, "purpose", "Unknown purpose '%.40s'.", purpose);
    return store_file_list(app->store, &page, purpose, request_arena(req), &rows, &count, &more, err) &&
           routes_list(res, rows, count, sizeof *rows, more, file_json, err);
}

static bool find(struct request *req, struct store_file *f, struct vireo_error *err)
{
    return store_file_find(app_of(req)->store, request_path_value(req, "id"), request_arena(req), f, err);
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_file f;
    return find(req, &f, err) && response_json(res, api_file(&f), err);
}

static bool delete(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *id = request_path_value(req, "id");
    return store_file_delete(app_of(req)->store, id, err) && response_json(res, api_deleted(id, "file"), err);
}

// Never shown by a browser: always an attachment of no particular type.
static bool content(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_file f;
    char path[BLOB_PATH];
    if (!find(req, &f, err))
        return false;
    if (strcmp(f.status, "error") == 0 || !blob_path(app_of(req)->store, f.sha256, path))
        return vireo_fail_kind(err, VIREO_NOT_FOUND, "file_not_found", NULL, "The file has no content: %.120s.",
                               f.status_details ? f.status_details : "it failed");
    return response_file(res, &(struct response_file){.path = path, .etag = f.sha256, .filename = f.filename}, err);
}

const struct route route_files[] = {
    {"POST", "/v1/files", HTTP_TRAIN, HTTP_BODY_FORM, FILE_BYTES + (1 << 20), create},
    {"GET", "/v1/files", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/files/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {"DELETE", "/v1/files/{id}", HTTP_TRAIN, HTTP_BODY_JSON, 0, delete},
    {"GET", "/v1/files/{id}/content", HTTP_READ, HTTP_BODY_NONE, 0, content},
    {0},
};
