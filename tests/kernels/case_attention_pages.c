// Attention over keys in pages gives the bits of keys in runs.
#include "tests/kernels/attention.h"

// A pool in pages, lists of them, and rows to ask.
struct paged {
    uint32_t page_size, pages, kv_width;
    float *k, *v;
    uint32_t *list, listed; // all lists, one after the other
    uint32_t taken;         // pages handed out
};

// Pages in an order that jumps about.
static uint32_t take_page(struct paged *g)
{
    REQUIRE(g->taken < g->pages);
    return (g->taken++ * 7 + 3) % g->pages; // 7 does not divide the number of pages
}

// Appends the list of a sequence of `count` keys, whose first `shared` pages are those at list[from]. The rows of qkv
// that hold its keys come from `row`. Entries behind the last page are far outside the pool.
static uint32_t lay_pages(struct paged *g, const struct problem *p, uint32_t prompt, uint32_t own, uint32_t count,
                          uint32_t from, uint32_t shared)
{
    uint32_t first = g->listed, k0 = p->heads.heads * p->heads.head_dim;
    for (uint32_t n = 0; n < (count + g->page_size - 1) / g->page_size; n++)
        g->list[g->listed++] = n < shared ? g->list[from + n] : take_page(g);
    for (uint32_t j = shared * g->page_size; j < count; j++) {
        const float *row = p->qkv + (size_t)(j < prompt ? j : own + j - prompt) * p->width + k0;
        size_t slot = (size_t)g->list[first + j / g->page_size] * g->page_size + j % g->page_size;
        memcpy(g->k + slot * g->kv_width, row, g->kv_width * 4);
        memcpy(g->v + slot * g->kv_width, row + g->kv_width, g->kv_width * 4);
    }
    g->list[g->listed++] = 0x7fffffff;
    return first;
}

// The same rows of qkv out of the pool as stored, all of one type, by the kernel for rows that are apart (1), or apart and
// yet together (2), or by the other.
static void run_pages(const struct paged *g, const struct problem *p, uint32_t rows, const float *qkv, uint32_t (*spans)[4],
                      double cost, enum dtype type, int apart, float *out)
{
    struct nn_kv kv = {
        .k = test_tensor(type, g->pages * g->page_size, g->kv_width, g->k),
        .v = test_tensor(type, g->pages * g->page_size, g->kv_width, g->v),
        .pages = test_tensor_u32(g->listed, 1, g->list),
        .page_size = g->page_size,
    };
    struct nn_spans s = {.query = test_tensor_u32(rows, 4, spans[0]), .pairs = cost, .apart = apart > 0, .together = apart > 1};
    struct tape *t = test_tape(false);
    struct tensor o = nn_attention(t, test_tensor(type, rows, p->width, qkv), &p->heads, &s, &kv);
    REQUIRE(!tape_failed(t));
    test_read(o, out);
    check_guard(o);
    test_tape_end(&t);
}

// Rows of `p` (numbers in `from`) with these spans, out of the pool: their bits must be those in `wanted`. In 16 bits both
// kernels agree.
static void ask_pages(const char *what, const struct paged *g, const struct problem *p, uint32_t rows,
                      const uint32_t *from, uint32_t (*spans)[4], double cost, const float *wanted)
{
    uint32_t out_width = p->heads.heads * p->heads.head_dim;
    float *qkv = calloc(rows, (size_t)p->width * 4), *out = malloc((size_t)rows * out_width * 4);
    float *apart = malloc((size_t)rows * out_width * 4);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < p->width; c++) // keys of the batch itself are not read
            qkv[(size_t)r * p->width + c] = c < out_width ? p->qkv[(size_t)from[r] * p->width + c] : NAN;
    run_pages(g, p, rows, qkv, spans, cost, DTYPE_F32, 0, out);
    for (uint32_t r = 0; r < rows; r++)
        test_same_bits(what, out + (size_t)r * out_width, wanted + (size_t)from[r] * out_width, out_width);
    for (int kind = 1; kind <= 2; kind++) {
        run_pages(g, p, rows, qkv, spans, cost, DTYPE_F32, kind, apart);
        test_same_bits("rows apart", apart, out, (size_t)rows * out_width);
    }
    for (int half = 0; half < 2 && p->heads.head_dim % 4 == 0; half++) {
        const enum dtype type = half ? DTYPE_F16 : DTYPE_BF16;
        run_pages(g, p, rows, qkv, spans, cost, type, 0, out);
        for (int kind = 1; kind <= 2; kind++) {
            run_pages(g, p, rows, qkv, spans, cost, type, kind, apart);
            test_same_bits("rows apart in 16 bits", apart, out, (size_t)rows * out_width);
        }
    }
    free(qkv);
    free(out);
    free(apart);
}

