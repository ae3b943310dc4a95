// SHA-256 by OpenSSL, whole and incremental, and random bytes from the operating system.
#ifndef VIREO_BASE_HASH_H
#define VIREO_BASE_HASH_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { HASH_BYTES = 32, HASH_TEXT = 65 };

struct hash; // one running digest

struct hash *hash_create(void); // NULL without memory
bool hash_add(struct hash *h, const void *bytes, size_t count);
bool hash_end(struct hash *h, uint8_t digest[HASH_BYTES]); // may be called once
void hash_destroy(struct hash **h);

bool hash_bytes(const void *bytes, size_t count, uint8_t digest[HASH_BYTES]);
// Lower-case hexadecimal with NUL.
void hash_text(const uint8_t digest[HASH_BYTES], char text[HASH_TEXT]);
// Digest of a file's content as text.
bool hash_file(const char *path, char text[HASH_TEXT], struct vireo_error *err);

// CSPRNG bytes; aborts if the operating system has none.
void random_bytes(void *out, size_t count);
// `prefix` + `count` random base62 characters, e.g. random_id(b, sizeof b, "ftjob-", 24).
void random_id(char *buffer, size_t size, const char *prefix, size_t count);

#endif
