// `vireo bench grpo|sft`: whole training steps through the trainer itself, from encoded image files and text to updated
// weights. Model, tokenizer and pictures are made here from the configuration; nothing is timed that a job does not do.
#include "compute/worker/bench.h"
#include "compute/worker/bench_cost.h"
#include "compute/worker/bench_roofline.h"
#include "compute/worker/bench_tools.h"

#include "compute/base/arena.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/base/os.h"
#include "compute/base/philox.h"
#include "compute/checkpoint/safetensors.h"
#include "compute/gpu/record.h"
#include "compute/image/png.h"
#include "compute/models/model.h"
#include "compute/tokenizer/train.h"
#include "compute/train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct setup {
    int64_t image, prompts, group, new_tokens, text_tokens, runs;
    double beta;
    enum dtype type;
    bool grpo, profile, checkpointing, keep, keep_features;
    int offload;
    json_t *model;
    char folder[64];
};

static bool read_setup(const json_t *config, bool grpo, struct setup *s, struct vireo_error *err)
{
    *s = (struct setup){
        .image = 112, .prompts = 4, .group = 8, .new_tokens = 64, .text_tokens = 24, .runs = 5, .beta = 0.04};
    s->grpo = grpo;
    s->keep = true;
    s->offload = OFFLOAD_AUTO;
    if (!bench_read_model(config, &s->model, &s->type, err) ||
        !json_get_integer(config, "", "image", 28, 4096, &s->image, err) ||
        !json_get_integer(config, "", "prompts", 1, 1024, &s->prompts, err) ||
        !json_get_integer(config, "", "group", 1, 256, &s->group, err) ||
        !json_get_integer(config, "", "new_tokens", 1, 65536, &s->new_tokens, err) ||
        !json_get_integer(config, "", "text_tokens", 1, 65536, &s->text_tokens, err) ||
        !json_get_integer(config, "", "runs", 1, 1000, &s->runs, err) ||
        !json_get_number(config, "", "beta", 0, 100, &s->beta, err) ||
        !json_get_bool(config, "", "profile", &s->profile, err) ||
        !json_get_bool(config, "", "gradient_checkpointing", &s->checkpointing, err) ||
        !json_get_choice(config, "", "offload", job_offload_names, &s->offload, err) ||
        !json_get_bool(config, "", "keep_activations", &s->keep, err) ||
        !json_get_bool(config, "", "keep_features", &s->keep_features, err))
        return false;
    snprintf(s->folder, sizeof s->folder, "/tmp/vireo-bench-XXXXXX");
    return mkdtemp(s->folder) != NULL || vireo_fail_errno(err, "cannot make a folder for the benchmark");
}

static bool write_file(const struct setup *s, const char *name, const void *bytes, size_t count,
                       struct vireo_error *err)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    return file_write_atomic(path, bytes, count, err);
}

static bool write_json(const struct setup *s, const char *name, const json_t *o, struct vireo_error *err)
{
    char *text = json_dumps(o, JSON_COMPACT);
    bool done = text ? write_file(s, name, text, strlen(text), err) : vireo_fail_memory(err, 1 << 12);
    free(text);
    return done;
}

// Bytes are tokens here: the tokenizer has no merges, so a text of n letters is n tokens.
static bool write_tokenizer(const struct setup *s, struct vireo_error *err)
{
    static const char chat[] =
        "{% for m in messages %}<|im_start|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}";
    const char *texts[1] = {"a"};
    struct tokenizer_train_params p = {.vocabulary_size = 264, .chat_template = chat};
    uint32_t size;
    return tokenizer_train(&p, texts, 1, s->folder, &size, err);
}

static bool write_config(const struct setup *s, json_t **out, struct vireo_error *err)
{
    struct tokenizer *t = tokenizer_load(s->folder, err);
    json_t *config = json_deep_copy(s->model);
    if (!t || !config) {
        tokenizer_destroy(&t);
        json_decref(config);
        return false;
    }
    static const char *const ids[][2] = {{"vision_start_token_id", "<|vision_start|>"},
                                         {"vision_end_token_id", "<|vision_end|>"},
                                         {"image_token_id", "<|image_pad|>"},
                                         {"video_token_id", "<|video_pad|>"}};
    for (size_t i = 0; i < 4; i++)
        json_object_set_new(config, ids[i][0], json_integer(tokenizer_find(t, ids[i][1])));
    static const char *const stored[] = {[DTYPE_F32] = "float32", [DTYPE_BF16] = "bfloat16", [DTYPE_F16] = "float16"};
    json_object_set_new(config, "dtype", json_string(stored[s->type]));
    json_object_del(config, "torch_dtype");
    json_t *generation = json_pack("{s:i}", "eos_token_id", (int)tokenizer_find(t, "<|im_end|>"));
    bool done = write_json(s, "config.json", config, err) && write_json(s, "generation_config.json", generation, err);
    json_decref(generation);
    tokenizer_destroy(&t);
    if (done)
        *out = config;
    else
        json_decref(config);
    return done;
}