// Keys in scattered pages give the bits of keys in runs: a prompt whose whole pages are shared by the completions (each
// has its own copy of the rest), prompts in chunks, decoding; odd lengths; pages of others are NaN.
static void same_bits_paged(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t page_size, uint32_t prompt)
{
    enum { COMPLETIONS = 5, LENGTH = 21 };
    struct problem p = make_group(heads, kv_heads, head_dim, prompt, COMPLETIONS, LENGTH);
    float *wanted = device_forward(&p);
    uint32_t longest = (prompt + LENGTH) / page_size + 1;
    struct paged g = {
        .page_size = page_size,
        .pages = (COMPLETIONS + 2) * longest + 1,
        .kv_width = kv_heads * head_dim,
    };
    g.pages += g.pages % 7 == 0;
    size_t values = (size_t)g.pages * page_size * g.kv_width;
    g.k = malloc(values * 4);
    g.v = malloc(values * 4);
    g.list = calloc((COMPLETIONS + 1) * (longest + 1), 4);
    for (size_t i = 0; i < values; i++)
        g.k[i] = g.v[i] = NAN;
    uint32_t prompt_first = lay_pages(&g, &p, prompt, 0, prompt, 0, 0), first[COMPLETIONS];
    for (uint32_t c = 0; c < COMPLETIONS; c++) {
        struct sequence s = find_sequence(prompt, c, LENGTH);
        first[c] = lay_pages(&g, &p, prompt, s.own, prompt + s.length, prompt_first, prompt / page_size);
    }

    uint32_t from[256], spans[256][4];
    REQUIRE(p.rows <= 256);
    // The prompt in chunks: rows see keys 0 to their own. Odd chunks beside whole completions.
    for (uint32_t at = 0, chunk = 5; at < prompt; at += chunk, chunk += 6) {
        uint32_t rows = 0;
        for (uint32_t i = at; i < VIREO_MIN(prompt, at + chunk); i++, rows++) {
            from[rows] = i;
            memcpy(spans[rows], (uint32_t[]){prompt_first, i + 1, 0, 0}, 16);
        }
        struct sequence s = find_sequence(prompt, chunk % COMPLETIONS, LENGTH);
        for (uint32_t i = 0; i < s.length && rows < 256; i++, rows++) {
            from[rows] = s.own + i;
            memcpy(spans[rows], (uint32_t[]){first[chunk % COMPLETIONS], prompt + i + 1, 0, 0}, 16);
        }
        ask_pages("chunk of a prompt", &g, &p, rows, from, spans, at % 2 ? 1e9 : 0, wanted);
    }
    for (uint32_t i = 0; i < LENGTH; i++) {
        uint32_t rows = 0;
        for (uint32_t n = 0; n < COMPLETIONS; n++) {
            uint32_t c = (n + i) % COMPLETIONS;
            struct sequence s = find_sequence(prompt, c, LENGTH);
            if (i >= s.length)
                continue;
            from[rows] = s.own + i;
            memcpy(spans[rows++], (uint32_t[]){first[c], prompt + i + 1, 0, 0}, 16);
        }
        ask_pages("decode", &g, &p, rows, from, spans, 0, wanted);
    }
    free(g.k);
    free(g.v);
    free(g.list);
    free(wanted);
    drop(&p);
}

