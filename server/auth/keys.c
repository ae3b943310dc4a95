#include "server/auth/keys.h"

#include <openssl/crypto.h>

#include <string.h>

#define START "sk-vireo-"
static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

void auth_key_create(char text[AUTH_KEY_TEXT])
{
    random_id(text, AUTH_KEY_TEXT, START, AUTH_KEY_RANDOM);
}

bool auth_key_is_wellformed(const char *text)
{
    size_t length = strlen(START);
    return strncmp(text, START, length) == 0 && strlen(text) == length + AUTH_KEY_RANDOM &&
           strspn(text + length, digits) == AUTH_KEY_RANDOM;
}

bool auth_key_digest(const char *text, uint8_t digest[HASH_BYTES], char prefix[AUTH_PREFIX + 1])
{
    if (!auth_key_is_wellformed(text) || !hash_bytes(text, strlen(text), digest))
        return false;
    memcpy(prefix, text + strlen(START), AUTH_PREFIX);
    prefix[AUTH_PREFIX] = 0;
    return true;
}

bool auth_equal(const uint8_t *a, const uint8_t *b, size_t count)
{
    return CRYPTO_memcmp(a, b, count) == 0;
}

static const char *const names[] = {"read", "infer", "train", "admin"};

unsigned auth_scope_from_name(const char *name)
{
    for (unsigned i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0)
            return 1u << i;
    return 0;
}

const char *auth_scope_name(unsigned bit)
{
    for (unsigned i = 0; i < 4; i++)
        if (bit == 1u << i)
            return names[i];
    return "";
}
