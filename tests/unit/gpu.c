// compute/gpu on whatever Vulkan device there is: devices, arenas, pipelines, timers, want of memory.
#include "tests/unit/gpu.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"

#include <unistd.h>

// ---- devices ----

static void devices_are_listed_and_printed(void **state)
{
    struct vireo_error err = {0};
    struct gpu_caps *caps = NULL;
    size_t count = 0;
    REQUIRE_OK(gpu_device_list(&caps, &count, &err));
    REQUIRE(count > 0);
    for (size_t i = 0; i < count; i++) {
        REQUIRE_INT(caps[i].index, i);
        REQUIRE(caps[i].name[0] && caps[i].heap_bytes > 0);
        REQUIRE(caps[i].missing[0] || (caps[i].subgroup_size >= caps[i].subgroup_min &&
                                       caps[i].subgroup_size <= caps[i].subgroup_max && caps[i].max_push_bytes >= 128));
    }
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    REQUIRE_OK(gpu_device_print(out, &err));
    fclose(out);
    REQUIRE(strstr(text, caps[0].name) && strstr(text, "uuid") && strstr(text, "* "));
    free(text);
    free(caps);
}

static void a_device_is_chosen_by_index_uuid_and_name(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    struct gpu_caps c = *gpu_device_caps(dev);
    end(&dev);
    char index[16], uuid[33], dashed[40], part[9];
    snprintf(index, sizeof index, "%u", c.index);
    gpu_uuid_text(c.uuid, uuid);
    snprintf(dashed, sizeof dashed, "%.8s-%.4s-%.4s-%.4s-%s", uuid, uuid + 8, uuid + 12, uuid + 16, uuid + 20);
    snprintf(part, sizeof part, "%.8s", c.name);
    for (char *p = part; *p; p++)
        *p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
    const char *good[] = {"auto", "", index, uuid, dashed, c.name, part};
    for (size_t i = 0; i < VIREO_COUNT(good); i++) {
        dev = make(&(struct gpu_device_params){.select = good[i]});
        REQUIRE_STRING(gpu_device_caps(dev)->name, c.name);
        end(&dev);
    }
    const char *bad[] = {"99", "no such device", "00000000000000000000000000000000"};
    for (size_t i = 0; i < VIREO_COUNT(bad); i++) {
        REQUIRE_FAIL(gpu_device_create(&(struct gpu_device_params){.select = bad[i]}, &err), VIREO_UNAVAILABLE);
        REQUIRE(strstr(err.message, bad[i]));
    }
    REQUIRE_FAIL(gpu_device_create(&(struct gpu_device_params){.subgroup_size = 3}, &err), VIREO_UNSUPPORTED);
}

static void without_vulkan_the_error_says_so(void **state)
{
    struct vireo_error err = {0};
    setenv("VIREO_VULKAN_LIBRARY", "no-such-library.so", 1);
    struct gpu_device *dev = gpu_device_create(NULL, &err);
    struct gpu_caps *caps = NULL;
    size_t count = 7;
    bool listed = gpu_device_list(&caps, &count, NULL);
    unsetenv("VIREO_VULKAN_LIBRARY");
    REQUIRE(!dev && !listed && count == 7);
    REQUIRE_INT(err.code, VIREO_UNAVAILABLE);
    REQUIRE(strstr(err.message, "libvulkan"));
}

static void debug_words_are_checked(void **state)
{
    struct vireo_error err = {0};
    char *old = getenv("VIREO_GPU_DEBUG");
    old = old ? strdup(old) : NULL;
    setenv("VIREO_GPU_DEBUG", "barriers,bariers", 1);
    struct gpu_device *dev = gpu_device_create(NULL, &err);
    if (old)
        setenv("VIREO_GPU_DEBUG", old, 1);
    else
        unsetenv("VIREO_GPU_DEBUG");
    free(old);
    REQUIRE(!dev);
    REQUIRE_INT(err.code, VIREO_INVALID);
    REQUIRE(strstr(err.message, "'bariers'"));
}

// ---- memory ----

