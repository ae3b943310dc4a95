// The store: rows, paging over deleted ids, blobs, recovery, read-only after a disk error, resume truncation.
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "server/store/blob.h"
#include "server/store/checkpoints.h"
#include "server/store/datasets.h"
#include "server/store/events.h"
#include "server/store/files.h"
#include "server/store/images.h"
#include "server/store/jobs.h"
#include "server/store/keys.h"
#include "server/store/metrics.h"
#include "server/store/models.h"
#include "server/store/rollouts.h"
#include "server/store/store.h"
#include "tests/check.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utime.h>

static struct vireo_error err;
static char folder[64];
static struct arena arena;

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/vireo-store-XXXXXX");
    arena_init(&arena, 0);
    return mkdtemp(folder) ? 0 : 1;
}

static int tear_down(void **state)
{
    (void)state;
    vireo_fault_set("");
    arena_finish(&arena);
    return file_remove_tree(folder, NULL) ? 0 : 1;
}

static struct store *opened(void)
{
    struct store *s = store_open(folder, &err);
    if (!s)
        fail_msg("store_open: %s", err.message);
    return s;
}

static struct store_file put_file(struct store *s, const char *text, const char *purpose)
{
    char sha[65];
    REQUIRE_OK(blob_put(s, text, strlen(text), sha, &err));
    struct store_file f = {.filename = "a.jsonl",
                           .purpose = purpose,
                           .sha256 = arena_copy_string(&arena, sha),
                           .status = "processed",
                           .bytes = (int64_t)strlen(text)};
    REQUIRE_OK(store_file_add(s, &f, &arena, &err));
    return f;
}

static void files_survive_reopening(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_file f = put_file(s, "hello", "fine-tune"), got;
    store_close(&s);
    s = opened();
    REQUIRE_OK(store_file_find(s, f.id, &arena, &got, &err));
    REQUIRE_STRING(got.filename, "a.jsonl");
    REQUIRE_INT(got.bytes, 5);
    uint64_t bytes = 0;
    REQUIRE(blob_exists(s, got.sha256, &bytes) && bytes == 5);
    REQUIRE_FAIL(store_file_find(s, "file-none", &arena, &got, &err), VIREO_NOT_FOUND);
    REQUIRE_STRING(err.kind, "file_not_found");
    store_close(&s);
}

