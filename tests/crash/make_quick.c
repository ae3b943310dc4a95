// make_quick DIR SEED: what a quick job needs: the tiny model (DIR/model), small shapes datasets (DIR/sft, DIR/rft) and
// the job specifications DIR/sft.json and DIR/grpo.json.
#include "compute/base/file.h"
#include "compute/dataset/shapes.h"
#include "compute/models/preset.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *images_of(const char *folder)
{
    json_t *o = json_object();
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[1024];
        if (!strstr(e->d_name, ".png"))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        json_object_set_new(o, e->d_name, json_string(path));
    }
    if (d)
        closedir(d);
    return o;
}

static bool write_spec(const char *dir, const char *name, json_t *spec)
{
    struct vireo_error err;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *text = json_dumps(spec, JSON_INDENT(1));
    bool done = text && file_write_atomic(path, text, strlen(text), &err);
    free(text);
    json_decref(spec);
    return done;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: make_quick DIR SEED\n");
        return 64;
    }
    const char *dir = argv[1];
    uint64_t seed = strtoull(argv[2], NULL, 10);
    struct vireo_error err;
    char model[600], sft[600], rft[600], work[600], file[700], grpo_file[700], out[600];
    snprintf(model, sizeof model, "%s/model", dir);
    snprintf(sft, sizeof sft, "%s/sft", dir);
    snprintf(rft, sizeof rft, "%s/rft", dir);
    snprintf(file, sizeof file, "%s/train.jsonl", sft);
    snprintf(grpo_file, sizeof grpo_file, "%s/train.jsonl", rft);
    struct shapes_dataset a = {.kind = SHAPES_SFT, .seed = seed, .count = 64, .objects_min = 1, .objects_max = 1};
    struct shapes_dataset b = {
        .kind = SHAPES_RFT, .seed = seed + 1, .count = 64, .objects_min = 2, .objects_max = 3, .pairs = true};
    if (!model_preset_write("tiny", seed, model, &err) || !shapes_write(&a, sft, &err) ||
        !shapes_write(&b, rft, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    snprintf(work, sizeof work, "%s/work-sft", dir);
    snprintf(out, sizeof out, "%s/out-sft", dir);
    json_t *spec = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:i,s:i,s:i,s:f,s:i,s:i}", "id", "sft", "method",
                             "supervised", "model_folder", model, "training_file", file, "work_folder", work,
                             "output_folder", out, "images", images_of(sft), "seed", (int)seed, "batch_size", 8,
                             "max_steps", 6, "learning_rate", 3e-3, "save_steps", 2, "leaves", 2);
    bool done = write_spec(dir, "sft.json", spec);
    snprintf(work, sizeof work, "%s/work-grpo", dir);
    char from[600];
    snprintf(from, sizeof from, "%s", out);
    snprintf(out, sizeof out, "%s/out-grpo", dir);
    // A random model hits no format: a reward that some answers earn gives every step a gradient.
    json_t *grader = json_pack("{s:s,s:s,s:s,s:s,s:s}", "type", "string_check", "name", "has_e", "input",
                               "{{ sample.output_text }}", "reference", "e", "operation", "like");
    spec = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:i,s:i,s:i,s:f,s:i,s:i,s:i,s:f,s:o}", "id", "grpo", "method",
                     "reinforcement", "model_folder", from, "training_file", grpo_file, "work_folder", work,
                     "output_folder", out, "images", images_of(rft), "seed", (int)seed, "batch_size", 4, "max_steps", 6,
                     "learning_rate", 3e-4, "save_steps", 2, "num_generations", 4, "max_completion_length", 12, "beta",
                     0.04, "grader", grader);
    return done && write_spec(dir, "grpo.json", spec) ? 0 : 1;
}
