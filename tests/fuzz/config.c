// config.json of a model: whatever it holds, either a clear error or a list of parameters that is sane.
#include "compute/base/json.h"
#include "compute/models/model.h"
#include "tests/fuzz/require.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vireo_error err = {0};
    json_t *config = vireo_json_parse((const char *)data, size, &err);
    FUZZ_REQUIRE(config || err.message[0]);
    if (json_is_object(config)) {
        struct model *m = model_describe(config, &err);
        FUZZ_REQUIRE(m || err.message[0]);
        if (m) {
            FUZZ_REQUIRE(model_parameters(m) > 0 && m->config.text.head_dim % 2 == 0);
            for (size_t i = 0; i < m->param_count; i++) {
                const struct model_param *p = &m->params[i];
                FUZZ_REQUIRE(p->rows > 0 && p->columns > 0 && strlen(p->name) > 0);
                FUZZ_REQUIRE(p->first + p->rows <= tensor_rows(p->weight->value));
            }
        }
        model_destroy(&m);
    }
    json_decref(config);
    return 0;
}
