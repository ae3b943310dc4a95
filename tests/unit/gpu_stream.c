// The stream of compute/gpu on whatever Vulkan device there is: order of work, transfers, barriers, submits, failures.
#include "tests/unit/gpu.h"

#include "compute/base/fault.h"

// ---- the stream ----

static void work_happens_in_the_order_given(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 1 << 20);
    enum { N = 1000 };
    struct gpu_span x = take(a, N * 4), y = take(a, N * 4);
    float in[N], out[N], back[N];
    for (int i = 0; i < N; i++)
        in[i] = (float)i;
    gpu_fill(dev, x, 0x3f800000, N * 4); // overwritten by the upload
    gpu_upload(dev, x, in, N * 4);
    memset(in, 0, sizeof in);              // was copied
    affine(dev, y, x, N, 2, 1);            // y = 2i + 1
    gpu_copy(dev, x, y, N * 4);            // x = 2i + 1
    affine(dev, y, x, N, -1, 0.5f);        // y = -2i - 0.5
    gpu_fill(dev, gpu_span_part(y, 40, 4), 0x40490fdb, 4);
    REQUIRE_OK(gpu_read(dev, y, out, N * 4, &err));
    REQUIRE_OK(gpu_read(dev, x, back, N * 4, &err));
    for (int i = 0; i < N; i++) {
        REQUIRE_NEAR(back[i], 2 * i + 1, 0);
        REQUIRE_NEAR(out[i], i == 10 ? 3.14159274f : -2 * i - 0.5, 0);
    }
    float two[2] = {7, 8};
    REQUIRE_OK(gpu_write(dev, gpu_span_part(x, 8, 8), two, 8, &err));
    REQUIRE_OK(gpu_read(dev, x, back, 16, &err));
    REQUIRE(back[1] == 3 && back[2] == 7 && back[3] == 8);
    gpu_arena_destroy(&a);
    end(&dev);
}

// y = scale * (x + 1) over N values, through z and a copy.
static void chain(struct gpu_device *dev, const struct gpu_span s[3], float scale)
{
    enum { N = 500 };
    affine(dev, s[1], s[0], N, 1, 1);
    gpu_copy(dev, s[2], s[1], N * 4);
    affine(dev, s[1], s[2], N, scale, 0);
}

static float chain_of(struct gpu_device *dev, const struct gpu_span s[3], float x, float scale)
{
    struct vireo_error err = {0};
    float in[500], out[500];
    for (int i = 0; i < 500; i++)
        in[i] = x + (float)i;
    REQUIRE_OK(gpu_write(dev, s[0], in, sizeof in, &err));
    REQUIRE_OK(gpu_finish(dev, &err));
    chain(dev, s, scale);
    REQUIRE_OK(gpu_finish(dev, &err));
    REQUIRE_OK(gpu_read(dev, s[1], out, sizeof out, &err));
    for (int i = 0; i < 500; i++)
        REQUIRE_NEAR(out[i], scale * (x + (float)i + 1), 0);
    return out[0];
}

static void replay(struct gpu_device *dev)
{
    for (int round = 0; round < 2; round++) {
        struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 1 << 16);
        struct gpu_span s[3] = {take(a, 2000), take(a, 2000), take(a, 2000)};
        const uint64_t before = gpu_device_counters(dev).replays;
        // Command buffers name the buffers of an arena: those of an arena that went away are not replayed, even if the
        // new one stands at the same place.
        chain_of(dev, s, 3, 2);
        REQUIRE_INT(gpu_device_counters(dev).replays, before);
        const uint64_t barriers = gpu_device_counters(dev).barriers;
        chain_of(dev, s, 4, 2);
        chain_of(dev, s, 5, 2);
        REQUIRE(gpu_device_counters(dev).replays >= before + 2);
        REQUIRE(gpu_device_counters(dev).barriers >= barriers + 4);
        // Another argument, another place, or one dispatch more: not the same work. More kinds of it than are kept.
        for (int k = 0; k < 12; k++) {
            chain_of(dev, s, 1, 3 + (float)k);
            chain_of(dev, (struct gpu_span[]){s[2], s[1], s[0]}, 1, 3 + (float)k);
        }
        chain_of(dev, s, 6, 2);
        gpu_arena_destroy(&a);
    }
    end(&dev);
}

