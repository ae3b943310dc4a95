// Runs a fuzz target without libFuzzer: replays every file of the folders given as arguments, and mutates each of them.
//
//   fuzz_NAME [-runs=N] [-seed=S] [-max_len=BYTES] FILE|FOLDER...
//
// N mutants of each file (default 200), by Philox, so a run can be repeated: on a crash the mutant lies in the file
// named by VIREO_FUZZ_CRASH (default crash-NAME in the working folder). With clang, `-Dfuzz=true` links the same
// targets to libFuzzer instead, and this file is left out.
#include "compute/base/philox.h"

#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t max_len = 1 << 16;
static unsigned long runs = 200, executed;
static uint64_t seed = 1, draws;
static uint8_t *present;
static size_t present_size;
static char crash_path[512];

static uint32_t draw(uint32_t below)
{
    uint32_t v = philox(seed, (uint32_t)draws, (uint32_t)(draws >> 32), 0, 0).v[0];
    draws++;
    return below ? v % below : 0;
}

// Not async-signal-safe, which a process about to die may be: at worst it dies without the file.
static void keep_crash(int number)
{
    FILE *f = fopen(crash_path, "wb");
    if (f) {
        fwrite(present, 1, present_size, f);
        fclose(f);
    }
    fprintf(stderr, "signal %d after %lu runs; the input is in %s\n", number, executed, crash_path);
    signal(number, SIG_DFL);
    raise(number);
}

static void run_once(const uint8_t *data, size_t size)
{
    // An exact copy on the heap, so that the address sanitiser sees a read past its end.
    present = malloc(size ? size : 1);
    if (!present)
        abort();
    if (size)
        memcpy(present, data, size);
    present_size = size;
    alarm(20); // a hang is a finding
    LLVMFuzzerTestOneInput(present, size);
    alarm(0);
    executed++;
    free(present);
    present = NULL;
    present_size = 0;
}

// One mutation in place; `room` bytes may be used. Returns the new size.
static size_t mutate(uint8_t *d, size_t n, size_t room)
{
    static const char *const words[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        "\"",
                                        "\\",
                                        ",",
                                        ":",
                                        "null",
                                        "true",
                                        "-1",
                                        "1e999",
                                        "0",
                                        "\\u0000",
                                        "18446744073709551615",
                                        "{%",
                                        "%}",
                                        "{{",
                                        "}}",
                                        "-",
                                        "\n",
                                        "\xff",
                                        "\xf0\x9f\x98\x80",
                                        "\xcc\x81",
                                        "''",
                                        "(",
                                        ")",
                                        "|",
                                        ".",
                                        "<|",
                                        "\r\n"};
    size_t at = n ? draw((uint32_t)n) : 0, count, from;
    switch (draw(7)) {
    case 0:
        if (n)
            d[at] ^= (uint8_t)(1u << draw(8));
        return n;
    case 1:
        if (n)
            d[at] = (uint8_t)draw(256);
        return n;
    case 2: // remove a stretch
        count = n - at ? 1 + draw((uint32_t)(n - at < 64 ? n - at : 64)) : 0;
        if (count > n - at)
            count = n - at;
        memmove(d + at, d + at + count, n - at - count);
        return n - count;
    case 3: // repeat a stretch
        if (!n)
            return n;
        from = draw((uint32_t)n);
        count = 1 + draw((uint32_t)(n - from < 256 ? n - from : 256));
        if (count > n - from)
            count = n - from;
        if (n + count > room)
            return n;
        // Repeats it at the end of the stretch; what follows moves behind it.
        memmove(d + from + 2 * count, d + from + count, n - from - count);
        memmove(d + from + count, d + from, count);
        return n + count;
    case 4: { // insert a word
        const char *w = words[draw(sizeof words / sizeof words[0])];
        count = strlen(w);
        if (n + count > room)
            return n;
        memmove(d + at + count, d + at, n - at);
        memcpy(d + at, w, count);
        return n + count;
    }
    case 5: // cut
        return at;
    default: // swap two stretches' bytes
        if (n > 1) {
            from = draw((uint32_t)n);
            uint8_t b = d[at];
            d[at] = d[from];
            d[from] = b;
        }
        return n;
    }
}

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    uint8_t *original = malloc(max_len), *work = malloc(max_len);
    if (!original || !work)
        abort();
    size_t size = fread(original, 1, max_len, f);
    fclose(f);
    run_once(original, size);
    for (unsigned long i = 0; i < runs; i++) {
        size_t n = size;
        memcpy(work, original, size);
        for (uint32_t k = 1 + draw(4); k > 0; k--)
            n = mutate(work, n, max_len);
        run_once(work, n);
    }
    free(original);
    free(work);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// Files in the order of their names, so that the mutants do not depend on the file system.
static void run_path(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        fprintf(stderr, "%s: not found\n", path);
        exit(2);
    }
    if (!S_ISDIR(info.st_mode)) {
        run_file(path);
        return;
    }
    DIR *folder = opendir(path);
    if (!folder) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    char **names = NULL;
    size_t count = 0;
    for (struct dirent *e; (e = readdir(folder));) {
        if (e->d_name[0] == '.')
            continue;
        char **more = realloc(names, (count + 1) * sizeof *names);
        size_t bytes = strlen(path) + strlen(e->d_name) + 2;
        char *name = malloc(bytes);
        if (!more || !name)
            abort();
        names = more;
        snprintf(name, bytes, "%s/%s", path, e->d_name);
        names[count++] = name;
    }
    closedir(folder);
    if (count > 1)
        qsort(names, count, sizeof *names, by_name);
    for (size_t i = 0; i < count; i++) {
        run_path(names[i]);
        free(names[i]);
    }
    free(names);
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/'), *place = getenv("VIREO_FUZZ_CRASH");
    if (place)
        snprintf(crash_path, sizeof crash_path, "%s", place);
    else
        snprintf(crash_path, sizeof crash_path, "crash-%s", slash ? slash + 1 : argv[0]);
    static const int numbers[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        signal(numbers[i], keep_crash);
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-runs=", 6) == 0)
            runs = strtoul(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "-seed=", 6) == 0)
            seed = strtoull(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "-max_len=", 9) == 0)
            max_len = strtoul(argv[i] + 9, NULL, 10);
    }
    if (max_len == 0)
        max_len = 1;
    for (int i = 1; i < argc; i++)
        if (argv[i][0] != '-')
            run_path(argv[i]);
    printf("%lu inputs\n", executed);
    return executed ? 0 : 1;
}
