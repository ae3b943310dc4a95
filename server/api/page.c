#include "server/api/page.h"

json_t *api_list(json_t *data, bool has_more)
{
    if (!data)
        return NULL;
    size_t count = json_array_size(data);
    json_t *first = count ? json_object_get(json_array_get(data, 0), "id") : NULL;
    json_t *last = count ? json_object_get(json_array_get(data, count - 1), "id") : NULL;
    return json_pack("{s:s, s:O?, s:O?, s:b, s:o}", "object", "list", "first_id", first, "last_id", last, "has_more",
                     has_more, "data", data);
}