static void arenas_align_grow_and_rewind(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    struct gpu_arena *a = gpu_arena_create(
        dev, &(struct gpu_arena_params){.name = "grows", .bytes = 4096, .grows = true}, &err);
    REQUIRE(a);
    REQUIRE_INT(gpu_arena_held(a), 0);
    uint64_t empty = gpu_arena_mark(a);
    struct gpu_span x = take(a, 1), y = take(a, 300);
    REQUIRE(x.address % 256 == 0 && y.address % 256 == 0);
    REQUIRE_INT(x.bytes, 256);
    REQUIRE_INT(y.bytes, 512);
    REQUIRE_INT(gpu_arena_used(a), 768);
    uint64_t mark = gpu_arena_mark(a);
    // A block of its own, the end of the first block, and a further block.
    struct gpu_span big = take(a, 10000), small = take(a, 3000), more = take(a, 3000);
    REQUIRE(big.block != x.block && small.address == x.address + 768 && more.block != x.block);
    REQUIRE_INT(gpu_arena_held(a), 4096 + 10240 + 4096);
    uint64_t used = gpu_arena_used(a);
    gpu_arena_rewind(a, mark);
    REQUIRE_INT(gpu_arena_used(a), 768);
    REQUIRE_INT(gpu_arena_peak(a), used);
    struct gpu_span again = take(a, 10000);
    REQUIRE_INT(again.address, big.address);
    REQUIRE_INT(gpu_arena_held(a), 4096 + 10240 + 4096); // nothing new
    gpu_arena_rewind(a, empty);
    REQUIRE_INT(gpu_arena_used(a), 0);
    REQUIRE_INT(take(a, 1).address, x.address);
    struct gpu_span part = gpu_span_part(y, 256, 100);
    REQUIRE_INT(part.address, y.address + 256);
    REQUIRE_INT(part.offset, y.offset + 256);
    REQUIRE_INT(gpu_device_counters(dev).bytes_held, gpu_arena_held(a));
    gpu_arena_destroy(&a);
    gpu_arena_destroy(&a); // NULL is fine
    REQUIRE_INT(gpu_device_counters(dev).bytes_held, 0);
    end(&dev);
}

// Spans given back are taken again, smallest hole first, neighbours joined; nothing that is held is handed out twice.
static void spans_given_back_are_taken_again(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    struct gpu_arena *a = gpu_arena_create(
        dev, &(struct gpu_arena_params){.name = "reuse", .bytes = 16384, .grows = true}, &err);
    REQUIRE(a);
    struct gpu_span s[6];
    for (int i = 0; i < 6; i++)
        s[i] = take(a, i == 2 ? 512 : 1024);
    gpu_arena_give(a, s[2]);
    gpu_arena_give(a, s[4]);
    REQUIRE_INT(gpu_arena_used(a), 4096);
    REQUIRE_INT(take(a, 300).address, s[2].address);
    REQUIRE_INT(take(a, 2048).address, s[5].address + 1024); // no hole is large enough
    gpu_arena_give(a, s[3]);                                 // joins the hole behind it
    REQUIRE_INT(take(a, 2048).address, s[3].address);
    gpu_arena_give(a, s[1]);
    gpu_arena_give(a, s[0]); // joins the hole before it
    REQUIRE_INT(take(a, 2048).address, s[0].address);
    // The last span's hole grows into what was never used.
    struct gpu_span last = take(a, 256);
    gpu_arena_give(a, last);
    REQUIRE_INT(take(a, 1024).address, last.address);
    REQUIRE_INT(gpu_arena_held(a), 16384);
    uint64_t peak = gpu_arena_peak(a);
    gpu_arena_rewind(a, 0);
    REQUIRE_INT(gpu_arena_used(a), 0);
    REQUIRE_INT(take(a, 16384).address, s[0].address);
    REQUIRE(peak < 16384);
    // Random takes and gives: no two live spans overlap, and all of it is free again at the end.
    gpu_arena_rewind(a, 0);
    struct gpu_span live[24] = {0};
    uint32_t seed = 1;
    for (int round = 0; round < 3000; round++) {
        seed = seed * 1664525u + 1013904223u;
        struct gpu_span *x = &live[(seed >> 8) % 24];
        gpu_arena_give(a, *x);
        *x = take(a, 1 + (seed >> 16) % 4000);
        for (int i = 0; i < 24; i++)
            REQUIRE(&live[i] == x || !live[i].address || live[i].address + live[i].bytes <= x->address ||
                    x->address + x->bytes <= live[i].address);
    }
    uint64_t sum = 0;
    for (int i = 0; i < 24; i++)
        sum += live[i].bytes;
    REQUIRE_INT(gpu_arena_used(a), sum);
    for (int i = 0; i < 24; i++)
        gpu_arena_give(a, live[i]);
    REQUIRE_INT(gpu_arena_used(a), 0);
    gpu_arena_destroy(&a);
    end(&dev);
}

