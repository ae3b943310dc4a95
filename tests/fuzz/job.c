// Bodies of POST /v1/fine_tuning/jobs and POST /v1/vireo/evaluations, and the spec that a worker is told: any JSON is refused with
// a sentence, or becomes a spec that is the same after a way over the wire and can be shown.
#include "compute/base/json.h"
#include "server/api/evaluation_json.h"
#include "server/api/job_json.h"
#include "tests/fuzz/require.h"

static void over_the_wire(const struct job_spec *s, struct arena *a)
{
    struct vireo_error err = {0};
    struct job_spec back;
    json_t *text = job_spec_format(s);
    FUZZ_REQUIRE(text && job_spec_parse(text, a, &back, &err));
    json_t *again = job_spec_format(&back);
    FUZZ_REQUIRE(json_equal(text, again));
    json_decref(text);
    json_decref(again);
    job_spec_finish(&back);
}

static void read_job(json_t *body, struct arena *a)
{
    struct vireo_error err = {0};
    struct job_request r = {0};
    if (!job_json_read(body, a, &r, &err)) {
        FUZZ_REQUIRE(err.message[0] && (err.code == VIREO_INVALID || err.code == VIREO_UNSUPPORTED));
        return;
    }
    const struct job_spec *s = &r.spec;
    FUZZ_REQUIRE(r.model && r.training_file && r.preset && s->batch_size > 0 && s->leaves > 0 && s->n_epochs > 0);
    FUZZ_REQUIRE((s->leaves & (s->leaves - 1)) == 0 && s->batch_size % s->leaves == 0 && s->learning_rate >= 0);
    FUZZ_REQUIRE(s->method == JOB_SFT || (s->grader && s->num_generations >= 2));
    over_the_wire(s, a);
    json_t *resolved = job_json_resolved(&r, job_json_model_name(r.model, r.suffix, "ftjob-0123456789", a));
    char *text = json_dumps(resolved, JSON_COMPACT);
    FUZZ_REQUIRE(text);
    struct store_job row = {.id = "ftjob-0123456789", .model = r.model, .training_file = r.training_file, .status = "queued",
                            .resolved = text, .metadata = "{}"};
    json_t *shown = job_json_show(&row, 1);
    FUZZ_REQUIRE(shown);
    json_decref(shown);
    free(text);
    json_decref(resolved);
    job_spec_finish(&r.spec);
}

static void read_evaluation(json_t *body, struct arena *a)
{
    struct vireo_error err = {0};
    struct evaluation_request r = {0};
    if (!evaluation_json_read(body, a, &r, &err)) {
        FUZZ_REQUIRE(err.message[0] && (err.code == VIREO_INVALID || err.code == VIREO_UNSUPPORTED));
        return;
    }
    FUZZ_REQUIRE(r.model && r.file && r.spec.grader && r.spec.eval_generations >= 1);
    over_the_wire(&r.spec, a);
    job_spec_finish(&r.spec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vireo_error err = {0};
    struct arena arena;
    struct job_spec spec;
    json_t *body = vireo_json_parse((const char *)data, size, &err);
    FUZZ_REQUIRE(body || err.message[0]);
    arena_init(&arena, 0);
    if (json_is_object(body)) {
        if (json_object_get(body, "training_file"))
            read_job(body, &arena);
        else
            read_evaluation(body, &arena);
        if (job_spec_parse(body, &arena, &spec, &err))
            job_spec_finish(&spec);
        else
            FUZZ_REQUIRE(err.message[0]);
    }
    arena_finish(&arena);
    json_decref(body);
    return 0;
}