// One picture and one question a prompt, each different.
static bool write_data(const struct setup *s, json_t **images, struct vireo_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    *images = json_object();
    bool done = f != NULL;
    for (int64_t i = 0; done && i < s->prompts; i++) {
        struct image im;
        uint8_t *png = NULL;
        size_t png_size = 0;
        char name[32], path[200], question[1024];
        snprintf(name, sizeof name, "%03d.png", (int)i);
        snprintf(path, sizeof path, "%s/%s", s->folder, name);
        done = image_init(&im, (uint32_t)s->image, (uint32_t)s->image, err);
        for (int64_t k = 0; done && k < s->image * s->image * 3; k++)
            im.rgb[k] = (uint8_t)philox(2, (uint32_t)i, (uint32_t)k, 0, 0).v[0];
        done = done && image_write_png(&im, &png, &png_size, err) && write_file(s, name, png, png_size, err);
        free(png);
        image_finish(&im);
        int64_t letters = s->text_tokens < 1000 ? s->text_tokens : 1000;
        for (int64_t k = 0; k < letters; k++)
            question[k] = (char)('a' + philox(3, (uint32_t)i, (uint32_t)k, 0, 0).v[0] % 26);
        question[letters] = 0;
        json_object_set_new(*images, name, json_string(path));
        fprintf(
            f,
            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"%s\"}},"
            "{\"type\":\"text\",\"text\":\"%s\"}]}",
            name, question);
        if (!s->grpo) {
            fputs(",{\"role\":\"assistant\",\"content\":\"", f);
            for (int64_t k = 0; k + 1 < s->new_tokens; k++)
                fputc('a' + (int)(philox(4, (uint32_t)i, (uint32_t)k, 0, 0).v[0] % 26), f);
            fputs("\"}", f);
        }
        fputs("]}\n", f);
    }
    if (f)
        fclose(f);
    done = done && write_file(s, "train.jsonl", text, size, err);
    free(text);
    return done;
}

// The timings of every step, and the work of the last one.
struct heard {
    struct gpu_device *dev;
    json_t *steps;
    double flops_before, flops; // the device's counter at the end of the step before; of the last step
    double bytes_before, bytes; // likewise
    double tokens_before, tokens; // tokens of prompts and completions, likewise
    double busy_before;           // seconds that the device computed
    double idle[1024];            // share of each step's time in which it did not
    size_t idle_count;
};

static void on_metrics(void *context, uint32_t step, const json_t *metrics)
{
    struct heard *h = context;
    const struct gpu_counters now = gpu_device_counters(h->dev);
    const double tokens = json_number_value(json_object_get(metrics, "num_tokens"));
    json_array_append(h->steps, json_object_get(metrics, "timing"));
    const double step_time = json_number_value(json_object_get(json_object_get(metrics, "timing"), "step_time"));
    if (step > 1 && step_time > 0 && h->idle_count < 1024) // the first step compiles
        h->idle[h->idle_count++] = fmax(0, 1 - (now.device_seconds - h->busy_before) / step_time);
    h->busy_before = now.device_seconds;
    h->flops = now.flops - h->flops_before;
    h->flops_before = now.flops;
    h->bytes = now.moved - h->bytes_before;
    h->bytes_before = now.moved;
    h->tokens = tokens - h->tokens_before;
    h->tokens_before = tokens;
}

// min and median of one phase over the steps after the first (which compiles).
static void add_phase(const json_t *steps, const char *phase, const char *name, bool cpu, json_t *least, json_t *median)
{
    double values[1024];
    size_t n = 0;
    for (size_t i = 1; i < json_array_size(steps) && n < 1024; i++) {
        const json_t *timing = json_array_get(steps, i);
        const json_t *from = cpu ? json_object_get(timing, "cpu") : timing;
        values[n++] = json_number_value(json_object_get(from, phase));
    }
    if (!n)
        return;
    const struct bench_figures f = bench_figures(values, n);
    json_object_set_new(least, name, json_real(f.least));
    json_object_set_new(median, name, json_real(f.median));
}

