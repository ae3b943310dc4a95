// The table of measured tiles: its file, and that no table whatever changes a bit.
#include "tests/check.h"

#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/gpu/tune.h"
#include "compute/nn/gemm_choose.h"
#include "compute/nn/gemm_tune.h"

#include <unistd.h>

static char folder[64];

static struct gpu_device *make(const char *cache)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = gpu_device_create(&(struct gpu_device_params){.cache_folder = cache}, &err);
    if (!dev)
        fail_msg("no device: %s", err.message);
    return dev;
}

static void end(struct gpu_device **dev)
{
    REQUIRE_INT(gpu_device_messages(*dev), 0);
    gpu_device_destroy(dev);
}

static int set_up(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/vireo-tune-XXXXXX");
    setenv("VIREO_GEMM", "tile", 1);
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    struct vireo_error err = {0};
    return file_remove_tree(folder, &err) ? 0 : -1;
}

static const struct gpu_tune_entry some = {.choice = 2, .choices = 3, .seconds = 0.25f};

// A device with one entry, saved.
static struct gpu_device *make_saved(char *path, size_t size)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(folder);
    REQUIRE(gpu_tune_path(dev, path, size));
    gpu_tune_set(dev, KERNEL_GEMM_TILE_NT_F32_F32, 5, some);
    REQUIRE_OK(gpu_tune_save(dev, &err));
    return dev;
}

static void a_table_comes_back(void **state)
{
    char path[700];
    struct gpu_device *dev = make(folder);
    REQUIRE(!gpu_tune_is_known(dev));
    end(&dev);
    dev = make_saved(path, sizeof path);
    REQUIRE(gpu_tune_is_known(dev));
    end(&dev);
    dev = make(folder);
    REQUIRE(gpu_tune_is_known(dev));
    REQUIRE_INT(gpu_tune_find(dev, KERNEL_GEMM_TILE_NT_F32_F32, 5, 3), 2);
    REQUIRE_NEAR(gpu_tune_entry(dev, KERNEL_GEMM_TILE_NT_F32_F32, 5).seconds, 0.25, 0);
    REQUIRE_INT(gpu_tune_find(dev, KERNEL_GEMM_TILE_NT_F32_F32, 5, 4), -1); // measured among three
    REQUIRE_INT(gpu_tune_find(dev, KERNEL_GEMM_TILE_NT_F32_F32, 4, 3), -1);
    REQUIRE_INT(gpu_tune_find(dev, KERNEL_GEMM_TILE_NN_F32_F32, 5, 3), -1);
    end(&dev);
    dev = make(NULL);
    REQUIRE(!gpu_tune_is_known(dev) && !gpu_tune_is_kept(dev));
    end(&dev);
}

static void write_bytes(const char *path, const void *bytes, size_t count)
{
    struct vireo_error err = {0};
    REQUIRE_OK(file_write_atomic(path, bytes, count, &err));
}

static void require_ignored(struct gpu_device *dev, const char *what, size_t at)
{
    gpu_tune_set(dev, KERNEL_GEMM_TILE_NT_F32_F32, 5, some);
    if (gpu_tune_load(dev))
        fail_msg("a table %s %zu was taken", what, at);
    REQUIRE(!gpu_tune_is_known(dev));
    REQUIRE_INT(gpu_tune_find(dev, KERNEL_GEMM_TILE_NT_F32_F32, 5, 3), -1);
}

static void a_damaged_file_is_ignored(void **state)
{
    struct vireo_error err = {0};
    char path[700];
    struct file_bytes file;
    struct gpu_device *dev = make_saved(path, sizeof path);
    REQUIRE_OK(file_read(path, 1 << 16, &file, &err));
    char *copy = malloc(file.size);
    REQUIRE(copy);
    for (size_t i = 0; i < file.size; i += 7) {
        memcpy(copy, file.data, file.size);
        copy[i] ^= 1;
        write_bytes(path, copy, file.size);
        require_ignored(dev, "damaged at", i);
        write_bytes(path, file.data, i);
        require_ignored(dev, "cut at", i);
    }
    write_bytes(path, file.data, file.size);
    REQUIRE(gpu_tune_load(dev)); // the file as it was
    free(copy);
    file_bytes_free(&file);
    end(&dev);
}

