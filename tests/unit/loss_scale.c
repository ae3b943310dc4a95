// The scale of the loss in fp16 jobs: what it does after each kind of step.
#include "tests/check.h"

#include "compute/train/loss_scale.h"

static void overflows_halve_and_steps_double(void **state)
{
    (void)state;
    struct loss_scale s = loss_scale_begin(true, 16, 3);
    REQUIRE(s.on && s.scale == 65536);
    loss_scale_took(&s);
    loss_scale_took(&s);
    REQUIRE(loss_scale_overflowed(&s)); // the row of good steps begins anew
    REQUIRE(s.scale == 32768 && s.overflows == 1);
    loss_scale_took(&s);
    loss_scale_took(&s);
    REQUIRE(s.scale == 32768);
    loss_scale_took(&s);
    REQUIRE(s.scale == 65536);
    for (int i = 0; i < 3; i++)
        loss_scale_took(&s);
    REQUIRE(s.scale == 131072 && s.overflows == 1);
}

static void ends_at_one_and_at_the_most(void **state)
{
    (void)state;
    struct loss_scale s = loss_scale_begin(true, 1, 1);
    REQUIRE(loss_scale_overflowed(&s));
    REQUIRE(s.scale == 1);
    REQUIRE(!loss_scale_overflowed(&s)); // the gradient itself is not finite
    REQUIRE(s.scale == 1 && s.overflows == 1);
    s = loss_scale_begin(true, LOSS_SCALE_MOST_POWER, 1);
    loss_scale_took(&s);
    REQUIRE(s.scale == 4294967296.0);
}

static void other_types_have_none(void **state)
{
    (void)state;
    struct loss_scale s = loss_scale_begin(false, 16, 1);
    REQUIRE(s.scale == 1);
    loss_scale_took(&s);
    REQUIRE(!loss_scale_overflowed(&s));
    REQUIRE(s.scale == 1 && s.overflows == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overflows_halve_and_steps_double),
        cmocka_unit_test(ends_at_one_and_at_the_most),
        cmocka_unit_test(other_types_have_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
