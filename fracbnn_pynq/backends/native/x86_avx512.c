/* AVX-512 with BITALG (Ice Lake, Zen 4 and later): a vector holds 16 output channels, each lane M/2 and L/2 of one, and
 * VPOPCNTW counts both halves at once. Activations are broadcast from memory, weights loaded once for several pixels;
 * no bit of a vector is ever padding and nothing is ever summed across lanes.
 */
#include "published.h"

#if defined(__x86_64__)

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bitalg,avx512vpopcntdq,bmi2,popcnt")
#include <immintrin.h>

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

/* Sums of `pixels` neighbouring output pixels; `pixels` and `wrap` are constants where this is inlined. */
static inline __attribute__((always_inline)) void fb_block(const struct fb_layer *l, const uint32_t *bits, int64_t tile,
                                                           int64_t x, int64_t y, const int pixels, const int wrap,
                                                           int32_t *sums)
{
    const int64_t groups = l->in_channels / FB_LANES, row = (l->in_size + 2) * groups, run = l->kernel * groups;
    const int64_t first = l->kernel == 3 ? 0 : 1, step = l->stride * groups;
    const __m512i *weight =
        FB_POINTER(const __m512i, l->weights) + tile * l->kernel * run; /* [k][k][groups] vectors a tile */
    __m512i sum[8];
    const __m512i inner = _mm512_loadu_si512(fb_start(l, tile, 1, y));
    for (int i = 1; i < pixels; i++)
        sum[i] = inner;
    sum[0] = _mm512_loadu_si512(fb_start(l, tile, x, y));
    sum[pixels - 1] = _mm512_loadu_si512(fb_start(l, tile, x + pixels - 1, y)); /* only a row's ends touch the border */
    for (int64_t k = 0; k < l->kernel; k++) {
        const uint32_t *word = bits + (y * l->stride + k + first) * row + (x * l->stride + first) * groups;
        for (int64_t j = 0; j < run; j++, word++) {
            __m512i w = _mm512_load_si512(weight++);
            if (wrap) { /* tiles of 32 channels: two groups together */
                __m512i w2 = _mm512_load_si512(weight++);
                j++;
                for (int i = 0; i < pixels; i++) {
                    __m512i count = _mm512_add_epi16(
                        _mm512_popcnt_epi16(_mm512_xor_si512(w, _mm512_set1_epi32((int)word[i * step]))),
                        _mm512_popcnt_epi16(_mm512_xor_si512(w2, _mm512_set1_epi32((int)word[i * step + 1]))));
                    sum[i] = _mm512_sub_epi16(sum[i], count);
                    sum[i] = _mm512_mask_sub_epi16(sum[i], _mm512_testn_epi16_mask(count, count), sum[i],
                                                   _mm512_set1_epi16(32));
                }
                word++;
                continue;
            }
            for (int i = 0; i < pixels; i++) {
                __m512i different = _mm512_xor_si512(w, _mm512_set1_epi32((int)word[i * step]));
                sum[i] = _mm512_sub_epi16(sum[i], _mm512_popcnt_epi16(different));
            }
        }
    }
    for (int i = 0; i < pixels; i++)
        _mm512_storeu_si512(sums + (x + i) * FB_LANES, sum[i]);
}

static void fb_conv_row(const struct fb_layer *l, const uint32_t *bits, int64_t tile, int64_t y, int32_t *sums)
{
    int64_t x = 0;
    if (l->tile_wrap) {
        for (; x + 7 <= l->out_size; x += 7) /* ImageNet's maps are multiples of 7 wide */
            fb_block(l, bits, tile, x, y, 7, 1, sums);
        for (; x < l->out_size; x++)
            fb_block(l, bits, tile, x, y, 1, 1, sums);
        return;
    }
    if (l->out_size % 8)
        for (; x + 7 <= l->out_size; x += 7)
            fb_block(l, bits, tile, x, y, 7, 0, sums);
    for (; x + 8 <= l->out_size; x += 8)
        fb_block(l, bits, tile, x, y, 8, 0, sums);
    for (; x < l->out_size; x++)
        fb_block(l, bits, tile, x, y, 1, 0, sums);
}

/* ---- the faithful arithmetic: fb_faithful of lanes.h, its constants held in registers over a row ------------------ */

struct fb_constants {
    __m512i gate_at, knee, slopes0, slopes1, beta0, beta1, shift; /* slopes: alpha in the low half, gamma in the high */
    __m512i spread; /* which of 16 shortcut values goes to which 16-bit half */
};

static inline __m512i fb_row(const int32_t *table, int64_t channels, int row)
{
    return _mm512_loadu_si512(table + row * channels);
}

