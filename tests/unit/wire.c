// Frames, messages and the job specification.
#include "compute/base/arena.h"
#include "compute/base/fault.h"
#include "compute/wire/frame.h"
#include "compute/wire/message.h"
#include "compute/wire/spec.h"
#include "tests/check.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static void frames_come_back_however_they_are_cut(void **state)
{
    struct vireo_error err;
    size_t sizes[3], total = 0;
    char *all = malloc(4096);
    json_t *sent[3] = {json_pack("{s:s,s:i}", "kind", "ack", "step", 7), json_object(),
                       json_pack("{s:s#}", "text", "a\0b\xc3\xa9", 5)};
    for (int i = 0; i < 3; i++) {
        char *bytes = frame_encode(sent[i], &sizes[i], &err);
        memcpy(all + total, bytes, sizes[i]);
        total += sizes[i];
        free(bytes);
    }
    for (size_t piece = 1; piece <= total; piece++) {
        struct frame_reader r = {0};
        int got = 0;
        for (size_t at = 0; at < total; at += piece) {
            size_t n = total - at < piece ? total - at : piece;
            REQUIRE_OK(frame_reader_feed(&r, all + at, n, &err));
            json_t *message;
            while (frame_next(&r, &message, &err) == FRAME_READY) {
                REQUIRE(got < 3 && json_equal(message, sent[got]));
                json_decref(message);
                got++;
            }
        }
        REQUIRE_INT(got, 3);
        REQUIRE_INT(r.size, 0);
        frame_reader_finish(&r);
    }
    for (int i = 0; i < 3; i++)
        json_decref(sent[i]);
    free(all);
}

static void refuse(const void *bytes, size_t count)
{
    struct frame_reader r = {0};
    struct vireo_error err = {0};
    json_t *message = NULL;
    REQUIRE_OK(frame_reader_feed(&r, bytes, count, &err));
    REQUIRE_INT(frame_next(&r, &message, &err), FRAME_BAD);
    REQUIRE_INT(err.code, VIREO_CORRUPT);
    frame_reader_finish(&r);
}

static void what_is_no_frame_is_refused(void **state)
{
    refuse("\0\0\0\0", 4);
    refuse("\1\0\0\4", 4); // 64 MiB and one byte: refused before a byte of it is awaited
    refuse("\2\0\0\0[]", 6);
    refuse("\2\0\0\0{x", 6);
    refuse("\x0d\0\0\0{\"a\":1,\"a\":2}", 17);
    // A whole frame of the greatest length is only awaited.
    struct frame_reader r = {0};
    struct vireo_error err;
    json_t *message;
    REQUIRE_OK(frame_reader_feed(&r, "\0\0\0\4{", 5, &err));
    REQUIRE_INT(frame_next(&r, &message, &err), FRAME_NONE);
    frame_reader_finish(&r);
}

static void *send_large(void *context)
{
    json_t *o = json_object();
    char *text = malloc(3000001);
    memset(text, 'x', 3000000);
    text[3000000] = 0;
    json_object_set_new(o, "text", json_string(text));
    bool done = frame_send(*(int *)context, o, NULL);
    json_decref(o);
    free(text);
    close(*(int *)context);
    return done ? context : NULL;
}

static void a_large_frame_crosses_a_socket_and_the_end_is_told(void **state)
{
    int fds[2];
    struct vireo_error err = {0};
    struct frame_reader r = {0};
    json_t *message;
    bool ended;
    pthread_t thread;
    void *sent;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    REQUIRE(pthread_create(&thread, NULL, send_large, &fds[1]) == 0);
    REQUIRE_OK(frame_receive(fds[0], &r, &message, &ended, &err));
    REQUIRE_INT(json_string_length(json_object_get(message, "text")), 3000000);
    json_decref(message);
    REQUIRE(!frame_receive(fds[0], &r, &message, &ended, &err));
    REQUIRE(ended);
    pthread_join(thread, &sent);
    REQUIRE(sent);
    // To a peer that is gone: an error, no signal.
    json_t *o = json_object();
    REQUIRE_FAIL(frame_send(fds[0], o, &err), VIREO_IO);
    json_decref(o);
    close(fds[0]);
    frame_reader_finish(&r);
}

