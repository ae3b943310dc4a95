#include "compute/models/prompt.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"

#include <string.h>

uint32_t prompt_positions(const struct model_config *c, const int32_t *image, const struct image_grid *images,
                          uint32_t count, uint32_t (*out)[3])
{
    uint32_t p = 0, merge = c->vision.spatial_merge_size;
    for (uint32_t i = 0; i < count;) {
        if (image[i] < 0) {
            out[i][0] = out[i][1] = out[i][2] = p++;
            i++;
            continue;
        }
        const struct image_grid *g = &images[image[i]];
        uint32_t a = g->h / merge, b = g->w / merge;
        for (uint32_t k = 0; k < g->tokens && i < count; k++, i++) {
            out[i][0] = p + k / (a * b); // a still image has one frame: constant
            out[i][1] = p + k / b % a;
            out[i][2] = p + k % b;
        }
        p += VIREO_MAX(a, b);
    }
    return p;
}

// Fills image, image_row, positions of `out` from ids whose placeholders are already expanded.
static bool place_images(const struct model *m, const struct image_grid *images, struct arena *a, struct prompt *out,
                         struct vireo_error *err)
{
    out->image = arena_array(a, int32_t, out->count + 1);
    out->image_row = arena_array(a, uint32_t, out->count + 1);
    out->positions = arena_take_array(a, out->count + 1, sizeof *out->positions);
    if (!out->image || !out->image_row || !out->positions)
        return vireo_fail_memory(err, (size_t)out->count * 20);
    uint32_t next = 0;
    for (uint32_t i = 0; i < out->count;) {
        out->image[i] = -1;
        if (out->ids[i] == m->config.video_token_id)
            return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", NULL, "Video input is not built.");
        if (out->ids[i] != m->config.image_token_id) {
            i++;
            continue;
        }
        if (next == out->image_count)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", NULL,
                                   "The prompt has more image placeholders than images (%u).", out->image_count);
        for (uint32_t k = 0; k < images[next].tokens; k++, i++) {
            if (i == out->count || out->ids[i] != m->config.image_token_id)
                return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", NULL,
                                       "Image %u has %u tokens, the prompt holds %u placeholders for it.", next,
                                       images[next].tokens, k);
            out->image[i] = (int32_t)next;
            out->image_row[i] = k;
        }
        next++;
    }
    if (next != out->image_count)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", NULL,
                               "The prompt has %u image placeholders for %u images.", next, out->image_count);
    out->next_position = prompt_positions(&m->config, out->image, images, out->count, out->positions);
    return true;
}

bool prompt_from_ids(const struct model *m, const uint32_t *ids, uint32_t count, const struct image_grid *images,
                     uint32_t image_count, struct arena *a, struct prompt *out, struct vireo_error *err)
{
    struct prompt p = {.count = count, .image_count = image_count, .ids = arena_array(a, uint32_t, count + 1)};
    if (!p.ids)
        return vireo_fail_memory(err, (size_t)count * 4);
    memcpy(p.ids, ids, (size_t)count * 4);
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] >= m->config.text.vocab_size)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", NULL,
                                   "Token id %u is outside the vocabulary of %u.", ids[i], m->config.text.vocab_size);
    if (!place_images(m, images, a, &p, err))
        return false;
    *out = p;
    return true;
}

// One placeholder per image as the template writes it -> as many as the image has tokens. `map[i]` = where token i of
// the unexpanded ids begins in the result (count + 1 entries).
static bool expand(const struct model *m, const struct token_ids *ids, const struct image_grid *images,
                   uint32_t image_count, struct arena *a, struct prompt *out, uint32_t **map, struct vireo_error *err)
{
    size_t total = ids->count, seen = 0;
    for (size_t i = 0; i < ids->count; i++)
        if (ids->ids[i] == m->config.image_token_id && seen++ < image_count)
            total += images[seen - 1].tokens - 1;
    if (seen != image_count)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", NULL,
                               "The prompt has %zu image placeholders for %u images.", seen, image_count);
    if (total > 1 << 24)
        return vireo_fail_kind(err, VIREO_INVALID, "context_length_exceeded", NULL, "The prompt has %zu tokens.",
                               total);
    out->ids = arena_array(a, uint32_t, total + 1);
    *map = arena_array(a, uint32_t, ids->count + 1);
    if (!out->ids || !*map)
        return vireo_fail_memory(err, total * 4);
    uint32_t next = 0, used = 0;
    for (size_t i = 0; i < ids->count; i++) {
        (*map)[i] = used;
        uint32_t copies = ids->ids[i] == m->config.image_token_id ? images[next++].tokens : 1;
        for (uint32_t k = 0; k < copies; k++)
            out->ids[used++] = ids->ids[i];
    }
    (*map)[ids->count] = used;
    out->count = used;
    out->image_count = image_count;
    return true;
}

