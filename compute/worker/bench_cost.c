#include "compute/worker/bench_cost.h"

// Forward work in two parts, since their backward passes cost differently.
struct cost {
    double products, attention;
};

static struct cost add(struct cost a, struct cost b)
{
    return (struct cost){a.products + b.products, a.attention + b.attention};
}

// Pairs of patches that attend each other within the windows of a picture: windows are cut from the top left corner, so
// those at the right and lower edges are smaller.
static double window_pairs(const struct model_vision_config *v, uint32_t h, uint32_t w)
{
    const uint32_t side = v->window_size / v->patch_size;
    double pairs = 0;
    for (uint32_t y = 0; y < h; y += side)
        for (uint32_t x = 0; x < w; x += side) {
            double rows = (h - y < side ? h - y : side), columns = (w - x < side ? w - x : side);
            pairs += rows * columns * rows * columns;
        }
    return pairs;
}

// Weights of a vision block and of the merger; of a decoder layer.
static double block_weights(const struct model_vision_config *v)
{
    return 4.0 * v->hidden_size * v->hidden_size + 3.0 * v->hidden_size * v->intermediate_size;
}

static double patch_values(const struct model_vision_config *v)
{
    return (double)v->in_channels * v->temporal_patch_size * v->patch_size * v->patch_size;
}

static double merger_weights(const struct model_vision_config *v)
{
    const double merged = (double)v->spatial_merge_size * v->spatial_merge_size * v->hidden_size;
    return merged * merged + merged * v->out_hidden_size;
}

static double layer_weights(const struct model_text_config *t)
{
    const double H = t->hidden_size, q = (double)t->num_attention_heads * t->head_dim;
    const double kv = (double)t->num_key_value_heads * t->head_dim;
    return H * (q + 2 * kv) + q * H + 3 * H * t->intermediate_size;
}

static double head_weights(const struct model_text_config *t)
{
    return (double)t->hidden_size * t->vocab_size;
}

static struct cost vision(const struct model_vision_config *v, uint32_t h, uint32_t w)
{
    const double patches = (double)h * w, unit = (double)v->spatial_merge_size * v->spatial_merge_size;
    const double hidden = v->hidden_size;
    struct cost c = {2 * patches * (patch_values(v) * hidden + v->depth * block_weights(v)) +
                         2 * patches / unit * merger_weights(v),
                     0};
    for (uint32_t j = 0; j < v->depth; j++)
        c.attention += 4 * hidden * (v->full_attention[j] ? patches * patches : window_pairs(v, h, w));
    return c;
}

// `tokens` decoder rows that see `pairs` keys in all.
static struct cost decoder(const struct model_text_config *t, double tokens, double pairs)
{
    const double q = (double)t->num_attention_heads * t->head_dim;
    return (struct cost){2 * tokens * t->num_hidden_layers * layer_weights(t), 4 * pairs * t->num_hidden_layers * q};
}

double bench_step_flops(const struct model_config *c, const struct bench_step *s)
{
    const double L = s->prompt_tokens, T = s->new_tokens, P = s->prompts, G = s->group;
    const double head = 2 * head_weights(&c->text);
    // A completion's last token is a target only: T - 1 rows, which see the prompt and what stands before them.
    const double rows = T - 1, own = rows * (rows + 1) / 2;
    struct cost forward = vision(&c->vision, s->grid_h, s->grid_w);
    forward = add(forward, decoder(&c->text, L + G * rows, L * (L + 1) / 2 + G * (rows * L + own)));
    forward.products += G * T * head;
    const double one = forward.products + forward.attention;
    double flops = one + 2 * forward.products + 2.5 * forward.attention; // update
    if (s->reference)
        flops += one;
    if (s->rollout)
        flops += one - (G - 1) * head; // the group's first tokens come from one row
    return P * flops;
}

static double text_weights(const struct model_text_config *t)
{
    return t->num_hidden_layers * layer_weights(t) + head_weights(t);
}

static double vision_weights(const struct model_vision_config *v)
{
    return patch_values(v) * v->hidden_size + v->depth * block_weights(v) + merger_weights(v);
}

// Key and value elements of one token in all layers.
static double token_values(const struct model_text_config *t)
{
    return 2.0 * t->num_hidden_layers * t->num_key_value_heads * t->head_dim;
}

struct bench_work bench_prefill_work(const struct model_config *c, enum dtype type, const struct bench_step *s)
{
    const double L = s->prompt_tokens;
    const struct cost one = add(vision(&c->vision, s->grid_h, s->grid_w), decoder(&c->text, L, L * (L + 1) / 2));
    const double values = text_weights(&c->text) + vision_weights(&c->vision) + s->prompts * L * token_values(&c->text);
    return (struct bench_work){s->prompts * (one.products + one.attention + 2 * head_weights(&c->text)),
                               values * dtype_bytes(type)};
}

struct bench_work bench_decode_work(const struct model_config *c, enum dtype type, const struct bench_step *s)
{
    const double L = s->prompt_tokens, P = s->prompts, G = s->group, steps = s->new_tokens - 1.0;
    const double own = steps * (steps + 1) / 2; // keys of one completion over its steps, without the prompt
    const struct cost group = decoder(&c->text, L + G * steps, L * (L + 1) / 2 + G * (steps * L + own));
    const double written = P * (L + G * steps), read = P * (steps * L + G * own);
    const double values = (1 + steps) * text_weights(&c->text) + (written + read) * token_values(&c->text);
    return (struct bench_work){P * (group.products + group.attention + (1 + G * steps) * 2 * head_weights(&c->text)),
                               values * dtype_bytes(type)};
}
