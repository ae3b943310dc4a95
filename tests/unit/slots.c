// Slots of the KV pool: whatever is taken and released in whatever order, runs never overlap and all come back.
#include "compute/base/philox.h"
#include "compute/engine/slots.h"
#include "tests/check.h"

static void random_traffic_never_overlaps_and_all_comes_back(void **state)
{
    (void)state;
    enum { TOTAL = 2000, LIVE = 200 };
    static uint8_t owner[TOTAL];
    struct {
        uint32_t first, count;
    } live[LIVE] = {{0}};
    struct slots *s = slots_create(TOTAL);
    REQUIRE(s);
    uint32_t held = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        struct philox r = philox(5, i, 0, 0, 0);
        uint32_t k = r.v[0] % LIVE;
        if (live[k].count) {
            for (uint32_t j = 0; j < live[k].count; j++)
                owner[live[k].first + j] = 0;
            held -= live[k].count;
            slots_release(s, live[k].first, live[k].count);
            live[k].count = 0;
        } else {
            uint32_t count = 1 + r.v[1] % 30, first;
            if (!slots_take(s, count, &first))
                continue;
            REQUIRE(first + count <= TOTAL);
            for (uint32_t j = 0; j < count; j++)
                REQUIRE_INT(owner[first + j]++, 0);
            live[k].first = first;
            live[k].count = count;
            held += count;
        }
        REQUIRE_INT(slots_free(s), TOTAL - held);
    }
    for (uint32_t k = 0; k < LIVE; k++)
        if (live[k].count)
            slots_release(s, live[k].first, live[k].count);
    uint32_t first;
    REQUIRE(slots_take(s, TOTAL, &first)); // one run again
    REQUIRE_INT(first, 0);
    slots_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_traffic_never_overlaps_and_all_comes_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
