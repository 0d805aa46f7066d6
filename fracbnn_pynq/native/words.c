/* Pictures as the words that the published accelerators read. */
#include "fracbnn.h"

#define LOOK_UP(TYPE)                                                                             \
    do {                                                                                          \
        const TYPE *restrict table = FB_POINTER(const TYPE, plan->table);                         \
        TYPE *restrict red = FB_POINTER(TYPE, plan->buffers[slot]);                               \
        TYPE *restrict green = red + plan->pixels, *restrict blue = green + plan->pixels;         \
        _Pragma("GCC unroll 16") for (int64_t i = 0; i < plan->pixels; i++, picture += 3) {       \
            red[i] = table[picture[0]];                                                           \
            green[i] = table[picture[1]];                                                         \
            blue[i] = table[picture[2]];                                                          \
        }                                                                                         \
    } while (0)

void fb_encode_words(const struct fb_words *plan, int64_t slot, int64_t index)
{
    const uint8_t *restrict picture = FB_POINTER(const uint8_t, plan->pictures) + 3 * plan->pixels * index;
    if (plan->word_bytes == 8)
        LOOK_UP(uint64_t);
    else
        LOOK_UP(uint32_t);
}
