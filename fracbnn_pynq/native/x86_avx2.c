/* AVX2: two vectors hold 16 output channels, each 32-bit lane M/2 and L/2 of one. There is no vector popcount: nibbles
 * are looked up with PSHUFB, counted in bytes and widened before a byte can overflow.
 */
#if defined(__x86_64__)

#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi2,popcnt")
#endif

#define FB_VECTOR 32
#include "published.h"

static inline uint32_t fb_at_least(const int16_t *value, int32_t step)
{
    const __m256i *v = (const __m256i *)value;
    __m256i mask = _mm256_cmpgt_epi16(_mm256_loadu_si256(v), _mm256_set1_epi16((int16_t)(step - 1)));
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(mask, _mm256_setzero_si256()), 0xd8);
    return (uint32_t)_mm_movemask_epi8(_mm256_castsi256_si128(bytes));
}

static inline uint32_t fb_narrow_pack16(const int16_t *value, struct fb_steps steps)
{
    uint32_t one = fb_at_least(value, steps.one), two = fb_at_least(value, steps.two);
    return two << 16 | ((one ^ two) | fb_at_least(value, steps.three));
}

/* Bits set in every byte. */
static inline __m256i fb_count_bytes(__m256i v)
{
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, /* both 128-bit halves */
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_and_si256(v, nibble), high = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
}

/* Sums of the two bytes of every 16-bit half. */
static inline __m256i fb_widen(__m256i bytes)
{
    return _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
}

enum { FB_BYTE_STEPS = 31 }; /* 31 counts of at most 8 fit a byte */

static inline __attribute__((always_inline)) void fb_block(const struct fb_layer *l, const uint32_t *bits, int64_t tile,
                                                           int64_t x, int64_t y, const int pixels, const int wrap,
                                                           int32_t *sums)
{
    const int64_t groups = l->in_channels / FB_LANES, row = (l->in_size + 2) * groups, run = l->kernel * groups;
    const int64_t first = l->kernel == 3 ? 0 : 1, step = l->stride * groups;
    const __m256i *weight = FB_POINTER(const __m256i, l->weights) + 2 * tile * l->kernel * run;
    __m256i sum[4][2];
    for (int i = 0; i < pixels; i++) {
        const __m256i *start = (const __m256i *)fb_start(l, tile, x + i, y);
        sum[i][0] = _mm256_loadu_si256(start), sum[i][1] = _mm256_loadu_si256(start + 1);
    }
    for (int64_t k = 0; k < l->kernel; k++) {
        const uint32_t *word = bits + (y * l->stride + k + first) * row + (x * l->stride + first) * groups;
        for (int64_t j = 0; j < run;) {
            int64_t stop = wrap ? j + 2 : j + FB_BYTE_STEPS < run ? j + FB_BYTE_STEPS : run;
            __m256i bytes[4][2];
            for (int i = 0; i < pixels; i++)
                bytes[i][0] = bytes[i][1] = _mm256_setzero_si256();
            for (; j < stop; j++, word++) {
                __m256i w0 = _mm256_load_si256(weight++), w1 = _mm256_load_si256(weight++);
                for (int i = 0; i < pixels; i++) {
                    __m256i a = _mm256_set1_epi32((int)word[i * step]);
                    bytes[i][0] = _mm256_add_epi8(bytes[i][0], fb_count_bytes(_mm256_xor_si256(a, w0)));
                    bytes[i][1] = _mm256_add_epi8(bytes[i][1], fb_count_bytes(_mm256_xor_si256(a, w1)));
                }
            }
            for (int i = 0; i < pixels; i++)
                for (int h = 0; h < 2; h++) {
                    __m256i count = fb_widen(bytes[i][h]);
                    sum[i][h] = _mm256_sub_epi16(sum[i][h], count);
                    if (wrap) { /* a 32-channel tile that agrees completely */
                        __m256i match = _mm256_cmpeq_epi16(count, _mm256_setzero_si256());
                        sum[i][h] = _mm256_sub_epi16(sum[i][h], _mm256_and_si256(match, _mm256_set1_epi16(32)));
                    }
                }
        }
    }
    for (int i = 0; i < pixels; i++) {
        __m256i *out = (__m256i *)(sums + (x + i) * FB_LANES);
        _mm256_storeu_si256(out, sum[i][0]), _mm256_storeu_si256(out + 1, sum[i][1]);
    }
}

static void fb_conv_row(const struct fb_layer *l, const uint32_t *bits, int64_t tile, int64_t y, int32_t *sums)
{
    int64_t x = 0;
    if (l->tile_wrap) {
        for (; x < l->out_size; x++)
            fb_block(l, bits, tile, x, y, 1, 1, sums);
        return;
    }
    for (; x + 2 <= l->out_size; x += 2)
        fb_block(l, bits, tile, x, y, 2, 0, sums);
    for (; x < l->out_size; x++)
        fb_block(l, bits, tile, x, y, 1, 0, sums);
}

#define FB_WIDEN(bytes) (shorts) _mm256_cvtepi8_epi16((__m128i)(bytes))
#define FB_RUN_PREPARED fb_run_avx2_lookup
#define FB_ENGINE(name) name##_avx2
#include "engine.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
