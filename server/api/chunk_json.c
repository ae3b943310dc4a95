#include "server/api/chunk_json.h"

static json_t *logprobs_json(json_t *content)
{
    return content ? json_pack("{s:O,s:n}", "content", content, "refusal") : json_null();
}

json_t *chunk_usage(const struct answer_usage *u)
{
    return json_pack("{s:i,s:i,s:i,s:{s:i,s:i,s:i},s:{s:i}}", "prompt_tokens", u->prompt_tokens, "completion_tokens",
                     u->completion_tokens, "total_tokens", u->prompt_tokens + u->completion_tokens, "prompt_tokens_details",
                     "cached_tokens", u->cached_tokens, "image_tokens", u->image_tokens, "text_tokens",
                     u->prompt_tokens - u->image_tokens, "completion_tokens_details", "reasoning_tokens", 0);
}

static json_t *head_json(const struct answer_head *h, const char *object, json_t *choices)
{
    return json_pack("{s:s,s:s,s:I,s:s,s:s,s:s,s:o}", "id", h->id, "object", object, "created", (json_int_t)h->created, "model",
                     h->model, "system_fingerprint", h->fingerprint, "service_tier", "default", "choices", choices);
}

json_t *chunk_json(const struct answer_head *h, int index, json_t *delta, const char *finish_reason, json_t *logprobs)
{
    json_t *choice = json_pack("{s:i,s:o,s:s?,s:o}", "index", index, "delta", delta, "finish_reason", finish_reason, "logprobs",
                               logprobs_json(logprobs));
    json_t *o = head_json(h, "chat.completion.chunk", json_pack("[o]", choice));
    if (o && h->include_usage)
        json_object_set_new(o, "usage", json_null());
    return o;
}

json_t *chunk_usage_json(const struct answer_head *h, const struct answer_usage *u)
{
    json_t *o = head_json(h, "chat.completion.chunk", json_array());
    if (o)
        json_object_set_new(o, "usage", chunk_usage(u));
    return o;
}

json_t *choice_json(int index, const char *content, size_t length, const char *finish_reason, json_t *logprobs)
{
    return json_pack("{s:i,s:s,s:{s:s,s:o,s:n},s:o}", "index", index, "finish_reason", finish_reason, "message", "role",
                     "assistant", "content", json_stringn(content, length), "refusal", "logprobs", logprobs_json(logprobs));
}

json_t *completion_json(const struct answer_head *h, json_t *choices, const struct answer_usage *u)
{
    json_t *o = head_json(h, "chat.completion", choices);
    if (o)
        json_object_set_new(o, "usage", chunk_usage(u));
    return o;
}
