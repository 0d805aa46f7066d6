/* AVX2's look-up engine: PSHUFB looks 32 pixels' indices up at once. */
#if defined(__x86_64__)

#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi2,popcnt")
#endif

#include "lookup.h"

typedef uint8_t fb_bytes __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef int16_t fb_shorts __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef uint16_t fb_unsigned __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef uint32_t fb_words __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef uint8_t fb_unaligned __attribute__((vector_size(FB_VECTOR_PIXELS), aligned(1), may_alias));
typedef int32_t fb_ints __attribute__((vector_size(FB_VECTOR_PIXELS)));

/* Table w, at 16 w: how many bits of w differ from an index's. */
static const uint8_t fb_tables[16 * 16] __attribute__((aligned(64))) = {
#define FB_BITS(n) ((n)&1) + ((n) >> 1 & 1) + ((n) >> 2 & 1) + ((n) >> 3 & 1)
#define FB_FOUR_ENTRIES(w, i) FB_BITS((w) ^ (i)), FB_BITS((w) ^ (i + 1)), FB_BITS((w) ^ (i + 2)), FB_BITS((w) ^ (i + 3))
#define FB_TABLE(w) FB_FOUR_ENTRIES(w, 0), FB_FOUR_ENTRIES(w, 4), FB_FOUR_ENTRIES(w, 8), FB_FOUR_ENTRIES(w, 12)
    FB_TABLE(0), FB_TABLE(1), FB_TABLE(2), FB_TABLE(3), FB_TABLE(4), FB_TABLE(5), FB_TABLE(6), FB_TABLE(7),
    FB_TABLE(8), FB_TABLE(9), FB_TABLE(10), FB_TABLE(11), FB_TABLE(12), FB_TABLE(13), FB_TABLE(14), FB_TABLE(15),
};

#define FB_PRIMITIVE static inline __attribute__((always_inline))

FB_PRIMITIVE fb_bytes fb_table(int64_t offset)
{
    return (fb_bytes)_mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(fb_tables + offset)));
}

FB_PRIMITIVE fb_bytes fb_look_up(fb_bytes table, fb_bytes index)
{
    return (fb_bytes)_mm256_shuffle_epi8((__m256i)table, (__m256i)index);
}

/* In place: GCC would copy the sums around its loops. And loaded once for both tables, but again for another tap: GCC
 * would keep what several taps read, on the stack. */
#define FB_ADD_TO(sum, v) __asm__("vpaddb %1,%0,%0" : "+x"(sum) : "x"(v))
#define FB_LOAD_INDICES(v, from) __asm__ volatile("vmovdqu %1,%0" : "=x"(v) : "m"(*(const fb_unaligned *)(from)))

FB_PRIMITIVE fb_shorts fb_interleave_low(fb_shorts a, fb_shorts b)
{
    return (fb_shorts)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b);
}

FB_PRIMITIVE fb_shorts fb_interleave_high(fb_shorts a, fb_shorts b)
{
    return (fb_shorts)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b);
}

FB_PRIMITIVE fb_ints fb_multiply_add(fb_shorts a, fb_shorts b)
{
    return (fb_ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}

FB_PRIMITIVE fb_ints fb_select(fb_ints mask, fb_ints yes, fb_ints no)
{
    return (fb_ints)_mm256_blendv_epi8((__m256i)no, (__m256i)yes, (__m256i)mask);
}

FB_PRIMITIVE fb_ints fb_shift_right(fb_ints v, int32_t bits)
{
    return (fb_ints)_mm256_sra_epi32((__m256i)v, _mm_cvtsi32_si128(bits));
}

FB_PRIMITIVE fb_shorts fb_saturate(fb_ints low, fb_ints high)
{
    return (fb_shorts)_mm256_packs_epi32((__m256i)low, (__m256i)high);
}

FB_PRIMITIVE fb_shorts fb_clamp_code(fb_shorts v)
{
    return (fb_shorts)_mm256_min_epi16(_mm256_max_epi16((__m256i)v, _mm256_setzero_si256()), _mm256_set1_epi16(15));
}

/* The bytes at even places, then those at odd ones. */
FB_PRIMITIVE fb_bytes fb_split_columns(fb_bytes v)
{
    const __m256i even = _mm256_and_si256((__m256i)v, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16((__m256i)v, 8);
    return (fb_bytes)_mm256_permute4x64_epi64(_mm256_packus_epi16(even, odd), 0xd8);
}

/* Sixteen vectors of sixteen: rows become columns. */
FB_PRIMITIVE void fb_transpose(const fb_shorts *from, fb_shorts *to)
{
    __m256i r[16], t[16];
    for (int i = 0; i < 8; i++) {
        const __m256i a = (__m256i)from[i], b = (__m256i)from[i + 8];
        r[i] = _mm256_permute2x128_si256(a, b, 0x20);
        r[8 + i] = _mm256_permute2x128_si256(a, b, 0x31);
    }
    for (int h = 0; h < 16; h += 8) {
        for (int i = 0; i < 8; i += 2) {
            t[h + i] = _mm256_unpacklo_epi16(r[h + i], r[h + i + 1]);
            t[h + i + 1] = _mm256_unpackhi_epi16(r[h + i], r[h + i + 1]);
        }
        for (int i = 0; i < 8; i += 4) {
            r[h + i] = _mm256_unpacklo_epi32(t[h + i], t[h + i + 2]);
            r[h + i + 1] = _mm256_unpackhi_epi32(t[h + i], t[h + i + 2]);
            r[h + i + 2] = _mm256_unpacklo_epi32(t[h + i + 1], t[h + i + 3]);
            r[h + i + 3] = _mm256_unpackhi_epi32(t[h + i + 1], t[h + i + 3]);
        }
        for (int i = 0; i < 4; i++) {
            to[h + 2 * i] = (fb_shorts)_mm256_unpacklo_epi64(r[h + i], r[h + 4 + i]);
            to[h + 2 * i + 1] = (fb_shorts)_mm256_unpackhi_epi64(r[h + i], r[h + 4 + i]);
        }
    }
}

#define FB_WIDEN(bytes) (shorts) _mm256_cvtepi8_epi16((__m128i)(bytes))
#include "lookup_walk.h"

int fb_run_avx2_lookup(const struct fb_plan *plan, const uint8_t *levels, const uint8_t *pictures, int64_t count,
                       float *logits, uint8_t *codes, struct fb_team *team)
{
    return fb_run_lookup(plan, levels, pictures, count, logits, codes, team);
}

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
