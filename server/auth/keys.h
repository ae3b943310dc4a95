// API keys: "sk-vireo-" + 43 base62 characters (256 random bits). The store keeps SHA-256 and a prefix of 8 characters;
// slow hashes would buy nothing against 256 bits.
#ifndef VIREO_AUTH_KEYS_H
#define VIREO_AUTH_KEYS_H

#include "compute/base/error.h"
#include "compute/base/hash.h"

#include <stdint.h>

enum { AUTH_KEY_RANDOM = 43, AUTH_KEY_TEXT = 9 + 43 + 1, AUTH_PREFIX = 8 };
// Bits are those of enum http_scope.
enum { AUTH_READ = 1, AUTH_INFER = 2, AUTH_TRAIN = 4, AUTH_ADMIN = 8, AUTH_DEFAULT = 7, AUTH_ALL = 15 };

void auth_key_create(char text[AUTH_KEY_TEXT]);
bool auth_key_is_wellformed(const char *text);
// Digest and public prefix (the 8 characters after "sk-vireo-", NUL-terminated).
bool auth_key_digest(const char *text, uint8_t digest[HASH_BYTES], char prefix[AUTH_PREFIX + 1]);
bool auth_equal(const uint8_t *a, const uint8_t *b, size_t count); // constant time
// "read", "infer", "train", "admin" -> bit; 0: unknown.
unsigned auth_scope_from_name(const char *name);
const char *auth_scope_name(unsigned bit);

#endif
