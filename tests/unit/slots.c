// The engine's pools on the host: whatever is taken and released in whatever order, nothing is given out twice and all
// comes back; a page with a key is found until its room is wanted.
#include "compute/base/philox.h"
#include "compute/engine/pages.h"
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

static void key_of(uint32_t n, uint8_t key[HASH_BYTES])
{
    REQUIRE(hash_bytes(&n, sizeof n, key));
}

static void pages_are_found_by_their_key_until_the_room_is_wanted(void **state)
{
    (void)state;
    struct pages *p = pages_create(3);
    uint8_t key[4][HASH_BYTES];
    uint32_t a = 0, b = 0, c = 0, found = 0;
    for (uint32_t i = 0; i < 4; i++)
        key_of(i, key[i]);
    REQUIRE(p && pages_take(p, &a) && pages_take(p, &b));
    REQUIRE(!pages_find(p, key[0], &found));
    pages_keep(p, a, key[0]);
    pages_keep(p, b, key[1]);
    pages_keep(p, b, key[2]); // it has one
    REQUIRE(!pages_find(p, key[2], &found));
    REQUIRE(pages_find(p, key[0], &found)); // held and found: two references
    REQUIRE_INT(found, a);
    pages_release(p, a);
    REQUIRE_INT(pages_held(p), 2);
    pages_release(p, a);
    pages_release(p, b);
    REQUIRE_INT(pages_held(p), 0);
    REQUIRE_INT(pages_kept(p), 2);
    REQUIRE_INT(pages_available(p), 3);
    REQUIRE(pages_find(p, key[0], &found)); // a is now the one used last
    pages_release(p, found);
    REQUIRE(pages_take(p, &c)); // the free one
    REQUIRE(c != a && c != b);
    REQUIRE(pages_take(p, &c)); // b gives way
    REQUIRE_INT(c, b);
    REQUIRE(!pages_find(p, key[1], &found));
    REQUIRE(pages_find(p, key[0], &found));
    REQUIRE(!pages_take(p, &c)); // all three are held
    pages_forget(p);
    REQUIRE(!pages_find(p, key[0], &found));
    pages_release(p, a);
    REQUIRE_INT(pages_kept(p), 0);
    REQUIRE_INT(pages_available(p), 1);
    pages_destroy(&p);
}

static void random_traffic_of_pages_keeps_count(void **state)
{
    (void)state;
    enum { TOTAL = 64, KEYS = 100 };
    uint32_t references[TOTAL] = {0}, of_key[KEYS];
    struct pages *p = pages_create(TOTAL);
    memset(of_key, 0xff, sizeof of_key);
    for (uint32_t i = 0; i < 50000; i++) {
        struct philox r = philox(6, i, 0, 0, 0);
        uint32_t page = r.v[1] % TOTAL, n = r.v[2] % KEYS, held = 0;
        uint8_t key[HASH_BYTES];
        key_of(n, key);
        switch (r.v[0] % 8) {
        case 0:
        case 1:
            if (pages_take(p, &page)) {
                REQUIRE_INT(references[page], 0);
                references[page] = 1;
                for (uint32_t k = 0; k < KEYS; k++) // what was kept there is gone
                    of_key[k] = of_key[k] == page ? UINT32_MAX : of_key[k];
            }
            break;
        case 2:
            if (pages_find(p, key, &page)) {
                REQUIRE_INT(page, of_key[n]);
                references[page]++;
            } else {
                REQUIRE_INT(of_key[n], UINT32_MAX);
            }
            break;
        case 3:
            if (references[page]) {
                bool keyed = of_key[n] != UINT32_MAX;
                for (uint32_t k = 0; k < KEYS; k++)
                    keyed = keyed || of_key[k] == page;
                pages_keep(p, page, key);
                if (!keyed)
                    of_key[n] = page;
            }
            break;
        default:
            if (references[page]) {
                references[page]--;
                pages_release(p, page);
            }
        }
        for (uint32_t k = 0; k < TOTAL; k++)
            held += references[k] > 0;
        REQUIRE_INT(pages_held(p), held);
        REQUIRE_INT(pages_available(p), TOTAL - held);
    }
    pages_destroy(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_traffic_never_overlaps_and_all_comes_back),
        cmocka_unit_test(pages_are_found_by_their_key_until_the_room_is_wanted),
        cmocka_unit_test(random_traffic_of_pages_keeps_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
