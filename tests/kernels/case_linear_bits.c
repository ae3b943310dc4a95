// nn_gemm: rows have the same bits in every batch, and every kernel gives the same.
#include "tests/kernels/product.h"

// Row i of op(A) as an operand of its own.
static struct tensor row_of(const struct product *p, uint32_t i)
{
    return p->kind == NN_TN ? tensor_column_part(p->a.view, i, 1) : tensor_row_part(p->a.view, i, 1);
}

// The promise everything rests on: a row has the same bits alone, in a short batch, in a long one, wherever it falls in
// a tile, with any layout's kernel, and whatever columns are computed beside it.
static void rows_have_the_same_bits_in_every_batch(void **state)
{
    (void)state;
    static const uint32_t heights[] = {1, 2, 3, 8, 9, 16, 17, 31, 100};
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (size_t i = 0; i < 2 * VIREO_COUNT(pairs); i++) {
            if (!is_tested(kind, i / 2))
                continue;
            // Aligned for the wide kernels, in both widths of tile, with and without a rest of k.
            const uint32_t m = 200, n = i & 1 ? 48 : 52, k = i & 1 ? 78 : 76;
            struct product p = product_new(kind, pairs[i / 2][0], pairs[i / 2][1], m, n, k);
            float *all = product_values(&p), *again = product_values(&p);
            test_same_bits("twice", again, all, (size_t)m * n);
            free(again);
            again = product_values_by(&p, "any");
            test_same_bits("any layout", again, all, (size_t)m * n);
            free(again);
            for (size_t h = 0; h < sizeof heights / sizeof heights[0]; h++) {
                // Rows from an odd start, so that they fall elsewhere in the tiles.
                const uint32_t first = heights[h] == 100 ? 61 : 5;
                struct product part = p;
                part.a.view = kind == NN_TN ? tensor_column_part(p.a.view, first, heights[h])
                                            : tensor_row_part(p.a.view, first, heights[h]);
                part.c = matrix_new(DTYPE_F32, heights[h], n, 50);
                again = product_values(&part);
                test_same_bits("other batch", again, all + (size_t)first * n, (size_t)heights[h] * n);
                free(again);
                matrix_free(&part.c);
            }
            // One row, one column.
            struct product one = p;
            one.a.view = row_of(&p, 123);
            one.b.view = kind == NN_NT ? tensor_row_part(p.b.view, 47, 1) : tensor_column_part(p.b.view, 47, 1);
            one.c = matrix_new(DTYPE_F32, 1, 1, 51);
            again = product_values(&one);
            test_same_bits("alone", again, all + 123 * (size_t)n + 47, 1);
            free(again);
            matrix_free(&one.c);
            free(all);
            product_free(&p);
        }
}

// The GPUs' kernel, on any device: past one tile in both directions, aligned or not, with a rest of k or a whole number of
// steps, each tile gives the bits of the CPU's kernel. (A CPU driver takes seconds to compile one: two of each.)
static void tiles_have_the_bits_of_the_simd_family(void **state)
{
    (void)state;
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (int i = 0; i < 2; i++) {
            char tile[16];
            snprintf(tile, sizeof tile, "tile-%d", (2 * kind + i) % GEMM_TILES);
            const enum dtype bt = types[i == 0 || kind == NN_TN ? 0 : kind == NN_NT ? 1 : 2];
            struct product p = product_new(kind, DTYPE_F32, bt, 140, i ? 133 : 136, i ? 32 : 52);
            p.bias = matrix_new(DTYPE_F32, 1, p.c.columns, 53);
            float *wanted = product_values_by(&p, "simd"), *got = product_values_by(&p, tile);
            test_same_bits(tile, got, wanted, (size_t)140 * p.c.columns);
            free(got);
            free(wanted);
            product_free(&p);
        }
}

