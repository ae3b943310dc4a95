// The different pictures of a dataset while it is read: each reference once, found by hash.
#ifndef VIREO_DATASET_IMAGE_REFS_H
#define VIREO_DATASET_IMAGE_REFS_H

#include "compute/dataset/jsonl.h"

struct image_refs {
    struct arena *arena; // names, ids and bytes
    const struct image_resolver *resolver;
    struct sample_image *images;
    uint32_t count, capacity;
    uint32_t *slots; // open addressing over `name`; index + 1, 0 = empty
    uint32_t slot_count;
};

void image_refs_finish(struct image_refs *r);

// The index of the picture that `reference` names (a file name, an id or a data: URI; `path` is its field for errors),
// added and resolved if it is new.
bool image_refs_add(struct image_refs *r, const char *reference, const char *path, uint32_t *index,
                    struct vireo_error *err);

#endif
