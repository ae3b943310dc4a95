// All ops: shapes in, shapes out, formula, source.
//
// Letters: N packed tokens, M selected rows, C width, A query heads, K key/value heads, D head size, I intermediate,
// V vocabulary. Weights are f32, bf16 or f16. Results are stored in the tape's activation type (the same three, to nearest
// even, in f16 infinity beyond 65504: what is out of range shows, it is not clipped)
// unless an op says f32: the residual stream, logits, log-probs and statistics. Gradients of results have their type, those
// of weights are f32. All is computed in f32, every sum in a fixed order that depends on the summed axis alone, never on N
// or M or on what shares the batch: an output row has the same bits in a rollout step, a
// packed training batch, or alone (design: exact rollouts).
// References: transformers modeling_qwen2_5_vl.py; TRL grpo_trainer.py.
#ifndef VIREO_NN_NN_H
#define VIREO_NN_NN_H

#include "compute/nn/tape.h"

// ---- linear.c ------------------------------------------------------------------------------------------------------
// y = x W^T + b.   x [N, I], W [O, I], y [N, O].
struct tensor nn_linear(struct tape *t, struct tensor x, const struct weight *w);
// The same with y in f32 whatever the tape's activations: what starts a residual stream, logits.
struct tensor nn_linear_f32(struct tape *t, struct tensor x, const struct weight *w);
// y = residual + x W^T + b in f32, fused in the epilogue.   residual [N, O]. Its gradient shares dy.
struct tensor nn_linear_add(struct tape *t, struct tensor x, const struct weight *w, struct tensor residual);
// nn_swiglu(nn_linear(x)), the same bits. One product where its kernel can end in SwiGLU; what only a backward pass would read,
// x W^T + b, is then not stored unless there may be one.   z [N, O/2].
struct tensor nn_linear_swiglu(struct tape *t, struct tensor x, const struct weight *w);

// Test seam: small batches of nn_linear sum K in two halves, so that the bits depend on the batch. It exists to prove that the
// comparison of rollout and training log-probs notices such a kernel. Never set outside a test program.
extern bool nn_break_batch_invariance;

// Products load texels on CPU drivers with so many lanes; with fewer those are slower.
enum { NN_TEXEL_LANES = 16 };

// Bare products for other ops. C = beta * C + A-times-B (+ bias on rows of C); `beta` is 0 or 1.
enum nn_product {
    NN_NT, // C [M, N] = A [M, K] B [N, K]^T
    NN_NN, // C [M, N] = A [M, K] B [K, N]
    NN_TN, // C [M, N] = A [K, M]^T B [K, N]
};
// Each f32, bf16 or f16, but of A, B, bias and residual none bf16 beside one in f16; strides honoured. `bias` [N] and
// `residual` [M, N] may have address 0.
void nn_gemm(struct tape *t, enum nn_product kind, struct tensor a, struct tensor b, struct tensor c, int beta,
             struct tensor bias, struct tensor residual);
// h [M, N/2] = swiglu(C) with C [M, N] = A B^T + bias in one product; h has C's type. C of address 0 is a shape and a type: it is
// not stored, else it has the bits of nn_gemm. Only where nn_gemm_takes_swiglu says so: N is a multiple of 4, and the family of
// products of this device has it for these operands. C and h start at 8 bytes, h is contiguous.
void nn_gemm_swiglu(struct tape *t, struct tensor a, struct tensor b, struct tensor bias, struct tensor c, struct tensor h);
bool nn_gemm_takes_swiglu(struct tape *t, struct tensor a, struct tensor b, enum dtype type);
// out [N] (+)= sum over rows of x [M, N], in row order of fixed blocks. x of any float type, out f32.
void nn_column_sum(struct tape *t, struct tensor x, struct tensor out, bool accumulate);

// ---- elementwise.c -------------------------------------------------------------------------------------------------
// y = a + b, in f32 where one of them is.
struct tensor nn_add(struct tape *t, struct tensor a, struct tensor b);
// a += b (no gradient): equal shapes, or equal counts of contiguous tensors.
void nn_add_into(struct tape *t, struct tensor a, struct tensor b);
// x = value: f32 or, with value 0, bf16 or f16; contiguous. The last word of a 16-bit tensor of odd count is x's own.
void nn_fill(struct tape *t, struct tensor x, float value);
// to = from, converting between f32, bf16 and f16 (round to nearest even); equal shapes or counts. Rows of a 16-bit `to`
// start at whole words.
void nn_convert(struct tape *t, struct tensor to, struct tensor from);
// z [N, I] = silu(x[:, :I]) * x[:, I:].   x [N, 2I] (gate, up); z has its type.
struct tensor nn_swiglu(struct tape *t, struct tensor x);
// Exact GELU: x * Phi(x) with erf. y has x's type.
struct tensor nn_gelu(struct tape *t, struct tensor x);