static void a_full_arena_tells_wanted_and_available(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){.memory_limit = 64 << 20});
    struct gpu_arena *a = arena(dev, "weights", GPU_MEMORY_DEVICE, 48 << 20);
    REQUIRE(!gpu_arena_create(dev, &(struct gpu_arena_params){.name = "moments", .bytes = 32 << 20}, &err));
    REQUIRE_INT(err.code, VIREO_DEVICE_MEMORY);
    REQUIRE(strstr(err.message, "'moments'") && strstr(err.message, "32.0 MiB") && strstr(err.message, "16.0 MiB"));
    take(a, 47 << 20);
    REQUIRE_FAIL(gpu_arena_take(a, 2 << 20, &err).address, VIREO_DEVICE_MEMORY);
    REQUIRE(strstr(err.message, "'weights'") && strstr(err.message, "2.0 MiB") && strstr(err.message, "1.0 MiB"));
    take(a, 1 << 20); // what is left can still be had
    REQUIRE_FAIL(gpu_arena_take(a, UINT64_MAX, &err).address, VIREO_DEVICE_MEMORY);
    vireo_fault_set("fail:gpu.allocate:0");
    REQUIRE(!gpu_arena_create(dev, &(struct gpu_arena_params){.name = "refused", .bytes = 1 << 20}, &err));
    vireo_fault_set("");
    REQUIRE_INT(err.code, VIREO_DEVICE_MEMORY);
    REQUIRE(strstr(err.message, "OUT_OF_DEVICE_MEMORY"));
    // Nothing is wrong with the device.
    struct gpu_arena *b = arena(dev, "fits", GPU_MEMORY_READBACK, 1 << 20);
    gpu_arena_destroy(&b);
    gpu_arena_destroy(&a);
    end(&dev);
}

static void an_arena_larger_than_one_allocation_holds_all_of_it(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    const struct gpu_caps *c = gpu_device_caps(dev);
    uint64_t most = c->max_allocation_bytes, part = 64 << 20;
    if (most + 2 * part > c->budget_bytes || most > 8ull << 30) {
        gpu_device_destroy(&dev);
        skip(); // this device's memory is its largest allocation
    }
    struct gpu_arena *a = gpu_arena_create(
        dev, &(struct gpu_arena_params){.name = "large", .bytes = most / 256 * 256 + part}, &err);
    if (!a) { // SwiftShader refuses the very size it names
        REQUIRE_INT(err.code, VIREO_DEVICE_MEMORY);
        end(&dev);
        skip();
    }
    struct gpu_span big = take(a, most / 256 * 256 - part / 2), next = take(a, part);
    REQUIRE(big.block != next.block);
    struct gpu_span rest = take(a, part / 2); // the end of the first block serves what fits there
    REQUIRE_INT(rest.address, big.address + big.bytes);
    REQUIRE_FAIL(gpu_arena_take(a, 256, &err).address, VIREO_DEVICE_MEMORY);
    gpu_arena_destroy(&a);
    end(&dev);
}

static void fresh_memory_is_poisoned(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){.poison = true});
    enum gpu_memory kinds[] = {GPU_MEMORY_DEVICE, GPU_MEMORY_UPLOAD, GPU_MEMORY_READBACK};
    for (size_t i = 0; i < VIREO_COUNT(kinds); i++) {
        struct gpu_arena *a = arena(dev, "poison", kinds[i], 4096);
        float v[16];
        struct gpu_span s = take(a, sizeof v);
        REQUIRE_OK(gpu_read(dev, s, v, sizeof v, &err));
        for (size_t k = 0; k < VIREO_COUNT(v); k++)
            REQUIRE(isnan(v[k]));
        if (kinds[i] == GPU_MEMORY_DEVICE) { // taken again: poisoned again
            float zero[16] = {0};
            REQUIRE_OK(gpu_write(dev, s, zero, sizeof zero, &err));
            gpu_arena_rewind(a, 0);
            REQUIRE_OK(gpu_read(dev, take(a, sizeof v), v, sizeof v, &err));
            REQUIRE(isnan(v[0]));
        } else {
            REQUIRE(s.host);
        }
        gpu_arena_destroy(&a);
    }
    end(&dev);
}

// ---- pipelines and timers ----

