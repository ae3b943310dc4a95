// A vision-language model: configuration, weights on a device, tokenizer, template, image processor; loading, saving,
// freezing. One family = one file that exports a struct model_family and one line in meson.build.
#ifndef VIREO_MODELS_MODEL_H
#define VIREO_MODELS_MODEL_H

#include "compute/chat/chat.h"
#include "compute/chat/template.h"
#include "compute/checkpoint/shards.h"
#include "compute/image/patch.h"
#include "compute/nn/nn.h"
#include "compute/tokenizer/tokenizer.h"

#include <jansson.h>

enum { MODEL_MAX_LAYERS = 256, MODEL_MAX_EOS = 8 };

// Names are those of config.json.
struct model_text_config {
    uint32_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim;
    uint32_t vocab_size, max_position_embeddings;
    float rms_norm_eps, rope_theta;
    uint32_t mrope_section[3]; // half-dimensions of T, H, W; sum head_dim / 2
    bool tie_word_embeddings;
};
struct model_vision_config {
    uint32_t depth, hidden_size, num_heads, intermediate_size, in_channels, patch_size, temporal_patch_size;
    uint32_t spatial_merge_size, window_size, out_hidden_size;
    bool full_attention[MODEL_MAX_LAYERS]; // per block (fullatt_block_indexes)
};
struct model_config {
    struct model_text_config text;
    struct model_vision_config vision;
    uint32_t image_token_id, video_token_id, vision_start_token_id, vision_end_token_id;
    enum dtype stored; // torch_dtype of the file: what "auto" means
    // Standard deviations of a random start; initializer_range unless "vireo_init" says otherwise.
    float init_weight, init_patch_embed, init_embed;
};
// generation_config.json: what a request gets where it says nothing.
struct generation_config {
    uint32_t eos_token_id[MODEL_MAX_EOS], eos_count, pad_token_id;
    bool do_sample;
    float temperature, top_p, repetition_penalty;
    uint32_t top_k;
};

struct model;
struct model_stream;
struct vision_batch;
struct text_batch;

// All that a family has to know.
struct model_family {
    const char *name; // "model_type" in config.json
    // Reads config.json into *out; refuses what it does not know how to compute, by name.
    bool (*configure)(struct model_config *out, const json_t *config, struct vireo_error *err);
    // Declares every weight through model_declare (below) and keeps pointers in m->layers.
    bool (*declare)(struct model *m, struct vireo_error *err);
    // Patches -> [merged tokens, hidden_size], rows in window order (vision_batch knows the way back).
    struct tensor (*vision)(struct tape *t, const struct model *m, const struct vision_batch *b);
    // Packed tokens -> final normalised hidden states [N, hidden_size]; images: result of vision, address 0 without.
    struct tensor (*text)(struct tape *t, const struct model *m, const struct text_batch *b, struct tensor images);
};
const struct model_family *model_family_find(const char *model_type); // NULL: not built

// A tensor as files name it: rows [first, first + rows) of a weight (q, k and v share one).
struct model_param {
    char name[96]; // normalised (shards.h)
    struct weight *weight;
    uint32_t first, rows, columns; // columns 1 for vectors
    int rank;
    uint64_t shape[5]; // on disk
    float init;        // standard deviation of a random start; < 0: constant -init - 1 (so -2: ones, -1: zeros)
};

// What a family's declare needs: one weight made of `count` disk tensors stacked by rows.
struct model_part {
    const char *name; // normalised (shards.h); copied
    uint32_t rows;
    int rank; // 0: [rows, columns] or [rows]; else shape below
    uint64_t shape[5];
};
// Registers one weight; its memory comes later (model_load). rows = sum of the parts. NULL + err without memory.
struct weight *model_declare(struct model *m, enum weight_role role, uint32_t columns, float init,
                             const struct model_part *parts, size_t count, struct vireo_error *err);

struct vision_block {
    struct weight *norm1, *norm2, *qkv, *proj, *gate_up, *down; // biases hang on the weights
};
struct text_block {
    struct weight *input_norm, *post_norm, *qkv, *o, *gate_up, *down;
};

struct model {
    struct gpu_device *dev;
    const struct model_family *family;
    struct model_config config;
    struct generation_config generation;
    struct image_processor processor;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    enum shards_layout layout;
    char folder[512]; // where it came from; side files are copied from here when saving
    enum dtype dtype;       // of the weights on the device
    enum dtype activations; // and of what is computed with them (model_activations)
    bool cast_rope;   // model_load_params
    bool streams;     // model_load_params.stream

