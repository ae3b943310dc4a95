// Commands: each gets its own arguments (argv[0] is its name) and returns the exit status of the program.
//
// Exit status: 0 done, 1 failed, 64 wrong usage, 69 the server cannot be reached, 78 a bind that is not allowed.
#ifndef VIREO_CLI_CLI_H
#define VIREO_CLI_CLI_H

#include "server/http/client.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 64, CLI_UNREACHABLE = 69, CLI_CONFIG = 78 };

int cli_serve(int argc, char **argv); // runs the server until a signal
int cli_models(int argc, char **argv); // makes, imports, lists and deletes models
int cli_files(int argc, char **argv); // uploads, lists, fetches and deletes files
int cli_datasets(int argc, char **argv); // generates and uploads datasets
int cli_jobs(int argc, char **argv); // creates, follows and controls jobs
int cli_chat(int argc, char **argv); // asks a model once
int cli_eval(int argc, char **argv); // evaluates a model and prints the score
int cli_keys(int argc, char **argv); // creates, lists and revokes keys

// ---- arguments
struct cli_option {
    const char *name;  // "--limit"
    const char *help;  // one line; "VALUE text" for options with a value, "-text" for switches
    const char **text; // where the value goes; NULL for a switch
    bool *flag;        // of a switch
};
struct cli_client_options {
    const char *url, *key, *data;
};
// Reads options in any order; what is no option goes to rest[0..*rest_count). False: *status is the exit status (usage was
// printed, --help on stdout). options ends with a NULL name. --url and --key are known to every client command when client is
// not NULL.
bool cli_parse(int argc, char **argv, const char *usage, const struct cli_option *options, struct cli_client_options *client,
               const char **rest, size_t rest_room, size_t *rest_count, int *status);
// A whole number within [min, max]; text NULL leaves *out. False: a message was printed.
bool cli_number(const char *name, const char *text, long long min, long long max, long long *out);

// ---- the server
// A client for --url/--key or VIREO_URL/VIREO_KEY, or, with --data, for the server that has that folder open. NULL: a message was
// printed.
struct http_client *cli_client(const struct cli_client_options *o);
int cli_report(const struct vireo_error *err); // prints "vireo: …"; the exit status
int cli_print(json_t *o);                      // pretty-prints and releases; CLI_DONE

// ---- the control socket of a data folder (serve.c listens, others ask)
// True: a server has the folder open; url and key (may be "") tell how to reach it.
bool control_ask(const char *folder, char *url, size_t url_size, char *key, size_t key_size);
struct app;
struct control;
struct control *control_start(struct app *app, const char *folder, const char *url, struct vireo_error *err);
void control_stop(struct control **c);

#endif
