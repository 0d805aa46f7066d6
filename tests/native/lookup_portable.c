/* The look-up engine in plain C: the same kernel and walk as x86_avx2_lookup.c, its few vector operations written out.
 * It is for checking, everywhere and under sanitizers; engines that count bits are faster without such instructions.
 */
#include "../../fracbnn_pynq/native/lookup.h"

#include <string.h>

/* Neither inlined nor unrolled: it is compiled in seconds. */
#define FB_INLINE static __attribute__((noinline))
#define FB_UNROLL(i, count) for (int i = 0; i < (count); i++)

typedef uint8_t fb_bytes __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef int16_t fb_shorts __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef uint16_t fb_unsigned __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef int32_t fb_ints __attribute__((vector_size(FB_VECTOR_PIXELS)));
typedef uint32_t fb_words __attribute__((vector_size(FB_VECTOR_PIXELS)));

enum { BYTES = 32, SHORTS = 16, INTS = 8, SHORTS_OF_LANE = 8, INTS_OF_LANE = 4 };

FB_INLINE fb_bytes fb_table(int64_t offset)
{
    fb_bytes table;
    for (int i = 0; i < BYTES; i++)
        table[i] = (uint8_t)__builtin_popcount((unsigned)(offset / 16 ^ i % 16));
    return table;
}

FB_INLINE fb_bytes fb_look_up(fb_bytes table, fb_bytes index)
{
    fb_bytes found;
    for (int i = 0; i < BYTES; i++)
        found[i] = index[i] & FB_OUTSIDE ? 0 : table[index[i] % 16];
    return found;
}

#define FB_ADD_TO(sum, v) (sum += (v))
#define FB_LOAD_INDICES(v, from) memcpy(&(v), from, sizeof(v))

/* AVX2 interleaves and narrows within 128-bit lanes. */
FB_INLINE fb_shorts interleave(fb_shorts a, fb_shorts b, int from)
{
    fb_shorts v;
    for (int i = 0; i < SHORTS; i++) {
        const int at = i / SHORTS_OF_LANE * SHORTS_OF_LANE + from + i % SHORTS_OF_LANE / 2;
        v[i] = i % 2 ? b[at] : a[at];
    }
    return v;
}

FB_INLINE fb_shorts fb_interleave_low(fb_shorts a, fb_shorts b)
{
    return interleave(a, b, 0);
}

FB_INLINE fb_shorts fb_interleave_high(fb_shorts a, fb_shorts b)
{
    return interleave(a, b, SHORTS_OF_LANE / 2);
}

FB_INLINE fb_ints fb_multiply_add(fb_shorts a, fb_shorts b)
{
    fb_ints v;
    for (int i = 0; i < INTS; i++)
        v[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return v;
}

FB_INLINE fb_ints fb_select(fb_ints mask, fb_ints yes, fb_ints no)
{
    return (yes & mask) | (no & ~mask);
}

FB_INLINE fb_ints fb_shift_right(fb_ints v, int32_t bits)
{
    return v >> bits;
}

static int16_t clamp(int32_t value, int32_t low, int32_t high)
{
    return (int16_t)(value < low ? low : value > high ? high : value);
}

FB_INLINE fb_shorts fb_saturate(fb_ints low, fb_ints high)
{
    fb_shorts v;
    for (int i = 0; i < SHORTS; i++) {
        const int at = i / SHORTS_OF_LANE * INTS_OF_LANE + i % INTS_OF_LANE;
        v[i] = clamp(i % SHORTS_OF_LANE < INTS_OF_LANE ? low[at] : high[at], INT16_MIN, INT16_MAX);
    }
    return v;
}

FB_INLINE fb_shorts fb_clamp_code(fb_shorts v)
{
    for (int i = 0; i < SHORTS; i++)
        v[i] = clamp(v[i], 0, 15);
    return v;
}

FB_INLINE fb_bytes fb_split_columns(fb_bytes v)
{
    fb_bytes split;
    for (int i = 0; i < BYTES; i++)
        split[i % 2 * SHORTS + i / 2] = v[i];
    return split;
}

FB_INLINE void fb_transpose(const fb_shorts *from, fb_shorts *to)
{
    for (int i = 0; i < SHORTS; i++)
        for (int j = 0; j < SHORTS; j++)
            to[i][j] = from[j][i];
}

#include "../../fracbnn_pynq/native/lookup_walk.h"

int run_lookup_portable(const struct fb_plan *plan, const uint8_t *levels, const uint8_t *pictures, int64_t count,
                        float *logits, uint8_t *codes, struct fb_team *team)
{
    return fb_run_lookup(plan, levels, pictures, count, logits, codes, team);
}
