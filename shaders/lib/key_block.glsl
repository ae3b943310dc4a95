// Which block of keys the lanes of a subgroup look at next, when each lane is a query with its own key rows, in runs
// (nn_spans) or in pages (nn_kv), and its own progress. Used by the attention kernels that walk over keys.
#ifndef KEY_BLOCK_GLSL
#define KEY_BLOCK_GLSL
#include "shaders/lib/head_values.glsl"

layout(constant_id = 1) const uint D = 16; // head_dim
layout(constant_id = 2) const uint U = 1;  // items a lane: more share the loads and broadcasts; no bits change
layout(constant_id = 3) const bool PAGED = false; // keys lie in pages; else in runs
// Storage types: 0 f32, 1 bf16, 2 fp16. Backward, k and v have the type of q.
layout(constant_id = 4) const uint Q_TYPE = 0;
layout(constant_id = 5) const uint KV_TYPE = 0;
layout(constant_id = 6) const uint O_TYPE = 0;
layout(constant_id = 7) const uint GO_TYPE = 0;   // gradient of o
layout(constant_id = 8) const uint GQKV_TYPE = 0; // gradient of q, k, v

// A block of ATTENTION_BLOCK rows (keys, or queries seen from a key) is loaded by LOADERS lanes, PER rows each: row j by
// lane j % LOADERS as its number j / LOADERS. In a subgroup of several times as many lanes each holds one of PARTS parts
// of its row, SHARE values: lane / LOADERS says which.
const uint LOADERS = SUBGROUP < ATTENTION_BLOCK ? SUBGROUP : ATTENTION_BLOCK;
const uint PER = ATTENTION_BLOCK / LOADERS;
const uint QUARTERS = D % 16 == 0 ? 4 : 1;
const uint HALVES = D % 8 == 0 ? 2 : 1;
const uint MOST_PARTS = QUARTERS < HALVES ? HALVES : QUARTERS;
const uint REPEATS = SUBGROUP / LOADERS;
const uint PARTS = REPEATS < MOST_PARTS ? REPEATS : MOST_PARTS;
const uint SHARE = D / PARTS;
#define LOADED_ROW(n) ((n) * LOADERS + gl_SubgroupInvocationID % LOADERS)
#define LOADED_PART (gl_SubgroupInvocationID / LOADERS % PARTS)
// Value d of row j of a block held as x[PER][SHARE].
#define BLOCK_VALUE(x, j, d) subgroupBroadcast(x[(j) / LOADERS][(d) % SHARE], (j) % LOADERS + LOADERS * ((d) / SHARE))

const float LOG2_E = 1.4426950408889634;
#define MINUS_INFINITY uintBitsToFloat(0xff800000u)
#define NOT_A_NUMBER uintBitsToFloat(0x7fc00000u)

// On the bits: compilers may assume away isnan and comparisons that only NaN fails.
bool is_finite(float x)
{
    return (floatBitsToUint(x) & 0x7f800000u) != 0x7f800000u;
}

// Key j of an item lies in row (pages[page_first + j / 2^shift] << shift) + j % 2^shift. A page holds whole blocks.
struct key_pages {
    uvec2 pages;
    uint shift;
};

struct key_block {
    uint first, end; // key numbers: the block starts at first; from `end` on nobody who takes part sees a key
    uint prefix_count, prefix_base, own_base; // key j is row j + (j < prefix_count ? prefix_base : own_base)
};

uint key_row(key_block b, uint j)
{
    return j + (j < b.prefix_count ? b.prefix_base : b.own_base);
}

// The largest of all lanes. A CPU driver runs shuffles and reductions lane by lane in a loop through memory; broadcasts of
// constant lanes are two instructions each.
const uint CPU_LANES = 16; // the most a CPU driver has
uint subgroup_max(uint x)
{
    if (SUBGROUP > CPU_LANES)
        return subgroupMax(x);
    uint most = subgroupBroadcast(x, 0);
    [[unroll]] for (uint lane = 1; lane < CPU_LANES; lane++)
        most = max(most, subgroupBroadcast(x, lane % SUBGROUP));
    return most;
}

// What any part of row j found (broken[PER], each 0 or NaN), for all lanes: 0, or NaN.
float broken_row(float broken[PER], uint j)
{
    float any = 0;
    [[unroll]] for (uint part = 0; part < PARTS; part++)
        any += subgroupBroadcast(broken[j / LOADERS], j % LOADERS + LOADERS * part);
    return any;
}

#define NOBODY 0xffffffffu
// The first item of the subgroup (u * SUBGROUP + lane) that has keys left, or NOBODY.
uint first_waiting(uint count[U], uint next[U])
{
    uint none = 0; // ~item, so that the first is the largest
    [[unroll]] for (uint u = 0; u < U; u++)
        none = max(none, next[u] < count[u] ? ~(u * SUBGROUP + gl_SubgroupInvocationID) : 0);
    return ~subgroup_max(none);
}

// The next block of the item `leader` (first_waiting). For each item of this lane `span`: prefix_first, prefix_count,
// own_first, own_count, or page_first with PAGED; `count` its keys; `next` the first key it has not seen. `visible`: the
// keys an item sees, which is its count when it takes part, else 0. Nobody waits: an empty block.
key_block meet(uint leader, uvec4 span[U], uint count[U], uint next[U], key_pages pages, out uint visible[U])
{
    // The mapping of an item's next block: two blocks with equal words are the same rows as the same keys. A block
    // wholly in one run has no split and one base.
    uvec4 place[U], mine = uvec4(0);
    [[unroll]] for (uint u = 0; u < U; u++) {
        place[u] = uvec4(next[u], 0, 0, 0);
        if (PAGED) {
            if (next[u] < count[u]) {
                uint page = U32(pages.pages).v[span[u].x + (next[u] >> pages.shift)];
                place[u].w = (page << pages.shift) - (next[u] >> pages.shift << pages.shift);
            }
        } else {
            bool all_prefix = next[u] + ATTENTION_BLOCK <= span[u].y, all_own = next[u] >= span[u].y;
            place[u].y = all_prefix || all_own ? 0 : span[u].y;
            place[u].z = place[u].y == 0 ? 0 : span[u].x;
            place[u].w = all_prefix ? span[u].x : span[u].z - span[u].y;
        }
        mine = leader / SUBGROUP == u ? place[u] : mine;
    }
    uint lane = leader % SUBGROUP;
    uvec4 found = uvec4(subgroupBroadcast(mine.x, lane), 0, 0, subgroupBroadcast(mine.w, lane));
    if (!PAGED) {
        found.y = subgroupBroadcast(mine.y, lane);
        found.z = subgroupBroadcast(mine.z, lane);
    }
    key_block b = key_block(found.x, 0, found.y, found.z, found.w);
    uint end = 0;
    [[unroll]] for (uint u = 0; u < U; u++) {
        bool same = place[u] == found;
        visible[u] = same && next[u] < count[u] ? count[u] : 0;
        end = max(end, visible[u]);
    }
    b.end = subgroup_max(end);
    return b;
}

#endif
