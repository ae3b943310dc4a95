#include "server/routes/ui.h"

#include "server/embedded.h"
#include "server/routes/common.h"

#include <pthread.h>
#include <string.h>

enum { PAGES = 256, PATH = 160 };
static struct route pages[PAGES];
static char paths[PAGES][PATH];
static size_t page_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool send_page(struct response *res, const struct embedded_file *f, struct vireo_error *err)
{
    return response_static(res, f->type, f->bytes, f->size, f->etag, err);
}

static bool page(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *path = request_route(req)->pattern + 1;
    for (const struct embedded_file *f = web_files; f->path; f++)
        if (strcmp(f->path, path[0] ? path : "index.html") == 0)
            return send_page(res, f, err);
    return vireo_fail(err, VIREO_NOT_FOUND, "No such page.");
}

static void add(const char *path)
{
    if (page_count == PAGES)
        return; // the build fails before: see tests/unit/routes.c
    snprintf(paths[page_count], PATH, "/%s", path);
    pages[page_count] = (struct route){.method = "GET",
                                       .pattern = paths[page_count],
                                       .scope = HTTP_PUBLIC,
                                       .body = HTTP_BODY_NONE,
                                       .handle = page};
    page_count++;
}

static void build(void)
{
    if (web_files[0].path)
        add("");
    for (const struct embedded_file *f = web_files; f->path; f++)
        add(f->path);
}

const struct route *ui_routes(size_t *count)
{
    pthread_once(&once, build);
    *count = page_count;
    return pages;
}