// Writes the table with the first `from` replaced by `to` (of one length) and a fitting digest.
static void write_edited(const char *path, const struct file_bytes *file, const char *from, const char *to)
{
    char text[4096], sum[HASH_TEXT];
    uint8_t digest[HASH_BYTES];
    REQUIRE(file->size < sizeof text);
    memcpy(text, file->data, file->size);
    text[file->size] = 0;
    char *place = strstr(text, from), *last = strstr(text, "sha256 ");
    REQUIRE(place && last && strlen(from) == strlen(to));
    memcpy(place, to, strlen(to));
    REQUIRE(hash_bytes(text, (size_t)(last - text), digest));
    hash_text(digest, sum);
    memcpy(last + 7, sum, 64);
    write_bytes(path, text, file->size);
}

static void a_table_of_another_driver_is_ignored(void **state)
{
    struct vireo_error err = {0};
    char path[700], mine[40], other[40], uuid[33];
    struct file_bytes file;
    struct gpu_device *dev = make_saved(path, sizeof path);
    const struct gpu_caps *c = gpu_device_caps(dev);
    REQUIRE_OK(file_read(path, 1 << 16, &file, &err));
    snprintf(mine, sizeof mine, "driver %08x", c->driver_version);
    snprintf(other, sizeof other, "driver %08x", c->driver_version + 1);
    write_edited(path, &file, mine, mine);
    REQUIRE(gpu_tune_load(dev)); // the digest is made right
    write_edited(path, &file, mine, other);
    require_ignored(dev, "of another driver", 0);
    gpu_uuid_text(c->uuid, uuid);
    snprintf(other, sizeof other, "%s", uuid);
    other[0] = other[0] == 'f' ? '0' : 'f';
    write_edited(path, &file, uuid, other);
    require_ignored(dev, "of another device", 0);
    write_edited(path, &file, "program ", "program-");
    require_ignored(dev, "of another program", 0);
    write_edited(path, &file, " 5 2 3 ", " 5 3 3 ");
    require_ignored(dev, "with a tile there is not", 0);
    file_bytes_free(&file);
    end(&dev);
}

enum { M = 37, N = 70, K = 45 };

static struct tensor matrix(struct gpu_device *dev, struct gpu_arena *arena, enum dtype type, uint32_t rows, uint32_t columns)
{
    struct vireo_error err = {0};
    float values[128 * 128];
    struct tensor x = tensor_matrix(arena, type, rows, columns, &err);
    REQUIRE(x.span.address && rows * columns <= 128 * 128);
    for (uint32_t i = 0; i < rows * columns; i++)
        values[i] = (float)((i + 1) * 2654435761u >> 8) * 0x1p-23f - 1;
    REQUIRE_OK(tensor_write_floats(dev, x, values, &err));
    return x;
}

static void all_tables_give_the_same_bits(void **state)
{
    static const enum dtype pairs[][2] = {{DTYPE_F32, DTYPE_F32}, {DTYPE_F16, DTYPE_F16}};
    static const struct tensor none;
    struct vireo_error err = {0};
    struct gpu_device *dev = make(NULL);
    struct gpu_arena *arena =
        gpu_arena_create(dev, &(struct gpu_arena_params){.name = "test", .memory = GPU_MEMORY_DEVICE, .grows = true}, &err);
    REQUIRE(arena);
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (size_t p = 0; p < (kind == NN_NT ? 2 : 1); p++) { // CPU drivers take seconds to compile a tile
            struct gemm_choice first, chosen;
            float bits[2][M * N];
            const struct tensor a = matrix(dev, arena, pairs[p][0], kind == NN_TN ? K : M, kind == NN_TN ? M : K);
            const struct tensor b = matrix(dev, arena, pairs[p][1], kind == NN_NT ? N : K, kind == NN_NT ? K : N);
            const struct tensor c = matrix(dev, arena, DTYPE_F32, M, N);
            const struct gemm_types types = gemm_types_of(a, b, c, none, none);
            REQUIRE(gemm_choose_gpu(dev, (enum nn_product)kind, a, b, c, types, &first));
            REQUIRE(first.tiles > 1);
            for (uint32_t i = 0; i < first.tiles; i++) {
                gpu_tune_set(dev, first.kernel, gemm_shape_class(M, N, K),
                             (struct gpu_tune_entry){(uint8_t)i, (uint8_t)first.tiles, 1});
                REQUIRE(gemm_choose_gpu(dev, (enum nn_product)kind, a, b, c, types, &chosen));
                REQUIRE_INT(chosen.tile, i);              // the table is heard,
                REQUIRE_INT(chosen.kernel, first.kernel); // and names no other family
                REQUIRE_INT(chosen.rows, gemm_tiles[i].rows);
                struct tape *t = tape_create(dev, &(struct tape_params){.arena = arena, .upload = arena}, &err);
                REQUIRE(t);
                nn_gemm(t, (enum nn_product)kind, a, b, c, 0, none, none);
                REQUIRE_OK(tape_finish(&t, &err));
                REQUIRE_OK(tensor_read_floats(dev, c, bits[i > 0], &err));
                if (i > 0 && memcmp(bits[0], bits[1], sizeof bits[0]) != 0)
                    fail_msg("kind %d, pair %zu: tile %u gives other bits than tile 0", kind, p, i);
            }
        }
    gpu_arena_destroy(&arena);
    end(&dev);
}

