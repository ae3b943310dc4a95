#include "compute/base/log.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static pthread_once_t once = PTHREAD_ONCE_INIT;
static enum vireo_level most = VIREO_INFO;
static bool as_json;

static void read_environment(void)
{
    const char *level = getenv("VIREO_LOG"), *format = getenv("VIREO_LOG_FORMAT");
    for (int i = 0; level && i < 4; i++)
        if (strcmp(level, level_names[i]) == 0)
            most = (enum vireo_level)i;
    as_json = format && strcmp(format, "json") == 0;
}

void vireo_log_level(enum vireo_level level)
{
    pthread_once(&once, read_environment);
    most = level;
}

bool vireo_log_on(enum vireo_level level)
{
    pthread_once(&once, read_environment);
    return level <= most;
}

void vireo_log(enum vireo_level level, const char *module, const char *fmt, ...)
{
    if (!vireo_log_on(level))
        return;
    char text[1024], line[2400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = ' '; // a log line is one line, whatever the message quotes

    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    char stamp[32];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    int length;
    if (as_json) {
        json_t *o = json_pack("{s:s,s:s,s:s,s:s}", "time", stamp, "level", level_names[level],
                              "module", module, "message", text);
        char *dump = o ? json_dumps(o, JSON_COMPACT) : NULL;
        length = snprintf(line, sizeof line, "%s\n", dump ? dump : "{}");
        free(dump);
        json_decref(o);
    } else {
        length = snprintf(line, sizeof line, "%s.%03ldZ %-5s %s: %s\n", stamp, now.tv_nsec / 1000000,
                          level_names[level], module, text);
    }
    if (length > (int)sizeof line - 1) {
        length = (int)sizeof line - 1;
        line[length - 1] = '\n';
    }
    // One write a line: lines of several threads and processes do not mix. A lost line is not worth an error.
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
}
