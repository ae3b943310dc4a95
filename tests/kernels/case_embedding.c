// nn_scatter_build, nn_embedding_build, nn_embed, nn_gather.
#include "tests/kernels/guard.h"


static void scatter_inverts_an_index(void **state)
{
    (void)state;
    const int32_t index[] = {7, -1, 2, 7, 0, 2, 7, -5};
    struct tape *t = test_tape(true);
    struct nn_scatter s = nn_scatter_build(t, index, 8);
    REQUIRE_INT(s.count, 3);
    uint32_t targets[3], starts[4], members[6];
    test_read_u32(s.target, targets);
    test_read_u32(s.starts, starts);
    test_read_u32(s.members, members);
    REQUIRE(memcmp(targets, (uint32_t[]){0, 2, 7}, sizeof targets) == 0);
    REQUIRE(memcmp(starts, (uint32_t[]){0, 1, 3, 6}, sizeof starts) == 0);
    REQUIRE(memcmp(members, (uint32_t[]){4, 2, 5, 0, 3, 6}, sizeof members) == 0);
    REQUIRE_INT(nn_scatter_build(t, (const int32_t[]){-1, -2}, 2).count, 0);
    REQUIRE_INT(nn_scatter_build(t, index, 0).count, 0);
    test_tape_end(&t);
}

enum { TOKENS = 23, IMAGE_ROWS = 6, VOCABULARY = 37 };

// Tokens with repeats, image rows in the middle, one of them twice, one never.
static void make_source(int32_t source[TOKENS])
{
    for (int i = 0; i < TOKENS; i++)
        source[i] = i * 5 % 11;
    for (int i = 0; i < 5; i++)
        source[8 + i] = -1 - (i == 4 ? 0 : i);
}

static void embeds(enum dtype type, uint32_t columns)
{
    int32_t source[TOKENS];
    make_source(source);
    const size_t n = (size_t)TOKENS * columns;
    float *table = test_random((size_t)VOCABULARY * columns, 1, 1);
    float *images = test_random((size_t)IMAGE_ROWS * columns, 2, 1);
    float *g = test_random(n, 3, 1), *want = test_alloc(n, sizeof *want);
    double *dtable = test_alloc((size_t)VOCABULARY * columns, sizeof *dtable);
    double *dimages = test_alloc((size_t)IMAGE_ROWS * columns, sizeof *dimages);
    test_round_all(type, table, (size_t)VOCABULARY * columns);
    for (int i = 0; i < TOKENS; i++)
        for (uint32_t c = 0; c < columns; c++) {
            const bool image = source[i] < 0;
            const size_t from = (size_t)(image ? -1 - source[i] : source[i]) * columns + c;
            want[i * columns + c] = image ? images[from] : table[from];
            (image ? dimages : dtable)[from] += g[i * columns + c];
        }
    struct weight w = test_weight(type, VOCABULARY, columns, table, true);
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, IMAGE_ROWS, columns, images);
    struct nn_embedding e = nn_embedding_build(t, source, TOKENS);
    struct tensor y = nn_embed(t, &w, leaf, &e);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, TOKENS, columns, g), &err));
    bool fresh;
    struct tensor d = tape_grad(t, leaf, &fresh);
    float *got = test_fetch(y), *gotw = test_fetch(w.grad), *goti = test_fetch(d);
    test_same_bits("embed", got, want, n);
    test_near("embed dtable", gotw, dtable, (size_t)VOCABULARY * columns, 3e-7);
    test_near("embed dimages", goti, dimages, (size_t)IMAGE_ROWS * columns, 3e-7);
    guard_check("embed", y);
    guard_check("embed dimages", d);
    test_tape_end(&t);
    // A second micro-batch adds to the table's gradient.
    t = test_tape(true);
    e = nn_embedding_build(t, source, TOKENS);
    y = nn_embed(t, &w, test_tensor(DTYPE_F32, IMAGE_ROWS, columns, images), &e);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, TOKENS, columns, g), &err));
    test_read(w.grad, gotw);
    for (size_t i = 0; i < (size_t)VOCABULARY * columns; i++)
        dtable[i] *= 2;
    test_near("embed dtable twice", gotw, dtable, (size_t)VOCABULARY * columns, 6e-7);
    test_tape_end(&t);
    free(table), free(images), free(g), free(want), free(dtable), free(dimages), free(got), free(gotw), free(goti);
}

static void embeddings(void **state)
{
    (void)state;
    embeds(DTYPE_F32, 1);
    embeds(DTYPE_F32, 33);
    embeds(DTYPE_BF16, 35); // odd rows: a row starts inside a word
    embeds(DTYPE_F16, 35);
    embeds(DTYPE_F32, 1031);
}

static void frozen_table_without_images(void **state)
{
    (void)state;
    float table[12], got[6];
    test_values(table, 12, 1);
    struct weight w = test_weight(DTYPE_F32, 4, 3, table, false);
    struct tape *t = test_tape(true);
    struct nn_embedding e = nn_embedding_build(t, (const int32_t[]){3, 1}, 2);
    test_read(nn_embed(t, &w, (struct tensor){0}, &e), got);
    test_same_bits("row 3", got, table + 9, 3);
    test_same_bits("row 1", got + 3, table + 3, 3);
    test_tape_end(&t);
}

// What is not there shows as NaN instead of being read.
static void a_wild_source_reads_nothing(void **state)
{
    (void)state;
    float table[6] = {1, 2, 3, 4, 5, 6}, got[3];
    struct weight w = test_weight(DTYPE_F32, 6, 1, table, false);
    w.value = tensor_row_part(w.value, 0, 4); // real numbers stand behind the table
    struct tape *t = test_tape(false);
    struct nn_embedding e = nn_embedding_build(t, (const int32_t[]){4, -1, 2}, 3);
    test_read(nn_embed(t, &w, (struct tensor){0}, &e), got);
    REQUIRE(isnan(got[0]) && isnan(got[1]) && got[2] == 3);
    test_tape_end(&t);
}

static void gathers(void **state)
{
    (void)state;
    enum { N = 9, C = 67, M = 7 };
    const uint32_t rows[M] = {8, 0, 3, 3, 5, 0, 3};
    float x[N * C], g[M * C], got[N * C];
    double want[M * C], dx[N * C] = {0};
    test_values(x, N * C, 1);
    test_values(g, M * C, 2);
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c++) {
            want[m * C + c] = x[rows[m] * C + c];
            dx[rows[m] * C + c] += g[m * C + c];
        }
    struct tape *t = test_tape(true);
    struct tensor leaf = test_leaf(t, N, C, x), y = nn_gather(t, leaf, rows, M);
    REQUIRE_OK(tape_backward(t, y, test_tensor(DTYPE_F32, M, C, g), &err));
    bool fresh;
    struct tensor d = tape_grad(t, leaf, &fresh);
    test_read(y, got);
    test_near("gather", got, want, M * C, 0);
    test_read(d, got);
    test_near("gather dx", got, dx, N * C, 3e-7);
    guard_check("gather", y);
    guard_check("gather dx", d);
    test_tape_end(&t);
}

const struct CMUnitTest cases_embedding[] = {
    cmocka_unit_test(scatter_inverts_an_index),
    cmocka_unit_test(embeddings),
    cmocka_unit_test(frozen_table_without_images),
    cmocka_unit_test(a_wild_source_reads_nothing),
    cmocka_unit_test(gathers),
};
const size_t cases_embedding_count = sizeof cases_embedding / sizeof cases_embedding[0];