static bool is_eos(const struct model *m, uint32_t id)
{
    for (uint32_t i = 0; i < m->generation.eos_count; i++)
        if (m->generation.eos_token_id[i] == id)
            return true;
    return false;
}

// The trained ranges: what came from the content of assistant messages with a weight, and the end-of-turn token behind.
static bool find_trained(const struct model *m, const struct chat *chat, const struct template_output *text,
                         const struct token_ids *ids, const size_t *ends, const uint32_t *map, struct arena *a,
                         struct prompt *out, struct vireo_error *err)
{
    out->trained_first = arena_array(a, uint32_t, text->segment_count + 1);
    out->trained_end = arena_array(a, uint32_t, text->segment_count + 1);
    if (!out->trained_first || !out->trained_end)
        return vireo_fail_memory(err, text->segment_count * 8);
    for (size_t s = 0; s < text->segment_count; s++) {
        int32_t origin = text->segments[s].origin;
        if (origin < 0 || (size_t)origin >= chat->count)
            continue;
        const struct chat_message *message = &chat->messages[origin];
        if (strcmp(message->role, "assistant") != 0 || message->weight == 0)
            continue;
        size_t first = s ? ends[s - 1] : 0, end = ends[s];
        if (end < ids->count && is_eos(m, ids->ids[end]))
            end++;
        if (out->trained_count && out->trained_end[out->trained_count - 1] == map[first]) {
            out->trained_end[out->trained_count - 1] = map[end];
        } else {
            out->trained_first[out->trained_count] = map[first];
            out->trained_end[out->trained_count++] = map[end];
        }
    }
    return true;
}

// Renders and tokenises; text of users keeps its special tokens as characters unless the caller says otherwise.
static bool encode_chat(const struct model *m, const struct chat *chat, const struct prompt_options *o, struct arena *a,
                        struct template_output *text, struct token_ids *ids, size_t **ends, struct vireo_error *err)
{
    if (!m->chat_template)
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "messages",
                               "This model has no chat template.");
    json_t *messages = chat_messages_json(chat, err);
    if (!messages)
        return false;
    struct template_input in = {.messages = messages,
                                .tools = o->tools,
                                .add_generation_prompt = o->add_generation_prompt,
                                .now = clock_unix()};
    bool done = template_render(m->chat_template, &in, a, text, err);
    json_decref(messages);
    if (!done)
        return false;
    struct tokenizer_span *spans = arena_array(a, struct tokenizer_span, text->segment_count + 1);
    *ends = arena_array(a, size_t, text->segment_count + 1);
    if (!spans || !*ends)
        return vireo_fail_memory(err, text->segment_count * sizeof *spans);
    for (size_t s = 0; s < text->segment_count; s++) {
        bool ours = text->segments[s].origin == TEMPLATE_OWN || o->specials_in_text;
        spans[s] = (struct tokenizer_span){.text = text->segments[s].text,
                                           .length = text->segments[s].length,
                                           .match = ours ? TOKENIZER_MATCH_ALL : TOKENIZER_MATCH_PLAIN};
    }
    return tokenizer_encode_spans(m->tokenizer, spans, text->segment_count, ids, *ends, err);
}

bool prompt_build(const struct model *m, const struct chat *chat, const struct image_grid *images, uint32_t image_count,
                  const struct prompt_options *options, struct arena *a, struct prompt *out, struct vireo_error *err)
{
    struct prompt p = {0};
    struct template_output text = {0};
    struct token_ids ids = {0};
    size_t *ends = NULL;
    uint32_t *map = NULL;
    bool done = options->raw_text ? tokenizer_encode(m->tokenizer, options->raw_text, strlen(options->raw_text),
                                                     TOKENIZER_MATCH_ALL, &ids, err)
                                  : encode_chat(m, chat, options, a, &text, &ids, &ends, err);
    done = done && expand(m, &ids, images, image_count, a, &p, &map, err) && place_images(m, images, a, &p, err);
    if (done && !options->raw_text)
        done = find_trained(m, chat, &text, &ids, ends, map, a, &p, err);
    token_ids_free(&ids);
    if (done)
        *out = p;
    return done;
}
