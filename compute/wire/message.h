// What server and workers say to each other. Every frame is {"kind": NAME, ...}.
//
// To a worker:
//   run       {spec, cache_folder}                 a training worker's job (spec.h)
//   evaluate  {spec, cache_folder}                 an evaluation worker's job
//   order     {order: "cancel"|"pause"}            training: at the next step boundary
//   ack       {step}                               the metrics of that step are on disk
//   load      {folder, device, dtype, memory_limit, cache_folder, keep positions ...}   an inference worker's model
//   generate  {id, scope, messages, images, n, sampling, stop, logprobs, top_logprobs, min_pixels, max_pixels}
//   cancel    {id}
//   check     {training_file, validation_file, spec, available, cpu_lanes}   a data worker: rows, grader keys, plan
//   inspect   {folder}, init {preset, seed, folder}               a data worker: models
//   thumbnail {path, side}                                        a data worker
//   unpack    {path, wanted: null | [index ...]}                   a data worker: images of an archive
//   devices   {}
//   ping      {id}
// From a worker:
//   hello     {role, pid}
//   progress  {phase, share}, started {facts}, metrics {step, metrics}, groups {step, groups},
//   checkpoint {step, folder, metrics}, event {level, message}
//   done      {result}, cancelled {}, paused {}, failed {error}   the end of a run
//   loaded    {...}, accepted {id, prompt_tokens, image_tokens, text_tokens}, token {id, index, text, logprobs},
//   end       {id, index, reason, completion_tokens, cached_tokens}, refused {id, error}, stats {...}
//   checked   {...}, inspected {...}, thumbnail {png base64}, devices {devices}
//   entry     {index, name, bytes, format, width, height}, for a wanted index followed by so many bytes; unpacked {entries}
//   pong      {id}
#ifndef VIREO_WIRE_MESSAGE_H
#define VIREO_WIRE_MESSAGE_H

#include "compute/base/error.h"

#include <jansson.h>

enum message_kind {
    MESSAGE_HELLO, MESSAGE_RUN, MESSAGE_EVALUATE, MESSAGE_ORDER, MESSAGE_ACK, MESSAGE_LOAD, MESSAGE_GENERATE,
    MESSAGE_CANCEL, MESSAGE_CHECK, MESSAGE_INSPECT, MESSAGE_INIT, MESSAGE_THUMBNAIL, MESSAGE_DEVICES, MESSAGE_PING,
    MESSAGE_PONG, MESSAGE_PROGRESS, MESSAGE_STARTED, MESSAGE_METRICS, MESSAGE_GROUPS, MESSAGE_CHECKPOINT, MESSAGE_EVENT,
    MESSAGE_DONE, MESSAGE_CANCELLED, MESSAGE_PAUSED, MESSAGE_FAILED, MESSAGE_LOADED, MESSAGE_ACCEPTED, MESSAGE_TOKEN,
    MESSAGE_END, MESSAGE_REFUSED, MESSAGE_STATS, MESSAGE_CHECKED, MESSAGE_INSPECTED,
    MESSAGE_UNPACK, MESSAGE_ENTRY, MESSAGE_UNPACKED,
    MESSAGE_UNKNOWN,
};

// As on the wire; "unknown" for MESSAGE_UNKNOWN.
const char *message_name(enum message_kind kind);
enum message_kind message_kind_of(const json_t *message); // MESSAGE_UNKNOWN for what is none
// {"kind": name}; NULL without memory.
json_t *message_new(enum message_kind kind);
// {"code", "kind", "param", "message"} and back. Anything missing reads as an internal error.
json_t *message_error(const struct vireo_error *err);
void message_read_error(const json_t *o, struct vireo_error *err);

// How a worker ends (its exit status).
enum worker_exit {
    WORKER_DONE = 0,
    WORKER_FAILED = 1,       // the run failed; the frame "failed" says why
    WORKER_USAGE = 64,       // started in a wrong way, or a frame it did not understand
    WORKER_DEVICE_LOST = 70, // the device or its driver went away: to be replaced
    WORKER_NO_MEMORY = 71,
    WORKER_ORPHANED = 72,    // the server went away
};

#endif
