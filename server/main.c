// The program: one binary, a table of commands.
#include "compute/worker/worker.h"
#include "server/cli/cli.h"

#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"serve", "serve the API and the web page from a data folder", cli_serve},
    {"models", "make, import, list and delete models", cli_models},
    {"files", "upload, list and delete files", cli_files},
    {"datasets", "generate and upload datasets", cli_datasets},
    {"jobs", "create, watch and control fine-tuning jobs", cli_jobs},
    {"eval", "evaluate a model on a dataset with a grader", cli_eval},
    {"chat", "ask a model, with or without pictures", cli_chat},
    {"keys", "create and revoke API keys", cli_keys},
    {"devices", "list the Vulkan devices", worker_devices_main},
    {"bench", "time matrix products, attention, decoding, training steps", worker_bench_main},
    {"tune", "measure which tiles of matrix products a GPU computes fastest", worker_tune_main},
    {"worker", "what the server starts; not for people", worker_main},
};
enum { COUNT = sizeof commands / sizeof commands[0] };

static int usage(FILE *out, int status)
{
    fputs("Vireo trains vision-language models by reinforcement and serves them, over an OpenAI-compatible API.\n\n"
          "usage: vireo COMMAND [ARGUMENTS]      (vireo COMMAND --help tells more)\n\n",
          out);
    for (int i = 0; i < COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\nA first server: vireo models init --preset tiny --name tiny --data ./data && vireo serve --data ./data\n"
          "Environment: VIREO_URL and VIREO_KEY for commands that talk to a server, VIREO_DATA for serve,\n"
          "VIREO_LOG=error|warn|info|debug, VIREO_LOG_FORMAT=text|json.\n",
          out);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return usage(stderr, 64);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return usage(stdout, 0);
    if (strcmp(argv[1], "--version") == 0) {
        printf("vireo %s\n", VIREO_VERSION);
        return 0;
    }
    for (int i = 0; i < COUNT; i++)
        if (strcmp(commands[i].name, argv[1]) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "vireo: unknown command '%s'\n\n", argv[1]);
    return usage(stderr, 64);
}