// Device time per kernel over all steps, the first included; each dispatch is timed alone.
static bool add_profile(struct gpu_device *dev, json_t *out, struct vireo_error *err)
{
    struct gpu_timer_row *rows = NULL;
    size_t count = 0;
    if (!gpu_timers_read(dev, &rows, &count, err))
        return false;
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s,s:I,s:f,s:f}", "kernel", rows[i].label, "count",
                                              (json_int_t)rows[i].count, "seconds", rows[i].seconds, "gflops",
                                              rows[i].seconds > 0 ? rows[i].flops / rows[i].seconds * 1e-9 : 0));
    free(rows);
    return json_object_set_new(out, "profile", list) == 0 || vireo_fail_memory(err, 1 << 12);
}

// Floating-point work of one step as the dispatches declared it, beside what the mathematics needs.
static bool add_flops(const struct setup *s, const struct heard *h, json_t *out, struct vireo_error *err)
{
    struct image_processor processor = image_processor_qwen2_5_vl();
    struct model *m = model_describe(s->model, err);
    uint32_t grid[3];
    uint64_t image_tokens;
    if (!m)
        return false;
    processor.patch_size = m->config.vision.patch_size;
    processor.merge_size = m->config.vision.spatial_merge_size;
    processor.temporal_patch_size = m->config.vision.temporal_patch_size;
    bool done = image_grid(&processor, (uint32_t)s->image, (uint32_t)s->image, grid, &image_tokens, err);
    if (done) {
        const uint32_t group = s->grpo ? (uint32_t)s->group : 1;
        const double sequence = h->tokens / (double)s->prompts / group;
        const struct bench_step step = {.prompts = (uint32_t)s->prompts,
                                        .group = group,
                                        .new_tokens = (uint32_t)s->new_tokens,
                                        .prompt_tokens = (uint32_t)(sequence - (double)s->new_tokens),
                                        .grid_h = grid[1],
                                        .grid_w = grid[2],
                                        .rollout = s->grpo,
                                        .reference = s->grpo && s->beta > 0};
        const double necessary = bench_step_flops(&m->config, &step);
        json_t *flops = json_pack("{s:f,s:f,s:f}", "counted", h->flops, "necessary", necessary, "ratio",
                                  necessary > 0 ? h->flops / necessary : 0);
        done = json_object_set_new(out, "flops", flops) == 0 || vireo_fail_memory(err, 256);
    }
    model_destroy(&m);
    return done;
}

