// Which block of keys the lanes of a subgroup look at next, when each lane is a query with its own runs of key rows
// (nn_spans) and its own progress. Used by the attention kernels that walk over keys.
#ifndef KEY_BLOCK_GLSL
#define KEY_BLOCK_GLSL

layout(constant_id = 1) const uint D = 16; // head_dim

// A block of ATTENTION_BLOCK keys is loaded by LOADERS lanes, PER keys each: key j by lane j % LOADERS as its j / LOADERS.
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

struct key_block {
    uint first, end; // key numbers: the block starts at first; from `end` on nobody who takes part sees a key
    uint prefix_count, prefix_base, own_base; // key j is row j + (j < prefix_count ? prefix_base : own_base)
    bool taken;      // this lane takes part
    uint visible;    // keys this lane sees: its count when it takes part, else 0
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

// `span`: prefix_first, prefix_count, own_first, own_count of this lane; `count` its keys; `next` the first key it has
// not seen. Without any waiting lane an empty block is returned.
key_block meet(uvec4 span, uint count, uint next)
{
    // The mapping of my next block: two blocks with equal words are the same rows as the same keys. A block wholly in
    // one run has a split of 0 or of all ones and one base only.
    bool all_prefix = next + ATTENTION_BLOCK <= span.y, all_own = next >= span.y;
    uint split = all_prefix || all_own ? 0 : span.y;
    uint own_base = all_prefix ? span.x : span.z - span.y;
    uint prefix_base = split == 0 ? 0 : span.x;

    uvec4 waiting = subgroupBallot(next < count);
    uint leader = (waiting.x | waiting.y) == 0 ? 0 : subgroupBallotFindLSB(waiting);
    key_block b;
    b.first = subgroupShuffle(next, leader);
    b.prefix_count = subgroupShuffle(split, leader);
    b.prefix_base = subgroupShuffle(prefix_base, leader);
    b.own_base = subgroupShuffle(own_base, leader);
    b.taken = next < count && next == b.first && split == b.prefix_count && prefix_base == b.prefix_base &&
              own_base == b.own_base;
    b.visible = b.taken ? count : 0;
    b.end = subgroup_max(b.visible);
    return b;
}

#endif
