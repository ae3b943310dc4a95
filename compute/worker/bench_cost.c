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

static struct cost vision(const struct model_vision_config *v, uint32_t h, uint32_t w)
{
    const double patches = (double)h * w, unit = (double)v->spatial_merge_size * v->spatial_merge_size;
    const double hidden = v->hidden_size, merged = unit * hidden;
    const double patch = (double)v->in_channels * v->temporal_patch_size * v->patch_size * v->patch_size;
    const double block = 4 * hidden * hidden + 3 * hidden * v->intermediate_size;
    struct cost c = {2 * patches * (patch * hidden + v->depth * block) +
                         2 * patches / unit * (merged * merged + merged * v->out_hidden_size),
                     0};
    for (uint32_t j = 0; j < v->depth; j++)
        c.attention += 4 * hidden * (v->full_attention[j] ? patches * patches : window_pairs(v, h, w));
    return c;
}

// `tokens` decoder rows that see `pairs` keys in all.
static struct cost decoder(const struct model_text_config *t, double tokens, double pairs)
{
    const double H = t->hidden_size, q = (double)t->num_attention_heads * t->head_dim;
    const double kv = (double)t->num_key_value_heads * t->head_dim;
    const double layer = H * (q + 2 * kv) + q * H + 3 * H * t->intermediate_size;
    return (struct cost){2 * tokens * t->num_hidden_layers * layer, 4 * pairs * t->num_hidden_layers * q};
}

double bench_step_flops(const struct model_config *c, const struct bench_step *s)
{
    const double L = s->prompt_tokens, T = s->new_tokens, P = s->prompts, G = s->group;
    const double head = 2.0 * c->text.hidden_size * c->text.vocab_size;
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
