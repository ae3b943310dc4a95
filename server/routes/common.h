// What several routes do alike: pages of lists, answers with one object.
#ifndef VIREO_ROUTES_COMMON_H
#define VIREO_ROUTES_COMMON_H

#include "server/api/page.h"
#include "server/routes/app.h"

// after, limit (default `limit`, at most `most`) and order=asc|desc.
bool routes_page(struct request *req, int limit, int most, struct store_page *page, struct vireo_error *err);

// Answers with api_list(data): [read(row) for all rows]. `one` makes the object of rows + i * size.
bool routes_list(struct response *res, const void *rows, size_t count, size_t size, bool has_more,
                 json_t *(*one)(const void *row), struct vireo_error *err);

#endif
