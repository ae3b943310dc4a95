// Arguments of attention_fwd.comp (attention_args), attention_bwd_query.comp and attention_bwd_key.comp
// (attention_grad_args). Columns of q, o and their gradients: head * head_dim + d; of k and v: kv head * head_dim + d.
#include "shaders/args/types.h"

#define ATTENTION_BLOCK 8 // keys of one step of the online softmax, counted from a query's key 0

// The "tile" family: keys of a step of its softmax (blocks of the above); (row, head) pairs of a workgroup forward; pairs and
// key rows of one backward.
#define ATTENTION_TILE_KEYS 16
#define ATTENTION_TILE_PAIRS 32
#define ATTENTION_TILE_BACK 16

struct attention_args {
    ADDRESS q;       // [rows, q_stride]: the q columns
    ADDRESS k, v;    // [key rows, kv_stride]: the k and the v columns
    ADDRESS queries; // u32 [rows, 4]: prefix_first, prefix_count, own_first, own_count; PAGED: page_first, keys, 0, 0
    ADDRESS pages;   // u32: page numbers; page_first is an index into it (PAGED only)
    ADDRESS o;       // [rows, o_stride]
    ADDRESS lse;     // [rows, heads]: log2 of the sum of 2^(score log2 e), or 0: not wanted
    UINT rows, group, kv_heads; // group: query heads a kv head
    UINT q_stride, kv_stride, o_stride;
    UINT page_shift; // log2 of the key rows a page (PAGED only)
    FLOAT scale; // of q.k, times log2 e
};

struct attention_grad_args {
    ADDRESS qkv;   // [rows, stride]: q | k | v
    ADDRESS spans; // by query: as above; by key: u32 [rows, 2], first and end of the queries that see the key
    ADDRESS o;     // [rows, o_stride]                 (by query)
    ADDRESS go;    // [rows, go_stride]: gradient of o
    ADDRESS lse;   // [rows, heads]
    ADDRESS delta; // [rows, heads]: sum over d of go * o; written by query, read by key
    ADDRESS gqkv;  // [rows, g_stride]: gradient of qkv: by query its q columns, by key its k and v columns
    UINT rows, group, kv_heads;
    UINT stride, o_stride, go_stride, g_stride;
    UINT add;    // 0: overwrite gqkv; 1: add to it
    FLOAT scale; // of q.k
};
