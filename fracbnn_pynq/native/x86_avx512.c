/* AVX-512 with BITALG and VNNI (Ice Lake, Zen 4 and later): a vector holds 16 output channels, each lane M/2 and L/2 of
 * one, and VPOPCNTW counts both halves at once. Activations are broadcast from memory, weights loaded once for several
 * pixels; no bit of a vector is ever padding and nothing is ever summed across lanes.
 */
#if defined(__x86_64__)

#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bitalg,avx512vnni,"   \
                                                   "avx512vpopcntdq,bmi2,popcnt"))),                             \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bitalg,avx512vnni,avx512vpopcntdq,bmi2,popcnt")
#endif

#define FB_OWN_FAITHFUL /* struct fb_constants, fb_load_constants and fb_finish_faithful */
#define FB_OWN_3X3      /* struct fb_tile, fb_load_tile, fb_xor_triples and fb_conv_row_3x3 */
#include "published.h"

/* The more significant bit says which of the two other steps decides the less significant one. */
static inline uint32_t fb_pack_vector(__m256i value, struct fb_steps steps)
{
    __mmask16 high = _mm256_cmpge_epi16_mask(value, _mm256_set1_epi16((int16_t)steps.two));
    __m256i step = _mm256_mask_blend_epi16(high, _mm256_set1_epi16((int16_t)steps.one),
                                           _mm256_set1_epi16((int16_t)steps.three));
    __mmask16 low = _mm256_cmpge_epi16_mask(value, step);
    return (uint32_t)_cvtmask32_u32(_mm512_kunpackw(high, low));
}

static inline uint32_t fb_narrow_pack16(const int16_t *value, struct fb_steps steps)
{
    return fb_pack_vector(_mm256_loadu_si256((const __m256i *)value), steps);
}

#define FB_UNROLL(i, count) _Pragma("GCC unroll 9") for (int i = 0; i < (count); i++)

enum { FB_MOST_PIXELS = 8 };

static inline __m512i fb_differences(__m512i weight, uint32_t word)
{
    return _mm512_xor_si512(weight, _mm512_set1_epi32((int)word));
}

static inline __m512i fb_count(__m512i weight, uint32_t word)
{
    return _mm512_popcnt_epi16(fb_differences(weight, word));
}

/* What a row of output pixels is computed from. */
struct fb_source {
    const uint32_t *bits;    /* activations under the row's first pixel */
    const __m512i *weights;  /* [k][k][groups] */
    const int32_t *start[3]; /* the first pixel's, the inner ones', the last one's */
};

#define FB_GROUPS (l->in_channels / FB_LANES)

static struct fb_source fb_source_of(const struct fb_layer *l, const uint32_t *bits, int64_t tile, int64_t y)
{
    const int64_t groups = FB_GROUPS, row = (l->in_size + 2) * groups, taps = l->kernel * l->kernel;
    return (struct fb_source){
        .bits = bits + y * l->stride * row + (l->kernel == 3 ? 0 : row + groups),
        .weights = FB_POINTER(const __m512i, l->weights) + tile * taps * groups,
        .start = {fb_start(l, tile, 0, y), fb_start(l, tile, 1, y), fb_start(l, tile, l->out_size - 1, y)},
    };
}

static inline __attribute__((always_inline)) void fb_load_starts(const struct fb_layer *l, const struct fb_source *from,
                                                                 int64_t x, const int pixels, __m512i *sum)
{
    FB_UNROLL(i, pixels) sum[i] = _mm512_loadu_si512(from->start[1]);
    if (x + pixels == l->out_size)
        sum[pixels - 1] = _mm512_loadu_si512(from->start[2]);
    if (x == 0)
        sum[0] = _mm512_loadu_si512(from->start[0]);
}

