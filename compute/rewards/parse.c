#include "compute/rewards/parse.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"

#include <utf8proc.h>

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char think_open[] = "<think>", think_close[] = "</think>";
static const char answer_open[] = "<answer>", answer_close[] = "</answer>";

struct text parse_text_of(const char *at, size_t size)
{
    return (struct text){at, size};
}

size_t parse_text_find(struct text t, size_t from, const char *word)
{
    size_t length = strlen(word);
    while (from <= t.size && t.size - from >= length) {
        const char *hit = memchr(t.at + from, word[0], t.size - from - length + 1);
        if (!hit)
            return SIZE_MAX;
        if (memcmp(hit, word, length) == 0)
            return (size_t)(hit - t.at);
        from = (size_t)(hit - t.at) + 1;
    }
    return SIZE_MAX;
}

size_t parse_text_find_last(struct text t, size_t end, const char *word)
{
    size_t length = strlen(word);
    for (size_t i = VIREO_MIN(end, t.size); i >= length; i--)
        if (memcmp(t.at + i - length, word, length) == 0)
            return i - length;
    return SIZE_MAX;
}

// The characters for which Python's str.isspace() holds.
size_t parse_text_space_at(struct text t, size_t i)
{
    if (i >= t.size)
        return 0;
    const unsigned char *p = (const unsigned char *)t.at + i;
    size_t left = t.size - i;
    if ((p[0] >= 0x09 && p[0] <= 0x0d) || (p[0] >= 0x1c && p[0] <= 0x20))
        return 1;
    if (left >= 2 && p[0] == 0xc2 && (p[1] == 0x85 || p[1] == 0xa0))
        return 2;
    if (left < 3)
        return 0;
    if (p[0] == 0xe2 && p[1] == 0x80)
        return (p[2] >= 0x80 && p[2] <= 0x8a) || p[2] == 0xa8 || p[2] == 0xa9 || p[2] == 0xaf ? 3 : 0;
    return (p[0] == 0xe1 && p[1] == 0x9a && p[2] == 0x80) || (p[0] == 0xe2 && p[1] == 0x81 && p[2] == 0x9f) ||
           (p[0] == 0xe3 && p[1] == 0x80 && p[2] == 0x80) ? 3 : 0;
}

// Bytes of the white-space character that ends at offset `end`, or 0.
static size_t space_before(struct text t, size_t end)
{
    for (size_t length = 1; length <= 3 && length <= end; length++)
        if (parse_text_space_at(parse_text_of(t.at, end), end - length) == length)
            return length;
    return 0;
}

static size_t skip_spaces(struct text t, size_t i)
{
    for (size_t n; (n = parse_text_space_at(t, i)) != 0;)
        i += n;
    return i;
}

struct text parse_text_strip(struct text t)
{
    size_t start = skip_spaces(t, 0);
    t = parse_text_of(t.at + start, t.size - start);
    for (size_t n; t.size && (n = space_before(t, t.size)) != 0;)
        t.size -= n;
    return t;
}

bool parse_text_equal(struct text a, struct text b)
{
    return a.size == b.size && memcmp(a.at, b.at, a.size) == 0;
}

bool parse_text_is(struct text t, const char *word)
{
    return parse_text_equal(t, parse_text_of(word, strlen(word)));
}

// The match of <answer>(.*?)</answer> at or after *from; moves *from behind it.
static bool next_answer(struct text t, size_t *from, struct text *out)
{
    size_t open = parse_text_find(t, *from, answer_open);
    if (open == SIZE_MAX)
        return false;
    size_t start = open + sizeof answer_open - 1, end = parse_text_find(t, start, answer_close);
    if (end == SIZE_MAX)
        return false;
    *out = parse_text_of(t.at + start, end - start);
    *from = end + sizeof answer_close - 1;
    return true;
}

bool answer_first(struct text t, struct text *out)
{
    size_t from = 0;
    return next_answer(t, &from, out);
}

