/* The first layer's sums: thermometer levels, and look-ups in place of multiplications. An engine may define FB_WIDEN,
 * which makes 16 signed bytes 16-bit numbers.
 */
#ifndef FRACBNN_THERMOMETER_H
#define FRACBNN_THERMOMETER_H

#include "fracbnn.h"

#include <string.h>

#ifndef FB_WIDEN
#define FB_WIDEN(bytes) __builtin_convertvector(bytes, shorts)
#endif

/* Levels times the stem's channels: how far into a table of look-ups they lead. The border's level is the last. */
static void fb_load_levels(const struct fb_plan *p, const uint8_t *table, const uint8_t *picture, uint64_t *levels)
{
    const int64_t size = p->image_size, padded = size + 2, channels = p->stem_channels;
    const uint64_t border = (FB_LEVELS - 1) * channels * UINT64_C(0x100010001);
    for (int64_t x = 0; x < padded; x++)
        levels[x] = levels[(size + 1) * padded + x] = border;
    for (int64_t y = 0; y < size; y++) {
        levels += padded;
        levels[0] = levels[size + 1] = border;
        for (int64_t x = 1; x <= size; x++, picture += 3) {
            uint64_t red = table[picture[0]], green = table[picture[1]], blue = table[picture[2]];
            levels[x] = (red | green << 16 | blue << 32) * channels;
        }
    }
}

/* Totals of one pixel's 16 stem channels: 27 look-ups. Three parts of at most 32 each fit a byte. `channels` is a
 * constant where this is inlined. */
static inline __attribute__((always_inline)) void fb_stem_totals(const int8_t *lookup, const int64_t channels,
                                                                 const uint64_t *levels, int64_t padded,
                                                                 int16_t *restrict totals)
{
    typedef int8_t bytes __attribute__((vector_size(FB_LANES)));
    typedef int16_t shorts __attribute__((vector_size(2 * FB_LANES)));
    shorts total = {0};
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; tap++) {
        const uint64_t level = levels[tap / 3 * padded + tap % 3];
        const int8_t *part = lookup + tap * 3 * FB_LEVELS * channels;
        bytes red, green, blue;
        memcpy(&red, part + (uint16_t)level, sizeof red);
        memcpy(&green, part + FB_LEVELS * channels + (uint16_t)(level >> 16), sizeof green);
        memcpy(&blue, part + 2 * FB_LEVELS * channels + (level >> 32), sizeof blue);
        total += FB_WIDEN(red + green + blue);
    }
    memcpy(totals, &total, sizeof total);
}

#endif
