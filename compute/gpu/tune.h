// Measured choices of a device: which of several kernels of equal bits is the fastest, by kernel and class of shapes.
//
// A table of this device, driver version and program version, kept as a text file in the device's cache folder
// (tune-VENDOR-DEVICE-DRIVER-UUID.txt, written atomically). A damaged file, or one of another device, driver or program, is
// ignored. gpu_device_create loads it. What the numbers mean is the matter of those who measure and choose (compute/nn):
// the table only says which choice of how many was the fastest, so it can never change a result.
#ifndef VIREO_GPU_TUNE_H
#define VIREO_GPU_TUNE_H

#include "compute/gpu/record.h"

enum { GPU_TUNE_CLASSES = 32, GPU_TUNE_MOST_CHOICES = 16 };

struct gpu_tune_entry {
    uint8_t choice, choices; // 0 <= choice < choices; choices 0: nothing is known
    float seconds;           // of the measured work with this choice
};

// The choice for this kernel and class (< GPU_TUNE_CLASSES) among `choices`; -1: not measured, or among another number.
int gpu_tune_find(const struct gpu_device *dev, enum gpu_kernel kernel, uint32_t shape_class, uint32_t choices);
// The whole entry.
struct gpu_tune_entry gpu_tune_entry(const struct gpu_device *dev, enum gpu_kernel kernel, uint32_t shape_class);
// Replaces an entry, from the next dispatch on; {0} forgets it.
void gpu_tune_set(struct gpu_device *dev, enum gpu_kernel kernel, uint32_t shape_class, struct gpu_tune_entry entry);

// True once a table of this device, driver and program was loaded or saved, be it empty.
bool gpu_tune_is_known(const struct gpu_device *dev);
// Whether there is a folder to keep it in.
bool gpu_tune_is_kept(const struct gpu_device *dev);
// Reads the file again. False: there is no sound one, and the table is empty.
bool gpu_tune_load(struct gpu_device *dev);
// Does nothing and succeeds without a cache folder. VIREO_IO, VIREO_NO_SPACE, VIREO_NO_MEMORY.
bool gpu_tune_save(struct gpu_device *dev, struct vireo_error *err);
// Where it is kept; false without a cache folder.
bool gpu_tune_path(const struct gpu_device *dev, char *path, size_t size);

#endif