bool answer_last(struct text t, struct text *out)
{
    size_t from = 0;
    bool found = false;
    while (next_answer(t, &from, out))
        found = true;
    return found;
}

// Behind the first </think>\s*<answer> at or after `from`.
static size_t find_turn(struct text t, size_t from)
{
    for (size_t i = from; (i = parse_text_find(t, i, think_close)) != SIZE_MAX;) {
        i = skip_spaces(t, i + sizeof think_close - 1);
        if (t.size - i >= sizeof answer_open - 1 && memcmp(t.at + i, answer_open, sizeof answer_open - 1) == 0)
            return i + sizeof answer_open - 1;
    }
    return SIZE_MAX;
}

// The lazy groups may stretch over anything, so a full match exists exactly if the text starts and ends with the outer
// tags and the first turn from thinking to answering leaves room for the closing tag.
bool think_answer_whole(struct text t)
{
    const size_t open = sizeof think_open - 1, close = sizeof answer_close - 1;
    if (t.size < open + close || memcmp(t.at, think_open, open) != 0 ||
        memcmp(t.at + t.size - close, answer_close, close) != 0)
        return false;
    return find_turn(parse_text_of(t.at, t.size - close), open) != SIZE_MAX;
}

size_t think_answer_head(struct text t, size_t from)
{
    size_t open = parse_text_find(t, from, think_open);
    return open == SIZE_MAX ? SIZE_MAX : find_turn(t, open + sizeof think_open - 1);
}

// \d+ at *i, ASCII. Exact up to 2^53, then rounded, at last infinite: never an overflow.
static bool read_digits(struct text t, size_t *i, double *out)
{
    double value = 0;
    size_t start = *i;
    for (; *i < t.size && t.at[*i] >= '0' && t.at[*i] <= '9'; ++*i)
        value = value * 10 + (t.at[*i] - '0');
    *out = value;
    return *i > start;
}

bool box_find(struct text t, size_t from, double box[4], size_t *start, size_t *end)
{
    for (size_t open = from; (open = parse_text_find(t, open, "[")) != SIZE_MAX; open++) {
        size_t i = open + 1;
        double found[4];
        int k = 0;
        while (k < 4 && read_digits(t, &i, &found[k])) {
            if (i >= t.size || t.at[i] != (k < 3 ? ',' : ']'))
                break;
            i++;
            if (k++ < 3)
                i = skip_spaces(t, i);
        }
        if (k < 4)
            continue;
        memcpy(box, found, sizeof found);
        if (start)
            *start = open;
        if (end)
            *end = i;
        return true;
    }
    return false;
}

static bool numbers_of_array(const json_t *array, double box[4])
{
    if (!json_is_array(array) || json_array_size(array) != 4)
        return false;
    double found[4];
    for (size_t i = 0; i < 4; i++) {
        const json_t *v = json_array_get(array, i);
        if (!json_is_number(v))
            return false;
        found[i] = json_number_value(v);
        if (!isfinite(found[i]))
            return false;
    }
    memcpy(box, found, sizeof found);
    return true;
}

bool box_of_reference(struct text t, double box[4])
{
    struct text inner = t;
    answer_last(t, &inner);
    inner = parse_text_strip(inner);
    json_t *value = vireo_json_parse(inner.at, inner.size, NULL);
    const json_t *v = value;
    if (json_is_array(v) && json_array_size(v) == 1)
        v = json_array_get(v, 0);
    if (json_is_object(v))
        v = json_object_get(v, "bbox_2d");
    bool found = numbers_of_array(v, box);
    json_decref(value);
    return found;
}

double box_iou(const double a[4], const double b[4])
{
    double w = fmin(a[2], b[2]) - fmax(a[0], b[0]), h = fmin(a[3], b[3]) - fmax(a[1], b[1]);
    if (!(a[2] > a[0] && a[3] > a[1] && b[2] > b[0] && b[3] > b[1] && w > 0 && h > 0))
        return 0;
    double area_a = (a[2] - a[0]) * (a[3] - a[1]), area_b = (b[2] - b[0]) * (b[3] - b[1]);
    double iou = w * h / (area_a + area_b - w * h);
    return isfinite(iou) ? fmin(iou, 1) : 0;
}