static void a_frame_cut_by_the_end_is_an_error(void **state)
{
    int fds[2];
    struct vireo_error err;
    struct frame_reader r = {0};
    json_t *message;
    bool ended;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    REQUIRE_INT(write(fds[1], "\5\0\0\0{", 5), 5);
    close(fds[1]);
    REQUIRE_FAIL(frame_receive(fds[0], &r, &message, &ended, &err), VIREO_IO);
    REQUIRE(!ended);
    close(fds[0]);
    frame_reader_finish(&r);
}

static void errors_survive_the_way(void **state)
{
    struct vireo_error in, out;
    vireo_fail_kind(&in, VIREO_DEVICE_LOST, "device_lost", "vireo.x", "gone after %d steps \xc3", 3); // half a character
    json_t *o = message_error(&in);
    REQUIRE(o);
    message_read_error(o, &out);
    REQUIRE_INT(out.code, VIREO_DEVICE_LOST);
    REQUIRE_STRING(out.kind, "device_lost");
    REQUIRE_STRING(out.param, "vireo.x");
    REQUIRE_STRING(out.message, "gone after 3 steps ?");
    json_decref(o);
    message_read_error(NULL, &out);
    REQUIRE_INT(out.code, VIREO_INTERNAL);
    REQUIRE(out.message[0]);
}

static void every_kind_has_its_name(void **state)
{
    for (int kind = 0; kind < MESSAGE_UNKNOWN; kind++) {
        json_t *m = message_new((enum message_kind)kind);
        REQUIRE_INT(message_kind_of(m), kind);
        json_decref(m);
    }
    json_t *other = json_pack("{s:s}", "kind", "nonsense");
    REQUIRE_INT(message_kind_of(other), MESSAGE_UNKNOWN);
    REQUIRE_INT(message_kind_of(NULL), MESSAGE_UNKNOWN);
    json_decref(other);
}

static void a_specification_survives_the_way(void **state)
{
    struct vireo_error err;
    struct arena a;
    struct job_spec s, back;
    arena_init(&a, 0);
    job_spec_defaults(&s, JOB_GRPO);
    s.id = "ftjob-x";
    s.learning_rate = 0.1 + 0.2; // not a short decimal
    s.seed = 0x7fffffffffffffff;
    s.grader = json_pack("{s:s}", "type", "rule");
    json_t *o = job_spec_format(&s);
    REQUIRE_OK(job_spec_parse(o, &a, &back, &err));
    REQUIRE(back.learning_rate == s.learning_rate && back.seed == s.seed && back.method == JOB_GRPO);
    REQUIRE_STRING(back.id, "ftjob-x");
    json_t *again = job_spec_format(&back);
    REQUIRE(json_equal(o, again));
    json_decref(again);
    job_spec_finish(&back);
    json_object_set_new(o, "nonsense", json_true());
    REQUIRE_FAIL(job_spec_parse(o, &a, &back, &err), VIREO_INVALID);
    json_object_del(o, "nonsense");
    json_object_set_new(o, "leaves", json_integer(3));
    REQUIRE_FAIL(job_spec_parse(o, &a, &back, &err), VIREO_INVALID);
    json_decref(o);
    job_spec_finish(&s);
    arena_finish(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_back_however_they_are_cut),
        cmocka_unit_test(what_is_no_frame_is_refused),
        cmocka_unit_test(a_large_frame_crosses_a_socket_and_the_end_is_told),
        cmocka_unit_test(a_frame_cut_by_the_end_is_an_error),
        cmocka_unit_test(errors_survive_the_way),
        cmocka_unit_test(every_kind_has_its_name),
        cmocka_unit_test(a_specification_survives_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