/* Sums of `pixels` neighbouring output pixels; `pixels` and `wrap` are constants where this is inlined. */
static inline __attribute__((always_inline)) void fb_block(const struct fb_layer *l, const struct fb_source *from,
                                                           int64_t x, const int pixels, const int wrap, int32_t *sums)
{
    const int64_t groups = FB_GROUPS, row = (l->in_size + 2) * groups, run = l->kernel * groups;
    const int64_t step = l->stride * groups;
    const __m512i *weight = from->weights;
    __m512i sum[FB_MOST_PIXELS];
    fb_load_starts(l, from, x, pixels, sum);
    for (int64_t k = 0; k < l->kernel; k++) {
        const uint32_t *word = from->bits + k * row + x * step;
        for (int64_t j = 0; j < run; j += 1 + wrap, word += 1 + wrap, weight += 1 + wrap)
            FB_UNROLL(i, pixels)
            {
                __m512i count = fb_count(weight[0], word[i * step]);
                if (wrap) { /* tiles of 32 channels: two groups together; one that agrees completely counts 32 more */
                    count = _mm512_add_epi16(count, fb_count(weight[1], word[i * step + 1]));
                    sum[i] = _mm512_mask_sub_epi16(sum[i], _mm512_testn_epi16_mask(count, count), sum[i],
                                                   _mm512_set1_epi16(32));
                }
                sum[i] = _mm512_sub_epi16(sum[i], count);
            }
    }
    FB_UNROLL(i, pixels) _mm512_storeu_si512(sums + (x + i) * FB_LANES, sum[i]);
}

static void fb_conv_row(const struct fb_layer *l, const uint32_t *bits, int64_t tile, int64_t y, int32_t *sums)
{
    const struct fb_source from = fb_source_of(l, bits, tile, y);
    int64_t x = 0;
    if (l->tile_wrap) {
        for (; x + 7 <= l->out_size; x += 7) /* ImageNet's maps are multiples of 7 wide */
            fb_block(l, &from, x, 7, 1, sums);
        for (; x < l->out_size; x++)
            fb_block(l, &from, x, 1, 1, sums);
        return;
    }
    if (l->out_size % 8)
        for (; x + 7 <= l->out_size; x += 7)
            fb_block(l, &from, x, 7, 0, sums);
    for (; x + 8 <= l->out_size; x += 8)
        fb_block(l, &from, x, 8, 0, sums);
    for (; x < l->out_size; x++)
        fb_block(l, &from, x, 1, 0, sums);
}

/* ---- 3x3 kernels: nine products at a time --------------------------------------------------------------------- */

enum {
    FB_MOST_GROUPS = 64, /* of 16 input channels */
    FB_TAPS = 9,
    FB_XOR3 = 0x96,
    FB_CARRY = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7, /* truth table: the majority of p, q, r from p, q and p ^ q ^ r */
};

/* The weights of 16 output channels per group of input channels: for each kernel row the first two, and all three
 * xored. */
struct fb_tile {
    __m512i taps[FB_MOST_GROUPS][FB_TAPS];
};

static void fb_load_tile(struct fb_tile *tile, const struct fb_layer *l, int64_t index)
{
    const int64_t groups = l->in_channels / FB_LANES;
    const __m512i *weight = FB_POINTER(const __m512i, l->weights) + index * FB_TAPS * groups;
    for (int64_t k = 0; k < FB_TAPS; k += 3, weight += 3 * groups)
        for (int64_t g = 0; g < groups; g++) {
            const __m512i first = weight[g], second = weight[groups + g], third = weight[2 * groups + g];
            tile->taps[g][k] = first;
            tile->taps[g][k + 1] = second;
            tile->taps[g][k + 2] = _mm512_ternarylogic_epi32(first, second, third, FB_XOR3);
        }
}

