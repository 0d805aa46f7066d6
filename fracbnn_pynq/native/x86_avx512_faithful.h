/* The faithful arithmetic with AVX-512: fb_faithful_part of lanes.h for four pixels at a time. Part of x86_avx512.c. */

enum { FB_FOUR = 4 };
#define FB_FOUR_TIMES(i) FB_UNROLL(i, FB_FOUR)

/* Output before saturation of four pixels with sums at `sums` and shortcuts at `shortcut`. One step
 * of all pixels after the other: a pixel's steps wait for each other, and the processor looks only so far ahead. */
static inline __attribute__((always_inline)) void fb_values(const struct fb_constants *c, const int32_t *const *sums,
                                                            const int16_t *const *shortcut, const int gated,
                                                            __m512i *value)
{
    __m512i total[FB_FOUR], slopes[FB_FOUR];
    __mmask16 first[FB_FOUR];
    FB_FOUR_TIMES(i) total[i] = _mm512_loadu_si512(sums[i]);
    if (gated) { /* 2 M + (gate ? L : 0) from halved sums */
        __mmask16 closed[FB_FOUR];
        FB_FOUR_TIMES(i) closed[i] = _mm512_cmplt_epi32_mask(total[i], c->gate_at);
        FB_FOUR_TIMES(i) total[i] = _mm512_mask_and_epi32(total[i], closed[i], total[i], _mm512_set1_epi32(~0xffff));
        FB_FOUR_TIMES(i) total[i] = _mm512_madd_epi16(total[i], _mm512_set1_epi32(4 << 16 | 2));
    }
    FB_FOUR_TIMES(i) first[i] = _mm512_cmpge_epi32_mask(total[i], c->knee);
    FB_FOUR_TIMES(i) slopes[i] = _mm512_mask_blend_epi32(first[i], c->slopes1, c->slopes0);
    FB_FOUR_TIMES(i) value[i] = _mm512_mask_blend_epi32(first[i], c->beta1, c->beta0);
    FB_FOUR_TIMES(i) /* the total into the low halves, the shortcut into the high */
        total[i] = gated ? _mm512_mask_permutexvar_epi16(total[i], 0xaaaaaaaa, c->spread,
                                                         _mm512_castsi256_si512(
                                                             _mm256_loadu_si256((const __m256i *)shortcut[i])))
                         : _mm512_maskz_mov_epi16(0x55555555, total[i]);
    FB_FOUR_TIMES(i) value[i] = _mm512_dpwssd_epi32(value[i], total[i], slopes[i]);
    FB_FOUR_TIMES(i) value[i] = _mm512_srav_epi32(value[i], c->shift);
}

/* Four pixels' output, the pixels at `at` of a row: two fill a vector of 16-bit values. */
static inline __attribute__((always_inline)) void fb_put_four(const __m512i *value, const struct fb_narrow_row *row,
                                                              const int64_t *at, const int codes)
{
    const struct fb_steps steps = fb_steps_of(codes ? FB_FAITHFUL_CODES : FB_FAITHFUL_MAP);
    const __m512i one = _mm512_set1_epi16((int16_t)steps.one), three = _mm512_set1_epi16((int16_t)steps.three);
    __m512i mixed[2], step[2];
    __mmask32 high[2];
#define FB_TWICE(i) for (int i = 0; i < 2; i++)
    FB_TWICE(i) mixed[i] = _mm512_packs_epi32(value[2 * i], value[2 * i + 1]); /* four of one, four of the other, ... */
    if (codes)
        FB_TWICE(i)
            mixed[i] = _mm512_min_epi16(_mm512_max_epi16(mixed[i], _mm512_setzero_si512()), _mm512_set1_epi16(15));
    /* The more significant bit says which of the two other steps decides the less significant one. */
    FB_TWICE(i) high[i] = _mm512_cmpge_epi16_mask(mixed[i], _mm512_set1_epi16((int16_t)steps.two));
    FB_TWICE(i) step[i] = _mm512_mask_blend_epi16(high[i], one, three);
    FB_TWICE(i)
    {
        const int64_t a = at[2 * i], b = at[2 * i + 1];
        uint64_t both = _cvtmask64_u64(_mm512_kunpackd(high[i], _mm512_cmpge_epi16_mask(mixed[i], step[i])));
        row->bits[a * row->bits_stride] = (uint32_t)_pext_u64(both, 0x0f0f0f0f0f0f0f0f);
        row->bits[b * row->bits_stride] = (uint32_t)_pext_u64(both, 0xf0f0f0f0f0f0f0f0);
        __m512i values = _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), mixed[i]);
        _mm256_storeu_si256((__m256i *)(row->map + a * row->map_stride), _mm512_castsi512_si256(values));
        _mm256_storeu_si256((__m256i *)(row->map + b * row->map_stride), _mm512_extracti64x4_epi64(values, 1));
    }
#undef FB_TWICE
}

static inline __attribute__((always_inline)) void fb_finish(const struct fb_constants *c, int64_t count,
                                                            const int gated, const int codes, const int32_t *sums,
                                                            const struct fb_narrow_row *at_row)
{
    const struct fb_narrow_row row = *at_row; /* a copy that no store through its pointers can change */
    for (int64_t x = 0; x < count; x += FB_FOUR) {
        const int32_t *from[FB_FOUR];
        const int16_t *shortcut[FB_FOUR];
        int64_t at[FB_FOUR];
        __m512i value[FB_FOUR];
        FB_FOUR_TIMES(i)
        {
            at[i] = x + i < count ? x + i : count - 1; /* the last pixel again where there are no four */
            from[i] = sums + at[i] * FB_LANES;
            shortcut[i] = row.shortcut + at[i] * row.shortcut_stride;
        }
        fb_values(c, from, shortcut, gated, value);
        fb_put_four(value, &row, at, codes);
    }
}

static void fb_finish_faithful(const struct fb_constants *c, int64_t count, int64_t rule, int gated,
                               const int32_t *sums, const struct fb_narrow_row *row)
{
    if (rule == FB_FAITHFUL_CODES)
        gated ? fb_finish(c, count, 1, 1, sums, row) : fb_finish(c, count, 0, 1, sums, row);
    else
        gated ? fb_finish(c, count, 1, 0, sums, row) : fb_finish(c, count, 0, 0, sums, row);
}
