// From a model to a folder that transformers loads.
#include "compute/models/internal.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum safetensors_dtype file_type(enum dtype t)
{
    return t == DTYPE_BF16 ? SAFETENSORS_BF16 : t == DTYPE_F16 ? SAFETENSORS_F16 : SAFETENSORS_F32;
}

bool model_save_weights(const struct model *m, enum dtype type, struct byte_sink sink, struct vireo_error *err)
{
    enum { NAME = 160, ROWS = 1 << 20 };
    static const char *const metadata[] = {"format", "pt", NULL};
    struct safetensors_entry *entries = vireo_calloc(m->param_count, sizeof *entries);
    char(*names)[NAME] = vireo_calloc(m->param_count, NAME);
    struct safetensors_writer *writer = NULL;
    bool done = (entries && names) || vireo_fail_memory(err, m->param_count * (sizeof *entries + NAME));
    for (size_t i = 0; done && i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        entries[i] = (struct safetensors_entry){.name = names[i], .dtype = file_type(type), .rank = p->rank};
        memcpy(entries[i].shape, p->shape, sizeof p->shape);
        if (!shards_stored_name(m->layout, p->name, names[i], NAME))
            done = vireo_fail(err, VIREO_INTERNAL, "%s: stored name too long", p->name);
    }
    done = done && safetensors_write_begin(&writer, sink, entries, m->param_count, metadata, err);
    for (size_t i = 0; done && i < m->param_count; i++) {
        const struct model_param *p = &m->params[i];
        // Whole rows in pieces of about 4 MiB.
        uint32_t step = (uint32_t)VIREO_MAX(1, ROWS / p->columns);
        float *values = vireo_alloc((size_t)VIREO_MIN(step, p->rows) * p->columns * sizeof *values);
        done = values || vireo_fail_memory(err, (size_t)step * p->columns * sizeof *values);
        for (uint32_t row = 0; done && row < p->rows; row += step) {
            struct model_param piece = *p;
            piece.first += row;
            piece.rows = VIREO_MIN(step, p->rows - row);
            done = model_read_param(m, &piece, false, values, err) &&
                   safetensors_write_floats(writer, values, (size_t)piece.rows * p->columns, err);
        }
        free(values);
    }
    if (writer) {
        if (done)
            done = safetensors_write_end(&writer, err);
        else
            safetensors_write_abandon(&writer);
    }
    free(entries);
    free(names);
    return done;
}

static bool write_to_file(void *context, const void *bytes, size_t count, struct vireo_error *err)
{
    return file_writer_write(context, bytes, count, err);
}

bool model_save(const struct model *m, const char *folder, struct vireo_error *err)
{
    char from[700], to[700];
    if (!file_make_folders(folder, err))
        return false;
    for (size_t i = 0; model_side_files[i]; i++) {
        snprintf(from, sizeof from, "%s/%s", m->folder, model_side_files[i]);
        snprintf(to, sizeof to, "%s/%s", folder, model_side_files[i]);
        if (!file_exists(from))
            continue;
        struct file_bytes bytes;
        if (!file_read(from, (size_t)256 << 20, &bytes, err))
            return false;
        bool done = file_write_atomic(to, bytes.data, bytes.size, err);
        file_bytes_free(&bytes);
        if (!done)
            return false;
    }
    struct file_writer w;
    snprintf(to, sizeof to, "%s/model.safetensors", folder);
    if (!file_writer_open(&w, to, err))
        return false;
    if (!model_save_weights(m, m->config.stored, (struct byte_sink){.write = write_to_file, .context = &w}, err)) {
        file_writer_abandon(&w);
        return false;
    }
    return file_writer_commit(&w, err);
}
