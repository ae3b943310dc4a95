// The Vulkan devices: for the server's memory budget, for GET /v1/vireo/system, and for `vireo devices`.
#include "compute/base/check.h"
#include "compute/gpu/device.h"
#include "compute/worker/link.h"
#include "compute/worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *device_json(const struct gpu_caps *c)
{
    char uuid[33], api[32];
    gpu_uuid_text(c->uuid, uuid);
    snprintf(api, sizeof api, "%u.%u.%u", c->api_version >> 22 & 127, c->api_version >> 12 & 1023, c->api_version & 4095);
    return json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:s,s:{s:I,s:I},s:i,s:b,s:b,s:o}", "index", (int)c->index, "name", c->name,
                     "uuid", uuid, "type", gpu_device_type_name(c->type), "driver", c->driver_name, "driver_info",
                     c->driver_info, "api", api, "memory", "heap_bytes", (json_int_t)c->heap_bytes, "budget_bytes",
                     (json_int_t)c->budget_bytes, "subgroup_size", (int)c->subgroup_size, "float16", c->float16, "coopmat",
                     c->coopmat_khr, "missing", c->missing[0] ? json_string(c->missing) : json_null());
}

static json_t *list_devices(struct vireo_error *err)
{
    struct gpu_caps *caps = NULL;
    size_t count = 0;
    if (!gpu_device_list(&caps, &count, err))
        return NULL;
    json_t *list = json_array();
    for (size_t i = 0; list && i < count; i++)
        json_array_append_new(list, device_json(&caps[i]));
    free(caps);
    if (!list)
        vireo_fail_memory(err, 1024);
    return list;
}

int worker_devices(struct link *l)
{
    struct vireo_error err;
    json_t *list = list_devices(&err), *m;
    if (!list) {
        link_send_error(l, MESSAGE_FAILED, &err);
        return worker_exit_of(&err);
    }
    m = message_new(MESSAGE_DEVICES);
    if (m)
        json_object_set(m, "devices", list);
    json_decref(list);
    link_send(l, m);
    return WORKER_DONE;
}

int worker_devices_main(int argc, char **argv)
{
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
            continue;
        }
        bool help = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
        fputs("usage: vireo devices [--json]\n\n"
              "Lists the Vulkan devices of this machine: name, driver, memory, features, and which one\n"
              "'--device auto' takes. Choose another with --device INDEX, UUID or part of the name.\n",
              help ? stdout : stderr);
        return help ? 0 : 64;
    }
    struct vireo_error err;
    bool done;
    if (json) {
        json_t *list = list_devices(&err);
        done = list != NULL;
        if (list) {
            json_dumpf(list, stdout, JSON_INDENT(2));
            fputc('\n', stdout);
        }
        json_decref(list);
    } else {
        done = gpu_device_print(stdout, &err);
    }
    if (!done)
        fprintf(stderr, "vireo: %s\n", err.message);
    return done ? 0 : 1;
}
