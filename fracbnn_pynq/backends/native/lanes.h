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

/* Where the sums of 16 channels of an output pixel start: what the border adds depends on which taps lie outside. */
static inline const int32_t *fb_start(const struct fb_layer *l, int64_t tile, int64_t x, int64_t y)
{
    int64_t class[2], at[2] = {y, x};
    for (int i = 0; i < 2; i++) /* 0: the first tap lies outside, 2: the last does, 1: neither */
        class[i] = l->kernel == 1 ? 1 : at[i] == 0 ? 0 : at[i] * l->stride + 1 == l->in_size ? 2 : 1;
    return FB_POINTER(const int32_t, l->start) + (class[0] * 3 + class[1]) * l->out_channels + tile * FB_LANES;
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

/* faithful: total = 2 M + (gate ? L : 0), shortcut and output in the layer's own numbers. */
static inline void fb_faithful(const int32_t *table, int64_t channels, const int32_t *total, const int32_t *shortcut,
                               int32_t low, int32_t high, int32_t *out)
{
    const int32_t *knee = table + FB_KNEE * channels, *gamma = table + FB_GAMMA * channels;
    const int32_t *alpha0 = table + FB_ALPHA0 * channels, *alpha1 = table + FB_ALPHA1 * channels;
    const int32_t *beta0 = table + FB_BETA0 * channels, *beta1 = table + FB_BETA1 * channels;
    const int32_t *shift = table + FB_SHIFT * channels;
    FB_EACH(i)
    {
        int32_t side = total[i] >= knee[i];
        int32_t alpha = side ? alpha0[i] : alpha1[i], beta = side ? beta0[i] : beta1[i];
        int32_t value = (alpha * total[i] + gamma[i] * shortcut[i] + beta) >> shift[i];
        out[i] = fb_clamp32(value, low, high);
    }
}

#endif
