#include "server/api/object_json.h"

#include "server/auth/keys.h"

#include <string.h>

json_t *api_parse(const char *text)
{
    json_error_t where;
    // What a model writes may hold U+0000, which Jansson refuses unless asked.
    json_t *value = text ? json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, &where) : NULL;
    return value ? value : json_object();
}

json_t *api_time(int64_t seconds)
{
    return seconds ? json_integer(seconds) : json_null();
}

json_t *api_file(const struct store_file *f)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:o, s:s?}", "id", f->id, "object", "file", "bytes",
                     (json_int_t)f->bytes, "created_at", (json_int_t)f->created_at, "filename", f->filename, "purpose",
                     f->purpose, "status", f->status, "expires_at", api_time(f->expires_at), "status_details",
                     f->status_details);
}

json_t *api_image(const struct store_image *i)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:s, s:I, s:s, s:s, s:I}", "id", i->id, "object", "vireo.image", "width",
                     (json_int_t)i->width, "height", (json_int_t)i->height, "format", i->format, "bytes",
                     (json_int_t)i->bytes, "sha256", i->sha256, "filename", i->filename, "created_at",
                     (json_int_t)i->created_at);
}

json_t *api_dataset(const struct store_dataset *d)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s?, s:o, s:o, s:I}", "id", d->id, "object", "vireo.dataset", "name",
                     d->name, "status", d->status, "format", d->format, "file_id", d->file_id, "counts",
                     api_parse(d->counts), "errors", api_parse(d->errors), "created_at", (json_int_t)d->created_at);
}

json_t *api_model(const struct store_model *m, bool loaded)
{
    json_t *own = api_parse(m->info);
    json_t *fixed = json_pack("{s:s?, s:s?, s:I, s:s?, s:s, s:I, s:[ss], s:b, s:s, s:I}", "parent", m->parent, "job_id",
                              m->job_id, "step", (json_int_t)m->step, "adapter", m->adapter, "family", m->family,
                              "context_length", (json_int_t)m->context_length, "modalities", "text", "image", "loaded",
                              loaded, "sha256", m->sha256, "bytes", (json_int_t)m->bytes);
    if (!own || !fixed || json_object_update(own, fixed) != 0) {
        json_decref(own);
        json_decref(fixed);
        return NULL;
    }
    json_decref(fixed);
    return json_pack("{s:s, s:s, s:I, s:s, s:n, s:o}", "id", m->id, "object", "model", "created",
                     (json_int_t)m->created_at, "owned_by", m->owned_by, "shutdown_date", "vireo", own);
}

json_t *api_key(const struct store_key *k)
{
    json_t *scopes = json_array();
    for (unsigned bit = 1; bit <= AUTH_ADMIN; bit <<= 1)
        if (k->scopes & bit)
            json_array_append_new(scopes, json_string(auth_scope_name(bit)));
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:I, s:o, s:o}", "id", k->id, "object", "vireo.key", "name", k->name,
                     "prefix", k->prefix, "scopes", scopes, "created_at", (json_int_t)k->created_at, "last_used_at",
                     api_time(k->last_used_at), "expires_at", api_time(k->expires_at));
}

json_t *api_event(const struct store_event *e)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:o}", "id", e->id, "object", "fine_tuning.job.event",
                     "created_at",
                     (json_int_t)e->created_at, "level", e->level, "type", e->type, "message", e->message, "data",
                     e->data ? api_parse(e->data) : json_null());
}

json_t *api_checkpoint(const struct store_checkpoint *c)
{
    json_t *metrics = api_parse(c->metrics), *own = json_object_get(metrics, "vireo");
    own = own ? json_incref(own) : json_object();
    json_object_del(metrics, "vireo");
    json_object_set_new(own, "bytes", json_integer(c->bytes));
    json_object_set_new(own, "sha256", json_string(c->sha256));
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:o, s:o}", "id", c->id, "object", "fine_tuning.job.checkpoint",
                     "created_at", (json_int_t)c->created_at, "fine_tuned_model_checkpoint", c->model,
                     "fine_tuning_job_id", c->job_id, "step_number", (json_int_t)c->step, "metrics", metrics, "vireo",
                     own);
}

json_t *api_group(const struct store_group *g)
{
    json_t *object = api_parse(g->data), *samples = json_array();
    for (size_t i = 0; i < g->sample_count; i++) {
        json_t *sample = api_parse(g->samples[i].data);
        json_object_set_new(sample, "id", json_string(g->samples[i].id));
        json_array_append_new(samples, sample);
    }
    json_t *fixed = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:f, s:f, s:I, s:o}", "id", g->id, "object",
                              "vireo.group",
                              "job_id", g->job_id, "step", (json_int_t)g->step, "index", (json_int_t)g->index, "row_id",
                              g->row_id, "reward_mean", g->reward_mean, "reward_std", g->reward_std, "created_at",
                              (json_int_t)g->created_at, "samples", samples);
    if (!object || !fixed || json_object_update(object, fixed) != 0) {
        json_decref(object);
        object = NULL;
    }
    json_decref(fixed);
    return object;
}

json_t *api_deleted(const char *id, const char *object)
{
    return json_pack("{s:s, s:s, s:b}", "id", id, "object", object, "deleted", 1);
}
