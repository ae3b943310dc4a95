// A worker's end of the conversation. One thread reads frames into a queue and keeps what must be seen at once (orders,
// acknowledgements, the end of the server); any thread may send.
#ifndef VIREO_WORKER_LINK_H
#define VIREO_WORKER_LINK_H

#include "compute/gpu/device.h"
#include "compute/train/trainer.h"
#include "compute/wire/message.h"

struct link;
// Starts the reading thread. When the server closes the socket the process ends with WORKER_ORPHANED: nobody is left to
// report to, and whatever must survive is on disk already.
struct link *link_open(int fd, struct vireo_error *err);
// Takes `message` (NULL: an allocation failure, which is logged). A failed send ends the process as an orphan.
void link_send(struct link *l, json_t *message);
// The same, and `count` plain bytes behind it.
void link_send_bytes(struct link *l, json_t *message, const void *bytes, size_t count);
void link_send_error(struct link *l, enum message_kind kind, const struct vireo_error *err);
// The next frame that is not an order, ack or ping; a new reference. timeout_ms -1: waits for ever; NULL: none came.
json_t *link_receive(struct link *l, int timeout_ms);
enum train_order link_order(struct link *l);
// Waits until the server has told that step's metrics are on disk.
void link_wait_ack(struct link *l, uint32_t step);

// Opens the device a frame asks for ("device", "memory_limit", "cache_folder").
struct gpu_device *worker_open_device(const json_t *message, struct vireo_error *err);
// Exit status for an error that ended the work.
int worker_exit_of(const struct vireo_error *err);

// The roles.
int worker_train(struct link *l);
int worker_infer(struct link *l);
int worker_data(struct link *l);
int worker_devices(struct link *l);
// A request "unpack" of the data role: enters the sandbox, answers, and never returns.
_Noreturn void worker_unpack(struct link *l, const json_t *message);

#endif
