// Build-time tool: puts files into C.
//   embed text NAME OUTPUT INPUT          static const char NAME[]: the text with a NUL behind it
//   embed files NAME OUTPUT FOLDER INPUT...  struct embedded_file NAME[] (server/embedded.h), ends with a NULL path;
//                                            paths are those below the last folder of this name
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *load(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    size_t used = 0, capacity = 0;
    while (file) {
        if (used == capacity && !(bytes = realloc(bytes, capacity = capacity * 2 + 65536)))
            break;
        size_t got = fread(bytes + used, 1, capacity - used, file);
        if (!got)
            break;
        used += got;
    }
    if (!file || !bytes || ferror(file)) {
        fprintf(stderr, "embed: cannot read %s\n", path);
        exit(1);
    }
    fclose(file);
    *size = used;
    return bytes;
}

static void write_bytes(FILE *out, const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        fprintf(out, "%u,%s", bytes[i], i % 24 == 23 ? "\n" : "");
}

// FNV-1a, twice with different offsets: tells versions of a page apart, keeps no secret.
static uint64_t digest(const unsigned char *bytes, size_t size, uint64_t state)
{
    for (size_t i = 0; i < size; i++)
        state = (state ^ bytes[i]) * 0x100000001b3u;
    return state;
}

static const char *type_of(const char *path)
{
    static const char *const types[][2] = {
        {".html", "text/html; charset=utf-8"},        {".css", "text/css; charset=utf-8"},
        {".js", "text/javascript; charset=utf-8"},    {".json", "application/json"},
        {".svg", "image/svg+xml"},                    {".png", "image/png"},
        {".ico", "image/x-icon"},                     {".woff2", "font/woff2"},
    };
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(dot, types[i][0]) == 0)
            return types[i][1];
    return "text/plain; charset=utf-8";
}

static const char *below(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    const char *found = path;
    for (const char *c = path; *c; c++)
        if ((c == path || c[-1] == '/') && strncmp(c, folder, length) == 0 && c[length] == '/')
            found = c + length + 1;
    return found;
}

int main(int argc, char **argv)
{
    FILE *out = argc >= 5 ? fopen(argv[3], "w") : NULL;
    if (!out) {
        fprintf(stderr, "embed: wants text NAME OUTPUT INPUT, or files NAME OUTPUT FOLDER INPUT...\n");
        return 1;
    }
    if (strcmp(argv[1], "text") == 0) {
        size_t size;
        unsigned char *bytes = load(argv[4], &size);
        fprintf(out, "static const char %s[] = {\n", argv[2]);
        write_bytes(out, bytes, size);
        fprintf(out, "0};\n");
        free(bytes);
    } else {
        fprintf(out, "#include \"server/embedded.h\"\n");
        for (int i = 5; i < argc; i++) {
            size_t size;
            unsigned char *bytes = load(argv[i], &size);
            fprintf(out, "static const unsigned char file_%d[] = {\n", i);
            write_bytes(out, bytes, size);
            fprintf(out, "0};\n#define SIZE_%d %zu\n#define ETAG_%d \"%016llx%016llx\"\n", i, size, i,
                    (unsigned long long)digest(bytes, size, 0xcbf29ce484222325u),
                    (unsigned long long)digest(bytes, size, 0x9ae16a3b2f90404fu));
            free(bytes);
        }
        fprintf(out, "const struct embedded_file %s[] = {\n", argv[2]);
        for (int i = 5; i < argc; i++) {
            fprintf(out, "    {\"%s\", \"%s\", ETAG_%d, file_%d, SIZE_%d},\n", below(argv[i], argv[4]),
                    type_of(argv[i]), i,
                    i, i);
        }
        fprintf(out, "    {0},\n};\n");
    }
    return fclose(out) == 0 ? 0 : 1;
}
