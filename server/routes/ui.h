// The web page: every file of web/ is a route of its own, made from the list embedded at build time.
#ifndef VIREO_ROUTES_UI_H
#define VIREO_ROUTES_UI_H

#include "server/http/router.h"

#include <stddef.h>

// "/" and "/<path>" for each file; lives as long as the process.
const struct route *ui_routes(size_t *count);

#endif