// With the validation layer (where it is installed), which watches the states of command buffers, and without it.
static void the_same_work_is_recorded_once(void **state)
{
    (void)state;
    struct vireo_error err = {0};
    struct gpu_device *dev = gpu_device_create(&(struct gpu_device_params){.validation = true}, &err);
    if (dev)
        replay(dev);
    replay(make(&(struct gpu_device_params){0}));
}

// An arena that went away and one made after it often stand at one address: equal lists, but the command buffer kept
// for the first names a buffer that is gone.
static void memory_at_an_old_address_is_not_replayed(void **state)
{
    (void)state;
    enum { N = 500 };
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    float out[N];
    uint64_t last = 0;
    uint32_t again = 0;
    for (int round = 0; round < 8; round++) {
        struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 1 << 16);
        const struct gpu_span s = take(a, N * 4);
        again += s.address == last;
        last = s.address;
        const uint64_t before = gpu_device_counters(dev).replays;
        for (uint64_t pass = 0; pass < 3; pass++) {
            affine(dev, s, nothing, N, 0, 7);
            REQUIRE_OK(gpu_finish(dev, &err));
            REQUIRE_INT(gpu_device_counters(dev).replays, before + pass);
        }
        REQUIRE_OK(gpu_read(dev, s, out, sizeof out, &err));
        for (int i = 0; i < N; i++)
            REQUIRE_NEAR(out[i], 7, 0);
        gpu_arena_destroy(&a);
    }
    print_message("%u of 7 arenas at the address of the one before\n", again);
    end(&dev);
}

// 21 MiB pass the ring of 16 more than once. With poison device memory is not mapped: reads go through staging too.
static void transfer(bool poison, uint64_t staging)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){.poison = poison});
    uint64_t count = (21 << 18) + 3, bytes = count * 4;
    struct gpu_arena *a = arena(dev, "large", GPU_MEMORY_DEVICE, bytes + 512);
    struct gpu_span s = take(a, bytes);
    uint32_t *in = malloc(bytes), *out = calloc(1, bytes);
    REQUIRE(in && out);
    for (uint64_t i = 0; i < count; i++)
        in[i] = (uint32_t)(i * 2654435761u);
    uint64_t before = gpu_device_counters(dev).bytes_held;
    gpu_upload(dev, s, in, bytes);
    gpu_upload(dev, s, in, 5); // odd sizes keep later pieces aligned
    gpu_upload(dev, gpu_span_part(s, 8, 4), in + 2, 4);
    REQUIRE_OK(gpu_read(dev, s, out, bytes, &err));
    REQUIRE(memcmp(in, out, bytes) == 0);
    REQUIRE_INT(gpu_device_counters(dev).bytes_held - before, staging);
    memset(out, 0, bytes);
    REQUIRE_OK(gpu_write(dev, s, out, 4096, &err));
    REQUIRE_OK(gpu_read(dev, s, out, bytes, &err));
    REQUIRE(out[0] == 0 && out[1023] == 0 && memcmp(in + 1024, out + 1024, bytes - 4096) == 0);
    REQUIRE((s.host == NULL) == poison);
    free(in);
    free(out);
    gpu_arena_destroy(&a);
    end(&dev);
}

static void large_transfers_go_through_bounded_staging(void **state)
{
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    bool unified = gpu_device_caps(dev)->type == GPU_CPU;
    end(&dev);
    if (unified)
        transfer(false, 16 << 20);
    transfer(true, 20 << 20);
}

static uint64_t barriers_of(struct gpu_device *dev, uint64_t *seen)
{
    struct vireo_error err = {0};
    REQUIRE_OK(gpu_finish(dev, &err));
    uint64_t now = gpu_device_counters(dev).barriers, n = now - *seen;
    *seen = now;
    return n;
}

