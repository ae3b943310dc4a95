// Logging to stderr, one line an event: time, level, module, sentence, then key=value pairs inside the sentence's tail.
//
// error needs a person, warn is odd, info is a milestone, debug is for developers. Never prompts, completions, keys or
// image bytes above debug. VIREO_LOG=error|warn|info|debug (default info); VIREO_LOG_FORMAT=text|json. Thread-safe;
// a full or closed stderr never blocks or kills the program.
#ifndef VIREO_BASE_LOG_H
#define VIREO_BASE_LOG_H

#include "compute/base/error.h"

enum vireo_level { VIREO_ERROR, VIREO_WARN, VIREO_INFO, VIREO_DEBUG };

void vireo_log_level(enum vireo_level most); // overrides VIREO_LOG
bool vireo_log_on(enum vireo_level level);
void vireo_log(enum vireo_level level, const char *module, const char *fmt, ...) VIREO_PRINTF(3, 4);

#define log_error(...) vireo_log(VIREO_ERROR, LOG_MODULE, __VA_ARGS__)
#define log_warn(...) vireo_log(VIREO_WARN, LOG_MODULE, __VA_ARGS__)
#define log_info(...) vireo_log(VIREO_INFO, LOG_MODULE, __VA_ARGS__)
#define log_debug(...) vireo_log(VIREO_DEBUG, LOG_MODULE, __VA_ARGS__)

#endif
