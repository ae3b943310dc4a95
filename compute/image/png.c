#include "compute/image/png.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            crc_table[k][i] = crc_table[0][crc_table[k - 1][i] & 255] ^ (crc_table[k - 1][i] >> 8);
}

uint32_t image_crc32(uint32_t crc, const uint8_t *bytes, size_t count)
{
    pthread_once(&crc_once, make_crc_table);
    crc = ~crc;
    // Eight bytes a step: byte by byte would cost more than decoding the picture.
    for (; count >= 8; count -= 8, bytes += 8) {
        crc ^= (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
        crc = crc_table[7][crc & 255] ^ crc_table[6][crc >> 8 & 255] ^ crc_table[5][crc >> 16 & 255] ^
              crc_table[4][crc >> 24] ^ crc_table[3][bytes[4]] ^ crc_table[2][bytes[5]] ^ crc_table[1][bytes[6]] ^
              crc_table[0][bytes[7]];
    }
    for (; count > 0; count--, bytes++)
        crc = crc_table[0][(crc ^ *bytes) & 255] ^ (crc >> 8);
    return ~crc;
}

static uint32_t adler32(const uint8_t *bytes, size_t count)
{
    uint32_t a = 1, b = 0;
    while (count > 0) {
        size_t part = VIREO_MIN(count, 5552); // most steps before a 32-bit b can wrap
        count -= part;
        for (; part > 0; part--) {
            a += *bytes++;
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    return b << 16 | a;
}

// Bits go out from the lowest; Huffman codes are turned around before they are put.
struct bits {
    uint8_t *to;
    uint32_t held;
    unsigned count;
};

static void put(struct bits *b, uint32_t value, unsigned count)
{
    b->held |= value << b->count;
    b->count += count;
    while (b->count >= 8) {
        *b->to++ = (uint8_t)b->held;
        b->held >>= 8;
        b->count -= 8;
    }
}

static uint32_t turned(uint32_t code, unsigned length)
{
    uint32_t out = 0;
    for (unsigned i = 0; i < length; i++)
        out |= (code >> i & 1) << (length - 1 - i);
    return out;
}

// RFC 1951, 3.2.6: the fixed code of literal or length symbol 0..287.
static void put_symbol(struct bits *b, unsigned symbol)
{
    if (symbol < 144)
        put(b, turned(0x30 + symbol, 8), 8);
    else if (symbol < 256)
        put(b, turned(0x190 + symbol - 144, 9), 9);
    else if (symbol < 280)
        put(b, turned(symbol - 256, 7), 7);
    else
        put(b, turned(0xc0 + symbol - 280, 8), 8);
}

static void put_match(struct bits *b, unsigned length, unsigned distance)
{
    static const uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                             31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4,
                                             5, 5, 5, 5, 0};
    static const uint16_t distance_base[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,
                                               97,  129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
                                               8193, 12289, 16385, 24577};
    unsigned l = 28, d = 29;
    while (length_base[l] > length)
        l--;
    while (distance_base[d] > distance)
        d--;
    put_symbol(b, 257 + l);
    put(b, length - length_base[l], length_extra[l]);
    put(b, turned(d, 5), 5);
    put(b, distance - distance_base[d], d < 2 ? 0 : d / 2 - 1);
}

enum { HASH_BITS = 15, MIN_MATCH = 3, MAX_MATCH = 258, WINDOW = 32768 };

static unsigned hash3(const uint8_t *at)
{
    return ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16) * 2654435761u >> (32 - HASH_BITS);
}

// zlib stream with one block of fixed codes; greedy matches against the last place with the same three bytes. Every
// byte costs at most 9 bits, so that `to` needs in/8*9 + 16 bytes. `last` holds 1 << HASH_BITS entries.
static uint8_t *deflate_fixed(const uint8_t *in, size_t count, size_t *last, uint8_t *to)
{
    struct bits b = {.to = to};
    put(&b, 0x78, 8); // deflate, 32 KiB window
    put(&b, 0x01, 8);
    put(&b, 3, 3); // last block, fixed codes
    for (size_t i = 0; i < (size_t)1 << HASH_BITS; i++)
        last[i] = SIZE_MAX;
    for (size_t at = 0; at < count;) {
        size_t length = 0, before = SIZE_MAX;
        if (count - at >= MIN_MATCH) {
            unsigned h = hash3(in + at);
            before = last[h];
            last[h] = at;
            if (before != SIZE_MAX && at - before <= WINDOW) {
                size_t most = VIREO_MIN(count - at, MAX_MATCH);
                while (length < most && in[before + length] == in[at + length])
                    length++;
            }
        }
        if (length >= MIN_MATCH) {
            put_match(&b, (unsigned)length, (unsigned)(at - before));
            for (size_t i = at + 1; i < at + length && count - i >= MIN_MATCH; i++)
                last[hash3(in + i)] = i;
            at += length;
        } else {
            put_symbol(&b, in[at++]);
        }
    }
    put_symbol(&b, 256);
    put(&b, 0, (8 - b.count) & 7);
    uint32_t sum = adler32(in, count);
    for (int shift = 24; shift >= 0; shift -= 8)
        *b.to++ = (uint8_t)(sum >> shift);
    return b.to;
}

static void store32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
}