static void warming_up_builds_each_pipeline_once(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    struct gpu_warm list[] = {
        {.kernel = KERNEL_FILL_F32},
        {.kernel = KERNEL_FILL_F32, .constants = {1}, .constant_count = 1},
        {.kernel = KERNEL_FILL_F32, .constants = {2}, .constant_count = 1},
        {.kernel = KERNEL_FILL_F32, .constants = {1}, .constant_count = 1},
    };
    REQUIRE_OK(gpu_warm_up(dev, list, VIREO_COUNT(list), &err));
    REQUIRE_INT(gpu_device_counters(dev).pipelines, 3);
    uint64_t dispatches = gpu_device_counters(dev).dispatches;
    REQUIRE_OK(gpu_warm_up(dev, list, VIREO_COUNT(list), &err));
    REQUIRE_INT(gpu_device_counters(dev).pipelines, 3);
    REQUIRE_INT(gpu_device_counters(dev).dispatches, dispatches);
    for (uint32_t i = 0; i < 300; i++) { // the table grows
        struct gpu_dispatch d = {.constants = &i, .constant_count = 1, .groups = 0};
        gpu_dispatch(dev, KERNEL_FILL_F32, &d); // no groups: nothing happens
    }
    REQUIRE_INT(gpu_device_counters(dev).pipelines, 3);
    REQUIRE_STRING(gpu_kernel_name(KERNEL_FILL_F32), "fill_f32");
    REQUIRE(gpu_kernel_runs(dev, KERNEL_FILL_F32));
    end(&dev);
}

// So are kernels warmed up on CPU drivers. A kernel that would touch memory faults at address 0 there.
static void every_kernel_takes_arguments_of_zero(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    for (int k = 0; k < KERNEL_COUNT; k++) {
        struct gpu_warm w = {.kernel = (enum gpu_kernel)k};
        // The shared-memory products are for GPUs and take a CPU driver a quarter of a minute each; the op tests run
        // them with real constants (VIREO_GEMM=tile).
        if (strncmp(gpu_kernel_name(w.kernel), "gemm_tile", 9) == 0 ||
            (strncmp(gpu_kernel_name(w.kernel), "gemm_coopmat", 12) == 0 && gpu_kernel_runs(dev, w.kernel)))
            continue;
        if (gpu_kernel_runs(dev, w.kernel))
            REQUIRE_OK(gpu_warm_up(dev, &w, 1, &err));
        else
            REQUIRE_FAIL(gpu_warm_up(dev, &w, 1, &err), VIREO_UNSUPPORTED);
    }
    end(&dev);
}

static void a_damaged_pipeline_cache_is_made_anew(void **state)
{
    struct vireo_error err = {0};
    char folder[] = "/tmp/vireo-gpu-XXXXXX";
    REQUIRE(mkdtemp(folder));
    char mesa[64], path[700];
    snprintf(mesa, sizeof mesa, "%s/mesa", folder);
    bool mine = !getenv("MESA_SHADER_CACHE_DIR");
    struct gpu_device *dev = make(&(struct gpu_device_params){.cache_folder = folder});
    if (mine) {
        REQUIRE_STRING(getenv("MESA_SHADER_CACHE_DIR"), mesa);
        unsetenv("MESA_SHADER_CACHE_DIR");
    }
    struct gpu_caps c = *gpu_device_caps(dev);
    struct gpu_warm w = {.kernel = KERNEL_FILL_F32};
    REQUIRE_OK(gpu_warm_up(dev, &w, 1, &err));
    end(&dev);
    char uuid[33];
    gpu_uuid_text(c.uuid, uuid);
    snprintf(path, sizeof path, "%s/pipelines-%04x-%04x-%08x-%s.bin", folder, c.vendor_id, c.device_id,
             c.driver_version, uuid);
    struct file_bytes good = {0}, again = {0};
    REQUIRE_OK(file_read(path, 1 << 26, &good, &err));
    good.data[good.size - 1] ^= 1;
    REQUIRE_OK(file_write_atomic(path, good.data, good.size, &err));
    dev = make(&(struct gpu_device_params){.cache_folder = folder});
    REQUIRE_OK(gpu_warm_up(dev, &w, 1, &err));
    end(&dev);
    REQUIRE_OK(file_read(path, 1 << 26, &again, &err));
    REQUIRE(again.size > 0 && memcmp(again.data, good.data, good.size < again.size ? good.size : again.size) != 0);
    file_bytes_free(&good);
    file_bytes_free(&again);
    if (mine)
        unsetenv("MESA_SHADER_CACHE_DIR");
    REQUIRE_OK(file_remove_tree(folder, &err));
}

