/* The plain C engine: 64-bit popcounts, one output channel after the other. Runs everywhere, and is the readable form
 * of what the vector engines do. It is also the one that skips the LSB sum where the gate is closed: with one channel
 * at a time that halves the second convolution, while 16 channels in one vector almost always have one gate open.
 */
#include "published.h"

#include <stddef.h>

FB_DEFINE_PACK16(fb_narrow_pack16, int16_t)

enum { FB_PATCH_WORDS = 9 * 1024 / 64 }; /* bits under a 3x3 kernel of 1024 channels */

/* The activation bits under the kernel at one output pixel, end to end in the order of the weights. */
static void fb_gather(const struct fb_layer *l, const uint32_t *bits, int64_t x, int64_t y, uint64_t *msb,
                      uint64_t *lsb)
{
    const int64_t groups = l->in_channels / FB_LANES, row = (l->in_size + 2) * groups, run = l->kernel * groups;
    const int64_t first = l->kernel == 3 ? 0 : 1; /* the map has a border of one pixel */
    int64_t piece = 0;
    memset(msb, 0, FB_PATCH_WORDS * sizeof *msb);
    memset(lsb, 0, FB_PATCH_WORDS * sizeof *lsb);
    for (int64_t k = 0; k < l->kernel; k++) {
        const uint32_t *word = bits + (y * l->stride + k + first) * row + (x * l->stride + first) * groups;
        for (int64_t i = 0; i < run; i++, piece++) {
            msb[piece / 4] |= (uint64_t)(word[i] >> 16) << piece % 4 * 16;
            lsb[piece / 4] |= (uint64_t)(word[i] & 0xffff) << piece % 4 * 16;
        }
    }
}

/* Popcount of activations xor weights over `words` words. */
static inline int32_t fb_differences(const uint64_t *bits, const uint64_t *weight, int64_t words)
{
    int32_t count = 0;
    for (int64_t i = 0; i < words; i++)
        count += __builtin_popcountll(bits[i] ^ weight[i]);
    return count;
}

/* How many 32-channel tiles agree completely. */
static inline int32_t fb_full_matches(const uint64_t *bits, const uint64_t *weight, int64_t words)
{
    int32_t count = 0;
    for (int64_t i = 0; i < words; i++) {
        uint64_t different = bits[i] ^ weight[i];
        count += ((uint32_t)different == 0) + ((different >> 32) == 0);
    }
    return count;
}

static inline int32_t fb_half_sum(const struct fb_layer *l, const uint64_t *bits, const uint64_t *weight, int64_t words,
                                  int32_t start)
{
    int32_t sum = start - fb_differences(bits, weight, words);
    if (l->tile_wrap) /* a 32-channel tile's +32 is stored as -32; the words' unused bits must not count as a tile */
        sum -= 32 * (fb_full_matches(bits, weight, words) - (int32_t)(words * 2 - l->in_channels / 32));
    return sum;
}

static void fb_conv_row(const struct fb_layer *l, const uint32_t *bits, int64_t tile, int64_t y, int32_t *sums)
{
    const int64_t words = (l->kernel * l->kernel * l->in_channels + 63) / 64;
    const uint64_t *weights = FB_POINTER(const uint64_t, l->weights) + tile * FB_LANES * words;
    const int32_t *gate_at = FB_POINTER(const int32_t, l->table) + FB_GATE_AT * l->out_channels + tile * FB_LANES;
    uint64_t msb[FB_PATCH_WORDS], lsb[FB_PATCH_WORDS];
    for (int64_t x = 0; x < l->out_size; x++, sums += FB_LANES) {
        const int32_t *start = fb_start(l, tile, x, y);
        fb_gather(l, bits, x, y, msb, lsb);
        FB_EACH(i)
        {
            const uint64_t *weight = weights + i * words;
            int32_t half = fb_half_sum(l, msb, weight, words, start[i] >> 16), other = 0;
            int32_t sum = l->sum_bits ? fb_wrap(2 * half, (int)l->sum_bits) : 2 * half;
            if (sum >= gate_at[i])
                other = fb_half_sum(l, lsb, weight, words, start[i] >> 16);
            sums[i] = (int32_t)((uint32_t)half << 16 | (uint16_t)other);
        }
    }
}

#ifndef FB_ENGINE /* x86_popcnt.c includes this file under another name */
#define FB_ENGINE(name) name##_portable
#endif
#include "engine.h"
