#include "server/routes/common.h"

#include <string.h>

bool routes_page(struct request *req, int limit, int most, struct store_page *page, struct vireo_error *err)
{
    int64_t wanted = limit;
    const char *order = request_query(req, "order");
    if (!request_query_integer(req, "limit", 1, most, &wanted, err))
        return false;
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return vireo_fail_param(err, "order", "Invalid value for 'order': expected 'asc' or 'desc', got '%.40s'.",
                                order);
    *page = (struct store_page){.after = request_query(req, "after"),
                                .limit = (int)wanted,
                                .ascending = order && strcmp(order, "asc") == 0};
    return true;
}

bool routes_list(struct response *res, const void *rows, size_t count, size_t size, bool has_more,
                 json_t *(*one)(const void *row), struct vireo_error *err)
{
    json_t *data = json_array();
    for (size_t i = 0; data && i < count; i++)
        if (json_array_append_new(data, one((const char *)rows + i * size)) != 0) {
            json_decref(data);
            data = NULL;
        }
    return response_json(res, api_list(data, has_more), err);
}