static void barriers_follow_from_declared_uses(void **state)
{
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 1 << 20);
    struct gpu_span s[10];
    uint64_t seen = 0;
    for (int i = 0; i < 10; i++)
        s[i] = take(a, 1024);
    for (int i = 0; i < 10; i++)
        affine(dev, s[i], nothing, 256, 0, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 0); // independent
    for (int i = 1; i < 10; i++)
        affine(dev, s[i], s[i - 1], 256, 1, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 8); // a chain: each but the first waits
    for (int i = 1; i < 10; i++)
        affine(dev, s[i], s[0], 256, 1, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 0); // common reads
    affine(dev, s[1], s[0], 256, 1, 1);
    affine(dev, s[0], nothing, 256, 0, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 1); // write after read
    affine(dev, s[0], nothing, 256, 0, 1);
    affine(dev, s[0], nothing, 256, 0, 2);
    REQUIRE_INT(barriers_of(dev, &seen), 1); // write after write
    for (int i = 0; i < 8; i += 2)
        affine(dev, s[i], nothing, 256, 0, 1);
    for (int i = 0; i < 8; i += 2)
        affine(dev, s[i + 1], s[i], 256, 1, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 1); // four pairs share one
    affine(dev, gpu_span_part(s[0], 0, 512), nothing, 128, 0, 1);
    affine(dev, gpu_span_part(s[0], 512, 512), nothing, 128, 0, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 0); // neighbours do not touch
    affine(dev, gpu_span_part(s[0], 0, 512), nothing, 128, 0, 1);
    affine(dev, gpu_span_part(s[0], 508, 512), nothing, 128, 0, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 1); // one word in common
    gpu_fill(dev, s[3], 0, 1024);
    gpu_copy(dev, s[4], s[3], 1024);
    affine(dev, s[5], s[4], 256, 1, 1);
    REQUIRE_INT(barriers_of(dev, &seen), 2); // transfers count too
    gpu_arena_destroy(&a);
    end(&dev);
}

enum { SPANS = 12, SPAN_FLOATS = 700 };

// A fixed tangle of dispatches, fills and copies; *out gets all spans.
static void tangle(const struct gpu_device_params *p, bool declare, float *out)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(p);
    struct gpu_arena *a = arena(dev, "tangle", GPU_MEMORY_DEVICE, 1 << 20);
    struct gpu_span s[SPANS];
    for (int i = 0; i < SPANS; i++) {
        s[i] = take(a, SPAN_FLOATS * 4);
        affine(dev, s[i], nothing, SPAN_FLOATS, 0, (float)i);
    }
    REQUIRE_OK(gpu_finish(dev, &err));
    uint32_t random = 12345;
    for (int i = 0; i < 300; i++) {
        random = random * 1664525 + 1013904223;
        uint32_t to = (random >> 8) % SPANS, from = (random >> 16) % SPANS, kind = (random >> 24) % 8;
        if (kind == 0)
            gpu_fill(dev, s[to], random & 0x3fffffff, SPAN_FLOATS * 4);
        else if (kind == 1 && to != from)
            gpu_copy(dev, s[to], s[from], SPAN_FLOATS * 4);
        else
            affine_declared(dev, s[to], s[from], SPAN_FLOATS, 0.25f * (float)(kind - 4), (float)i, declare, 0);
    }
    for (int i = 0; i < SPANS; i++)
        REQUIRE_OK(gpu_read(dev, s[i], out + i * SPAN_FLOATS, SPAN_FLOATS * 4, &err));
    gpu_arena_destroy(&a);
    end(&dev);
}

static void every_legal_order_gives_the_same_bits(void **state)
{
    static float plain[SPANS * SPAN_FLOATS], other[SPANS * SPAN_FLOATS];
    tangle(&(struct gpu_device_params){0}, true, plain);
    tangle(&(struct gpu_device_params){.full_barriers = true}, true, other);
    REQUIRE(memcmp(plain, other, sizeof plain) == 0);
    tangle(&(struct gpu_device_params){.robust = true, .poison = true}, true, other);
    REQUIRE(memcmp(plain, other, sizeof plain) == 0);
    for (uint64_t seed = 1; seed <= 5; seed++) {
        tangle(&(struct gpu_device_params){.shuffle_seed = seed}, true, other);
        REQUIRE(memcmp(plain, other, sizeof plain) == 0);
    }
}

