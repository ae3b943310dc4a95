// A folder a test may fill, removed behind it.
#ifndef VIREO_TESTS_UNIT_SCRATCH_H
#define VIREO_TESTS_UNIT_SCRATCH_H

#include "compute/base/file.h"
#include "tests/check.h"

#include <unistd.h>

static char scratch[64];

static inline int make_scratch(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "%s", "/tmp/vireo-checkpoint-XXXXXX");
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int remove_scratch(void **state)
{
    (void)state;
    return file_remove_tree(scratch, NULL) ? 0 : -1;
}

static inline const char *in_scratch(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ & 3];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, make_scratch, remove_scratch)

#endif
