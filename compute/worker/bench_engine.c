#include "compute/worker/bench_engine.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/json.h"
#include "compute/base/philox.h"

bool bench_engine_read(const json_t *config, struct bench_engine *out, struct vireo_error *err)
{
    *out = (struct bench_engine){.image = 112, .prompts = 4, .group = 8, .new_tokens = 64, .text_tokens = 24, .runs = 5};
    return bench_read_model(config, &out->model, &out->type, err) &&
           json_get_integer(config, "", "image", 28, 4096, &out->image, err) &&
           json_get_integer(config, "", "prompts", 1, 1024, &out->prompts, err) &&
           json_get_integer(config, "", "group", 1, 256, &out->group, err) &&
           json_get_integer(config, "", "new_tokens", 1, 65536, &out->new_tokens, err) &&
           json_get_integer(config, "", "text_tokens", 1, 65536, &out->text_tokens, err) &&
           json_get_integer(config, "", "runs", 1, BENCH_MAX_RUNS, &out->runs, err);
}

void bench_engine_words(const struct model *m, uint32_t stream, uint32_t prompt, uint32_t n, uint32_t *ids)
{
    const uint32_t half = m->config.text.vocab_size / 2;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = half + philox(stream, prompt, i, 0, 0).v[0] % half;
}

static bool on_token(void *user, uint32_t sample, const struct engine_token *token)
{
    (void)sample;
    (void)token;
    ++*(uint64_t *)user;
    return true;
}

static void on_end(void *user, uint32_t sample, enum engine_end reason, const struct vireo_error *why)
{
    (void)user;
    (void)sample;
    (void)reason;
    (void)why;
}

struct generation bench_engine_request(uint64_t id, const struct prompt *prompt, uint32_t n, uint32_t max_tokens,
                                       float temperature, uint64_t *tokens)
{
    return (struct generation){
        .id = id,
        .prompt = prompt,
        .n = n,
        .sampling = {.temperature = temperature,
                     .top_p = 1,
                     .repetition_penalty = 1,
                     .logprob_temperature = 1,
                     .max_tokens = max_tokens,
                     .ignore_eos = true},
        .on_token = on_token,
        .on_end = on_end,
        .user = tokens,
    };
}
