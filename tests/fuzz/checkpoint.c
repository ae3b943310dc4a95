// Checkpoint folders and lists of shards: a manifest, or a model.safetensors.index.json, of any text beside files that are in
// order is refused with a reason, or what it names is there, whole, and inside the folder.
#include "compute/base/file.h"
#include "compute/checkpoint/folder_inside.h"
#include "compute/checkpoint/shards.h"
#include "tests/fuzz/require.h"

static char folder[64], outside[96];

static void write_file(const char *name, const void *bytes, size_t count)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    FUZZ_REQUIRE(f && fwrite(bytes, 1, count, f) == count && fclose(f) == 0);
}

static void tidy_up(void)
{
    file_remove_tree(folder, NULL);
    remove(outside);
}

// In memory where there is such a file system: each input is written.
static void set_up(void)
{
    static const char tensors[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}    ";
    char shard[8 + sizeof tensors - 1 + 4] = {sizeof tensors - 1};
    struct vireo_error err;
    memcpy(shard + 8, tensors, sizeof tensors - 1);
    snprintf(folder, sizeof folder, "/dev/shm/vireo-fuzz-XXXXXX");
    if (!mkdtemp(folder)) {
        snprintf(folder, sizeof folder, "/tmp/vireo-fuzz-XXXXXX");
        FUZZ_REQUIRE(mkdtemp(folder));
    }
    snprintf(outside, sizeof outside, "%s.outside", folder);
    write_file("a.bin", "hello", 5);
    write_file("b.safetensors", shard, sizeof shard);
    FUZZ_REQUIRE(file_write_atomic(outside, "secret", 6, &err));
    atexit(tidy_up);
}

static void check_manifest(const uint8_t *data, size_t size)
{
    struct vireo_error err = {0};
    struct checkpoint c = {0};
    char line[96];
    write_file("manifest.json", data, size);
    FUZZ_REQUIRE(checkpoint_manifest_line(data, size, line));
    write_file("manifest.sha256", line, strlen(line));
    if (!checkpoint_open_path(folder, &c, &err)) {
        FUZZ_REQUIRE(err.message[0] && !c.manifest);
        return;
    }
    json_t *files = json_object_get(c.manifest, "files"), *item;
    size_t i;
    uint64_t bytes = 0;
    FUZZ_REQUIRE(json_is_object(c.state) && json_is_array(files));
    json_array_foreach(files, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        FUZZ_REQUIRE(name && (strcmp(name, "a.bin") == 0 || strcmp(name, "b.safetensors") == 0)); // nothing else is in order
        bytes += (uint64_t)json_integer_value(json_object_get(item, "bytes"));
    }
    FUZZ_REQUIRE(bytes == c.bytes);
    checkpoint_finish(&c);
}

static void check_index(const uint8_t *data, size_t size)
{
    struct vireo_error err = {0};
    struct shards *s = NULL;
    write_file("model.safetensors.index.json", data, size);
    if (!shards_open(folder, &s, &err)) {
        FUZZ_REQUIRE(err.message[0] && !s);
        return;
    }
    for (size_t i = 0; i < shards_count(s); i++)
        FUZZ_REQUIRE(strcmp(shards_at(s, i)->name, "a") == 0);
    FUZZ_REQUIRE(shards_count(s) <= 1);
    shards_close(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!folder[0])
        set_up();
    // An index begins with what a manifest never does.
    static const char mark[] = "{\"metadata\"";
    if (size >= sizeof mark - 1 && memcmp(data, mark, sizeof mark - 1) == 0)
        check_index(data, size);
    else
        check_manifest(data, size);
    return 0;
}
