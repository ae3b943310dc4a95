// Which block of keys the lanes of a subgroup look at next, when each lane is a query with its own key rows, in runs
// (nn_spans) or in pages (nn_kv), and its own progress. Used by the attention kernels that walk over keys.
#ifndef KEY_BLOCK_GLSL
#define KEY_BLOCK_GLSL

layout(constant_id = 1) const uint D = 16; // head_dim
layout(constant_id = 2) const uint U = 1;  // items a lane: more share the loads and broadcasts; no bits change
layout(constant_id = 3) const bool PAGED = false; // keys lie in pages; else in runs

// A block of ATTENTION_BLOCK keys is loaded by LOADERS lanes, PER keys each: key j by lane j % LOADERS as its number
// j / LOADERS.
const uint LOADERS = SUBGROUP < ATTENTION_BLOCK ? SUBGROUP : ATTENTION_BLOCK;
const uint PER = ATTENTION_BLOCK / LOADERS;

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

uint subgroup_max(uint x)
{
    [[unroll]] for (uint step = 1; step < SUBGROUP; step *= 2)
        x = max(x, subgroupShuffleXor(x, step));
    return x;
}

// For each item of this lane `span`: prefix_first, prefix_count, own_first, own_count, or page_first with PAGED; `count`
// its keys; `next` the first key it has not seen. `visible`: the keys an item sees, which is its count when it takes
// part, else 0. Without any waiting item an empty block is returned.
key_block meet(uvec4 span[U], uint count[U], uint next[U], key_pages pages, out uint visible[U])
{
    // The mapping of an item's next block: two blocks with equal words are the same rows as the same keys. A block
    // wholly in one run has no split and one base.
    uint split[U], prefix_base[U], own_base[U];
    key_block b;
    b.first = b.prefix_count = b.prefix_base = b.own_base = 0;
    [[unroll]] for (uint i = 0; i < U; i++) {
        uint u = U - 1 - i; // the first waiting item wins
        if (PAGED) {
            split[u] = prefix_base[u] = own_base[u] = 0;
            if (next[u] < count[u]) {
                uint page = U32(pages.pages).v[span[u].x + (next[u] >> pages.shift)];
                own_base[u] = (page << pages.shift) - (next[u] >> pages.shift << pages.shift);
            }
        } else {
            bool all_prefix = next[u] + ATTENTION_BLOCK <= span[u].y, all_own = next[u] >= span[u].y;
            split[u] = all_prefix || all_own ? 0 : span[u].y;
            own_base[u] = all_prefix ? span[u].x : span[u].z - span[u].y;
            prefix_base[u] = split[u] == 0 ? 0 : span[u].x;
        }

        uvec4 waiting = subgroupBallot(next[u] < count[u]);
        bool any = waiting != uvec4(0);
        uint leader = any ? subgroupBallotFindLSB(waiting) : 0;
        uvec4 found = uvec4(subgroupShuffle(next[u], leader), subgroupShuffle(split[u], leader),
                            subgroupShuffle(prefix_base[u], leader), subgroupShuffle(own_base[u], leader));
        b.first = any ? found.x : b.first;
        b.prefix_count = any ? found.y : b.prefix_count;
        b.prefix_base = any ? found.z : b.prefix_base;
        b.own_base = any ? found.w : b.own_base;
    }
    uint end = 0;
    [[unroll]] for (uint u = 0; u < U; u++) {
        bool same = next[u] == b.first && split[u] == b.prefix_count && prefix_base[u] == b.prefix_base &&
                    own_base[u] == b.own_base;
        visible[u] = same && next[u] < count[u] ? count[u] : 0;
        end = max(end, visible[u]);
    }
    b.end = subgroup_max(end);
    return b;
}

bool any_waits(uint count[U], uint next[U])
{
    bool waits = false;
    [[unroll]] for (uint u = 0; u < U; u++)
        waits = waits || next[u] < count[u];
    return subgroupBallot(waits) != uvec4(0);
}

#endif
