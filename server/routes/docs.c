// /openapi.json: the contract, as built from openapi/openapi.yaml.
#include "server/embedded.h"
#include "server/routes/common.h"

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    (void)req;
    const struct embedded_file *f = &openapi_files[0];
    return response_static(res, "application/json", f->bytes, f->size, f->etag, err);
}

const struct route route_docs[] = {
    {"GET", "/openapi.json", HTTP_PUBLIC, HTTP_BODY_NONE, 0, get},
    {0},
};