// So does the kernel for few rows: up to one group of them and past it, columns that fill no group, sums with a rest of a tile
// and of a quad, quads that are aligned or not, every pair of types, with bias, residual, old values and a 16-bit C of odd width.
static void few_rows_have_the_bits_of_the_simd_family(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {{1, 64, 128}, {4, 33, 200}, {7, 70, 61}, {2, 31, 3}};
    for (uint32_t i = 0; i < VIREO_COUNT(pairs); i++)
        for (uint32_t s = 0; s < VIREO_COUNT(shapes); s++) {
            const uint32_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            const enum dtype half = pairs[i][0] != DTYPE_F32 ? pairs[i][0] : pairs[i][1] != DTYPE_F32 ? pairs[i][1] : DTYPE_BF16;
            struct product p = product_new(NN_NT, pairs[i][0], pairs[i][1], m, n, k);
            if (s % 2) {
                matrix_free(&p.c);
                p.c = matrix_padded(half, m, n, 0, n % 2, 54);
                p.bias = matrix_new(half, 1, n, 55);
                p.residual = matrix_new(DTYPE_F32, m, n, 56);
                p.beta = 1;
            }
            float *got[2];
            for (int v = 0; v < 2; v++) {
                if (p.beta)
                    REQUIRE_OK(tensor_write_floats(test_device, p.c.whole, p.c.values, &err));
                got[v] = product_values_by(&p, v ? "tile-gemv" : "simd");
            }
            char what[64];
            snprintf(what, sizeof what, "%s %s m=%u n=%u k=%u", dtype_name(pairs[i][0]), dtype_name(pairs[i][1]), m, n, k);
            test_same_bits(what, got[1], got[0], (size_t)m * n);
            free(got[0]);
            free(got[1]);
            product_free(&p);
        }
}

// The tiles for CPU drivers and the general kernel are one product to the last bit, whatever its types, epilogue and
// layout: tiles are chosen by the number of rows, the general kernel by strides.
static void cpu_tiles_have_the_same_bits(void **state)
{
    (void)state;
    // Those that a product lacks become the one it would choose.
    static const char *const kernels[] = {"any",    "simd-0", "simd-1", "simd-2",  "simd-3",  "simd-4",  "simd-5",    "simd-6",
                                          "simd-7", "simd-8", "simd-9", "simd-10", "simd-11", "simd-64bit"};
    // Rows, columns, terms: short of every tile and past the tallest, rests of every kind, blocks of a long TN sum.
    static const uint32_t shapes[][3] = {{7, 5, 3}, {71, 67, 77}, {37, 150, 64}, {9, 34, 1111}};
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (uint32_t i = 0; i < VIREO_COUNT(pairs) + (kind == NN_NT ? 3 : 0); i++) {
            // Each kind has C in f32 and in 16 bits, and each pair of operands meets both. NT of f32 has tiles of its own:
            // there every shape.
            const bool f32 = i >= VIREO_COUNT(pairs);
            if (!f32 && !is_tested(kind, i))
                continue;
            const uint32_t *e = shapes[(i + (uint32_t)kind) % 4];
            const enum dtype at_ = f32 ? DTYPE_F32 : pairs[i][0], bt = f32 ? DTYPE_F32 : pairs[i][1];
            const enum dtype half = i < 4 ? DTYPE_BF16 : DTYPE_F16, ct = (i + (uint32_t)kind) & 1 ? half : DTYPE_F32;
            const enum dtype extra = kind & 1 ? half : DTYPE_F32;
            // Views into wider rows, aligned for loads of 128 bits, where A alone has 16 bits for those of 64: there
            // the extent along contiguous memory is a multiple of their values too, unless it is k. A 16-bit C in whole words.
            const uint32_t g = i == 2 || i == 5 ? 4 : 8;
            const uint32_t m = kind == NN_TN ? (e[0] + g - 1) / g * g : e[0], n = kind == NN_NT ? e[1] : (e[1] + g - 1) / g * g;
            const uint32_t k = e[2], width = kind == NN_TN ? m : k, depth = kind == NN_NT ? k : n;
            struct product p = {.kind = kind, .beta = 1};
            p.a = matrix_padded(at_, kind == NN_TN ? k : m, width, g, g + (g - width % g) % g, 81);
            p.b = matrix_padded(bt, kind == NN_NT ? n : k, depth, g, g + (g - depth % g) % g, 82);
            p.c = matrix_padded(ct, m, n, 2, 2 + n % 2, 83);
            p.bias = matrix_padded(extra, 1, n, 3, 2, 84);
            p.residual = matrix_padded(extra, m, n, 5, 2, 85);
            float *wanted = NULL;
            for (size_t v = 0; v < VIREO_COUNT(kernels); v++) {
                if (p.beta)
                    REQUIRE_OK(tensor_write_floats(test_device, p.c.whole, p.c.values, &err));
                float *got = product_values_by(&p, kernels[v]);
                char what[80];
                snprintf(what, sizeof what, "%s %s %s %s -> %s m=%u n=%u k=%u", kernels[v], product_names[kind],
                         dtype_name(at_), dtype_name(bt), dtype_name(ct), m, n, k);
                if (wanted)
                    test_same_bits(what, got, wanted, (size_t)m * n);
                else
                    wanted = got;
                if (got != wanted)
                    free(got);
            }
            free(wanted);
            product_free(&p);
        }
}

