// Pictures that rows of a job refer to: ids of this server become digests (kept in the job's folder), digests become paths
// when a worker starts, so that a data folder can be moved.
#include "server/jobs/internal.h"

#include "server/store/blob.h"
#include "server/store/files.h"
#include "server/store/images.h"

#include <stdio.h>
#include <string.h>

static bool digest_of(struct jobs *j, const char *name, struct arena *a, const char **sha256, struct vireo_error *err)
{
    if (strncmp(name, "file-", 5) == 0) {
        struct store_file f;
        if (!store_file_find(j->p.store, name, a, &f, err))
            return false;
        *sha256 = f.sha256;
        return true;
    }
    struct store_image i;
    if (!store_image_find(j->p.store, name, a, &i, err))
        return false;
    *sha256 = i.sha256;
    return true;
}

bool references_resolve(struct jobs *j, const json_t *references, json_t **out, struct vireo_error *err)
{
    json_t *digests = json_object(), *reference;
    struct arena arena;
    size_t i;
    arena_init(&arena, 0);
    bool done = digests || vireo_fail_memory(err, 64);
    json_array_foreach (references, i, reference) {
        const char *name = json_string_value(json_object_get(reference, "name")), *sha256 = NULL;
        const char *form = json_string_value(json_object_get(reference, "form"));
        struct arena_mark mark = arena_mark(&arena);
        if (!done)
            break;
        if (!form || strcmp(form, "id") != 0)
            done = vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "training_file",
                                   "Rows name the image '%.80s'. File names need a dataset (POST /v1/vireo/datasets) that holds "
                                   "the pictures; its training file names them by id.",
                                   name ? name : "");
        else
            done = digest_of(j, name, &arena, &sha256, err);
        char path[BLOB_PATH];
        if (done && (!blob_path(j->p.store, sha256, path) || !blob_exists(j->p.store, sha256, NULL)))
            done = vireo_fail_kind(err, VIREO_NOT_FOUND, "file_not_found", "training_file", "The image '%.80s' is not stored.",
                                   name);
        else if (!done && err && err->code == VIREO_NOT_FOUND)
            vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "training_file",
                            "Rows name the image '%.80s', which does not exist.", name ? name : "");
        if (done && json_object_set_new(digests, name, json_string(sha256)) != 0)
            done = vireo_fail_memory(err, 64);
        arena_rewind(&arena, mark);
    }
    arena_finish(&arena);
    if (done)
        *out = digests;
    else
        json_decref(digests);
    return done;
}

json_t *references_paths(struct jobs *j, const json_t *digests)
{
    json_t *paths = json_object(), *digest;
    const char *name;
    json_object_foreach ((json_t *)digests, name, digest) {
        char path[BLOB_PATH];
        if (blob_path(j->p.store, json_string_value(digest), path))
            json_object_set_new(paths, name, json_string(path));
    }
    return paths;
}