static void timers_sum_by_label(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    if (!gpu_device_caps(dev)->timestamps) {
        gpu_device_destroy(&dev);
        skip();
    }
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 4 << 20);
    enum { N = 200000 };
    struct gpu_span x = take(a, N * 4), y = take(a, N * 4);
    affine(dev, x, nothing, N, 0, 1); // not timed
    gpu_timers_on(dev, true);
    for (int i = 0; i < 10; i++)
        affine(dev, y, x, N, 1, 1);
    gpu_fill(dev, x, 0, 4);
    struct gpu_timer_row *rows = NULL;
    size_t count = 0;
    REQUIRE_OK(gpu_timers_read(dev, &rows, &count, &err));
    REQUIRE_INT(count, 2);
    REQUIRE_STRING(rows[0].label, "affine");
    REQUIRE_INT(rows[0].count, 10);
    REQUIRE_NEAR(rows[0].bytes, 10.0 * N * 8, 0.5);
    REQUIRE(rows[0].seconds > rows[1].seconds && rows[0].seconds < 60);
    REQUIRE_STRING(rows[1].label, "fill");
    REQUIRE_INT(rows[1].count, 1);
    REQUIRE(gpu_device_counters(dev).device_seconds >= rows[0].seconds + rows[1].seconds);
    free(rows);
    gpu_timers_on(dev, false);
    affine(dev, y, x, N, 1, 1);
    REQUIRE_OK(gpu_timers_read(dev, &rows, &count, &err));
    REQUIRE_INT(count, 0);
    free(rows);
    gpu_arena_destroy(&a);
    end(&dev);
}

// ---- failure ----

// A whole short life; false where something could not be had.
static bool short_life(void)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = gpu_device_create(&(struct gpu_device_params){.poison = true}, &err);
    if (!dev)
        return false;
    struct gpu_arena *a = gpu_arena_create(dev, &(struct gpu_arena_params){.name = "a", .grows = true}, &err);
    struct gpu_span x = a ? gpu_arena_take(a, 256, &err) : nothing;
    float v[64] = {1};
    gpu_timers_on(dev, true);
    bool ok = x.address && gpu_write(dev, x, v, sizeof v, &err);
    if (ok)
        affine(dev, x, nothing, 64, 0, 1);
    struct gpu_timer_row *rows = NULL;
    size_t count = 0;
    ok = ok && gpu_read(dev, x, v, sizeof v, &err) && gpu_timers_read(dev, &rows, &count, &err) && v[63] == 1;
    free(rows);
    if (!ok)
        REQUIRE(err.code != VIREO_OK && err.message[0]);
    gpu_arena_destroy(&a);
    gpu_device_destroy(&dev);
    return ok;
}

static void every_failed_allocation_is_survived(void **state)
{
    setenv("VIREO_GPU_DEBUG", "", 1); // the layer makes each life ten times as long
    bool past = false;
    for (int n = 1; !past; n++) {
        char rules[64];
        snprintf(rules, sizeof rules, "fail:alloc:%d", n);
        vireo_fault_set(rules);
        short_life();
        for (int i = 0; !past && i < n; i++) { // the rule still waits: that life had fewer than n allocations
            void *p = vireo_alloc(1);
            past = p == NULL;
            free(p);
        }
        vireo_fault_set("");
    }
    REQUIRE(short_life());
    for (int n = 1; n <= 4; n++) {
        char rules[64];
        snprintf(rules, sizeof rules, "fail:gpu.allocate:%d", n);
        vireo_fault_set(rules);
        short_life();
        vireo_fault_set("");
    }
    setenv("VIREO_GPU_DEBUG", "auto-validation", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_are_listed_and_printed),
        cmocka_unit_test(a_device_is_chosen_by_index_uuid_and_name),
        cmocka_unit_test(without_vulkan_the_error_says_so),
        cmocka_unit_test(debug_words_are_checked),
        cmocka_unit_test(arenas_align_grow_and_rewind),
        cmocka_unit_test(spans_given_back_are_taken_again),
        cmocka_unit_test(a_full_arena_tells_wanted_and_available),
        cmocka_unit_test(an_arena_larger_than_one_allocation_holds_all_of_it),
        cmocka_unit_test(fresh_memory_is_poisoned),
        cmocka_unit_test(every_failed_allocation_is_survived),
        cmocka_unit_test(warming_up_builds_each_pipeline_once),
        cmocka_unit_test(every_kernel_takes_arguments_of_zero),
        cmocka_unit_test(a_damaged_pipeline_cache_is_made_anew),
        cmocka_unit_test(timers_sum_by_label),
    };
    return gpu_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
