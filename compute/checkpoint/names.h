// Inside of the folder: names from files as they may stand in a message.
#ifndef VIREO_CHECKPOINT_NAMES_H
#define VIREO_CHECKPOINT_NAMES_H

enum { CHECKPOINT_PRINTABLE = 96 };

// The beginning of `name` with '?' for everything but printable ASCII, so that a message stays one line of valid text.
const char *checkpoint_printable(const char *name, char out[CHECKPOINT_PRINTABLE]);

#endif
