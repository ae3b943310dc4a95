#include "compute/dataset/image_refs.h"

#include "compute/base/fault.h"
#include "compute/base/hash.h"
#include "compute/dataset/data_uri.h"

#include <stdlib.h>
#include <string.h>

void image_refs_finish(struct image_refs *r)
{
    free(r->images);
    free(r->slots);
    memset(r, 0, sizeof *r);
}

static uint64_t hash_name(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; // FNV-1a
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h ^ h >> 29;
}

// Slot of `name`, or the empty one where it belongs.
static uint32_t find_slot(const struct image_refs *r, const char *name)
{
    uint32_t slot = (uint32_t)hash_name(name) & (r->slot_count - 1);
    while (r->slots[slot] && strcmp(r->images[r->slots[slot] - 1].name, name) != 0)
        slot = (slot + 1) & (r->slot_count - 1);
    return slot;
}

static bool grow(struct image_refs *r, struct vireo_error *err)
{
    if (r->count < r->capacity)
        return true;
    uint32_t capacity = r->capacity ? 2 * r->capacity : 256, slot_count = 2 * capacity;
    struct sample_image *images = vireo_realloc(r->images, capacity * sizeof *images);
    if (images)
        r->images = images;
    uint32_t *slots = vireo_calloc(slot_count, sizeof *slots);
    if (!images || !slots) {
        free(slots);
        return vireo_fail_memory(err, capacity * (sizeof *images + 2 * sizeof *slots));
    }
    free(r->slots);
    r->slots = slots;
    r->slot_count = slot_count;
    r->capacity = capacity;
    for (uint32_t i = 0; i < r->count; i++)
        r->slots[find_slot(r, r->images[i].name)] = i + 1;
    return true;
}

static bool starts(const char *text, const char *word)
{
    return strncmp(text, word, strlen(word)) == 0;
}

// img_ or file- and 24 base62 characters.
static bool is_id(const char *text)
{
    const char *rest = starts(text, "img_") ? text + 4 : starts(text, "file-") ? text + 5 : NULL;
    size_t n = 0;
    if (!rest)
        return false;
    for (; rest[n]; n++) {
        char c = rest[n];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
            return false;
    }
    return n == 24;
}

// A relative path that stays below its folder, on any system.
static bool check_name(const char *name, const char *path, struct vireo_error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length > JSONL_NAME_BYTES)
        return vireo_fail_param(err, path, "image name of %zu bytes, expected 1 to %d", length, JSONL_NAME_BYTES);
    if (starts(name, "http://") || starts(name, "https://"))
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", path,
                               "images are not fetched from the web: upload the image and use its id or file name");
    if (strstr(name, "://"))
        return vireo_fail_param(err, path, "expected a data: URI, an image id or a file name, got '%.60s'", name);
    bool bad = name[0] == '/' || strchr(name, '\\') != NULL || (name[0] && name[1] == ':');
    for (const char *part = name; part && !bad; part = strchr(part, '/'), part += part != NULL) {
        size_t n = strcspn(part, "/");
        bad = n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.');
    }
    for (size_t i = 0; i < length; i++)
        bad |= (uint8_t)name[i] < 0x20 || name[i] == 0x7f;
    if (bad)
        return vireo_fail_param(err, path, "'%.60s' is not a relative file name", name);
    return true;
}

// Sets form, name and bytes of *im. For bytes the name is their digest, so that equal pictures are one.
static bool read_reference(struct image_refs *r, const char *reference, const char *path, struct sample_image *im,
                           struct vireo_error *err)
{
    if (starts(reference, "data:")) {
        uint8_t digest[HASH_BYTES];
        char text[HASH_TEXT];
        im->form = IMAGE_BYTES;
        if (!data_uri_decode(reference, strlen(reference), JSONL_IMAGE_BYTES, path, r->arena, &im->bytes,
                             &im->byte_count, err))
            return false;
        if (!hash_bytes(im->bytes, im->byte_count, digest))
            return vireo_fail_memory(err, 0);
        hash_text(digest, text);
        im->name = arena_format(r->arena, "data:%s", text);
    } else {
        im->form = is_id(reference) ? IMAGE_ID : IMAGE_NAME;
        if (im->form == IMAGE_NAME && !check_name(reference, path, err))
            return false;
        im->name = reference; // copied once it is known to be new
    }
    return im->name ? true : vireo_fail_memory(err, 72);
}

static bool resolve(struct image_refs *r, struct sample_image *im, const char *path, struct vireo_error *err)
{
    char id[JSONL_ID_BYTES] = "";
    if (im->form != IMAGE_BYTES) {
        im->name = arena_copy_string(r->arena, im->name);
        if (!im->name)
            return vireo_fail_memory(err, JSONL_NAME_BYTES);
    }
    im->id = im->name;
    if (im->form == IMAGE_BYTES || !r->resolver->resolve)
        return true;
    struct vireo_error why = {0};
    if (!r->resolver->resolve(r->resolver->context, im->form, im->name, id, &why))
        return vireo_fail_kind(err, why.code ? why.code : VIREO_NOT_FOUND, why.kind[0] ? why.kind : "invalid_image",
                               path,
                               "image '%.80s': %s", im->name, why.message);
    im->id = arena_copy_string(r->arena, id);
    return im->id ? true : vireo_fail_memory(err, sizeof id);
}

bool image_refs_add(struct image_refs *r, const char *reference, const char *path, uint32_t *index,
                    struct vireo_error *err)
{
    struct sample_image im = {0};
    struct arena_mark mark = arena_mark(r->arena);
    if (!grow(r, err) || !read_reference(r, reference, path, &im, err))
        return false;
    uint32_t slot = find_slot(r, im.name);
    if (r->slots[slot]) {
        *index = r->slots[slot] - 1;
        arena_rewind(r->arena, mark); // the same data: URI again
        return true;
    }
    if (!resolve(r, &im, path, err))
        return false;
    r->images[r->count] = im;
    r->slots[slot] = ++r->count;
    *index = r->count - 1;
    return true;
}
