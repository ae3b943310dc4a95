// The worker process: one role, one conversation with the server over an inherited socket, then the end.
//
//   train    one training job or evaluation on its own Vulkan device (frames run, evaluate)
//   infer    one loaded model that answers chat requests (load, generate, cancel)
//   data     no device: rows of uploaded files, images, model folders; foreign bytes are read in a sandbox
//   devices  lists the Vulkan devices
//
// Whatever happens here, the server only ever sees frames and an exit status (enum worker_exit in wire/message.h).
#ifndef VIREO_WORKER_WORKER_H
#define VIREO_WORKER_WORKER_H

#include "compute/base/error.h"

#include <jansson.h>

// `vireo worker --role ROLE --fd N`; the exit status of the process.
int worker_main(int argc, char **argv);
// `vireo devices [--json]` and `vireo bench NAME [--config FILE] [--json]`: run in this process.
int worker_devices_main(int argc, char **argv);
int worker_bench_main(int argc, char **argv);
// `vireo tune [--device NAME] [--cache FOLDER] [--seconds N] [--most-mflop N] [--json]`: measures the tiles of matrix products.
int worker_tune_main(int argc, char **argv);

#endif
