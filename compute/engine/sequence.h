// The engine's own record of what it is generating. Between the files of this folder only.
#ifndef VIREO_ENGINE_SEQUENCE_H
#define VIREO_ENGINE_SEQUENCE_H

#include "compute/engine/engine.h"

// One sample of a generation.
struct sequence {
    uint32_t sample;
    uint32_t own_first; // its KV slots: [own_first, own_first + max_tokens)
    uint32_t count;     // tokens drawn so far
    uint32_t last;      // the newest token; its key is stored when it is fed
    uint32_t *history;  // [count] drawn tokens, kept only when penalties need them
    bool ended;
};

// A generation in the engine: waiting, then running (its prompt computed), then gone.
struct job {
    struct job *next;
    struct generation g;
    struct arena host; // prompt copy, bias lists, sequences
    struct prompt prompt;
    uint32_t slot_first, slot_count; // of the whole: prompt, then the samples
    struct sequence *sequences;      // [g.n]
    uint32_t open;                   // samples not ended
    bool running, cancelled;
};

// Copies what the generation refers to. NULL + err.
struct job *job_new(const struct generation *g, struct vireo_error *err);
void job_free(struct job **j);
// Tells the caller of a token; ends the sample when it must. `eos`: the model's list.
void job_token(struct job *j, struct sequence *s, const struct engine_token *token, const struct generation_config *c);
void job_end(struct job *j, struct sequence *s, enum engine_end reason, const struct vireo_error *why);
void job_end_all(struct job *j, enum engine_end reason, const struct vireo_error *why);

#endif