// Around the `count` bytes already at chunk + 8. Returns the place behind it.
static uint8_t *close_chunk(uint8_t *chunk, const char *type, size_t count)
{
    store32(chunk, (uint32_t)count);
    memcpy(chunk + 4, type, 4);
    store32(chunk + 8 + count, image_crc32(0, chunk + 4, count + 4));
    return chunk + 12 + count;
}

static int paeth(int a, int b, int c)
{
    int pa = abs(b - c), pb = abs(a - c), pc = abs(a + b - 2 * c);
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

static uint64_t filter_row(int type, const uint8_t *row, const uint8_t *above, size_t count, uint8_t *to)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        int a = i >= 3 ? row[i - 3] : 0, b = above ? above[i] : 0, c = above && i >= 3 ? above[i - 3] : 0;
        int guess = type == 0 ? 0 : type == 1 ? a : type == 2 ? b : type == 3 ? (a + b) / 2 : paeth(a, b, c);
        to[i] = (uint8_t)(row[i] - guess);
        sum += (uint64_t)abs((int8_t)to[i]);
    }
    return sum;
}

bool image_write_png(const struct image *im, uint8_t **out, size_t *count, struct vireo_error *err)
{
    size_t row = (size_t)im->width * 3, raw, most;
    if (!vireo_mul_size(row + 1, im->height, &raw) || raw > INT32_MAX / 2)
        return vireo_fail(err, VIREO_TOO_LARGE, "%u x %u pixels are too many for one PNG file.", im->width, im->height);
    most = raw + raw / 8 + 128;
    uint8_t *filtered = vireo_alloc(raw), *trial = vireo_alloc(row), *file = vireo_alloc(most);
    size_t *last = vireo_alloc(sizeof *last << HASH_BITS);
    bool done = filtered && trial && file && last;
    if (!done) {
        vireo_fail_memory(err, most);
        goto done;
    }
    for (uint32_t y = 0; y < im->height; y++) {
        // The usual rule: the filter whose output has the smallest sum of absolute values.
        const uint8_t *from = im->rgb + y * row, *above = y ? from - row : NULL;
        uint8_t *to = filtered + y * (row + 1);
        uint64_t best = UINT64_MAX;
        for (int type = 0; type < 5; type++) {
            uint64_t sum = filter_row(type, from, above, row, trial);
            if (sum >= best)
                continue;
            best = sum;
            to[0] = (uint8_t)type;
            memcpy(to + 1, trial, row);
        }
    }
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    uint8_t *at = file + 8;
    store32(at + 8, im->width);
    store32(at + 12, im->height);
    memcpy(at + 16, "\x08\x02\x00\x00\x00", 5); // 8 bits, RGB, no interlace
    at = close_chunk(at, "IHDR", 13);
    at = close_chunk(at, "IDAT", (size_t)(deflate_fixed(filtered, raw, last, at + 8) - (at + 8)));
    at = close_chunk(at, "IEND", 0);
    vireo_assert((size_t)(at - file) <= most);
    *count = (size_t)(at - file);
    *out = file;
    file = NULL;
done:
    free(filtered);
    free(trial);
    free(file);
    free(last);
    return done;
}