// ---- norm.c --------------------------------------------------------------------------------------------------------
// y = x / sqrt(mean(x^2) + eps) * w, over the last axis. x [N, C] f32, w [C]. Saves 1/rms [N].
struct tensor nn_rms_norm(struct tape *t, struct tensor x, const struct weight *w, float eps);

// ---- attention.c, rope.c -------------------------------------------------------------------------------------------
struct nn_heads {
    uint32_t heads, kv_heads, head_dim; // heads % kv_heads == 0
    float scale;                        // of q.k, D^-1/2
};

// Rotary embedding, half-split: y = x cos + rot(x) sin, rot(x) = (-x[D/2:], x[:D/2]), up to three position axes.
// Half-dimension k belongs to the axis whose section holds it (sections add up to D/2); its frequency index is k, or,
// with `restart`, k minus the section's start (vision: h and w use the same frequencies).
struct nn_rope {
    struct tensor table;     // f32 [P, 2F]: for position p the F cosines, then the F sines (host-made, nn_rope_table)
    uint32_t frequencies;    // F
    uint32_t section[3];     // half-dimensions that use axis 0, 1, 2
    bool restart;
    struct tensor positions; // u32 [N, 4]: axis 0, 1, 2, unused
};
// The table on the host: angle = p * theta^(-2f/dim) in float32 as the reference computes it. out [P, 2F].
// round_bf16: the inverse frequencies are rounded to bf16 first, as in a torch module cast to bf16 as a whole.
void nn_rope_table(float theta, uint32_t dim, uint32_t frequencies, uint32_t positions, bool round_bf16, float *out);

// Keys and values of past tokens. Row s of k and v [S, K*D] is slot s; row i of a batch is stored in slot[i].
// With `pages` the slots are cut into pages of page_size (page p is the slots from p * page_size on) and each sequence
// has a list of the pages its keys lie in, in order. Sequences may name the same page: whoever shares a page at the same
// place of its list shares the loads too.
struct nn_kv {
    struct tensor k, v;  // f32, bf16 or f16
    struct tensor slot;  // u32 [N]; 0xffffffff: not stored
    struct tensor pages; // u32, any shape: the page lists of all sequences of the batch, one after the other; address 0:
                         // keys lie in runs
    uint32_t page_size;  // slots a page: a power of two from NN_PAGE_LEAST on; read with `pages` alone
};
enum { NN_PAGE_LEAST = 8 }; // pages hold whole blocks of keys

// Rotates the q and k columns of qkv [N, (A + 2K) D] (layout q | k | v) IN PLACE; with `kv` also stores the rotated k and
// the v. Gradient: rotation by the negative angle, in place on the gradient of qkv. Returns qkv.
struct tensor nn_rope_store(struct tape *t, struct tensor qkv, const struct nn_heads *h, const struct nn_rope *rope,
                            const struct nn_kv *kv);

// Which keys each query row sees, as at most two runs of key rows: a shared prefix (a prompt before several
// completions), then its own run. Key number j of a query is row prefix_first + j for j < prefix_count, else
// own_first + (j - prefix_count). Causal masks are own_count; vision windows are own runs without a prefix.
// With pages (nn_kv) a row is {page_first, keys, 0, 0}: its sequence's list starts at pages[page_first], it sees keys
// 0 .. keys - 1, and key j is slot pages[page_first + j / page_size] * page_size + j % page_size. Entries behind the
// last key are not read.
// Sums run over j in blocks counted from j = 0, so the bits do not depend on where the rows lie.
struct nn_spans {
    struct tensor query; // u32 [N, 4]: prefix_first, prefix_count, own_first, own_count; paged: page_first, keys, 0, 0
    struct tensor key;   // u32 [N, 2]: first and end of the query rows that see this key row (all in between do);
                         // address 0 where no gradient is taken
    uint32_t most_keys;  // largest prefix_count + own_count
    double pairs;        // sum over queries of their keys, for cost estimates
    bool apart;          // paged: hardly two rows are of one sequence; chooses among kernels of equal bits
    bool together;       // apart, but most rows begin with the page the row before begins with; the same
};

