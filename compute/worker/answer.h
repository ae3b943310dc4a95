// One sample of a chat request on its way out: tokens become text that is never half a character and never the beginning
// of a stop string; log-probs travel with the text they belong to.
#ifndef VIREO_WORKER_ANSWER_H
#define VIREO_WORKER_ANSWER_H

#include "compute/engine/engine.h"
#include "compute/tokenizer/stream.h"

enum { ANSWER_STOPS = ENGINE_MAX_STOP };

struct answer_rules { // shared by the samples of a request
    const char *stop[ANSWER_STOPS];
    size_t stop_count;
    bool logprobs;
    const uint32_t *eos; // tokens that end an answer and are not part of its text
    size_t eos_count;
};

struct answer { // zero-initialise, then answer_init
    const struct tokenizer *tokenizer;
    const struct answer_rules *rules;
    struct token_stream stream;
    struct token_text held;  // text not handed out yet
    json_t *entries;         // log-prob entries not handed out yet
    size_t *starts;          // where in `held` each entry's token begins
    size_t entry_capacity;
    uint32_t tokens;         // generated, the ending token included
    bool stopped;            // a stop string was completed
};
bool answer_init(struct answer *a, const struct tokenizer *t, const struct answer_rules *rules, struct vireo_error *err);
void answer_finish(struct answer *a);

// Takes one token. *text (new reference, or NULL when nothing can be shown yet) is what may leave now, *entries the
// log-probs that go with it (NULL without). After it a->stopped tells that the answer ended by a stop string.
bool answer_add(struct answer *a, const struct engine_token *token, json_t **text, json_t **entries, struct vireo_error *err);
// The end of the sample: what is still held back, unless a stop string ended it.
bool answer_end(struct answer *a, json_t **text, json_t **entries, struct vireo_error *err);

#endif
