/* NEON (every aarch64 processor): four vectors hold 16 output channels, each 32-bit lane M/2 and L/2 of one. VCNT
 * counts bytes and VPADAL adds pairs of them to 16-bit sums.
 */
#if defined(__aarch64__)

#include <arm_neon.h>

#include "published.h"

static inline uint32_t fb_at_least(const int16_t *value, int32_t step)
{
    static const uint16_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    int16x8_t limit = vdupq_n_s16((int16_t)step);
    uint16x8_t low = vandq_u16(vcgeq_s16(vld1q_s16(value), limit), vld1q_u16(bit));
    uint16x8_t high = vandq_u16(vcgeq_s16(vld1q_s16(value + 8), limit), vld1q_u16(bit));
    return (uint32_t)vaddvq_u16(low) | (uint32_t)vaddvq_u16(high) << 8;
}

static inline uint32_t fb_narrow_pack16(const int16_t *value, struct fb_steps steps)
{
    uint32_t one = fb_at_least(value, steps.one), two = fb_at_least(value, steps.two);
    return two << 16 | ((one ^ two) | fb_at_least(value, steps.three));
}

enum { FB_QUARTERS = 4 };

static inline __attribute__((always_inline)) void fb_block(const struct fb_layer *l, const uint32_t *bits, int64_t tile,
                                                           int64_t x, int64_t y, const int pixels, const int wrap,
                                                           int32_t *sums)
{
    const int64_t groups = l->in_channels / FB_LANES, row = (l->in_size + 2) * groups, run = l->kernel * groups;
    const int64_t first = l->kernel == 3 ? 0 : 1, step = l->stride * groups;
    const uint32_t *weight = FB_POINTER(const uint32_t, l->weights) + FB_LANES * tile * l->kernel * run;
    uint16x8_t count[4][FB_QUARTERS], match[4][FB_QUARTERS];
    for (int i = 0; i < pixels; i++)
        for (int q = 0; q < FB_QUARTERS; q++)
            count[i][q] = match[i][q] = vdupq_n_u16(0);
    for (int64_t k = 0; k < l->kernel; k++) {
        const uint32_t *word = bits + (y * l->stride + k + first) * row + (x * l->stride + first) * groups;
        for (int64_t j = 0; j < run; j += 1 + wrap, word += 1 + wrap, weight += (1 + wrap) * FB_LANES)
            for (int i = 0; i < pixels; i++)
                for (int q = 0; q < FB_QUARTERS; q++) {
                    uint32x4_t different = veorq_u32(vdupq_n_u32(word[i * step]), vld1q_u32(weight + 4 * q));
                    uint8x16_t bytes = vcntq_u8(vreinterpretq_u8_u32(different));
                    if (wrap) { /* a 32-channel tile that agrees completely counts 32 more */
                        different = veorq_u32(vdupq_n_u32(word[i * step + 1]), vld1q_u32(weight + FB_LANES + 4 * q));
                        bytes = vaddq_u8(bytes, vcntq_u8(vreinterpretq_u8_u32(different)));
                        uint16x8_t none = vceqzq_u16(vreinterpretq_u16_u8(bytes));
                        match[i][q] = vaddq_u16(match[i][q], vandq_u16(none, vdupq_n_u16(32)));
                    }
                    count[i][q] = vpadalq_u8(count[i][q], bytes);
                }
    }
    for (int i = 0; i < pixels; i++) {
        const int32_t *start = fb_start(l, tile, x + i, y);
        for (int q = 0; q < FB_QUARTERS; q++) {
            uint16x8_t sum = vsubq_u16(vreinterpretq_u16_s32(vld1q_s32(start + 4 * q)), count[i][q]);
            if (wrap)
                sum = vsubq_u16(sum, match[i][q]);
            vst1q_s32(sums + (x + i) * FB_LANES + 4 * q, vreinterpretq_s32_u16(sum));
        }
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

#define FB_ENGINE(name) name##_neon
#include "engine.h"

#endif