    struct arena host;
    struct gpu_arena *memory, *grad_memory;
    struct model_stream *stream; // NULL: all weights are resident
    struct weight **weights;
    size_t weight_count, weight_room;
    struct model_param *params;
    size_t param_count, param_room;

    // The family's view.
    struct weight *embed, *head, *final_norm, *patch_embed, *merger_norm, *merger_fc1, *merger_fc2;
    struct vision_block *vision;
    struct text_block *layers;
    struct tensor text_rope, vision_rope; // cos/sin tables
    uint32_t text_rope_positions, vision_rope_positions;

    // Told of every intermediate result while a forward runs (golden tests); NULL: nobody asks.
    void (*trace)(void *context, const char *name, int layer, struct tensor x);
    void *trace_context;
};
// Tells m->trace, if somebody asked.
void model_trace(const struct model *m, const char *name, int layer, struct tensor x);

struct model_load_params {
    enum dtype dtype;       // of the weights on the device; DTYPE_U32 = as stored
    uint32_t max_positions; // longest position the rope table must hold; 0: min(max_position_embeddings, 8192)
    bool weights_only;      // no tokenizer, template, processor (a frozen reference)
    bool stream;            // layers stay in the file and are read whenever a forward needs them: no gradients, no saving
    // The rope frequencies of a model stored in bf16 are rounded to bf16, as in a torch module that was cast as a whole
    // (the golden data of bf16 folders was made so). Off: exact in float32, as transformers' from_pretrained has them.
    bool cast_rope;
};
// Reads a Hugging Face folder. Errors name the file, tensor and rule. NULL + err.
struct model *model_load(struct gpu_device *dev, const char *folder, const struct model_load_params *p,
                         struct vireo_error *err);
// A model of this config with random weights: value i of parameter p is N(0, init) by Philox keyed by (seed, p, i).
struct model *model_random(struct gpu_device *dev, const json_t *config, uint64_t seed,
                           const struct model_load_params *p, struct vireo_error *err);
// The values such a model gets for parameter number `index` of its list; host only.
void model_random_values(const struct model *m, size_t index, uint64_t seed, float *out);
// The parameter list of a config without a device: weights have no memory. For plans and for writing random folders.
struct model *model_describe(const json_t *config, struct vireo_error *err);
// A second set of weights with the same values (the frozen reference of GRPO); shares nothing with `of`.
struct model *model_clone_weights(const struct model *of, struct vireo_error *err);
void model_destroy(struct model **m);

// Bytes of the weights of a model whose layers are streamed: resident ones and the layer windows (a CPU has one). For plans.
uint64_t model_streamed_bytes(const struct model *m, bool halves, bool cpu);
// How the activations of such a model are stored: as its weights are; 16-bit activations need rows of even width (two share
// a word) and heads of a multiple of 4 (rotary halves of even width); models that have others keep theirs in f32.
enum dtype model_activations(const struct model_config *c, enum dtype weights);
// Number of values in all weights; a tied embedding counts once.
uint64_t model_parameters(const struct model *m);
// Allocates zeroed gradients for all weights (freeze_vision: not for vision and merger).
bool model_take_gradients(struct model *m, bool freeze_vision, struct vireo_error *err);
const struct model_param *model_param_find(const struct model *m, const char *name);
// Host copies of one parameter as floats (the value, or the gradient). `out` holds rows * columns.
bool model_read_param(const struct model *m, const struct model_param *p, bool gradient, float *out,
                      struct vireo_error *err);
bool model_write_param(struct model *m, const struct model_param *p, const float *values, struct vireo_error *err);

// Writes config.json, tokenizer, template and processor files (copied from m->folder) and one model.safetensors in
// `layout` of the loaded model; dtype as stored. Into a fresh folder; every file is synced. transformers loads it.
bool model_save(const struct model *m, const char *folder, struct vireo_error *err);
// Only the weights, as a safetensors stream, dtype `type`.
bool model_save_weights(const struct model *m, enum dtype type, struct byte_sink sink, struct vireo_error *err);
// The files beside the weights that make a folder complete; NULL-terminated list of names that may exist.
extern const char *const model_side_files[];

#endif
