// A benchmark's JSON as tables.
#include "compute/worker/bench_roofline.h"

#include <string.h>

static double number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static void print_rooflines(FILE *to, const json_t *value, bool *head)
{
    const char *key;
    const json_t *member;
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++)
            print_rooflines(to, json_array_get(value, i), head);
        return;
    }
    if (!json_is_object(value))
        return;
    const json_t *r = json_object_get(value, "roofline");
    if (r && !*head) {
        fprintf(to, "\n%-64s %10s %10s %9s %9s %9s %9s  %s\n", "work", "ms", "GFLOP", "GB", "GFLOP/s", "GB/s", "fraction",
                "bound");
        *head = true;
    }
    if (r)
        fprintf(to, "%-64s %10.3f %10.4f %9.5f %9.2f %9.2f %9.3f  %s\n", json_string_value(json_object_get(r, "what")),
                1e3 * number(r, "seconds"), 1e-9 * number(r, "flops"), 1e-9 * number(r, "bytes"), number(r, "gflop_per_s"),
                number(r, "gbyte_per_s"), number(r, "roofline_fraction"), json_string_value(json_object_get(r, "bound")));
    json_object_foreach((json_t *)value, key, member)
        if (member != r)
            print_rooflines(to, member, head);
}

static void print_phases(FILE *to, const json_t *result)
{
    static const char *const columns[] = {"seconds_min", "seconds_median", "cpu_seconds_min", "cpu_seconds_median"};
    const char *phase;
    const json_t *value;
    if (!json_object_get(result, columns[0]))
        return;
    fprintf(to, "\n%-16s %12s %12s %12s %12s\n", "seconds", "least", "median", "CPU least", "CPU median");
    json_object_foreach(json_object_get(result, columns[0]), phase, value) {
        fprintf(to, "%-16s", phase);
        for (int i = 0; i < 4; i++) {
            const json_t *figure = json_object_get(json_object_get(result, columns[i]), phase);
            if (figure)
                fprintf(to, " %12.6f", json_number_value(figure));
            else
                fprintf(to, " %12s", "-");
        }
        fputc('\n', to);
    }
}

static void print_profile(FILE *to, const json_t *rows)
{
    if (json_array_size(rows))
        fprintf(to, "\n%-40s %8s %12s %10s\n", "kernel", "count", "seconds", "GFLOP/s");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        fprintf(to, "%-40s %8.0f %12.6f %10.2f\n", json_string_value(json_object_get(row, "kernel")), number(row, "count"),
                number(row, "seconds"), number(row, "gflops"));
    }
}

// Every other number, text and list of them, a member of a member by both names.
static void print_rest(FILE *to, const json_t *object, const char *prefix)
{
    const char *key;
    const json_t *value;
    char name[80];
    json_object_foreach((json_t *)object, key, value) {
        snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", key);
        if (strcmp(key, "roofline") == 0 || strncmp(key, "seconds_m", 9) == 0 || strncmp(key, "cpu_seconds_m", 13) == 0)
            continue;
        if (json_is_object(value))
            print_rest(to, value, name);
        else if (json_is_string(value))
            fprintf(to, "%-40s %s\n", name, json_string_value(value));
        else if (json_is_number(value))
            fprintf(to, "%-40s %.6g\n", name, json_number_value(value));
    }
}

void bench_print(FILE *to, const json_t *result)
{
    bool head = false;
    print_rest(to, result, "");
    print_rooflines(to, result, &head);
    print_phases(to, result);
    print_profile(to, json_object_get(result, "profile"));
}
