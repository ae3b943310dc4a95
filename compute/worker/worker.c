#include "compute/worker/worker.h"

#include "compute/base/check.h"
#include "compute/base/os.h"
#include "compute/nn/gemm_tune.h"
#include "compute/worker/link.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "worker"
#include "compute/base/log.h"

struct gpu_device *worker_open_device(const json_t *message, struct vireo_error *err)
{
    struct gpu_device_params p = {
        .select = json_string_value(json_object_get(message, "device")),
        .cache_folder = json_string_value(json_object_get(message, "cache_folder")),
        .memory_limit = (uint64_t)json_integer_value(json_object_get(message, "memory_limit")),
    };
    struct gpu_device *dev = gpu_device_create(&p, err);
    if (dev)
        gemm_tune_once(dev);
    return dev;
}

int worker_exit_of(const struct vireo_error *err)
{
    switch (err->code) {
    case VIREO_DEVICE_LOST: return WORKER_DEVICE_LOST;
    case VIREO_NO_MEMORY: return WORKER_NO_MEMORY;
    default: return WORKER_FAILED;
    }
}

static const struct role {
    const char *name;
    int (*run)(struct link *l);
} roles[] = {
    {"train", worker_train}, {"infer", worker_infer}, {"data", worker_data}, {"devices", worker_devices},
};

static int usage(void)
{
    fputs("usage: vireo worker --role train|infer|data|devices --fd N\n"
          "Started by the server, which speaks with it over descriptor N.\n"
          "Exit status: 0 done, 1 failed, 64 wrong usage, 70 device lost, 71 out of memory, 72 the server went away.\n",
          stderr);
    return WORKER_USAGE;
}

int worker_main(int argc, char **argv)
{
    const char *name = NULL;
    int fd = -1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--role") == 0)
            name = argv[i + 1];
        else if (strcmp(argv[i], "--fd") == 0)
            fd = (int)strtol(argv[i + 1], NULL, 10);
        else
            return usage();
    }
    const struct role *role = NULL;
    for (size_t i = 0; name && i < VIREO_COUNT(roles); i++)
        if (strcmp(roles[i].name, name) == 0)
            role = &roles[i];
    if (!role || fd < 3 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return usage();
    // The server decides about the end; a Ctrl-C in its terminal must not hit the workers before it could tell them.
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    os_die_with_parent();
    os_no_core_dumps();
    struct vireo_error err;
    struct link *l = link_open(fd, &err);
    if (!l) {
        log_error("%s", err.message);
        return WORKER_NO_MEMORY;
    }
    json_t *hello = message_new(MESSAGE_HELLO);
    if (hello) {
        json_object_set_new(hello, "role", json_string(role->name));
        json_object_set_new(hello, "pid", json_integer(getpid()));
    }
    link_send(l, hello);
    // The reading thread lives in `l` until the process ends: nothing is freed here on purpose.
    return role->run(l);
}