/* Three neighbouring activations of a row xored, for every place where a 3x3 kernel's row may begin. */
static void fb_xor_triples(const struct fb_layer *l, const uint32_t *restrict bits, uint32_t *restrict triples)
{
    const int64_t groups = l->in_channels / FB_LANES, count = ((l->in_size + 2) * (l->in_size + 2) - 2) * groups;
    for (int64_t i = 0; i < count; i++)
        triples[i] = bits[i] ^ bits[i + groups] ^ bits[i + 2 * groups];
}

/* Subtract the popcounts under a 3x3 kernel from `sum`. A full adder makes a sum bit and a carry of three products: the
 * sum bit needs the xored operands only, the carry two of the products. With a fourth adder for the three sum bits,
 * nine products take 24 instructions instead of 27, and five popcounts instead of nine. */
static inline __attribute__((always_inline)) void fb_count_3x3(const struct fb_tile *tile, const uint32_t *bits,
                                                               const uint32_t *triples, const int64_t row,
                                                               const int64_t groups, const int64_t step,
                                                               const int pixels, __m512i *sum)
{
    __m512i carries[FB_MOST_PIXELS];
    FB_UNROLL(i, pixels) carries[i] = _mm512_setzero_si512();
    for (int64_t g = 0; g < groups; g++, bits++, triples++) {
        const __m512i *w = tile->taps[g];
        FB_UNROLL(i, pixels)
        {
            __m512i ones[3], carry;
            FB_UNROLL(k, 3)
            {
                const uint32_t *word = bits + k * row + i * step;
                __m512i first = fb_differences(w[3 * k], word[0]), second = fb_differences(w[3 * k + 1], word[groups]);
                ones[k] = fb_differences(w[3 * k + 2], triples[k * row + i * step]);
                carry = _mm512_ternarylogic_epi32(first, second, ones[k], FB_CARRY);
                carries[i] = _mm512_add_epi16(carries[i], _mm512_popcnt_epi16(carry));
            }
            __m512i one = _mm512_ternarylogic_epi32(ones[2], ones[1], ones[0], FB_XOR3);
            carry = _mm512_ternarylogic_epi32(ones[0], ones[1], one, FB_CARRY);
            carries[i] = _mm512_add_epi16(carries[i], _mm512_popcnt_epi16(carry));
            sum[i] = _mm512_sub_epi16(sum[i], _mm512_popcnt_epi16(one));
        }
    }
    FB_UNROLL(i, pixels) sum[i] = _mm512_sub_epi16(sum[i], _mm512_add_epi16(carries[i], carries[i]));
}

/* One row. `groups`, `stride` and `pixels` are constants where this is inlined, the first two only where rows are so
 * short that address arithmetic counts. */
static inline __attribute__((always_inline)) void fb_row_3x3(const struct fb_layer *l, const struct fb_source *from,
                                                             const struct fb_tile *tile, const uint32_t *triples,
                                                             int32_t *sums, const int64_t groups, const int64_t stride,
                                                             const int pixels)
{
    const int64_t row = (l->in_size + 2) * groups, step = stride * groups;
    struct fb_tile copy;
    if (groups == 1) { /* in registers: as far as the compiler knows, stored sums could change the tile's weights */
        FB_UNROLL(k, FB_TAPS) copy.taps[0][k] = tile->taps[0][k];
        tile = &copy;
    }
    for (int64_t x = 0; x + pixels <= l->out_size; x += pixels) {
        __m512i sum[FB_MOST_PIXELS];
        fb_load_starts(l, from, x, pixels, sum);
        fb_count_3x3(tile, from->bits + x * step, triples + x * step, row, groups, step, pixels, sum);
        FB_UNROLL(i, pixels) _mm512_storeu_si512(sums + (x + i) * FB_LANES, sum[i]);
    }
}

#define FB_ROW_3X3(name, groups, stride, pixels)                                                                     \
    static __attribute__((noinline)) void fb_row_3x3_##name(const struct fb_layer *l, const struct fb_source *from,  \
                                                            const struct fb_tile *tile, const uint32_t *triples,     \
                                                            int32_t *sums)                                           \
    {                                                                                                                \
        fb_row_3x3(l, from, tile, triples, sums, groups, stride, pixels);                                            \
    }
