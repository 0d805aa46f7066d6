/* From the sums of 16 channels of one pixel to their output, in plain C over 16 lanes: every engine includes this file,
 * and the compiler vectorises the loops for that engine's instruction set. The reference in NumPy is rules.py and
 * published.py; the names are the same.
 */
#ifndef FRACBNN_LANES_H
#define FRACBNN_LANES_H

#include "fracbnn.h"

#include <stdlib.h>
#include <string.h>

#define FB_EACH(i) for (int i = 0; i < FB_LANES; i++)

static inline int32_t fb_clamp32(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static inline int64_t fb_clamp64(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* The low `bits` bits of an even sum as a two's complement number. */
static inline int32_t fb_wrap(int32_t sum, int bits)
{
    int32_t half = 1 << (bits - 1);
    return ((sum + half) & (2 * half - 1)) - half;
}

/* Border class of an output row or column: 0 if the kernel's first tap lies outside the map, 2 if its last does. */
static inline int64_t fb_border(const struct fb_layer *l, int64_t at)
{
    if (l->kernel == 1)
        return 1;
    return at == 0 ? 0 : at * l->stride + 1 == l->in_size ? 2 : 1;
}

/* Where the sums of 16 channels of an output pixel start: what the border adds depends on which taps lie outside. */
static inline const int32_t *fb_start(const struct fb_layer *l, int64_t tile, int64_t x, int64_t y)
{
    const int64_t class = fb_border(l, y) * 3 + fb_border(l, x);
    return FB_POINTER(const int32_t, l->start) + class * l->out_channels + tile * FB_LANES;
}

/* The values from which a 2-bit activation is at least 1, 2 and 3. */
struct fb_steps {
    int32_t one, two, three;
};

static inline struct fb_steps fb_steps_of(int64_t rule)
{
    switch (rule) {
    case FB_FAITHFUL_MAP:
        return (struct fb_steps){-341, 0, 342}; /* -2/3, 0, 2/3 with 9 fraction bits */
    case FB_CIFAR10_2021:
        return (struct fb_steps){-85, 0, 86}; /* with 7 */
    case FB_CIFAR10_2020:
        return (struct fb_steps){-21845, 0, 21846}; /* with 15 */
    default:
        return (struct fb_steps){3, 8, 13}; /* 4-bit codes */
    }
}

/* ---- the faithful arithmetic, for engines without their own ---------------------------------------------------- */

#ifndef FB_OWN_FAITHFUL

/* Vectors as wide as the engine's, in the compiler's notation: a comparison makes lanes of all ones or all zeros. */
#ifndef FB_VECTOR
#define FB_VECTOR 16
#endif
typedef int32_t fb_ints __attribute__((vector_size(FB_VECTOR)));
typedef int16_t fb_shorts __attribute__((vector_size(FB_VECTOR / 2)));
enum { FB_PARTS = FB_LANES * 4 / FB_VECTOR };

struct fb_constants {
    fb_ints gate_at[FB_PARTS], knee[FB_PARTS], gamma[FB_PARTS], shift[FB_PARTS];
    fb_ints alpha0[FB_PARTS], alpha1[FB_PARTS], beta0[FB_PARTS], beta1[FB_PARTS];
};

static void fb_load_constants(struct fb_constants *c, const int32_t *t, int64_t n)
{
    memcpy(c->gate_at, t + FB_GATE_AT * n, sizeof c->gate_at);
    memcpy(c->knee, t + FB_KNEE * n, sizeof c->knee);
    memcpy(c->alpha0, t + FB_ALPHA0 * n, sizeof c->alpha0);
    memcpy(c->alpha1, t + FB_ALPHA1 * n, sizeof c->alpha1);
    memcpy(c->gamma, t + FB_GAMMA * n, sizeof c->gamma);
    memcpy(c->beta0, t + FB_BETA0 * n, sizeof c->beta0);
    memcpy(c->beta1, t + FB_BETA1 * n, sizeof c->beta1);
    memcpy(c->shift, t + FB_SHIFT * n, sizeof c->shift);
}

static inline fb_ints fb_select(fb_ints mask, fb_ints yes, fb_ints no)
{
    return (yes & mask) | (no & ~mask);
}

static inline fb_ints fb_clamp(fb_ints value, int32_t low, int32_t high)
{
    const fb_ints lows = low - (fb_ints){0}, highs = high - (fb_ints){0};
    value = fb_select(value < lows, lows, value);
    return fb_select(value > highs, highs, value);
}

/* Lanes of one part of a pixel: from sums (halved pairs where there is a shortcut, else totals) and shortcut to map
 * values. */
static inline void fb_faithful_part(const struct fb_constants *c, int part, const int32_t *sums,
                                    const int16_t *shortcut, int codes, int16_t *out)
{
    enum { LANES = FB_VECTOR / 4 };
    fb_ints total, value = {0};
    memcpy(&total, sums + part * LANES, sizeof total);
    if (shortcut != NULL) {
        fb_shorts narrow;
        memcpy(&narrow, shortcut + part * LANES, sizeof narrow);
        value = c->gamma[part] * __builtin_convertvector(narrow, fb_ints);
        fb_ints msb = (total >> 16) * 2, lsb = ((total & 0xffff) ^ 0x8000) * 2 - 0x10000;
        total = 2 * msb + (lsb & (msb >= c->gate_at[part]));
    }
    fb_ints side = total >= c->knee[part];
    value += fb_select(side, c->alpha0[part], c->alpha1[part]) * total;
    value += fb_select(side, c->beta0[part], c->beta1[part]);
    value = codes ? fb_clamp(value >> c->shift[part], 0, 15) : fb_clamp(value >> c->shift[part], INT16_MIN, INT16_MAX);
    fb_shorts result = __builtin_convertvector(value, fb_shorts);
    memcpy(out + part * LANES, &result, sizeof result);
}

#endif

/* The 2-bit activations of 16 map values as one word, for engines without instructions for it and for wide maps. */
#define FB_DEFINE_PACK16(name, type)                                                                                  \
    static inline uint32_t name(const type *value, struct fb_steps steps)                                             \
    {                                                                                                                 \
        uint32_t high = 0, low = 0;                                                                                   \
        FB_EACH(i)                                                                                                    \
        {                                                                                                             \
            int activation = (value[i] >= steps.one) + (value[i] >= steps.two) + (value[i] >= steps.three);           \
            high |= (uint32_t)(activation >> 1) << i;                                                                 \
            low |= (uint32_t)(activation & 1) << i;                                                                   \
        }                                                                                                             \
        return high << 16 | low;                                                                                      \
    }

#endif
