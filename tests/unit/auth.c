// Keys and who may call: form, digests, scopes, the loopback rule, sessions, the limit on failures.
#include "server/auth/policy.h"
#include "tests/check.h"

#include <time.h>

static struct vireo_error err;

static struct auth_key key_of(const char *text, const char *id, unsigned scopes)
{
    struct auth_key k = {.scopes = scopes};
    snprintf(k.id, sizeof k.id, "%s", id);
    REQUIRE(auth_key_digest(text, k.digest, k.prefix));
    return k;
}

static struct auth_request asking(const char *authorization, unsigned needed)
{
    return (struct auth_request){.authorization = authorization, .address = "10.0.0.1", .needed = needed};
}

static void keys_have_their_form(void **state)
{
    (void)state;
    char a[AUTH_KEY_TEXT], b[AUTH_KEY_TEXT];
    auth_key_create(a);
    auth_key_create(b);
    REQUIRE_INT(strlen(a), 9 + 43);
    REQUIRE(strncmp(a, "sk-vireo-", 9) == 0);
    REQUIRE(strcmp(a, b) != 0);
    REQUIRE(auth_key_is_wellformed(a));
    a[20] = '-';
    REQUIRE(!auth_key_is_wellformed(a));
    REQUIRE(!auth_key_is_wellformed("sk-vireo-short"));
    REQUIRE_INT(auth_scope_from_name("train"), AUTH_TRAIN);
    REQUIRE_INT(auth_scope_from_name("root"), 0);
    REQUIRE_STRING(auth_scope_name(AUTH_ADMIN), "admin");
}

static void without_keys_loopback_may_do_all_and_others_nothing(void **state)
{
    (void)state;
    struct auth *a = auth_create(&err);
    struct auth_result result;
    struct auth_request req = asking(NULL, AUTH_ADMIN);
    req.loopback = true;
    REQUIRE_OK(auth_check(a, &req, &result, &err));
    REQUIRE_INT(result.scopes, AUTH_ALL);
    req.loopback = false;
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_UNAUTHORIZED);
    req.needed = 0;
    REQUIRE_OK(auth_check(a, &req, &result, &err));
    REQUIRE_INT(result.scopes, 0);
    auth_destroy(&a);
}

static void a_key_opens_its_scopes_only(void **state)
{
    (void)state;
    struct auth *a = auth_create(&err);
    char good[AUTH_KEY_TEXT], other[AUTH_KEY_TEXT], header[80];
    auth_key_create(good);
    auth_key_create(other);
    struct auth_key keys[] = {key_of(good, "key_1", AUTH_READ | AUTH_INFER)};
    REQUIRE_OK(auth_set_keys(a, keys, 1, &err));
    struct auth_result result;
    snprintf(header, sizeof header, "Bearer %s", good);
    struct auth_request req = asking(header, AUTH_READ);
    REQUIRE_OK(auth_check(a, &req, &result, &err));
    REQUIRE_STRING(result.key_id, "key_1");
    req.needed = AUTH_TRAIN;
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_FORBIDDEN);
    REQUIRE(strstr(err.message, "train"));
    // Once a key exists loopback needs one too.
    req = asking(NULL, AUTH_READ);
    req.loopback = true;
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_UNAUTHORIZED);
    snprintf(header, sizeof header, "Bearer %s", other);
    req = asking(header, AUTH_READ);
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_UNAUTHORIZED);
    REQUIRE(!strstr(err.message, other));
    snprintf(header, sizeof header, "Basic %s", good);
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_UNAUTHORIZED);
    keys[0].expires_at = 1;
    REQUIRE_OK(auth_set_keys(a, keys, 1, &err));
    snprintf(header, sizeof header, "Bearer %s", good);
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_UNAUTHORIZED);
    auth_destroy(&a);
}

static void many_failures_from_an_address_block_it(void **state)
{
    (void)state;
    struct auth *a = auth_create(&err);
    char good[AUTH_KEY_TEXT], header[80];
    auth_key_create(good);
    struct auth_key key = key_of(good, "key_1", AUTH_ALL);
    REQUIRE_OK(auth_set_keys(a, &key, 1, &err));
    struct auth_result result;
    struct auth_request bad = asking("Bearer sk-vireo-wrong", AUTH_READ);
    for (int i = 0; i < 10; i++)
        REQUIRE_FAIL(auth_check(a, &bad, &result, &err), VIREO_UNAUTHORIZED);
    REQUIRE_FAIL(auth_check(a, &bad, &result, &err), VIREO_RATE_LIMITED);
    snprintf(header, sizeof header, "Bearer %s", good);
    struct auth_request fine = asking(header, AUTH_READ);
    REQUIRE_FAIL(auth_check(a, &fine, &result, &err), VIREO_RATE_LIMITED);
    fine.address = "10.0.0.2";
    REQUIRE_OK(auth_check(a, &fine, &result, &err));
    auth_destroy(&a);
}

static void sessions_stand_for_their_key_until_it_goes(void **state)
{
    (void)state;
    struct auth *a = auth_create(&err);
    char good[AUTH_KEY_TEXT], token[AUTH_KEY_RANDOM + 1];
    auth_key_create(good);
    struct auth_key key = key_of(good, "key_1", AUTH_READ);
    REQUIRE_OK(auth_set_keys(a, &key, 1, &err));
    REQUIRE_FAIL(auth_session_create(a, "sk-vireo-x", "10.0.0.1", token, &err), VIREO_UNAUTHORIZED);
    REQUIRE_OK(auth_session_create(a, good, "10.0.0.1", token, &err));
    struct auth_result result;
    struct auth_request req = {.session = token, .address = "10.0.0.1", .needed = AUTH_READ};
    REQUIRE_OK(auth_check(a, &req, &result, &err));
    REQUIRE_STRING(result.key_id, "key_1");
    auth_session_end(a, token);
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_UNAUTHORIZED);
    REQUIRE_OK(auth_session_create(a, good, "10.0.0.1", token, &err));
    REQUIRE_OK(auth_set_keys(a, NULL, 0, &err));
    REQUIRE_FAIL(auth_check(a, &req, &result, &err), VIREO_UNAUTHORIZED);
    auth_destroy(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_have_their_form),
        cmocka_unit_test(without_keys_loopback_may_do_all_and_others_nothing),
        cmocka_unit_test(a_key_opens_its_scopes_only),
        cmocka_unit_test(many_failures_from_an_address_block_it),
        cmocka_unit_test(sessions_stand_for_their_key_until_it_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