// For `newline` only: removed where white space stands before it, else a space. What stands before is judged on the
// text as it was, which is what the two passes of the original amount to. Works in place, returns the new size.
static size_t fold_newlines(char *text, size_t size, char newline)
{
    size_t kept = 0;
    bool space = false;
    for (size_t i = 0; i < size; i++) {
        if (text[i] != newline)
            text[kept++] = text[i];
        else if (!space)
            text[kept++] = ' ';
        // A multi-byte space ends here, in bytes already kept unchanged; a folded newline counts as the space it was.
        space = text[i] == newline || space_before(parse_text_of(text, kept), kept) != 0;
    }
    return kept;
}

// Simple case mapping of the valid characters; bytes that are not UTF-8 stay. A mapping may be longer than its source
// (U+023A), by half at most: `out` holds 2 * size + 1 bytes.
static size_t lower_case(struct text t, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < t.size;) {
        utf8proc_int32_t c = -1;
        utf8proc_ssize_t length =
            utf8proc_iterate((const utf8proc_uint8_t *)t.at + i, (utf8proc_ssize_t)(t.size - i), &c);
        if (length < 1 || c < 0) {
            out[n++] = t.at[i++];
            continue;
        }
        n += (size_t)utf8proc_encode_char(utf8proc_tolower(c), (utf8proc_uint8_t *)out + n);
        i += (size_t)length;
    }
    out[n] = 0;
    return n;
}

bool parse_text_clean(struct text t, char **out, size_t *size, struct vireo_error *err)
{
    struct text inner = t;
    answer_last(t, &inner);
    char *copy = vireo_alloc(inner.size + 1), *lower = vireo_alloc(2 * inner.size + 8);
    if (!copy || !lower) {
        free(copy);
        free(lower);
        return vireo_fail_memory(err, 3 * inner.size);
    }
    memcpy(copy, inner.at, inner.size);
    size_t n = fold_newlines(copy, fold_newlines(copy, inner.size, '\n'), '\r');
    struct text kept = parse_text_strip(parse_text_of(copy, n));
    while (kept.size && kept.at[kept.size - 1] == '.')
        kept.size--;
    *size = lower_case(kept, lower);
    *out = lower;
    free(copy);
    return true;
}

// float(): optional sign, then digits with an optional point and exponent, or nan.
bool number_of_text(struct text t, double *out)
{
    t = parse_text_strip(t);
    char digits[400];
    if (t.size == 0 || t.size >= sizeof digits)
        return false;
    size_t i = t.at[0] == '+' || t.at[0] == '-', whole = 0, fraction = 0;
    if (t.size - i == 3 && (t.at[i] | 32) == 'n' && (t.at[i + 1] | 32) == 'a' && (t.at[i + 2] | 32) == 'n') {
        *out = NAN;
        return true;
    }
    for (; i < t.size && t.at[i] >= '0' && t.at[i] <= '9'; i++)
        whole++;
    if (i < t.size && t.at[i] == '.')
        for (i++; i < t.size && t.at[i] >= '0' && t.at[i] <= '9'; i++)
            fraction++;
    if (whole + fraction == 0)
        return false;
    if (i < t.size && (t.at[i] == 'e' || t.at[i] == 'E')) {
        i++;
        i += i < t.size && (t.at[i] == '+' || t.at[i] == '-');
        size_t start = i;
        while (i < t.size && t.at[i] >= '0' && t.at[i] <= '9')
            i++;
        if (i == start)
            return false;
    }
    if (i != t.size)
        return false;
    memcpy(digits, t.at, t.size);
    digits[t.size] = 0;
    double value = strtod(digits, NULL); // the "C" locale is never changed in this program
    if (!isfinite(value))
        return false;
    *out = value;
    return true;
}
