#include "compute/tokenizer/stream.h"

#include "compute/tokenizer/utf8.h"

#include <string.h>

void token_stream_init(struct token_stream *s, const struct tokenizer *t, bool skip_special)
{
    *s = (struct token_stream){.tokenizer = t, .skip_special = skip_special};
}

bool token_stream_add(struct token_stream *s, uint32_t id, struct token_text *out, struct vireo_error *err)
{
    size_t length;
    const char *bytes = tokenizer_bytes(s->tokenizer, id, &length);
    if (!bytes || (s->skip_special && tokenizer_is_special(s->tokenizer, id)))
        return true;
    struct token_text joined = {0};
    size_t before = out->length, end;
    bool ok = token_text_add(&joined, s->held, s->held_count, err) && token_text_add(&joined, bytes, length, err);
    if (!ok) {
        token_text_free(&joined);
        return false;
    }
    // Everything but an incomplete sequence at the very end, which is at most the last three bytes.
    bool incomplete = false;
    for (end = joined.length > 3 ? joined.length - 3 : 0; end < joined.length; end++) {
        size_t bad;
        if (utf8_sequence((unsigned char *)joined.data + end, joined.length - end, &bad, &incomplete) == 0 &&
            incomplete)
            break;
    }
    ok = utf8_replace(joined.data, end, out, err);
    if (ok) {
        s->held_count = joined.length - end;
        memcpy(s->held, joined.data + end, s->held_count);
    } else {
        out->length = before;
    }
    token_text_free(&joined);
    return ok;
}

bool token_stream_end(struct token_stream *s, struct token_text *out, struct vireo_error *err)
{
    if (!utf8_replace((const char *)s->held, s->held_count, out, err))
        return false;
    s->held_count = 0;
    return true;
}