static void the_shuffle_finds_missing_barriers_and_declarations(void **state)
{
    static float plain[SPANS * SPAN_FLOATS], other[SPANS * SPAN_FLOATS];
    tangle(&(struct gpu_device_params){0}, true, plain);
    setenv("VIREO_GPU_DEBUG", "", 1); // the layer would tell of each missing barrier
    tangle(&(struct gpu_device_params){.shuffle_seed = 1, .skip_barriers = true}, true, other);
    setenv("VIREO_GPU_DEBUG", "auto-validation", 1);
    REQUIRE(memcmp(plain, other, sizeof plain) != 0);
    tangle(&(struct gpu_device_params){.shuffle_seed = 1}, false, other);
    REQUIRE(memcmp(plain, other, sizeof plain) != 0);
}

static void the_validation_layer_finds_missing_barriers(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = gpu_device_create(
        &(struct gpu_device_params){.validation = true, .skip_barriers = true}, &err);
    if (!dev && strstr(err.message, "VK_LAYER_KHRONOS_validation"))
        skip(); // the layer is not installed
    if (!dev)
        fail_msg("%s", err.message);
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 4096);
    struct gpu_span x = take(a, 256), y = take(a, 256);
    gpu_fill(dev, x, 1, 256);
    gpu_copy(dev, y, x, 256);
    REQUIRE_OK(gpu_finish(dev, &err));
    REQUIRE(gpu_device_messages(dev) > 0);
    gpu_arena_destroy(&a);
    gpu_device_destroy(&dev);
}

static void many_groups_spread_over_rows(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    const struct gpu_caps *c = gpu_device_caps(dev);
    if (c->max_groups_x > 1 << 20) {
        gpu_device_destroy(&dev);
        skip(); // no memory for so many groups
    }
    uint32_t count = (uint32_t)(c->max_groups_x + 5) * 32 * c->subgroup_size - 7;
    struct gpu_arena *a = arena(dev, "rows", GPU_MEMORY_DEVICE, count * 4ull + 512);
    struct gpu_span s = take(a, count * 4ull + 256), tail = gpu_span_part(s, count * 4ull, 4);
    gpu_fill(dev, s, 0, s.bytes / 4 * 4);
    affine(dev, s, nothing, count, 0, 3);
    float v[3];
    REQUIRE_OK(gpu_read(dev, gpu_span_part(s, 0, 4), v, 4, &err));
    REQUIRE_OK(gpu_read(dev, gpu_span_part(s, (count - 1) * 4ull, 4), v + 1, 4, &err));
    REQUIRE_OK(gpu_read(dev, tail, v + 2, 4, &err));
    REQUIRE(v[0] == 3 && v[1] == 3 && v[2] == 0);
    gpu_arena_destroy(&a);
    end(&dev);
}

static void long_work_is_cut_into_submits(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){.submit_seconds = 1e-3});
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 4 << 20);
    enum { N = 100000 };
    struct gpu_span x = take(a, N * 4), y = take(a, N * 4);
    // One dispatch that claims to be 50 submits long, in ranges of its groups.
    affine(dev, x, nothing, N, 0, 1);
    double rate = gpu_device_caps(dev)->type == GPU_CPU ? 3e9 : 2e12;
    affine_declared(dev, y, x, N, 2, 1, true, rate * 50e-3 * 8);
    REQUIRE_OK(gpu_finish(dev, &err));
    uint64_t submits = gpu_device_counters(dev).submits;
    REQUIRE(submits > 5);
    static float v[N];
    REQUIRE_OK(gpu_read(dev, y, v, N * 4, &err));
    for (int i = 0; i < N; i++)
        REQUIRE_NEAR(v[i], 3, 0);
    // Many small ones: more than one submit, without being asked.
    for (int i = 0; i < 200; i++)
        affine(dev, i % 2 ? x : y, i % 2 ? y : x, N, 1, 1);
    REQUIRE(gpu_device_counters(dev).submits > submits + 5);
    REQUIRE_OK(gpu_read(dev, x, v, N * 4, &err));
    for (int i = 0; i < N; i++)
        REQUIRE_NEAR(v[i], 201, 0);
    gpu_arena_destroy(&a);
    end(&dev);
}

