// The state table of jobs: a long random walk, and what each request may do.
#include "server/jobs/queue.h"
#include "server/store/jobs.h"
#include "tests/check.h"

static void names_are_those_of_the_store(void **state)
{
    for (int i = 0; i < JOB_STATES; i++) {
        REQUIRE_STRING(job_state_name((enum job_state)i), store_job_statuses[i]);
        REQUIRE_INT(job_state_from_name(store_job_statuses[i]), i);
        REQUIRE_INT(job_state_is_final((enum job_state)i), store_status_is_final(store_job_statuses[i]));
    }
    REQUIRE_INT(job_state_from_name("nonsense"), JOB_STATES);
}

static void no_walk_leaves_the_table(void **state)
{
    uint64_t seed = 1;
    size_t ends[JOB_STATES] = {0};
    enum job_state at = JOB_VALIDATING;
    for (int i = 0; i < 200000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        enum job_event event = (enum job_event)((seed >> 33) % JOB_EVENTS);
        enum job_state next = job_next_state(at, event);
        if (next == JOB_STATES)
            continue;
        // Nothing leaves a final state; only a worker's start makes a job run; only a run succeeds.
        REQUIRE(!job_state_is_final(at) || next == at);
        REQUIRE(next != JOB_RUNNING || at == JOB_RUNNING || event == JOB_STARTED);
        REQUIRE(next != JOB_SUCCEEDED || at == JOB_RUNNING);
        REQUIRE(next != JOB_QUEUED || at == JOB_QUEUED || event == JOB_VALIDATED || event == JOB_LOST || event == JOB_ASKED_RESUME);
        at = next;
        if (job_state_is_final(at)) {
            ends[at]++;
            at = JOB_VALIDATING;
        }
    }
    REQUIRE(ends[JOB_SUCCEEDED] > 100 && ends[JOB_FAILED] > 100 && ends[JOB_CANCELLED] > 100);
}

static void requests_are_allowed_where_the_api_says(void **state)
{
    static const struct {
        enum job_state state;
        bool cancel, pause, resume;
    } rows[] = {
        {JOB_VALIDATING, true, false, false}, {JOB_QUEUED, true, true, false},     {JOB_RUNNING, true, true, false},
        {JOB_PAUSED, true, true, true},       {JOB_SUCCEEDED, false, false, false}, {JOB_FAILED, false, false, false},
        {JOB_CANCELLED, true, false, false}, // idempotent
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        REQUIRE_INT(job_next_state(rows[i].state, JOB_ASKED_CANCEL) != JOB_STATES, rows[i].cancel);
        REQUIRE_INT(job_next_state(rows[i].state, JOB_ASKED_PAUSE) != JOB_STATES, rows[i].pause);
        REQUIRE_INT(job_next_state(rows[i].state, JOB_ASKED_RESUME) != JOB_STATES, rows[i].resume);
    }
}

static void attempts_wait_longer_and_longer(void **state)
{
    REQUIRE(job_backoff_seconds(1) == 0);
    for (int i = 2; i < 20; i++) {
        REQUIRE(job_backoff_seconds(i) >= job_backoff_seconds(i - 1));
        REQUIRE(job_backoff_seconds(i) <= 360);
    }
    REQUIRE_NEAR(job_backoff_seconds(3), 10, 0);
    REQUIRE_NEAR(job_backoff_seconds(4), 20, 0);
    REQUIRE_NEAR(job_backoff_seconds(15), 360, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_those_of_the_store),
        cmocka_unit_test(no_walk_leaves_the_table),
        cmocka_unit_test(requests_are_allowed_where_the_api_says),
        cmocka_unit_test(attempts_wait_longer_and_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