static void a_table_does_not_change_the_family(void **state)
{
    struct gpu_device *dev = make(NULL);
    struct gemm_choice chosen;
    const struct gemm_types types = {0, 1};
    const struct tensor x = {.span.address = 256, .rank = 2, .shape = {64, 64}, .stride = 64};
    for (uint32_t i = 0; i < GEMM_CLASSES; i++)
        gpu_tune_set(dev, KERNEL_GEMM_TILE_NT_F32_F32, i, (struct gpu_tune_entry){0, GEMM_TILES, 1});
    setenv("VIREO_GEMM", "simd", 1);
    const bool other = gemm_choose_gpu(dev, NN_NT, x, x, x, types, &chosen);
    setenv("VIREO_GEMM", "tile-2", 1);
    REQUIRE(!other);
    REQUIRE(gemm_choose_gpu(dev, NN_NT, x, x, x, types, &chosen));
    REQUIRE_INT(chosen.tile, 2); // a number asked for goes before the table
    setenv("VIREO_GEMM", "tile", 1);
    end(&dev);
}

static void measuring_fills_and_keeps_the_table(void **state)
{
    struct vireo_error err = {0};
    uint32_t measured = 0;
    char path[700];
    struct gpu_device *dev = make(folder);
    REQUIRE(gpu_tune_path(dev, path, sizeof path));
    unlink(path);
    REQUIRE(!gpu_tune_load(dev));
    if (gpu_device_caps(dev)->type == GPU_CPU) {
        unsetenv("VIREO_GEMM");
        gemm_tune_once(dev); // never on CPU drivers
        setenv("VIREO_GEMM", "tile", 1);
        REQUIRE(!gpu_tune_is_known(dev) && !file_exists(path));
    }
    const uint32_t first = gemm_shape_class(gemm_class_m[0], gemm_class_n[0], gemm_class_k[0]);
    REQUIRE_OK(gemm_tune(dev, &(struct gemm_tune_params){.seconds = 1e-3, .most_flops = 2e7}, &measured, &err));
    REQUIRE_INT(measured, 1); // the time is over after the first
    end(&dev);
    dev = make(folder);
    REQUIRE(gpu_tune_is_known(dev));
    REQUIRE(gpu_tune_find(dev, KERNEL_GEMM_TILE_NT_F32_F32, first, GEMM_TILES) >= 0);
    REQUIRE(gpu_tune_entry(dev, KERNEL_GEMM_TILE_NT_F32_F32, first).seconds > 0);
    end(&dev);
}

static void every_shape_has_a_class(void **state)
{
    static const uint32_t sizes[] = {1, 32, 33, 512, 513, 4096, 4097, 1u << 20};
    for (size_t i = 0; i < 8; i++)
        for (size_t j = 0; j < 8; j++)
            for (size_t k = 0; k < 8; k++)
                REQUIRE(gemm_shape_class(sizes[i], sizes[j], sizes[k]) < GEMM_CLASSES);
    // Those that are measured are all different.
    bool seen[GEMM_CLASSES] = {0};
    for (int i = 0; i < GEMM_CLASSES_M; i++)
        for (int j = 0; j < GEMM_CLASSES_N; j++)
            for (int k = 0; k < GEMM_CLASSES_K; k++) {
                bool *s = &seen[gemm_shape_class(gemm_class_m[i], gemm_class_n[j], gemm_class_k[k])];
                REQUIRE(!*s);
                *s = true;
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_comes_back),
        cmocka_unit_test(a_damaged_file_is_ignored),
        cmocka_unit_test(a_table_of_another_driver_is_ignored),
        cmocka_unit_test(all_tables_give_the_same_bits),
        cmocka_unit_test(a_table_does_not_change_the_family),
        cmocka_unit_test(measuring_fills_and_keeps_the_table),
        cmocka_unit_test(every_shape_has_a_class),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