static void only_one_process_has_the_folder(void **state)
{
    (void)state;
    struct store *s = opened();
    pid_t child = fork();
    if (child == 0) {
        struct store *second = store_open(folder, &err);
        _exit(!second && err.code == VIREO_CONFLICT ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    REQUIRE_INT(status, 0);
    store_close(&s);
}

static void pages_go_on_after_a_deleted_id(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_file f[5], *rows;
    size_t count;
    bool more;
    for (int i = 0; i < 5; i++) {
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        f[i] = put_file(s, text, i == 3 ? "vision" : "fine-tune");
    }
    struct store_page page = {.limit = 2};
    REQUIRE_OK(store_file_list(s, &page, NULL, &arena, &rows, &count, &more, &err));
    REQUIRE_INT(count, 2);
    REQUIRE(more);
    REQUIRE_STRING(rows[0].id, f[4].id);
    REQUIRE_STRING(rows[1].id, f[3].id);
    REQUIRE_OK(store_file_delete(s, f[3].id, &err));
    page.after = f[3].id;
    REQUIRE_OK(store_file_list(s, &page, NULL, &arena, &rows, &count, &more, &err));
    REQUIRE_STRING(rows[0].id, f[2].id);
    REQUIRE(more);
    page.after = f[1].id;
    REQUIRE_OK(store_file_list(s, &page, NULL, &arena, &rows, &count, &more, &err));
    REQUIRE_INT(count, 1);
    REQUIRE(!more);
    page = (struct store_page){.limit = 10, .ascending = true};
    REQUIRE_OK(store_file_list(s, &page, "fine-tune", &arena, &rows, &count, &more, &err));
    REQUIRE_INT(count, 4);
    REQUIRE_STRING(rows[0].id, f[0].id);
    page.after = "file-unknown";
    REQUIRE_FAIL(store_file_list(s, &page, NULL, &arena, &rows, &count, &more, &err), VIREO_INVALID);
    REQUIRE_STRING(err.param, "after");
    store_close(&s);
}

static void blobs_are_shared_and_collected(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_file a = put_file(s, "same", "vision"), b = put_file(s, "same", "vision");
    REQUIRE_STRING(a.sha256, b.sha256);
    REQUIRE_OK(store_file_delete(s, a.id, &err));
    REQUIRE(blob_exists(s, a.sha256, NULL));
    REQUIRE_FAIL(store_file_delete(s, a.id, &err), VIREO_NOT_FOUND);
    // A blob without row yet is not collected by the deletion of another row with the same content.
    char sha[65];
    REQUIRE_OK(blob_put(s, "same", 4, sha, &err));
    REQUIRE_OK(store_file_delete(s, b.id, &err));
    REQUIRE(blob_exists(s, sha, NULL));
    struct store_file c = {.filename = "c", .purpose = "vision", .sha256 = sha, .status = "processed", .bytes = 4};
    REQUIRE_OK(store_file_add(s, &c, &arena, &err));
    REQUIRE_OK(store_file_delete(s, c.id, &err));
    REQUIRE(!blob_exists(s, sha, NULL));
    store_close(&s);
}

static void start_reconciles_blobs_and_rows(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_file kept = put_file(s, "kept", "vision"), lost = put_file(s, "lost", "vision"), got;
    char fresh[65], stale[65], path[BLOB_PATH];
    REQUIRE_OK(blob_put(s, "fresh", 5, fresh, &err));
    REQUIRE_OK(blob_put(s, "stale", 5, stale, &err));
    REQUIRE(blob_path(s, stale, path));
    struct utimbuf old = {.actime = 1, .modtime = 1};
    REQUIRE_INT(utime(path, &old), 0);
    REQUIRE(blob_path(s, lost.sha256, path));
    REQUIRE_INT(unlink(path), 0);
    snprintf(path, sizeof path, "%s/left-over", store_temp_folder(s));
    REQUIRE_OK(file_write_atomic(path, "x", 1, &err));
    store_close(&s);
    s = opened();
    REQUIRE(!file_exists(path));
    REQUIRE(blob_exists(s, kept.sha256, NULL));
    REQUIRE(blob_exists(s, fresh, NULL));
    REQUIRE(!blob_exists(s, stale, NULL));
    REQUIRE_OK(store_file_find(s, lost.id, &arena, &got, &err));
    REQUIRE_STRING(got.status, "error");
    REQUIRE_OK(store_file_find(s, kept.id, &arena, &got, &err));
    REQUIRE_STRING(got.status, "processed");
    store_close(&s);
}

static void failed_commit_makes_the_store_read_only(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_file before = put_file(s, "before", "vision"), got;
    vireo_fault_set("fail:store.commit:1");
    struct store_file f = {.filename = "x", .purpose = "vision", .sha256 = before.sha256, .status = "processed"};
    REQUIRE_FAIL(store_file_add(s, &f, &arena, &err), VIREO_IO);
    vireo_fault_set("");
    char reason[128], sha[65];
    REQUIRE(store_is_read_only(s, reason, sizeof reason));
    REQUIRE_FAIL(store_check(s, &err), VIREO_UNAVAILABLE);
    REQUIRE_FAIL(store_file_add(s, &f, &arena, &err), VIREO_UNAVAILABLE);
    REQUIRE_FAIL(blob_put(s, "new", 3, sha, &err), VIREO_UNAVAILABLE);
    REQUIRE_OK(store_file_find(s, before.id, &arena, &got, &err));
    REQUIRE_FAIL(store_file_find(s, f.id, &arena, &got, &err), VIREO_NOT_FOUND);
    store_close(&s);
}

static void failed_blob_steps_leave_nothing(void **state)
{
    (void)state;
    struct store *s = opened();
    static const char *const points[] = {"fail:blob.write:1", "fail:blob.fsync:1", "fail:blob.rename:1"};
    char sha[65] = "untouched";
    for (int i = 0; i < 3; i++) {
        vireo_fault_set(points[i]);
        REQUIRE_FAIL(blob_put(s, "content", 7, sha, &err), VIREO_IO);
        vireo_fault_set("");
        REQUIRE_STRING(sha, "untouched");
        // "content" hashes to ed7002b4…; neither the blob nor the temporary may exist.
        REQUIRE(!blob_exists(s, "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73", NULL));
        REQUIRE(rmdir(store_temp_folder(s)) == 0 && mkdir(store_temp_folder(s), 0700) == 0);
    }
    REQUIRE_OK(blob_put(s, "content", 7, sha, &err));
    REQUIRE_STRING(sha, "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73");
    store_close(&s);
}

static void killed_at_each_point_acknowledged_files_are_there(void **state)
{
    (void)state;
    static const char *const points[] = {"kill:blob.write:3", "kill:blob.fsync:3", "kill:blob.rename:3",
                                         "kill:store.commit:4"};
    for (int i = 0; i < 4; i++) {
        int link[2];
        REQUIRE_INT(pipe(link), 0);
        pid_t child = fork();
        if (child == 0) {
            struct store *s = store_open(folder, &err);
            vireo_fault_set(points[i]);
            for (int k = 0; s && k < 9; k++) {
                char text[32];
                snprintf(text, sizeof text, "run %d file %d", i, k);
                struct store_file f = put_file(s, text, "vision");
                if (write(link[1], f.id, 48) != 48)
                    break;
            }
            _exit(1);
        }
        int status;
        close(link[1]);
        char ids[9][48];
        int acknowledged = 0;
        while (acknowledged < 9 && read(link[0], ids[acknowledged], 48) == 48)
            acknowledged++;
        close(link[0]);
        waitpid(child, &status, 0);
        REQUIRE(WIFSIGNALED(status));
        REQUIRE(acknowledged >= 1 && acknowledged < 9);
        struct store *s = opened();
        for (int k = 0; k < acknowledged; k++) {
            struct store_file got;
            REQUIRE_OK(store_file_find(s, ids[k], &arena, &got, &err));
            REQUIRE_STRING(got.status, "processed");
            char path[BLOB_PATH], sha[65];
            REQUIRE(blob_path(s, got.sha256, path));
            REQUIRE_OK(hash_file(path, sha, &err));
            REQUIRE_STRING(sha, got.sha256);
        }
        store_close(&s);
    }
}

static struct store_job put_job(struct store *s, const char *file)
{
    struct store_job j = {.status = "queued",
                          .model = "tiny",
                          .training_file = file,
                          .spec = "{}",
                          .metadata = "{\"team\":\"x\"}",
                          .eta_seconds = -1};
    struct store_event first = {.message = "created", .step = -1};
    REQUIRE_OK(store_job_add(s, &j, &first, 1, NULL, &arena, &err));
    return j;
}

static void jobs_hold_their_files_and_change_atomically(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_file f = put_file(s, "rows", "fine-tune");
    struct store_job j = put_job(s, f.id), got, *rows;
    REQUIRE_FAIL(store_file_delete(s, f.id, &err), VIREO_CONFLICT);
    REQUIRE_STRING(err.kind, "resource_in_use");
    j.status = "running";
    j.started_at = 7;
    struct store_event event = {.message = "started", .step = -1};
    REQUIRE_OK(store_job_update(s, &j, STORE_JOB_STATUS | STORE_JOB_STARTED, "queued", &event, 1, &err));
    REQUIRE_FAIL(store_job_update(s, &j, STORE_JOB_STATUS, "queued", &event, 1, &err), VIREO_CONFLICT);
    REQUIRE_OK(store_job_find(s, j.id, &arena, &got, &err));
    REQUIRE_STRING(got.status, "running");
    REQUIRE_INT(got.started_at, 7);
    struct store_event *events;
    size_t count;
    bool more;
    struct store_page page = {.limit = 10};
    REQUIRE_OK(store_event_list(s, j.id, &page, &arena, &events, &count, &more, &err));
    REQUIRE_INT(count, 2); // the refused update left none
    REQUIRE_STRING(events[0].message, "started");
    REQUIRE_OK(store_event_since(s, j.id, events[1].seq, 10, &arena, &events, &count, &err));
    REQUIRE_INT(count, 1);
    struct store_job_filter filter = {.metadata_key = "team", .metadata_value = "x"};
    REQUIRE_OK(store_job_list(s, &page, &filter, &arena, &rows, &count, &more, &err));
    REQUIRE_INT(count, 1);
    filter.metadata_value = "y";
    REQUIRE_OK(store_job_list(s, &page, &filter, &arena, &rows, &count, &more, &err));
    REQUIRE_INT(count, 0);
    REQUIRE_OK(store_job_unfinished(s, &arena, &rows, &count, &err));
    REQUIRE_INT(count, 1);
    j.status = "succeeded";
    REQUIRE_OK(store_job_update(s, &j, STORE_JOB_STATUS, NULL, NULL, 0, &err));
    int64_t counts[7];
    REQUIRE_OK(store_job_counts(s, counts, &err));
    REQUIRE_INT(counts[4], 1);
    REQUIRE_OK(store_file_delete(s, f.id, &err));
    store_close(&s);
}

static void rewinding_a_job_removes_later_steps_only(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_job j = put_job(s, "file-x"), got;
    for (int step = 1; step <= 5; step++) {
        struct store_event event = {.type = "metrics", .message = "step", .step = step};
        struct store_metric m = {.step = step, .values = "{\"reward\":0.5}"};
        struct store_progress p = {.step = step, .total_steps = 9, .trained_tokens = -1, .eta_seconds = 3};
        REQUIRE_OK(store_metric_add(s, j.id, &m, &p, &event, &err));
        struct store_sample samples[2] = {{.data = "{\"k\":0}"}, {.data = "{\"k\":1}"}};
        struct store_group g = {.job_id = j.id, .step = step, .data = "{}", .samples = samples, .sample_count = 2,
                                .reward_mean = step * 0.1};
        REQUIRE_OK(store_group_add(s, &g, 1, &arena, &err));
        if (step % 2 == 0) {
            struct store_checkpoint c = {.job_id = j.id, .folder = "jobs/x/step", .step = step};
            REQUIRE_OK(store_checkpoint_add(s, &c, NULL, &arena, &err));
        }
    }
    REQUIRE_OK(store_job_find(s, j.id, &arena, &got, &err));
    REQUIRE_INT(got.checkpoint_step, 4);
    REQUIRE_INT(got.step, 5);
    struct store_event note = {.message = "resumed", .step = -1};
    REQUIRE_OK(store_job_rewind(s, j.id, 3, &note, 1, &err));
    struct store_metric *metrics;
    struct store_event *events;
    struct store_group *groups;
    struct store_checkpoint *checkpoints;
    size_t count;
    bool more;
    struct store_page page = {.limit = 100};
    REQUIRE_OK(store_metric_list(s, j.id, 0, 100, &arena, &metrics, &count, &err));
    REQUIRE_INT(count, 3);
    REQUIRE_OK(store_event_list(s, j.id, &page, &arena, &events, &count, &more, &err));
    REQUIRE_INT(count, 5); // created, 3 metrics, resumed
    struct store_group_filter filter = {.job_id = j.id, .step = -1, .sort = "reward_mean"};
    REQUIRE_OK(store_group_list(s, &filter, &page, &arena, &groups, &count, &more, &err));
    REQUIRE_INT(count, 3);
    REQUIRE_INT(groups[0].step, 3);
    REQUIRE_INT(groups[0].sample_count, 2);
    REQUIRE_STRING(groups[0].samples[1].data, "{\"k\":1}");
    page = (struct store_page){.limit = 1, .after = groups[0].id};
    REQUIRE_OK(store_group_list(s, &filter, &page, &arena, &groups, &count, &more, &err));
    REQUIRE_INT(groups[0].step, 2);
    REQUIRE(more);
    page = (struct store_page){.limit = 100};
    REQUIRE_OK(store_checkpoint_list(s, j.id, &page, &arena, &checkpoints, &count, &more, &err));
    REQUIRE_INT(count, 1);
    REQUIRE_INT(checkpoints[0].step, 2);
    REQUIRE_OK(store_job_find(s, j.id, &arena, &got, &err));
    REQUIRE_INT(got.step, 3);
    store_close(&s);
}

static void idempotency_keys_name_the_first_resource(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_idempotency once = {.key_id = "", .route = "POST /v1/fine_tuning/jobs", .key = "k", .body_sha256 = "a"};
    const char *resource = "x";
    REQUIRE_OK(store_idempotency_find(s, &once, &arena, &resource, &err));
    REQUIRE(!resource);
    struct store_job j = {.status = "queued", .model = "m", .training_file = "f", .spec = "{}", .eta_seconds = -1};
    REQUIRE_OK(store_job_add(s, &j, NULL, 0, &once, &arena, &err));
    REQUIRE_OK(store_idempotency_find(s, &once, &arena, &resource, &err));
    REQUIRE_STRING(resource, j.id);
    once.body_sha256 = "b";
    REQUIRE_FAIL(store_idempotency_find(s, &once, &arena, &resource, &err), VIREO_CONFLICT);
    struct store_job second = {.status = "queued", .model = "m", .training_file = "f", .spec = "{}"};
    REQUIRE_FAIL(store_job_add(s, &second, NULL, 0, &once, &arena, &err), VIREO_CONFLICT);
    REQUIRE_FAIL(store_job_find(s, second.id, &arena, &j, &err), VIREO_NOT_FOUND);
    store_close(&s);
}

static void images_are_one_row_a_content(void **state)
{
    (void)state;
    struct store *s = opened();
    char sha[65];
    REQUIRE_OK(blob_put(s, "pixels", 6, sha, &err));
    struct store_image i[2] = {{.sha256 = sha, .format = "png", .width = 3, .height = 4, .bytes = 6},
                               {.sha256 = sha, .format = "png", .width = 3, .height = 4, .bytes = 6}};
    REQUIRE_OK(store_image_add(s, i, 2, &arena, &err));
    REQUIRE_STRING(i[0].id, i[1].id);
    struct store_dataset d = {.name = "d", .status = "ready", .format = "openai", .counts = "{}", .errors = "[]"};
    struct store_dataset_image mapped = {.name = "a.png", .image_id = i[0].id}, *rows;
    REQUIRE_OK(store_dataset_add(s, &d, &mapped, 1, &arena, &err));
    REQUIRE_FAIL(store_image_delete(s, i[0].id, &err), VIREO_CONFLICT);
    size_t count;
    REQUIRE_OK(store_dataset_images(s, d.id, &arena, &rows, &count, &err));
    REQUIRE_INT(count, 1);
    REQUIRE_STRING(rows[0].name, "a.png");
    REQUIRE_OK(store_dataset_delete(s, d.id, &err));
    REQUIRE_OK(store_image_delete(s, i[0].id, &err));
    REQUIRE(!blob_exists(s, sha, NULL));
    store_close(&s);
}

static void models_and_keys(void **state)
{
    (void)state;
    struct store *s = opened();
    struct store_model base = {.id = "tiny", .folder = "models/tiny", .family = "qwen2_5_vl"}, got, *rows;
    REQUIRE_OK(store_model_add(s, &base, &err));
    REQUIRE_FAIL(store_model_add(s, &base, &err), VIREO_CONFLICT);
    REQUIRE_FAIL(store_model_delete(s, "tiny", false, &err), VIREO_FORBIDDEN);
    struct store_model tuned = {.id = "ft:tiny", .folder = "models/ft", .family = "qwen2_5_vl", .parent = "tiny"};
    REQUIRE_OK(store_model_add(s, &tuned, &err));
    char path[128];
    snprintf(path, sizeof path, "%s/models/ft", folder);
    REQUIRE_OK(file_make_folders(path, &err));
    REQUIRE_OK(store_model_delete(s, "ft:tiny", false, &err));
    REQUIRE(!file_exists(path));
    REQUIRE_FAIL(store_model_find(s, "ft:tiny", &arena, &got, &err), VIREO_NOT_FOUND);
    size_t count;
    REQUIRE_OK(store_model_list(s, &arena, &rows, &count, &err));
    REQUIRE_INT(count, 1);
    REQUIRE_OK(store_model_add(s, &tuned, &err)); // the name is free again
    struct store_key k = {.name = "me", .prefix = "abcdefgh", .scopes = 7, .digest = {1, 2, 3}}, *keys;
    REQUIRE_OK(store_key_add(s, &k, &arena, &err));
    REQUIRE_OK(store_key_used(s, k.id, 99, &err));
    REQUIRE_OK(store_key_list(s, &arena, &keys, &count, &err));
    REQUIRE_INT(count, 1);
    REQUIRE_INT(keys[0].last_used_at, 99);
    REQUIRE_INT(keys[0].digest[2], 3);
    REQUIRE_OK(store_key_delete(s, k.id, &err));
    REQUIRE_FAIL(store_key_delete(s, k.id, &err), VIREO_NOT_FOUND);
    store_close(&s);
}

static struct store *shared;
static void *write_many(void *context)
{
    struct store_event e = {.job_id = context, .message = "m", .step = -1};
    for (int i = 0; i < 100; i++)
        if (!store_event_add(shared, &e, 1, NULL))
            return NULL;
    return context;
}

static void writers_of_many_threads_lose_nothing(void **state)
{
    (void)state;
    shared = opened();
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        REQUIRE_INT(pthread_create(&threads[i], NULL, write_many, "ftjob-1"), 0);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(threads[i], &result);
        REQUIRE(result);
    }
    struct store_event *rows;
    size_t count;
    REQUIRE_OK(store_event_since(shared, "ftjob-1", 0, 10000, &arena, &rows, &count, &err));
    REQUIRE_INT(count, 800);
    for (size_t i = 1; i < count; i++)
        REQUIRE(rows[i].seq > rows[i - 1].seq);
    store_close(&shared);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(files_survive_reopening),
        T(only_one_process_has_the_folder),
        T(pages_go_on_after_a_deleted_id),
        T(blobs_are_shared_and_collected),
        T(start_reconciles_blobs_and_rows),
        T(failed_commit_makes_the_store_read_only),
        T(failed_blob_steps_leave_nothing),
        T(killed_at_each_point_acknowledged_files_are_there),
        T(jobs_hold_their_files_and_change_atomically),
        T(rewinding_a_job_removes_later_steps_only),
        T(idempotency_keys_name_the_first_resource),
        T(images_are_one_row_a_content),
        T(models_and_keys),
        T(writers_of_many_threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
