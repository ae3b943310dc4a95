// Reading answers out of model text: tags, boxes, numbers, cleaned text.
//
// Each function equals one regular expression of VLM-R1 (given in its comment; DOTALL, search) but scans in linear
// time: the original patterns backtrack cubically on hostile text. White space is Python's \s (Unicode); \d is ASCII
// only. Texts are byte strings that may hold invalid UTF-8; such bytes are ordinary characters.
#ifndef VIREO_REWARDS_PARSE_H
#define VIREO_REWARDS_PARSE_H

#include "compute/base/error.h"

#include <stddef.h>

// A piece of somebody else's text; not NUL-terminated.
struct text {
    const char *at;
    size_t size;
};
// A view of `size` bytes.
struct text parse_text_of(const char *at, size_t size);
// Offset of `word` in t at or after `from`; SIZE_MAX if absent.
size_t parse_text_find(struct text t, size_t from, const char *word);
// Last occurrence that ends at or before `end`; SIZE_MAX if absent.
size_t parse_text_find_last(struct text t, size_t end, const char *word);
// Bytes of the white-space character at offset `i` (1 to 3), or 0 if there is none.
size_t parse_text_space_at(struct text t, size_t i);
// Without white space at both ends (Python's str.strip()).
struct text parse_text_strip(struct text t);
bool parse_text_equal(struct text a, struct text b);
bool parse_text_is(struct text t, const char *word);

// <answer>(.*?)</answer>: first or last non-overlapping match. False if there is none; *out is then untouched.
bool answer_first(struct text t, struct text *out);
bool answer_last(struct text t, struct text *out);
// fullmatch <think>.*?</think>\s*<answer>.*?</answer>
bool think_answer_whole(struct text t);
// search <think>.*?</think>\s*<answer>: offset behind the first such head at or after `from`, SIZE_MAX if none.
size_t think_answer_head(struct text t, size_t from);

// \[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\] at or after `from`: false if there is none. Sets the four numbers (a number too
// long for a double becomes infinity), and [*start, *end) if they are not NULL.
bool box_find(struct text t, size_t from, double box[4], size_t *start, size_t *end);
// Ground truth box: JSON array of four numbers, an object with "bbox_2d", or a list with one of these; answer tags
// around it are taken off. False if it is none of them or not finite.
bool box_of_reference(struct text t, double box[4]);
// Continuous IoU of boxes x1, y1, x2, y2; 0 for reversed, empty or non-finite boxes. In [0, 1].
double box_iou(const double a[4], const double b[4]);

// VLM-R1's clean_text: the last answer block if any; each \n, then each \r, removed if white space stands before it and
// else turned into a space; stripped; trailing dots off; lower case. Allocates *out (free); NUL-terminated.
bool parse_text_clean(struct text t, char **out, size_t *size, struct vireo_error *err);
// A whole decimal number as Python's float() reads it, surrounding white space allowed; but no underscores, no inf.
// "nan" is a number (which equals nothing). False if the text is anything else.
bool number_of_text(struct text t, double *out);

#endif