static inline __m512i fb_halves(__m512i low, __m512i high)
{
    return _mm512_mask_mov_epi16(_mm512_slli_epi32(high, 16), 0x55555555, low);
}

static struct fb_constants fb_load_constants(const int32_t *t, int64_t n)
{
    __m512i gamma = fb_row(t, n, FB_GAMMA), one = _mm512_set1_epi32(1);
    /* Sums are halved: M >= g is M/2 >= ceil(g / 2), compared where M/2 lies, in the high half. */
    __m512i gate_at = _mm512_srai_epi32(_mm512_add_epi32(fb_row(t, n, FB_GATE_AT), one), 1);
    return (struct fb_constants){
        .gate_at = _mm512_slli_epi32(gate_at, 16),
        .knee = fb_row(t, n, FB_KNEE),
        .slopes0 = fb_halves(fb_row(t, n, FB_ALPHA0), gamma),
        .slopes1 = fb_halves(fb_row(t, n, FB_ALPHA1), gamma),
        .beta0 = fb_row(t, n, FB_BETA0),
        .beta1 = fb_row(t, n, FB_BETA1),
        .shift = fb_row(t, n, FB_SHIFT),
        .spread = _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16, 10 << 16, 9 << 16, 8 << 16, 7 << 16,
                                   6 << 16, 5 << 16, 4 << 16, 3 << 16, 2 << 16, 1 << 16, 0),
    };
}

/* Output of 16 channels: total = 2 M + (gate ? L : 0), shortcut as 16 map values, or null for none. */
static inline __attribute__((always_inline)) void fb_put_faithful(const struct fb_constants *c, __m512i total,
                                                                  const int16_t *shortcut, const int codes, int16_t *map,
                                                                  uint32_t *bits)
{
    __m512i pair = _mm512_maskz_mov_epi16(0x55555555, total); /* total in the low halves, the shortcut in the high */
    if (shortcut != NULL) {
        __m512i r = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)shortcut));
        pair = _mm512_mask_permutexvar_epi16(total, 0xaaaaaaaa, c->spread, r);
    }
    __mmask16 first = _mm512_cmpge_epi32_mask(total, c->knee);
    __m512i slopes = _mm512_mask_blend_epi32(first, c->slopes1, c->slopes0);
    __m512i value = _mm512_add_epi32(_mm512_madd_epi16(pair, slopes),
                                     _mm512_mask_blend_epi32(first, c->beta1, c->beta0));
    value = _mm512_srav_epi32(value, c->shift);
    if (codes)
        value = _mm512_min_epi32(_mm512_max_epi32(value, _mm512_setzero_si512()), _mm512_set1_epi32(15));
    __m256i narrow = _mm512_cvtsepi32_epi16(value);
    _mm256_storeu_si256((__m256i *)map, narrow);
    *bits = fb_pack_vector(narrow, fb_steps_of(codes ? FB_FAITHFUL_CODES : FB_FAITHFUL_MAP));
}

/* 2 M + (gate ? L : 0) from halved sums. */
static inline __m512i fb_gated_total(const struct fb_constants *c, __m512i sums)
{
    __mmask16 closed = _mm512_cmplt_epi32_mask(sums, c->gate_at);
    sums = _mm512_mask_and_epi32(sums, closed, sums, _mm512_set1_epi32(~0xffff));
    return _mm512_madd_epi16(sums, _mm512_set1_epi32(4 << 16 | 2));
}

#define FB_WIDEN(bytes) (shorts) _mm256_cvtepi8_epi16((__m128i)(bytes))
#define FB_OWN_FAITHFUL
#define FB_ENGINE fb_run_avx512
#include "engine.h"

static inline __attribute__((always_inline)) void fb_finish(int64_t n, int64_t count, const int gated, const int codes,
                                                            const int32_t *t, const int32_t *sums,
                                                            struct fb_narrow_row row)
{
    const struct fb_constants c = fb_load_constants(t, n);
    for (int64_t x = 0; x < count; x++, sums += FB_LANES, fb_narrow_next(&row)) {
        __m512i total = _mm512_loadu_si512(sums);
        if (gated)
            total = fb_gated_total(&c, total);
        fb_put_faithful(&c, total, gated ? row.shortcut : NULL, codes, row.map, row.bits);
    }
}

static void fb_finish_faithful(int64_t n, int64_t count, int64_t rule, int gated, const int32_t *t, const int32_t *sums,
                               struct fb_narrow_row row)
{
    if (rule == FB_FAITHFUL_CODES)
        gated ? fb_finish(n, count, 1, 1, t, sums, row) : fb_finish(n, count, 0, 1, t, sums, row);
    else
        gated ? fb_finish(n, count, 1, 0, t, sums, row) : fb_finish(n, count, 0, 0, t, sums, row);
}

#endif
