// The engine's own record of what it is generating. Between the files of this folder only.
#ifndef VIREO_ENGINE_SEQUENCE_H
#define VIREO_ENGINE_SEQUENCE_H

#include "compute/engine/engine.h"
#include "compute/engine/prefix.h"

// One sample of a generation. Its keys lie in the whole pages of the prompt, then in its own ones; the first of these
// also holds the tail of the prompt where the prompt does not end with a page.
struct sequence {
    uint32_t sample;
    uint32_t *own; // its pages behind the prompt's whole ones
    uint32_t own_count, own_room;
    uint32_t *ids; // [count] drawn so far: penalties need them, and a preempted sample is computed again from them
    uint32_t count, room;
    uint32_t fed;  // of them have their keys stored; the newest one never has
    uint32_t take; // how many of them the batch that is being built computes
    bool active;   // false: it was preempted, has no pages and waits for some
    bool ended;
};

// A generation in the engine: waiting, then running, then gone.
struct job {
    struct job *next;
    struct generation g;
    struct arena host; // prompt copy, bias lists, sequences
    struct prompt prompt;
    uint8_t (*digests)[HASH_BYTES]; // [g.prompt->image_count]
    uint8_t (*keys)[HASH_BYTES];    // of the prompt's whole pages
    uint32_t *pages;                // [page_count] of the prompt
    uint32_t page_count;
    uint32_t computed;              // prompt tokens whose keys are stored (or will be by work that was submitted)
    uint32_t take;                  // how many the batch that is being built computes
    uint32_t kept;                  // pages that were offered to the prefix cache
    struct sequence *sequences;     // [g.n]
    uint32_t open;                  // samples not ended
    bool resident;                  // it holds `pages`
    bool running, cancelled;
};

// Copies what the generation refers to, and names its pictures and pages. NULL + err.
struct job *job_new(const struct generation *g, struct vireo_error *err);
void job_free(struct job **j); // its pages have been released
// Tells the caller of a token; ends the sample when it must. `c`: the model's end tokens. False: no host memory.
bool job_token(struct job *j, struct sequence *s, const struct engine_token *token, const struct generation_config *c);
void job_end(struct job *j, struct sequence *s, enum engine_end reason, const struct vireo_error *why);
void job_end_all(struct job *j, enum engine_end reason, const struct vireo_error *why);

// Own pages of a sample that has `tokens` keys of its own stored.
uint32_t sequence_pages(const struct job *j, uint32_t tokens);
// Adds a page to its list. False: no host memory.
bool sequence_add_page(struct sequence *s, uint32_t page);
// True if some sample that has not ended is active.
bool job_is_active(const struct job *j);

#endif
