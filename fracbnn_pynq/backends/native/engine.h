/* Both forms of the network walk for one engine, and its entry point. The engine's file has defined fb_conv_row,
 * fb_narrow_pack16 and what FB_OWN_FAITHFUL and FB_OWN_3X3 stand for, if it has its own (see network.h); FB_ENGINE is
 * its entry point's name.
 */
#ifndef FB_WIDEN /* 16 signed bytes to 16-bit numbers */
#define FB_WIDEN(bytes) __builtin_convertvector(bytes, shorts)
#endif

#define FB_MAP int16_t
#define FB_T(name) fb_narrow_##name
#include "network.h"
#undef FB_MAP
#undef FB_T

#define FB_WIDE
#define FB_MAP int32_t
#define FB_T(name) fb_wide_##name

static inline uint32_t fb_wide_pack16(const int32_t *value, struct fb_steps steps)
{
    uint32_t high = 0, low = 0;
    FB_EACH(i)
    {
        int activation = (value[i] >= steps.one) + (value[i] >= steps.two) + (value[i] >= steps.three);
        high |= (uint32_t)(activation >> 1) << i;
        low |= (uint32_t)(activation & 1) << i;
    }
    return high << 16 | low;
}

#include "network.h"

int FB_ENGINE(const struct fb_plan *plan, const uint8_t *levels, const uint8_t *pictures, int64_t count, float *logits,
              uint8_t *codes)
{
    return (plan->stem_rule == FB_CIFAR10_2020 ? fb_wide_run : fb_narrow_run)(plan, levels, pictures, count, logits,
                                                                            codes);
}