FB_ROW_3X3(one_group, 1, 1, 2)
FB_ROW_3X3(two_groups, 2, 1, 4)
FB_ROW_3X3(four_groups, 4, 1, 4)
FB_ROW_3X3(fours, FB_GROUPS, l->stride, 4)
FB_ROW_3X3(sevens, FB_GROUPS, l->stride, 7) /* ImageNet's maps are multiples of 7 wide */
FB_ROW_3X3(ones, FB_GROUPS, l->stride, 1)

static void fb_conv_row_3x3(const struct fb_layer *l, const struct fb_tile *tile, int64_t index, int64_t y,
                            const uint32_t *bits, const uint32_t *triples, int32_t *sums)
{
    const int64_t groups = FB_GROUPS;
    const struct fb_source from = fb_source_of(l, bits, index, y);
    triples += from.bits - bits;
    if (l->out_size % 7 == 0)
        fb_row_3x3_sevens(l, &from, tile, triples, sums);
    else if (l->out_size % 4)
        fb_row_3x3_ones(l, &from, tile, triples, sums);
    else if (l->stride == 2 || (groups != 1 && groups != 2 && groups != 4))
        fb_row_3x3_fours(l, &from, tile, triples, sums);
    else if (groups == 4)
        fb_row_3x3_four_groups(l, &from, tile, triples, sums);
    else if (groups == 2)
        fb_row_3x3_two_groups(l, &from, tile, triples, sums);
    else
        fb_row_3x3_one_group(l, &from, tile, triples, sums);
}

/* ---- what the faithful arithmetic prepares per tile; the rest is in x86_avx512_faithful.h ----------------------- */

struct fb_constants {
    __m512i gate_at, knee, slopes0, slopes1, beta0, beta1, shift; /* slopes: alpha in the low half, gamma in the high */
    __m512i spread; /* which of 16 shortcut values goes to which 16-bit half */
};

static inline __m512i fb_table_row(const int32_t *table, int64_t channels, int row)
{
    return _mm512_loadu_si512(table + row * channels);
}

static inline __m512i fb_halves(__m512i low, __m512i high)
{
    return _mm512_mask_mov_epi16(_mm512_slli_epi32(high, 16), 0x55555555, low);
}

static void fb_load_constants(struct fb_constants *c, const int32_t *t, int64_t n)
{
    const __m512i gamma = fb_table_row(t, n, FB_GAMMA), one = _mm512_set1_epi32(1);
    /* Sums are halved: M >= g is M/2 >= ceil(g / 2), compared where M/2 lies, in the high half. */
    const __m512i gate_at = _mm512_srai_epi32(_mm512_add_epi32(fb_table_row(t, n, FB_GATE_AT), one), 1);
    c->gate_at = _mm512_slli_epi32(gate_at, 16);
    c->knee = fb_table_row(t, n, FB_KNEE);
    c->slopes0 = fb_halves(fb_table_row(t, n, FB_ALPHA0), gamma);
    c->slopes1 = fb_halves(fb_table_row(t, n, FB_ALPHA1), gamma);
    c->beta0 = fb_table_row(t, n, FB_BETA0);
    c->beta1 = fb_table_row(t, n, FB_BETA1);
    c->shift = fb_table_row(t, n, FB_SHIFT);
    c->spread = _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16, 10 << 16, 9 << 16, 8 << 16, 7 << 16,
                                 6 << 16, 5 << 16, 4 << 16, 3 << 16, 2 << 16, 1 << 16, 0);
}

#define FB_WIDEN(bytes) (shorts) _mm256_cvtepi8_epi16((__m128i)(bytes))
#define FB_ENGINE(name) name##_avx512
#include "engine.h"

#include "x86_avx512_faithful.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
