// Assertions that stay on in every build, and arithmetic that cannot wrap.
//
// vireo_assert is for what only our own bug can break: it prints the values' place and aborts; the process boundary
// contains it. Never use it on data from network, file, checkpoint or driver: those are errors (error.h).
#ifndef VIREO_BASE_CHECK_H
#define VIREO_BASE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define vireo_assert(condition)                                                                                       \
    do {                                                                                                              \
        if (!(condition))                                                                                             \
            vireo_assert_failed(#condition, __FILE__, __LINE__, __func__);                                            \
    } while (0)

// Prints and aborts.
_Noreturn void vireo_assert_failed(const char *condition, const char *file, int line, const char *function);

// *out = a * b (or a + b); false when the result does not fit, and then *out is untouched.
bool vireo_mul_size(size_t a, size_t b, size_t *out);
bool vireo_add_size(size_t a, size_t b, size_t *out);

#define VIREO_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define VIREO_MIN(a, b) ((a) < (b) ? (a) : (b))
#define VIREO_MAX(a, b) ((a) > (b) ? (a) : (b))

static inline uint64_t vireo_round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

#endif