// The declared work is 100 times too small at first: submits shorten to about the length asked for, and no further.
static void the_rate_is_learned(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){.submit_seconds = 10e-3});
    if (!gpu_device_caps(dev)->timestamps || gpu_device_caps(dev)->type != GPU_CPU) {
        gpu_device_destroy(&dev);
        skip(); // the sizes are for CPU drivers
    }
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 8 << 20);
    enum { N = 500000 };
    struct gpu_span x = take(a, N * 4);
    affine(dev, x, nothing, N, 0, 1);
    REQUIRE_OK(gpu_finish(dev, &err));
    struct gpu_counters before = gpu_device_counters(dev);
    for (int i = 0; i < 400; i++)
        affine_declared(dev, x, nothing, N, 0, 1, true, 1);
    REQUIRE_OK(gpu_finish(dev, &err));
    struct gpu_counters after = gpu_device_counters(dev);
    double mean = (after.device_seconds - before.device_seconds) / (double)(after.submits - before.submits);
    if (mean < 1e-3 || mean > 0.1)
        fail_msg("a submit lasts %.3g s, 0.01 was asked for", mean);
    gpu_arena_destroy(&a);
    end(&dev);
}

static void tickets_pass_in_order(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    uint64_t none = gpu_submit(dev, &err);
    REQUIRE(none > 0 && gpu_passed(dev, none));
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 4096);
    struct gpu_span x = take(a, 256);
    uint64_t ticket[20];
    for (int i = 0; i < 20; i++) { // more than there are command buffers
        affine(dev, x, nothing, 64, 0, (float)i);
        ticket[i] = gpu_submit(dev, &err);
        REQUIRE(ticket[i] > (i ? ticket[i - 1] : none));
        REQUIRE_INT(gpu_submit(dev, &err), ticket[i]);
    }
    REQUIRE_OK(gpu_wait(dev, ticket[19], &err));
    for (int i = 0; i < 20; i++)
        REQUIRE(gpu_passed(dev, ticket[i]));
    gpu_arena_destroy(&a);
    end(&dev);
}

// ---- failure ----

static void lose_at(const char *rules, const char *words)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){.wait_seconds = 60});
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 4096);
    struct gpu_span x = take(a, 256);
    float v[64];
    vireo_fault_set(rules);
    bool ok = true;
    int rounds = 0;
    for (; ok && rounds < 10; rounds++) {
        affine(dev, x, nothing, 64, 0, 1);
        ok = gpu_finish(dev, &err);
    }
    vireo_fault_set("");
    REQUIRE_INT(rounds, 3); // the third was told to fail
    REQUIRE_INT(err.code, VIREO_DEVICE_LOST);
    if (!strstr(err.message, words) || !strstr(err.message, "affine"))
        fail_msg("'%s' lacks '%s' or the label", err.message, words);
    REQUIRE(gpu_device_is_lost(dev));
    // It stays so.
    affine(dev, x, nothing, 64, 0, 1);
    REQUIRE_FAIL(gpu_submit(dev, &err), VIREO_DEVICE_LOST);
    REQUIRE_FAIL(gpu_submit(dev, &err), VIREO_DEVICE_LOST);
    REQUIRE_FAIL(gpu_wait(dev, 1, &err), VIREO_DEVICE_LOST);
    REQUIRE_FAIL(gpu_finish(dev, &err), VIREO_DEVICE_LOST);
    memset(v, 0x11, sizeof v);
    REQUIRE_FAIL(gpu_read(dev, x, v, sizeof v, &err), VIREO_DEVICE_LOST);
    REQUIRE(((uint8_t *)v)[0] == 0x11);
    REQUIRE_FAIL(gpu_write(dev, x, v, sizeof v, &err), VIREO_DEVICE_LOST);
    gpu_arena_destroy(&a);
    end(&dev);
}

static void a_lost_device_is_reported_with_its_label_and_stays_lost(void **state)
{
    lose_at("fail:gpu.submit:3", "submitting gave ERROR_DEVICE_LOST");
    lose_at("fail:gpu.wait:3", "waiting gave ERROR_DEVICE_LOST");
    lose_at("fail:gpu.hang:3", "no progress for 60 s");
}

