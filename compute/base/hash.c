#include "compute/base/hash.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hash {
    EVP_MD_CTX *context;
};

struct hash *hash_create(void)
{
    struct hash *h = vireo_calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->context = EVP_MD_CTX_new();
    if (!h->context || EVP_DigestInit_ex(h->context, EVP_sha256(), NULL) != 1)
        hash_destroy(&h);
    return h;
}

bool hash_add(struct hash *h, const void *bytes, size_t count)
{
    return EVP_DigestUpdate(h->context, bytes, count) == 1;
}

bool hash_end(struct hash *h, uint8_t digest[HASH_BYTES])
{
    return EVP_DigestFinal_ex(h->context, digest, NULL) == 1;
}

void hash_destroy(struct hash **h)
{
    if (!*h)
        return;
    EVP_MD_CTX_free((*h)->context);
    free(*h);
    *h = NULL;
}

bool hash_bytes(const void *bytes, size_t count, uint8_t digest[HASH_BYTES])
{
    return EVP_Digest(bytes, count, digest, NULL, EVP_sha256(), NULL) == 1;
}

void hash_text(const uint8_t digest[HASH_BYTES], char text[HASH_TEXT])
{
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < HASH_BYTES; i++) {
        text[2 * i] = hex[digest[i] >> 4];
        text[2 * i + 1] = hex[digest[i] & 15];
    }
    text[2 * HASH_BYTES] = 0;
}

bool hash_file(const char *path, char text[HASH_TEXT], struct vireo_error *err)
{
    bool done = false;
    uint8_t digest[HASH_BYTES];
    unsigned char buffer[65536];
    struct hash *h = hash_create();
    FILE *f = fopen(path, "rb");
    if (!h) {
        vireo_fail_memory(err, sizeof *h);
    } else if (!f) {
        vireo_fail_errno(err, "cannot open %s", path);
    } else {
        size_t count;
        done = true;
        while (done && (count = fread(buffer, 1, sizeof buffer, f)) > 0)
            done = hash_add(h, buffer, count);
        if (ferror(f))
            done = vireo_fail_errno(err, "cannot read %s", path);
        else if (!done || !hash_end(h, digest))
            done = vireo_fail(err, VIREO_INTERNAL, "SHA-256 failed on %s", path);
        if (done)
            hash_text(digest, text);
    }
    if (f)
        fclose(f);
    hash_destroy(&h);
    return done;
}

void random_bytes(void *out, size_t count)
{
    vireo_assert(count <= 1 << 20);
    vireo_assert(RAND_bytes(out, (int)count) == 1);
}

void random_id(char *buffer, size_t size, const char *prefix, size_t count)
{
    static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    size_t used = strlen(prefix);
    vireo_assert(used + count + 1 <= size);
    memcpy(buffer, prefix, used);
    while (count > 0) {
        uint8_t byte;
        random_bytes(&byte, 1);
        if (byte >= 248)
            continue; // 248 = 4 * 62: keeps the characters equally likely
        buffer[used++] = alphabet[byte % 62];
        count--;
    }
    buffer[used] = 0;
}