// o [N, A D] = softmax(scale q k^T) v per head; query head a uses kv head a / (A/K).
// With `kv` the key rows are slots of kv->k, kv->v, in runs or in pages (no gradient then); else rows of qkv itself.
// Never stores scores. CPU drivers and GPUs have kernels of their own, whose bits differ: one of them for all of a device.
// Saves the log-sum-exp [N, A] for the backward pass (two deterministic passes: dq; dk and dv).
struct tensor nn_attention(struct tape *t, struct tensor qkv, const struct nn_heads *h, const struct nn_spans *spans,
                           const struct nn_kv *kv);

// ---- embedding.c ---------------------------------------------------------------------------------------------------
// The inverse of an index: target row u gets the sum of source rows members[starts[u] .. starts[u+1]) in that order.
struct nn_scatter {
    uint32_t count;                         // distinct targets
    struct tensor target, starts, members;  // u32 [count], [count + 1], [sum]
};
// Host: inverts index[0..n) (entries < 0 are skipped), targets ascending, members ascending. On the tape's upload memory.
struct nn_scatter nn_scatter_build(struct tape *t, const int32_t *index, uint32_t n);

// y[i] = source[i] >= 0 ? table[source[i]] : images[-1 - source[i]].   table [V, C], images [R, C] (address 0: none); y f32.
// Image rows take their gradient; the table's row of a placeholder token takes none.
struct nn_embedding {
    struct tensor source;             // i32 [N]
    struct nn_scatter tokens, images; // of the source: for the backward pass; count 0: nothing
};
// The op itself; the table takes its gradient where it has one, images where they have a slot.
struct tensor nn_embed(struct tape *t, const struct weight *table, struct tensor images, const struct nn_embedding *e);
// Host: uploads `source` and builds both scatters (those only when gradients are on).
struct nn_embedding nn_embedding_build(struct tape *t, const int32_t *source, uint32_t n);

// y[m] = x[rows[m]].   x [N, C], rows [M], y [M, C] of x's type. Backward: scatter-add in member order.
struct tensor nn_gather(struct tape *t, struct tensor x, const uint32_t *rows, uint32_t m);

// ---- logprob.c -----------------------------------------------------------------------------------------------------
struct nn_logprob {
    struct tensor logprob; // f32 [M]: log_softmax(x W^T / temperature)[target]; takes a gradient
    struct tensor entropy; // f32 [M], nats, of the same distribution; no gradient
    struct tensor top;     // u32 [M]: argmax token (lowest id on ties)
};
// Linear head and log-softmax streamed over chunks of rows: logits of the whole batch are never stored. The chunk
// depends on V alone. Backward recomputes each chunk: dlogits = g (onehot - p) / temperature, then dx and dW. (A batch
// of one chunk keeps its logits for that instead; same bits.) temperature > 0.
// x [M, C], head [V, C], targets u32 [M].
struct nn_logprob nn_logprob(struct tape *t, struct tensor x, const struct weight *head, struct tensor targets,
                             float temperature);

// ---- sample.c ------------------------------------------------------------------------------------------------------
#include "shaders/args/sample.h" // struct sample_row

struct nn_sampled {
    struct tensor token;   // u32 [B]
    struct tensor logprob; // f32 [B]: the same bits nn_logprob gives for this token at rows[b].logprob_temperature
    struct tensor entropy; // f32 [B]
    struct tensor all;     // u32 [3 B]: the words of the three, one after the other, so that one reading fetches them
};
// Changes of single logits, row by row: repetition, frequency and presence penalties, logit bias. They act on the draw
// alone, never on the recorded log-prob.
struct nn_edits {
    struct tensor starts; // u32 [B + 1] into edits
    struct tensor edits;  // struct nn_edit (shaders/args/sample.h); a token stands at most once in a row's list
};
// Host: uploads the lists; row b has edits[starts[b] .. starts[b + 1]). starts [rows + 1], starts[rows] == count.
struct nn_edits nn_edits_build(struct tape *t, const uint32_t *starts, uint32_t rows, const struct nn_edit *edits,
                               uint32_t count);

// Draws one token a row from logits [B, V] (f32, as nn_linear of the head gives them; not changed). `rows`: struct
// sample_row [B] in upload memory (u32 [B, 10]). `banned`: u32 [count] ids that are never drawn (image placeholders;
// address 0: none); they stay in the log-softmax. `edits` may be NULL.
// Order: edits, bans, temperature, top-k (ties kept), top-p, min-p, draw by the inverse CDF in id order with Philox keyed
// by (seed, counters). temperature 0 (below 1e-7): argmax, lowest id on ties. Source: transformers logits_process.py;
// specs section 9. Tokens of one mass around the top-p bound are kept together.
struct nn_sampled nn_sample(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                            const struct nn_edits *edits);
// The distribution nn_sample draws from: f32 [B, V], 0 for what is cut off or banned; greedy rows: 1 at the token.
struct tensor nn_sample_probabilities(struct tape *t, struct tensor logits, struct tensor rows, struct tensor banned,
                                      const struct nn_edits *edits);