static bool was_run(const struct gpu_timer_row *rows, size_t count, const char *kernel)
{
    bool found = false;
    for (size_t i = 0; i < count; i++)
        found = found || strcmp(rows[i].label, kernel) == 0;
    return found;
}

// On CPU drivers with 16 lanes: so that the test above is one of these kernels too, and their speed is not lost unseen.
static void texels_are_loaded_where_they_fit(void **state)
{
    (void)state;
    static const char *const whole[] = {"gemm_nt_f32_f32_texel_broad", "gemm_nn_f32_f32_texel_broad", "gemm_tn_f32_f32_texel_tall"};
    static const char *const shifted[] = {"gemm_nt_f32_f32_tall", "gemm_nn_f32_f32_tall", "gemm_tn_f32_f32_tall"};
    const char *forced = getenv("VIREO_GEMM");
    const struct gpu_caps *caps = gpu_device_caps(test_device);
    if (caps->type != GPU_CPU || caps->subgroup_size != 16 || !caps->texel_views || (forced && forced[0]))
        skip();
    for (int kind = NN_NT; kind <= NN_TN; kind++)
        for (int shift = 0; shift < 2; shift++) { // by 8 bytes
            struct product p = product_new(kind, DTYPE_F32, DTYPE_F32, 64, 128, 512);
            matrix_free(&p.a);
            p.a = matrix_padded(DTYPE_F32, kind == NN_TN ? 512 : 64, kind == NN_TN ? 64 : 512, 4 - 2 * (uint32_t)shift, 4, 86);
            struct gpu_timer_row *rows;
            size_t count;
            gpu_timers_on(test_device, true);
            product_run(&p);
            gpu_timers_on(test_device, false);
            REQUIRE_OK(gpu_timers_read(test_device, &rows, &count, &err));
            if (!was_run(rows, count, shift ? shifted[kind] : whole[kind]))
                fail_msg("%s was not run but %s", shift ? shifted[kind] : whole[kind], count ? rows[0].label : "nothing");
            free(rows);
            product_free(&p);
        }
}

const struct CMUnitTest cases_linear_bits[] = {
    cmocka_unit_test(texels_are_loaded_where_they_fit),
    cmocka_unit_test(rows_have_the_same_bits_in_every_batch),
    cmocka_unit_test(tiles_have_the_bits_of_the_simd_family),
    cmocka_unit_test(few_rows_have_the_bits_of_the_simd_family),
    cmocka_unit_test(cpu_tiles_have_the_same_bits),
};
const size_t cases_linear_bits_count = VIREO_COUNT(cases_linear_bits);
