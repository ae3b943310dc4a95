// Assertions for tests on top of cmocka: a failure prints the values seen.
#ifndef VIREO_TESTS_CHECK_H
#define VIREO_TESTS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define REQUIRE(condition)                                                                                            \
    do {                                                                                                              \
        if (!(condition))                                                                                             \
            fail_msg("%s", #condition);                                                                               \
    } while (0)

// `call` takes &err (a struct vireo_error named err in scope) and must succeed.
#define REQUIRE_OK(call)                                                                                              \
    do {                                                                                                              \
        if (!(call))                                                                                                  \
            fail_msg("%s: %s [%s]", #call, err.message, err.param);                                                   \
    } while (0)

// `call` must fail with this code.
#define REQUIRE_FAIL(call, wanted)                                                                                    \
    do {                                                                                                              \
        if (call)                                                                                                     \
            fail_msg("%s succeeded, expected %s", #call, #wanted);                                                    \
        if (err.code != (wanted))                                                                                     \
            fail_msg("%s: code %s, expected %s: %s", #call, vireo_code_name(err.code), #wanted, err.message);         \
    } while (0)

#define REQUIRE_INT(a, b)                                                                                             \
    do {                                                                                                              \
        long long a_ = (long long)(a), b_ = (long long)(b);                                                           \
        if (a_ != b_)                                                                                                 \
            fail_msg("%s = %lld, expected %s = %lld", #a, a_, #b, b_);                                                \
    } while (0)

#define REQUIRE_NEAR(a, b, tolerance)                                                                                 \
    do {                                                                                                              \
        double a_ = (a), b_ = (b), t_ = (tolerance);                                                                  \
        if (!(fabs(a_ - b_) <= t_))                                                                                   \
            fail_msg("%s = %.9g, expected %s = %.9g within %.3g", #a, a_, #b, b_, t_);                                \
    } while (0)

#define REQUIRE_STRING(a, b)                                                                                          \
    do {                                                                                                              \
        const char *a_ = (a), *b_ = (b);                                                                              \
        if (!a_ || !b_ || strcmp(a_, b_) != 0)                                                                        \
            fail_msg("%s = \"%s\", expected \"%s\"", #a, a_ ? a_ : "(null)", b_ ? b_ : "(null)");                     \
    } while (0)

// Path below the test data folder (VIREO_TEST_DATA, else tests/data). Static buffer: one call at a time.
static inline const char *test_data(const char *relative)
{
    static char path[1024];
    const char *folder = getenv("VIREO_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "tests/data", relative);
    return path;
}

#endif