// ---- policy.c ------------------------------------------------------------------------------------------------------
struct nn_policy_params {
    float epsilon_low, epsilon_high, beta;
    float loss_scale; // factor of the gradient, not of the loss (nn_update_params); 0 is 1
};
// One row a token (TRL 1.x): d = logprob - old, w = exp(d), l = -min(w A, clip(w, 1-eps_low, 1+eps_high) A) + beta kl,
// kl = exp(ref - logprob) - (ref - logprob) - 1. `weight` [M] holds mask x normaliser of the loss type.
struct nn_policy {
    struct tensor loss;  // f32 [M]: l * weight
    struct tensor grad;  // f32 [M]: d(sum loss)/d(logprob) * loss_scale, to seed tape_backward
    struct tensor kl;    // f32 [M], 0 without ref
    struct tensor ratio; // f32 [M]: w
};
// old, advantage, weight f32 [M]; ref may have address 0 (beta must be 0 then).
struct nn_policy nn_policy_loss(struct tape *t, struct tensor logprob, struct tensor old, struct tensor ref,
                                struct tensor advantage, struct tensor weight, const struct nn_policy_params *p);

// ---- update.c ------------------------------------------------------------------------------------------------------
// One trained tensor (flat). master, grad, m, v f32; copy: bf16 or f16 tensor (one type in a list) written after the
// update, or address 0.
struct nn_update_item {
    struct tensor master, grad, m, v, copy;
    bool decay; // weight decay applies: tensors of two or more dimensions
};
struct nn_update; // the chunk list on the device, made once
// `items` are copied into a chunk list in `arena`; the tensors must outlive it. NULL + err.
struct nn_update *nn_update_create(struct gpu_device *dev, struct gpu_arena *arena, const struct nn_update_item *items,
                                   size_t count, struct vireo_error *err);
void nn_update_destroy(struct nn_update **u);

// The same with the state (m, v, and master where there is a copy) in a store of the caller's, such as a file,
// instead of in device memory: nn_update_step passes it window by window through two spans of
// nn_update_window_bytes each, which are host-visible and which the kernel works on in place. Same bits. In `items`
// those tensors have a shape and no memory. read and write must move exactly `bytes`; false + err ends the step,
// and the state in the store is then lost.
struct nn_update_store {
    void *context;
    bool (*read)(void *context, uint64_t at, void *to, size_t bytes, struct vireo_error *err);
    bool (*write)(void *context, uint64_t at, const void *from, size_t bytes, struct vireo_error *err);
};
// `store` is copied. What it holds is the caller's to fill first (nn_update_place). NULL + err.
struct nn_update *nn_update_create_stored(struct gpu_device *dev, struct gpu_arena *arena,
                                          const struct nn_update_item *items, size_t count,
                                          const struct nn_update_store *store, struct vireo_error *err);
// Of the two windows each, for `bytes` of state in all.
uint64_t nn_update_window_bytes(uint64_t bytes);
// Where value `first` of an item's part (0 m, 1 v, 2 master) stands in the store, and in *run how many follow it there.
uint64_t nn_update_place(const struct nn_update *u, size_t item, uint32_t part, uint64_t first, uint64_t *run);

struct nn_update_params {
    float lr, beta1, beta2, eps, weight_decay, max_grad_norm; // max_grad_norm 0: no clipping
    uint32_t step;                                            // from 1, for the bias correction
    float loss_scale; // the gradients hold this much times themselves (f16 activations); a power of two; 0 is 1
};
// norm = sqrt(sum g^2) / loss_scale by a fixed two-level sum; scale = min(1, max_norm / (norm + 1e-6)); AdamW (decoupled decay;
// specs section 13) as one multi-tensor dispatch (a window: one each) that reads the scale on the device. When the
// norm is not finite nothing is written. *norm (may be NULL) is read back: it is NaN or infinite exactly when the
// step was skipped.
bool nn_update_step(struct tape *t, struct nn_update *u, const struct nn_update_params *p, double *norm,
                    struct vireo_error *err);
void nn_update_zero_grad(struct tape *t, struct nn_update *u);

#endif