static void bits_do_not_depend_on_pages(void **state)
{
    (void)state;
    same_bits_paged(4, 2, 16, 8, 29);
    same_bits_paged(4, 2, 16, 16, 32);
    same_bits_paged(6, 2, 32, 16, 29);
    same_bits_paged(5, 1, 40, 16, 17);
    same_bits_paged(8, 1, 64, 32, 9);
    same_bits_paged(2, 1, 15, 64, 29); // a page longer than the prompt
    same_bits_paged(3, 3, 12, 8, 7);
}

// A value that is not finite makes NaN of the rows that see it and of no other, by both kernels; finite values whose sum is
// not keep the rest of their row.
static void broken_values_in_pages(void **state)
{
    (void)state;
    enum { ROWS = 40, D = 32, PAGE = 16, WIDTH = 3 * D };
    static const float bad[] = {NAN, INFINITY, 3e38f};
    uint32_t spans[ROWS][4], list[4] = {2, 0, 3, 1};
    float *qkv = malloc(sizeof(float) * ROWS * WIDTH), *k = malloc(sizeof(float) * 64 * D), *v = malloc(sizeof(float) * 64 * D);
    float out[3][ROWS * D];
    for (uint32_t i = 0; i < ROWS; i++)
        memcpy(spans[i], (uint32_t[]){0, i + 1, 0, 0}, 16);
    test_values(qkv, ROWS * WIDTH, 1);
    test_values(k, 64 * D, 2);
    struct problem p = {.heads = {.heads = 1, .kv_heads = 1, .head_dim = D, .scale = 0.2f}, .rows = ROWS, .width = WIDTH};
    struct paged g = {.page_size = PAGE, .pages = 4, .kv_width = D, .k = k, .v = v, .list = list, .listed = 4};
    for (size_t b = 0; b < VIREO_COUNT(bad); b++) {
        const uint32_t key = 19, column = 7;
        test_values(v, 64 * D, 3);
        v[(list[key / PAGE] * PAGE + key % PAGE) * D + column] = bad[b];
        if (b == 2) // rows that see both sum to infinity, most of them
            v[(list[key / PAGE] * PAGE + key % PAGE + 1) * D + column] = bad[b];
        for (int apart = 0; apart < 3; apart++)
            run_pages(&g, &p, ROWS, qkv, spans, 0, DTYPE_F32, apart, out[apart]);
        for (uint32_t i = 0; i < ROWS * D; i++) {
            REQUIRE(b == 2 || isnan(out[0][i]) == (i / D >= key));
            REQUIRE(b < 2 || i % D == column || isfinite(out[0][i]));
            for (int apart = 1; apart < 3; apart++) {
                REQUIRE(isnan(out[apart][i]) == isnan(out[0][i]));
                if (!isnan(out[0][i]))
                    test_same_bits("beside a broken value", &out[apart][i], &out[0][i], 1);
            }
        }
    }
    free(qkv);
    free(k);
    free(v);
}

// A row without keys reads no page.
static void no_keys_in_pages(void **state)
{
    (void)state;
    struct problem p = make(2, 1, 8, 9);
    uint32_t from[9], spans[9][4], list[1] = {0};
    for (uint32_t i = 0; i < 9; i++) {
        from[i] = i;
        memcpy(spans[i], (uint32_t[]){0xfffffff0u, 0, 0, 0}, 16);
    }
    float *zeros = calloc(9 * 16, 4), *nan = malloc(8 * 8 * 4);
    for (uint32_t i = 0; i < 64; i++)
        nan[i] = NAN;
    struct paged g = {.page_size = 8, .pages = 1, .kv_width = 8, .k = nan, .v = nan, .list = list, .listed = 1};
    ask_pages("no keys", &g, &p, 9, from, spans, 0, zeros);
    free(zeros);
    free(nan);
    drop(&p);
}

const struct CMUnitTest cases_attention_pages[] = {
    cmocka_unit_test(bits_do_not_depend_on_pages),
    cmocka_unit_test(broken_values_in_pages),
    cmocka_unit_test(no_keys_in_pages),
};
const size_t cases_attention_pages_count = VIREO_COUNT(cases_attention_pages);
