// Datasets as JSON lines: OpenAI's SFT and RFT rows and VLM-R1's rows, told apart row by row, checked row by row.
//
// Of VLM-R1's conversations the first question and answer count, as there; further turns are ignored.
// Text and image parts keep the order a row gives them; VLM-R1 rows have their images first. Nothing here touches the
// disk or decodes pixels: images are names, ids or undecoded bytes. Hostile input is expected.
#ifndef VIREO_DATASET_JSONL_H
#define VIREO_DATASET_JSONL_H

#include "compute/dataset/sample.h"

enum { JSONL_ROW_BYTES = 16 << 20, JSONL_TRAIN_ROWS = 50000, JSONL_VALIDATION_ROWS = 1000, JSONL_MAX_ISSUES = 20 };
enum { JSONL_MAX_MESSAGES = 256, JSONL_MAX_IMAGES = 64 }; // a row
enum { JSONL_IMAGE_BYTES = 20 << 20, JSONL_ID_BYTES = 96, JSONL_NAME_BYTES = 255 };

// Turns a reference into what the caller stores pictures under. `form` is IMAGE_NAME or IMAGE_ID. Writes `id`, or fails
// with a message such as "no image of this name was uploaded". Called once per different reference, in file order.
struct image_resolver {
    bool (*resolve)(void *context, enum image_form form, const char *name, char id[JSONL_ID_BYTES],
                    struct vireo_error *err);
    void *context;
};

enum jsonl_want {
    JSONL_ANY,    // each row by its own form
    JSONL_TARGET, // supervised: every row must have an assistant answer
    JSONL_PROMPT, // reinforcement: every row must end with a question (VLM-R1 rows do: their answer is the solution)
};
struct jsonl_options {
    enum jsonl_want want;
    uint32_t max_rows;             // 0 = JSONL_TRAIN_ROWS
    const char *question_template; // name of question_template(); NULL or "none": questions stay as they are
    const char *system_prompt;     // put before rows that have no system message of their own; NULL = none
    struct image_resolver resolver; // resolve NULL: references are kept unresolved
};

// Bad rows: the first JSONL_MAX_ISSUES of them, in file order.
struct jsonl_issue {
    uint32_t line;
    char param[128];   // field within the row, "" = the row as a whole
    char message[256]; // what is wrong with it
};
struct jsonl_report {
    uint32_t rows, bad_rows; // non-empty lines seen; rows with an issue
    uint32_t issue_count;
    struct jsonl_issue issues[JSONL_MAX_ISSUES];
};

// Reads all rows. With any bad row it fails as VIREO_INVALID, kind "invalid_file_format", and the message is the first
// issue ("line 17: messages[0].content[1].image_url.url: data: URI is not base64") and the number of further ones;
// *report (may be NULL) has them all, and is filled on success too. *out is untouched on failure.
bool jsonl_parse(const char *bytes, size_t size, const struct jsonl_options *options, struct dataset *out,
                 struct jsonl_report *report, struct vireo_error *err);
// The same from a file.
bool jsonl_load(const char *path, const struct jsonl_options *options, struct dataset *out, struct jsonl_report *report,
                struct vireo_error *err);

// "line 17: messages[0].role: …" into buffer; returns it.
const char *jsonl_issue_text(const struct jsonl_issue *issue, char *buffer, size_t size);

// VLM-R1's question templates: "default", "rec", "ic", "odLength" (families other than Qwen use "default" for all). The
// text has {Question} once. NULL: unknown name.
const char *question_template(const char *name);
// VLM-R1's SYSTEM_PROMPT for text-only rows.
extern const char *const vlm_r1_system_prompt;

#endif