// A CPU driver compiles a pipeline in the submit that first dispatches it, and old ones take minutes: such a submit is
// waited for longer, but not for ever.
static void first_dispatches_on_cpu_drivers_are_waited_for_longer(void **state)
{
    const double limits[] = {20 * 3, 20 * 1, 20 * 12}; // one pipeline that never ran; none; ten
    const uint32_t fresh[] = {1, 0, 10};
    for (int i = 0; i < 3; i++) {
        struct vireo_error err = {0};
        struct gpu_device *dev = make(&(struct gpu_device_params){.wait_seconds = 20});
        const bool cpu = gpu_device_caps(dev)->type == GPU_CPU;
        struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 4096);
        struct gpu_span x = take(a, 256);
        char words[64];
        affine(dev, x, nothing, 64, 0, 1);
        REQUIRE_OK(gpu_finish(dev, &err));
        affine(dev, x, nothing, 64, 0, 1);
        for (uint32_t k = 0; k < fresh[i]; k++) {
            const uint32_t constant = 1000 + k; // the kernel has no such constant: another pipeline of the same code
            gpu_dispatch(dev, KERNEL_FILL_F32,
                         &(struct gpu_dispatch){.args = (uint32_t[32]){0},
                                                .args_bytes = 128,
                                                .constants = &constant,
                                                .constant_count = 1,
                                                .groups = 1});
        }
        vireo_fault_set("fail:gpu.hang:1");
        REQUIRE_FAIL(gpu_finish(dev, &err), VIREO_DEVICE_LOST);
        vireo_fault_set("");
        snprintf(words, sizeof words, "no progress for %g s", cpu ? limits[i] : 20);
        if (!strstr(err.message, words))
            fail_msg("'%s' lacks '%s'", err.message, words);
        gpu_arena_destroy(&a);
        end(&dev);
    }
}

static void other_failures_end_with_the_submit(void **state)
{
    struct vireo_error err = {0};
    struct gpu_device *dev = make(&(struct gpu_device_params){0});
    struct gpu_arena *a = arena(dev, "data", GPU_MEMORY_DEVICE, 4096);
    struct gpu_span x = take(a, 256);
    float v[64];
    affine(dev, x, nothing, 64, 0, 1);
    REQUIRE_OK(gpu_finish(dev, &err));
    uint32_t constant = 77; // a pipeline that is not there yet
    struct gpu_dispatch d = {.constants = &constant, .constant_count = 1, .groups = 1};
    vireo_fault_set("fail:alloc:0");
    gpu_dispatch(dev, KERNEL_FILL_F32, &d);
    vireo_fault_set("");
    affine(dev, x, nothing, 64, 0, 2); // ignored
    REQUIRE_FAIL(gpu_wait(dev, 1, &err), VIREO_NO_MEMORY);
    REQUIRE_FAIL(gpu_read(dev, x, v, sizeof v, &err), VIREO_NO_MEMORY);
    REQUIRE_FAIL(gpu_submit(dev, &err), VIREO_NO_MEMORY);
    REQUIRE(!gpu_device_is_lost(dev));
    REQUIRE_OK(gpu_read(dev, x, v, sizeof v, &err));
    REQUIRE_NEAR(v[5], 1, 0);
    affine(dev, x, nothing, 64, 0, 3);
    REQUIRE_OK(gpu_read(dev, x, v, sizeof v, &err));
    REQUIRE_NEAR(v[5], 3, 0);
    gpu_arena_destroy(&a);
    end(&dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_happens_in_the_order_given),
        cmocka_unit_test(the_same_work_is_recorded_once),
        cmocka_unit_test(memory_at_an_old_address_is_not_replayed),
        cmocka_unit_test(large_transfers_go_through_bounded_staging),
        cmocka_unit_test(barriers_follow_from_declared_uses),
        cmocka_unit_test(every_legal_order_gives_the_same_bits),
        cmocka_unit_test(the_shuffle_finds_missing_barriers_and_declarations),
        cmocka_unit_test(the_validation_layer_finds_missing_barriers),
        cmocka_unit_test(many_groups_spread_over_rows),
        cmocka_unit_test(long_work_is_cut_into_submits),
        cmocka_unit_test(the_rate_is_learned),
        cmocka_unit_test(tickets_pass_in_order),
        cmocka_unit_test(a_lost_device_is_reported_with_its_label_and_stays_lost),
        cmocka_unit_test(first_dispatches_on_cpu_drivers_are_waited_for_longer),
        cmocka_unit_test(other_failures_end_with_the_submit),
    };
    return gpu_is_there() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
