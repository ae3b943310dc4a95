// Images of an uploaded archive, read in the sandbox. The server asks twice: for the list, from which rows are matched, and for the
// bytes of those that are named. Pixels stay packed; only headers are looked at.
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/os.h"
#include "compute/dataset/unpack.h"
#include "compute/image/decode.h"
#include "compute/worker/link.h"

#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CPU_SECONDS = 600 }; // 8 GiB of deflate take about 40

struct sending {
    struct link *link;
    size_t index;         // of the next image
    const json_t *wanted; // ascending; NULL: the list is asked for
    size_t next;          // in wanted
};

static bool is_wanted(struct sending *s)
{
    json_int_t want = json_integer_value(json_array_get(s->wanted, s->next));
    if (s->next >= json_array_size(s->wanted) || want != (json_int_t)s->index)
        return false;
    s->next++;
    return true;
}

static bool send_entry(void *context, const char *name, const void *bytes, size_t count, struct vireo_error *err)
{
    struct sending *s = context;
    vireo_fault("unpack.entry");
    if (image_sniff(bytes, count) == IMAGE_UNKNOWN)
        return true; // labels and notes beside the images; a row that names one is told so
    json_t *m = NULL;
    if (!s->wanted) {
        struct image_info info;
        if (!image_probe(bytes, count, NULL, &info, err)) {
            snprintf(err->param, sizeof err->param, "%s", name);
            return vireo_explain(err, "%.100s: ", name);
        }
        // A name that is no UTF-8 is no string of JSON, nor could a row name it.
        json_t *text = json_string(name);
        if (!text)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "file",
                                   "The archive's image %zu has a name that is not UTF-8.", s->index + 1);
        m = json_pack("{s:s,s:I,s:o,s:I,s:i,s:I,s:I}", "kind", message_name(MESSAGE_ENTRY), "index", (json_int_t)s->index,
                      "name", text, "bytes", (json_int_t)count, "format", (int)info.format, "width", (json_int_t)info.width,
                      "height", (json_int_t)info.height);
        if (!m)
            return vireo_fail_memory(err, count);
        link_send(s->link, m);
    } else if (is_wanted(s)) {
        m = json_pack("{s:s,s:I,s:I}", "kind", message_name(MESSAGE_ENTRY), "index", (json_int_t)s->index, "bytes",
                      (json_int_t)count);
        if (!m)
            return vireo_fail_memory(err, count);
        link_send_bytes(s->link, m, bytes, count);
    }
    s->index++;
    return true;
}

_Noreturn void worker_unpack(struct link *l, const json_t *message)
{
    struct vireo_error err = {0};
    const char *path = json_string_value(json_object_get(message, "path"));
    const json_t *wanted = json_object_get(message, "wanted");
    struct sending s = {.link = l, .wanted = json_is_array(wanted) ? wanted : NULL};
    struct file_map map = {0};
    // Before the sandbox, in which nothing can be opened.
    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        setlocale(LC_CTYPE, "en_US.UTF-8"); // macOS
    bool done = path ? file_map_open(path, &map, &err) : vireo_fail(&err, VIREO_INTERNAL, "no path was named");
    done = done && os_limit_cpu(CPU_SECONDS, &err) && os_sandbox_compute_only(&err) &&
           unpack_each(map.data, map.size, &unpack_default_limits, send_entry, &s, &err);
    json_t *last = done ? json_pack("{s:s,s:I}", "kind", message_name(MESSAGE_UNPACKED), "entries", (json_int_t)s.index) : NULL;
    if (done)
        link_send(l, last);
    else
        link_send_error(l, MESSAGE_FAILED, &err);
    _exit(done ? WORKER_DONE : WORKER_FAILED); // in the sandbox: no exit handler of a library could do its work
}