static bool run(struct gpu_device *dev, const struct setup *s, json_t *images, json_t **out, struct vireo_error *err)
{
    struct arena a;
    struct job_spec spec;
    char file[200], work[200], output[200];
    snprintf(file, sizeof file, "%s/train.jsonl", s->folder);
    snprintf(work, sizeof work, "%s/work", s->folder);
    snprintf(output, sizeof output, "%s/out", s->folder);
    arena_init(&a, 0);
    job_spec_defaults(&spec, s->grpo ? JOB_GRPO : JOB_SFT);
    spec.id = "bench";
    spec.model_folder = s->folder;
    spec.training_file = file;
    spec.work_folder = work;
    spec.output_folder = output;
    spec.images = images;
    spec.batch_size = (uint32_t)s->prompts;
    spec.max_steps = (uint32_t)s->runs + 1;
    spec.shuffle = false;
    spec.num_generations = (uint32_t)s->group;
    spec.max_completion_length = (uint32_t)s->new_tokens;
    spec.beta = s->beta;
    spec.gradient_checkpointing = s->checkpointing;
    spec.offload = (enum job_offload)s->offload;
    spec.keep_activations = s->keep;
    spec.keep_features = s->keep_features; // off unless asked for: these steps all show the same pictures, epochs do not
    spec.ignore_eos = true;
    spec.log_completions = false;
    spec.save_steps = 0;
    spec.grader = json_pack("{s:s,s:s,s:s,s:s,s:s}", "type", "string_check", "name", "has_e", "input",
                            "{{ sample.output_text }}", "reference", "e", "operation", "like");
    struct heard heard = {.dev = dev, .steps = json_array()};
    struct train_hooks hooks = {.context = &heard, .metrics = on_metrics};
    gpu_timers_on(dev, s->profile);
    // What the plan says of these very sizes, beside what is measured.
    json_t *plan = NULL;
    struct job_spec sized = spec;
    sized.max_pixels = (uint64_t)s->image * (uint64_t)s->image;
    sized.max_prompt_length = (uint32_t)(sized.max_pixels / (28 * 28) + (uint64_t)s->text_tokens + 5);
    if (!s->grpo)
        sized.max_prompt_length += (uint32_t)s->new_tokens;
    struct plan_facts facts;
    bool done = plan_facts_read(&sized, &facts, err);
    facts.pictures = (uint64_t)s->prompts;
    facts.cpu_lanes = gpu_device_caps(dev)->type == GPU_CPU ? gpu_device_caps(dev)->subgroup_size : 0;
    done = done && train_plan(&sized, &facts, UINT64_MAX, &plan, err) && train_run(&spec, dev, &hooks, err) == TRAIN_DONE;
    if (done) {
        static const char *const phases[][2] = {
            {"step_time", "step"},      {"data", "data"},       {"sampling", "rollout"},   {"reward", "reward"},
            {"reference", "reference"}, {"training", "update"}, {"optimizer", "optimizer"}};
        json_t *least = json_object(), *median = json_object(), *cpu_least = json_object(), *cpu_median = json_object();
        for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++) {
            add_phase(heard.steps, phases[i][0], phases[i][1], false, least, median);
            add_phase(heard.steps, phases[i][0], phases[i][1], true, cpu_least, cpu_median);
        }
        double step = json_number_value(json_object_get(least, "step"));
        double tokens = (double)s->prompts * (s->grpo ? s->group : 1) * s->new_tokens;
        *out = json_pack("{s:s,s:o,s:o,s:o,s:o,s:f,s:{s:I,s:I},s:i}", "device", gpu_device_caps(dev)->name,
                         "seconds_min", least, "seconds_median", median, "cpu_seconds_min", cpu_least,
                         "cpu_seconds_median", cpu_median, "tokens_per_s", step > 0 ? tokens / step : 0, "peak_bytes",
                         "device", (json_int_t)gpu_device_counters(dev).bytes_peak, "rss", (json_int_t)os_peak_rss(),
                         "runs", (int)s->runs);
        done = *out != NULL || vireo_fail_memory(err, 1 << 12);
        if (done) {
            json_object_set(*out, "plan_bytes", plan);
            if (heard.idle_count)
                json_object_set_new(*out, "idle_share", json_real(bench_figures(heard.idle, heard.idle_count).median));
        }
        done = done && bench_roofline_set(*out, (struct bench_work){heard.flops, heard.bytes}, step, err,
                                          "%s step, %d prompts x %d, %d tokens each", s->grpo ? "grpo" : "sft",
                                          (int)s->prompts, s->grpo ? (int)s->group : 1, (int)s->new_tokens);
        if (done && (!add_flops(s, &heard, *out, err) || (s->profile && !add_profile(dev, *out, err)))) {
            json_decref(*out);
            done = false;
        }
    }
    json_decref(heard.steps);
    plan_facts_finish(&facts);
    json_decref(plan);
    json_decref(spec.grader);
    arena_finish(&a);
    return done;
}

static bool bench_train(struct gpu_device *dev, const json_t *config, bool grpo, json_t **out, struct vireo_error *err)
{
    struct setup s;
    struct vireo_error ignored;
    if (!read_setup(config, grpo, &s, err))
        return false;
    json_t *model = NULL, *images = NULL;
    static const char processor[] = "{\"min_pixels\":784,\"max_pixels\":12845056}";
    bool done = write_tokenizer(&s, err) && write_config(&s, &model, err) &&
                write_file(&s, "preprocessor_config.json", processor, sizeof processor - 1, err) &&
                bench_write_weights(dev, model, s.type, s.folder, err) &&
                write_data(&s, &images, err) && run(dev, &s, images, out, err);
    json_decref(model);
    json_decref(images);
    file_remove_tree(s.folder, &ignored);
    return done;
}

bool bench_grpo(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    return bench_train(dev, config, true, out, err);
}

bool bench_sft(struct gpu_device *dev, const json_t *config, json_t **out, struct vireo_error *err)
{
    return bench_train(dev, config, false, out, err);
}
